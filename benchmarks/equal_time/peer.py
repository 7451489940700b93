"""The other side: diffusers' `UNet2DModel` trained for so many seconds, in PyTorch's fastest mode.

    python -m benchmarks.equal_time.peer '{"seconds": 300, ...}'      (see `train` and `Training`)

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


class Training:
    """A network in training, one update at a time.

    Args:
      images: uint8 [N, C, H, W]. mode: eager, channels_last or compile. warmup: updates over which the rate rises.
      decay: of the average of the weights.
    """

    def __init__(
        self,
        unet: dict,
        images: torch.Tensor,
        objective: str,
        mode: str,
        precision: str,
        learning_rate: float,
        batch: int,
        warmup: int,
        decay: float,
    ):
        self._layout = torch.contiguous_format if mode == "eager" else torch.channels_last
        self._images, self._objective, self._rng = images, objective, np.random.default_rng(0)
        self._rate, self._batch, self._warmup, self._decay, self.steps = learning_rate, batch, warmup, decay, 0
        network = UNet2DModel(**unet).train().to(memory_format=self._layout)
        self._call, self.average = torch.compile(network) if mode == "compile" else network, copy.deepcopy(network)
        self.scheduler = DDPMScheduler(num_train_timesteps=1000, **OBJECTIVES[objective])
        self._optimizer = torch.optim.Adam(network.parameters(), learning_rate, fused=True)
        self._cast = torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()
        self._weights = list(network.parameters())
        self._averaged = list(self.average.requires_grad_(False).parameters())

    def update(self, done: float) -> torch.Tensor:
        """Makes an update when so much of the time is over, 0 to 1, and gives the loss."""
        x_0, t, eps = self._drawn()
        alpha_bar = self.scheduler.alphas_cumprod[t]
        alpha, sigma = (part.sqrt().view(-1, 1, 1, 1) for part in (alpha_bar, 1 - alpha_bar))
        with self._cast:
            output = self._call(alpha * x_0 + sigma * eps, t).sample
        target = eps if self._objective == "linear_eps" else alpha * eps - sigma * x_0
        loss = torch.nn.functional.mse_loss(output.float(), target)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        risen = self._rate * min(1.0, (self.steps + 1) / self._warmup)
        self._optimizer.param_groups[0]["lr"] = risen * 0.5 * (1 + math.cos(math.pi * done))
        self._optimizer.step()
        share = 1 - min(self._decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(self._averaged, self._weights, share)
        self.steps += 1
        return loss

    def _drawn(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = self._rng.integers(0, len(self._images), self._batch)
        x_0 = self._images[rows].to(memory_format=self._layout).float() / 127.5 - 1
        return x_0, torch.randint(0, 1000, (self._batch,)), torch.randn_like(x_0)


def train(images: str, seconds: float, out: str | None = None, **settings: object) -> dict:
    """Trains, and saves the average of the weights as a pipeline's folder.

    Args:
      images: an .npy of uint8 [N, H, W, C]. seconds: from the first update that is already compiled.
      out: the folder; None: nothing is saved. settings: of `Training`.

    Returns:
      updates, images, seconds, seconds_of_compiling (and of the first updates of other modes), and the last loss.
    """
    torch.set_num_threads(torch.get_num_threads())  # as in `benchmarks.compare`
    torch.manual_seed(0)
    training = Training(images=torch.from_numpy(np.load(images).transpose(0, 3, 1, 2).copy()), **settings)
    began, last = time.perf_counter(), 0.0
    for _ in range(2):  # compiled here, and in the second update once more for its gradients
        loss = training.update(0.0)
    compiled = time.perf_counter()
    while (elapsed := time.perf_counter() - compiled) < seconds:
        loss = training.update(elapsed / seconds)
        if elapsed - last > 30:
            last = elapsed
            print(f"{elapsed:.0f} s, {training.steps} updates, loss {loss.item():.4f}", file=sys.stderr)
    if out is not None:
        _save(training, out)
    return {
        "updates": training.steps,
        "images": training.steps * settings["batch"],
        "seconds": round(time.perf_counter() - compiled, 1),
        "seconds_of_compiling": round(compiled - began, 1),
        "loss": loss.item(),
    }


def _save(training: Training, out: str) -> None:
    """Writes a pipeline's folder."""
    training.average.save_pretrained(f"{out}/unet")
    training.scheduler.save_pretrained(f"{out}/scheduler")
    index = {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    with open(f"{out}/model_index.json", "w", encoding="utf-8") as file:
        json.dump(index, file)


if __name__ == "__main__":
    print(json.dumps(train(**json.loads(sys.argv[1]))), flush=True)
