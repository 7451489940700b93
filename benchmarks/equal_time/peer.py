"""The other side: diffusers' `UNet2DModel` trained for so many seconds, in PyTorch's fastest mode.

    python -m benchmarks.equal_time.peer '{"seconds": 300, ...}'      (see `train`)

The batch, Adam, warm-up, clipping and average of the weights are those of our preset; the learning rate falls as a
half cosine over the time that there is.
"""

import contextlib
import copy
import json
import math
import sys
import time

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel

OBJECTIVES = {
    "linear_eps": {"beta_schedule": "linear", "prediction_type": "epsilon"},
    "cosine_v": {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
}


def train(
    unet: dict,
    images: str,
    objective: str,
    mode: str,
    precision: str,
    learning_rate: float,
    batch: int,
    warmup: int,
    seconds: float,
    out: str | None = None,
) -> dict:
    """Trains, and saves the average of the weights as a pipeline's folder.

    Args:
      images: an .npy of uint8 [N, H, W, C]. mode: eager, channels_last or compile. seconds: from the first update that
        is already compiled. out: the folder; None: nothing is saved.

    Returns:
      updates, images, seconds, seconds_of_compiling (and of the first updates of other modes), and the last loss.
    """
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    layout = torch.contiguous_format if mode == "eager" else torch.channels_last
    data = torch.from_numpy(np.load(images).transpose(0, 3, 1, 2).copy())
    network = UNet2DModel(**unet).train().to(memory_format=layout)
    call, average = torch.compile(network) if mode == "compile" else network, copy.deepcopy(network)
    scheduler = DDPMScheduler(num_train_timesteps=1000, **OBJECTIVES[objective])
    optimizer = torch.optim.Adam(network.parameters(), learning_rate, fused=True)
    cast = torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()
    weights, averaged = list(network.parameters()), list(average.requires_grad_(False).parameters())
    alpha_bar, loss, last = scheduler.alphas_cumprod, torch.zeros([]), 0.0

    def update(step: int, done: float) -> None:
        nonlocal loss
        x_0 = data[rng.integers(0, len(data), batch)].to(memory_format=layout).float() / 127.5 - 1
        t, eps = torch.randint(0, 1000, (batch,)), torch.randn_like(x_0)
        alpha, sigma = (part.sqrt().view(-1, 1, 1, 1) for part in (alpha_bar[t], 1 - alpha_bar[t]))
        with cast:
            output = call(alpha * x_0 + sigma * eps, t).sample
        target = eps if objective == "linear_eps" else alpha * eps - sigma * x_0
        loss = torch.nn.functional.mse_loss(output.float(), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        rate = learning_rate * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * done))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        torch._foreach_lerp_(averaged, weights, 1 - min(0.999, (1 + step) / (10 + step)))

    began, steps = time.perf_counter(), 0
    for _ in range(2):  # compiled here, and in the second update once more for its gradients
        update(steps, 0.0)
        steps += 1
    compiled = time.perf_counter()
    while (elapsed := time.perf_counter() - compiled) < seconds:
        update(steps, elapsed / seconds)
        steps += 1
        if elapsed - last > 30:
            last = elapsed
            print(f"{elapsed:.0f} s, {steps * batch / elapsed:.0f} images/s, loss {loss.item():.4f}", file=sys.stderr)
    found = {
        "updates": steps,
        "images": steps * batch,
        "seconds": round(time.perf_counter() - compiled, 1),
        "seconds_of_compiling": round(compiled - began, 1),
        "loss": loss.item(),
    }
    if out is not None:
        average.save_pretrained(f"{out}/unet")
        scheduler.save_pretrained(f"{out}/scheduler")
        index = {
            "_class_name": "DDPMPipeline",
            "unet": ["diffusers", "UNet2DModel"],
            "scheduler": ["diffusers", "DDPMScheduler"],
        }
        with open(f"{out}/model_index.json", "w", encoding="utf-8") as file:
            json.dump(index, file)
    return found


if __name__ == "__main__":
    print(json.dumps(train(**json.loads(sys.argv[1]))), flush=True)
