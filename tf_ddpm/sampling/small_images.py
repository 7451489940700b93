"""Small images for a run that enlarges: real ones made smaller, so that what is drawn can be compared."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import tensorflow as tf

from tf_ddpm import datasets
from tf_ddpm.codecs import resampling
from tf_ddpm.config import Config

_ROWS = 256  # at once


class SmallImages:
    """Pictures made smaller by `factor`, one for each seed: in an order without meaning, again and again."""

    def __init__(self, pictures: datasets.ImageSet, factor: int):
        self._pictures, self._factor = pictures, factor
        self._order = np.random.default_rng(0).permutation(len(pictures))

    def real(self, seeds: np.ndarray) -> np.ndarray:
        """The picture uint8 [N, H, W, C] of each of the `seeds` [N]."""
        return self._pictures.images[self._index(seeds)]

    def low_res(self, seeds: np.ndarray) -> np.ndarray:
        """The same made smaller, uint8 [N, h, w, C]."""
        return smaller(self.real(seeds), self._factor)

    def labels(self, seeds: np.ndarray) -> np.ndarray:
        """Their labels int32 [N]."""
        return self._pictures.labels[self._index(seeds)]

    def facts(self) -> dict[str, Any]:
        """Which pictures they are."""
        digest = hashlib.sha256(repr(self._pictures.fingerprint()).encode()).hexdigest()
        return {"pictures": len(self._pictures), "sha256": digest, "factor": self._factor}

    def _index(self, seeds: np.ndarray) -> np.ndarray:
        return self._order[seeds % len(self._pictures)]


def of_data(config: Config, pictures: datasets.ImageSet | None = None) -> SmallImages:
    """Those of a run's data: of what is held out if anything is.

    Args:
      pictures: the training images, where they are there already; taken if nothing is held out.

    Raises:
      UserError: where the data cannot be read.
    """
    if config.data.holdout:
        pictures = datasets.load(dataclasses.replace(config.data, split="holdout"))
    return SmallImages(pictures or datasets.load(config.data), config.model.factor)


def smaller(images: np.ndarray, factor: int) -> np.ndarray:
    """uint8 [N, H, W, C] -> uint8 [N, H / factor, W / factor, C], the area's mean, rounded."""
    parts = [images[i : i + _ROWS] for i in range(0, len(images), _ROWS)]
    means = [resampling.area_mean(tf.constant(part, tf.float32), factor) for part in parts]
    return np.concatenate([tf.cast(tf.round(mean), tf.uint8).numpy() for mean in means])


def enlarged(images: np.ndarray, factor: int) -> np.ndarray:
    """uint8 [N, h, w, C] -> uint8 [N, factor h, factor w, C], bilinear: what a network has to do better."""
    large = resampling.enlarged(tf.constant(images, tf.float32), factor)
    return tf.cast(tf.clip_by_value(tf.round(large), 0.0, 255.0), tf.uint8).numpy()
