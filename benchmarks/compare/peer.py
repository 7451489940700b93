"""The other side: `UNet2DModel` of diffusers with the same layout, on PyTorch, in each of its ways to be fast."""

import contextlib
import copy
import json
import sys
from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.compare.side import serve

# eager; channels_last: NHWC in memory; compile: torch.compile on top of it.
MODES = ("eager", "channels_last", "compile")


def _prepared(
    unet: dict, mode: str, precision: str, trains: bool
) -> tuple[UNet2DModel, Callable, torch.memory_format]:
    """The network, how it is called, and the memory format of its images. Inference casts the weights once."""
    torch.manual_seed(0)
    network = UNet2DModel(**unet).train(trains)
    layout = torch.contiguous_format if mode == "eager" else torch.channels_last
    network = network.to(memory_format=layout)
    if precision == "bfloat16" and not trains:
        network = network.to(torch.bfloat16)
    call = torch.compile(network) if mode == "compile" else network
    return network, call, layout


def _images(unet: dict, batch: int, layout: torch.memory_format, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    shape = (batch, unet["in_channels"], *unet["sample_size"])
    return torch.randn(shape).to(dtype).to(memory_format=layout)


def _dtype(precision: str) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def _forward(unet: dict, mode: str, precision: str, batch: int) -> Callable[[], None]:
    _, call, layout = _prepared(unet, mode, precision, trains=False)
    x, t = _images(unet, batch, layout, _dtype(precision)), torch.arange(batch)

    def work() -> None:
        with torch.inference_mode():
            call(x, t).sample.float().sum().item()

    return work


def _train(unet: dict, mode: str, precision: str, batch: int) -> Callable[[], None]:
    """Noise, forward, backward, clipping to norm 1, Adam, average of the weights: an update as ours makes it."""
    network, call, layout = _prepared(unet, mode, precision, trains=True)
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), 2e-4, fused=True)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    bytes_ = torch.randint(0, 256, (1000, unet["in_channels"], *unet["sample_size"]), dtype=torch.uint8)
    cast = torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()

    def work() -> None:
        x_0 = bytes_[torch.randint(0, 1000, (batch,))].to(memory_format=layout).float() / 127.5 - 1
        t, eps = torch.randint(0, 1000, (batch,)), torch.randn_like(x_0)
        scale = alpha_bar[t].view(-1, 1, 1, 1)
        with cast:
            output = call(scale.sqrt() * x_0 + (1 - scale).sqrt() * eps, t).sample
        loss = torch.nn.functional.mse_loss(output.float(), eps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1e-3)
        loss.item()

    return work


def _sample(unet: dict, mode: str, precision: str, batch: int, steps: int) -> Callable[[], None]:
    _, call, layout = _prepared(unet, mode, precision, trains=False)
    scheduler = DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear")

    def work() -> None:
        scheduler.set_timesteps(steps)
        x = _images(unet, batch, layout, _dtype(precision))
        with torch.inference_mode():
            for t in scheduler.timesteps:
                output = call(x, t.expand(batch)).sample
                x = scheduler.step(output, t, x, use_clipped_model_output=True).prev_sample
            ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).sum().item()

    return work


def _product(precision: str, side: int) -> Callable[[], None]:
    a, b = (torch.randn(side, side).to(_dtype(precision)) for _ in range(2))
    return lambda: (a @ b)[0, 0].item()


def flops(unet: dict) -> int:
    """Of a forward pass of one image: two for each product of convolutions, dense layers and attention."""
    network, counter = UNet2DModel(**unet).eval(), FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(_images(unet, 1, torch.contiguous_format), torch.zeros(1))
    return counter.get_total_flops()


def main(work: str, mode: str, unet: dict, precision: str, batch: int, steps: int, side: int) -> None:
    """Serves one kind of work."""
    torch.set_num_threads(torch.get_num_threads())
    if work == "product":
        serve(lambda: _product(precision, side))
    elif work == "flops":
        parameters = sum(p.numel() for p in UNet2DModel(**unet).parameters())
        serve(lambda: lambda: None, {"flops": flops(unet), "parameters": parameters})
    elif work == "sample":
        serve(lambda: _sample(unet, mode, precision, batch, steps))
    else:
        made = {"forward": _forward, "train": _train}[work]
        serve(lambda: made(unet, mode, precision, batch), warm_up=3)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
