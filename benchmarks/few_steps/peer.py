"""The other side: diffusers' `UNet2DModel` with the teacher's weights, and the fast schedulers of diffusers."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
from PIL import Image

from benchmarks.compare.side import serve

SCHEDULERS = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler")


class Drawing:
    """A sampling loop.

    Args:
      network: a folder of diffusers. mode: eager, channels_last or compile.
    """

    def __init__(self, network: str, scheduler: str, steps: int, mode: str = "channels_last"):
        unet = diffusers.UNet2DModel.from_pretrained(network, subfolder="unet").eval()
        self._layout = torch.contiguous_format if mode == "eager" else torch.channels_last
        unet = unet.to(memory_format=self._layout)
        size = unet.config.sample_size  # of a square one number
        self._shape = (unet.config.in_channels, *((size, size) if isinstance(size, int) else size))
        self._call, self._steps = torch.compile(unet) if mode == "compile" else unet, steps
        words = json.loads((Path(network) / "scheduler" / "scheduler_config.json").read_text())
        same = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction_type")
        words = {name: words[name] for name in same if name in words}
        self._scheduler = getattr(diffusers, scheduler)(**words, timestep_spacing="trailing")

    @torch.inference_mode()
    def draw(self, count: int, seed: int) -> torch.Tensor:
        """Images uint8 [N, H, W, C]."""
        noise = torch.randn((count, *self._shape), generator=torch.Generator().manual_seed(seed))
        x = noise.to(memory_format=self._layout)
        self._scheduler.set_timesteps(self._steps)
        for t in self._scheduler.timesteps:
            x = self._scheduler.step(self._call(x, t.expand(count)).sample, t, x).prev_sample
        return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def save(network: str, scheduler: str, steps: int, count: int, out: str) -> None:
    """So many images, as PNGs."""
    drawing = Drawing(network, scheduler, steps)
    Path(out).mkdir(parents=True, exist_ok=True)
    for start in range(0, count, 100):
        for i, image in enumerate(drawing.draw(min(100, count - start), seed=start).numpy()):
            Image.fromarray(image.squeeze()).save(Path(out) / f"{start + i:06d}.png")


def work(batch: int, **arguments: object) -> Callable[[], None]:
    """The loop, as a function to call again and again."""
    drawing = Drawing(**arguments)
    return lambda: drawing.draw(batch, 0).sum().item()


if __name__ == "__main__":
    words = json.loads(sys.argv[1])
    if "out" in words:
        save(**words)
    else:
        serve(lambda: work(**words))
