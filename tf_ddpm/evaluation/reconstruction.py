"""How well an autoencoder gives images back: PSNR and SSIM, and FID as of any images (Rombach et al. 2022, "rFID")."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_ddpm import config as config_lib
from tf_ddpm import datasets
from tf_ddpm.config import DataConfig
from tf_ddpm.datasets.lazy_images import LazyImages
from tf_ddpm.evaluation import image_metrics, provenance
from tf_ddpm.runtime import cluster
from tf_ddpm.runtime.progress import Progress
from tf_ddpm.sampling.first_stage import FirstStage
from tf_ddpm.sampling.source import Batches, Source, gathered

METRIC = "reconstruction"
_VERSION = 1  # of how it is computed


class ReconstructionSource(Source):
    """What comes back of pictures: image i is that of picture i, again and again.

    Args:
      data: where the pictures are.
    """

    def __init__(self, found: FirstStage, data: DataConfig):
        self.runs, self.classes, self.label_names, self.small = (), 0, (), None
        self.image_shape, self.batch_size = found.config.data.image_shape, found.config.sample.batch_size
        self._found, self._split, self.pictures = found, data.split, datasets.load(data)
        codec = found.codec
        self._again = tf.function(lambda images: codec.decode_unrounded(codec.encode(images)), autograph=False)

    def labels(self, seeds: np.ndarray, label: int | str | Sequence[int] | None) -> np.ndarray:
        """None of them has any."""
        return np.zeros(len(seeds), np.int32)

    def real(self, seeds: np.ndarray) -> np.ndarray:
        """The pictures uint8 [N, H, W, C]."""
        images = self.pictures.images
        found = images[seeds % len(self.pictures)]
        if isinstance(images, LazyImages):
            images.check_unchanged()
        return found

    def replaced(self, seeds: np.ndarray) -> int:
        """How many of them could not be decoded, and are other pictures."""
        images = self.pictures.images
        found = images.replaced if isinstance(images, LazyImages) else ()
        return int(np.isin(seeds % len(self.pictures), found).sum())

    def batches(self, seeds: np.ndarray, labels: np.ndarray, num_frames: int = 0, rounded: bool = True) -> Batches:
        """See `Source`; there are no frames."""
        for start in range(0, len(seeds), self.batch_size):
            images = self._again(tf.constant(self.real(seeds[start : start + self.batch_size]))).numpy()
            yield np.round(images).astype(np.uint8) if rounded else images, None

    def facts(self) -> dict[str, Any]:
        """See `Source`."""
        config, images = self._found.config, self.pictures.images
        decoded_by = images.decoded_by if isinstance(images, LazyImages) else {}
        text = config_lib.to_json(config_lib.portable(config)).encode()
        return {
            "autoencoder": config.autoencoder.kind,
            "checkpoint_step": self._found.checkpoint_step,
            "config_sha256": hashlib.sha256(text).hexdigest(),
            "autoencoder_sha256": self._found.sha256,
            "weights": "ema",
            "pictures": {"split": self._split, "sha256": self._digest} | decoded_by,
        }

    @functools.cached_property
    def _digest(self) -> str:
        return self.pictures.digest()


def measure(source: ReconstructionSource, seeds: np.ndarray) -> dict[str, dict]:
    """`psnr` (dB) and `ssim` of what comes back, means over the images, each with `value` and `receipt`.

    Raises:
      UserError: where there is no memory for the images.
    """
    labels = source.labels(seeds, None)
    image_metrics.check_room(len(seeds), source.image_shape)
    with Progress(len(seeds), "giving images back", quiet=not cluster.this_worker().is_chief) as bar:
        images = gathered(source.batches(seeds, labels), bar.reach)
    receipt: dict[str, Any] = {
        "metric_version": _VERSION,
        "generated": source.facts() | {"first_image": int(seeds[0]), "images": len(images)},
        "library": image_metrics.LIBRARY,
        "versions": provenance.versions(),
    }
    real = source.real(seeds)
    replaced = source.replaced(seeds)
    receipt["generated"] |= {"replaced_by_others": replaced} if replaced else {}
    found = image_metrics.against(images, real)
    return {name: {"value": value, "receipt": receipt} for name, value in found.items()}
