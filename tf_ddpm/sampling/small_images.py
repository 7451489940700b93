"""Small images for a run that enlarges: real ones made smaller, so that what is drawn can be compared."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_ddpm import datasets
from tf_ddpm.codecs import resampling
from tf_ddpm.config import Config

_ROWS = 256  # at once


class SmallImages:
    """Pictures made smaller by `factor`, one for each seed: in an order without meaning, again and again."""

    def __init__(self, pictures: datasets.ImageSet, factor: int, split: str):
        self._pictures, self._factor, self._split = pictures, factor, split
        self._order = np.random.default_rng(0).permutation(len(pictures))

    def real(self, seeds: np.ndarray) -> np.ndarray:
        """The picture uint8 [N, H, W, C] of each of the `seeds` [N]."""
        return self._pictures.images[self._index(seeds)]

    def low_res(self, seeds: np.ndarray) -> np.ndarray:
        """The same made smaller, uint8 [N, h, w, C]."""
        parts = [seeds[i : i + _ROWS] for i in range(0, len(seeds), _ROWS)]  # real ones are never held all at once
        return np.concatenate([smaller(self.real(part), self._factor) for part in parts])

    def labels(self, seeds: np.ndarray) -> np.ndarray:
        """Their labels int32 [N]."""
        return self._pictures.labels[self._index(seeds)]

    def facts(self) -> dict[str, Any]:
        """Which pictures they are."""
        return {"pictures": len(self._pictures), "split": self._split, "sha256": self._digest, "factor": self._factor}

    @functools.cached_property
    def _digest(self) -> str:
        return self._pictures.digest()

    def _index(self, seeds: np.ndarray) -> np.ndarray:
        return self._order[seeds % len(self._pictures)]


def of_data(config: Config, pictures: datasets.ImageSet | None = None) -> SmallImages:
    """Those of a run's data: of what is held out of training if anything is.

    Args:
      pictures: the images of `data.split`, where they are there already; taken if nothing is held out of them.

    Raises:
      UserError: where the data cannot be read.
    """
    data = datasets.unseen(config.data)
    if data != config.data:
        pictures = None
    return SmallImages(pictures or datasets.load(data), config.model.factor, data.split)


def smaller(images: np.ndarray, factor: int) -> np.ndarray:
    """uint8 [N, H, W, C] -> uint8 [N, H / factor, W / factor, C], the area's mean, rounded."""
    return _in_parts(images, lambda part: resampling.area_mean(part, factor))


def enlarged(images: np.ndarray, factor: int) -> np.ndarray:
    """uint8 [N, h, w, C] -> uint8 [N, factor h, factor w, C], bilinear: what a network has to do better."""
    return _in_parts(images, lambda part: resampling.enlarged(part, factor))


def _in_parts(images: np.ndarray, resampled: Callable[[tf.Tensor], tf.Tensor]) -> np.ndarray:
    found = []
    for i in range(0, len(images), _ROWS):
        part = resampled(tf.constant(images[i : i + _ROWS], tf.float32))
        found.append(tf.cast(tf.clip_by_value(tf.round(part), 0.0, 255.0), tf.uint8).numpy())
    return np.concatenate(found)
