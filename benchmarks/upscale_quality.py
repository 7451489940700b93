"""How good enlarged photographs are, beside bilinear interpolation: PSNR, SSIM, and KID of crops.

python -m benchmarks.upscale_quality --run_dir=runs/flowers64 --images=DIR --side=128 --out=pairs.png

Each photograph is brought to --side pixels (its shorter side; 0: its own size), made smaller by the run's factor, and
enlarged again by the run and bilinearly. Both are compared with the photograph: PSNR and SSIM of whole pictures, and
KID of crops in the features of the FID network. The picture shows a few, side by side: bilinear, drawn, real.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import app, flags
from PIL import Image

from tf_ddpm.datasets import finding, held_out
from tf_ddpm.datasets.pictures import Reader, Rules
from tf_ddpm.evaluation import feature_metrics
from tf_ddpm.evaluation.quality import FeatureNetwork
from tf_ddpm.runtime import devices
from tf_ddpm.sampling import image_files, small_images
from tf_ddpm.sampling.run import load_run
from tf_ddpm.sampling.upscaler import Upscaler

FLAGS = flags.FLAGS
flags.DEFINE_string("run_dir", "runs/flowers64", "A run that enlarges.")
flags.DEFINE_string("images", None, "A folder of photographs.", required=True)
flags.DEFINE_bool("holdout", False, "Only those that the run's data.holdout keeps out of training.")
flags.DEFINE_integer("side", 128, "The shorter side, in pixels; 0: as it is.")
flags.DEFINE_integer("most", 10_000, "Photographs at most.")
flags.DEFINE_integer("crops", 1024, "Crops for KID.")
flags.DEFINE_integer("crop", 64, "Side of a crop.")
flags.DEFINE_integer("augmentation", 0, "See --mode=upscale.")
flags.DEFINE_string("inception", None, "The FID network's weights; none: as TF_DDPM_INCEPTION says.")
flags.DEFINE_string("out", None, "Where the picture goes; none: nowhere.")

_SHOWN = 3


def photographs(folder: str, side: int, unit: int, share: float | None, channels: int) -> list[np.ndarray]:
    """The pictures uint8 [H, W, C], sides divisible by `unit`; `share`: only those that are held out by it."""
    found, reader = [], Reader(Rules(), marked=True)
    files, _ = finding.files(Path(folder), [])
    if share is not None:
        files = [one for one, held in zip(files, held_out.find(files, share, []), strict=True) if held]
    with reader.open():
        for file, _, _ in files:
            pixels = reader.read(file, None, channels)
            if not isinstance(pixels, np.ndarray):
                continue
            picture = Image.fromarray(pixels if channels > 1 else pixels[..., 0])
            scale = side / min(picture.size) if side else 1.0
            if scale < 1.0:
                picture = picture.resize([round(length * scale) for length in picture.size], Image.Resampling.BOX)
            array = np.asarray(picture).reshape(picture.size[1], picture.size[0], channels)
            height, width = (length // unit * unit for length in array.shape[:2])
            if min(height, width) >= FLAGS.crop:
                found.append(array[:height, :width])
    return found[: FLAGS.most]


def crops_of(pictures: list[np.ndarray], others: list[list[np.ndarray]], count: int, side: int) -> list[np.ndarray]:
    """`count` squares at the same places of each list of pictures."""
    rng, cut = np.random.default_rng(0), [[] for _ in range(1 + len(others))]
    for i in range(count):
        which = i % len(pictures)
        top, left = (rng.integers(0, length - side + 1) for length in pictures[which].shape[:2])
        for part, found in zip((pictures, *others), cut, strict=True):
            found.append(part[which][top : top + side, left : left + side])
    return [np.stack(found) for found in cut]


def mean(metric: Callable, images: list[np.ndarray], real: list[np.ndarray]) -> float:
    """Of whole pictures."""
    return float(np.mean([metric(tf.constant(a), tf.constant(b), 255) for a, b in zip(images, real, strict=True)]))


def main(_: list[str]) -> None:
    """Prints the figures as JSON."""
    network = FeatureNetwork(FLAGS.inception, devices.strategy())  # first: it may be missing
    run = load_run(FLAGS.run_dir, augmentation=FLAGS.augmentation)
    factor, channels, unit = run.config.model.factor, run.image_shape[-1], run.config.model.phase
    share = run.config.data.holdout if FLAGS.holdout else None
    real = photographs(FLAGS.images, FLAGS.side, unit, share, channels)
    small = [small_images.smaller(picture[None], factor)[0] for picture in real]
    bilinear = [small_images.enlarged(picture[None], factor)[0] for picture in small]
    enlarge = Upscaler(run)
    enlarge(small[0], 0)
    began = time.perf_counter()
    drawn = [enlarge(picture, seed) for seed, picture in enumerate(small)]
    seconds = (time.perf_counter() - began) / sum(picture.shape[0] * picture.shape[1] for picture in real) * 64**2
    found: dict[str, object] = {"pictures": len(real), "seconds_for_64x64": round(seconds, 4)}
    cut = crops_of(real, [drawn, bilinear], FLAGS.crops, FLAGS.crop)
    known, *others = [network(part) for part in cut]
    for name, images, features in zip(("drawn", "bilinear"), (drawn, bilinear), others, strict=True):
        found[name] = {
            "psnr": mean(tf.image.psnr, images, real),
            "ssim": mean(tf.image.ssim, images, real),
            "kid": feature_metrics.kernel_distance(features, known),
        }
    print(json.dumps(found, indent=1))
    if FLAGS.out:
        rows = [image_files.side_by_side(*(part[:1] for part in row))[0] for row in shown(bilinear, drawn, real)]
        print(f"wrote {image_files.save_image(np.concatenate(rows), Path(FLAGS.out))}", file=sys.stderr)


def shown(*sets: list[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
    """A few of each set, evenly spread, cut to one size."""
    chosen = np.linspace(0, len(sets[0]) - 1, min(_SHOWN, len(sets[0]))).astype(int)
    height, width = (min(sets[0][i].shape[axis] for i in chosen) for axis in (0, 1))
    return [tuple(part[i][None, :height, :width] for part in sets) for i in chosen]


if __name__ == "__main__":
    app.run(main)
