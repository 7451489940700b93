"""Small images for a run that enlarges: real ones made smaller, so that what is drawn can be compared."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from tf_ddpm import datasets
from tf_ddpm.codecs import resampling
from tf_ddpm.config import Config


@dataclasses.dataclass(frozen=True)
class SmallImages:
    """Images uint8 [N, h, w, C] to enlarge, the real ones [N, H, W, C] that they were made of, and their labels."""

    low_res: np.ndarray
    real: np.ndarray
    labels: np.ndarray


def of_data(config: Config, count: int, images: datasets.ImageSet | None = None) -> SmallImages:
    """`count` pictures of a run's data, made smaller: of those held out if there are any, in equal distances.

    Where there are fewer they are taken again from the first on.

    Args:
      images: the training images, where they are there already; taken if nothing is held out.
    """
    if config.data.holdout:
        images = datasets.load(dataclasses.replace(config.data, split="holdout"))
    elif images is None:
        images = datasets.load(config.data)
    apart = max(len(images) // count, 1)
    chosen = apart * np.arange(count) % len(images)
    real = images.images[chosen]
    return SmallImages(smaller(real, config.model.factor), real, images.labels[chosen])


def smaller(images: np.ndarray, factor: int) -> np.ndarray:
    """uint8 [N, H, W, C] -> uint8 [N, H / factor, W / factor, C], the area's mean, rounded."""
    parts = [images[i : i + 256] for i in range(0, len(images), 256)]
    means = [resampling.area_mean(tf.constant(part, tf.float32), factor) for part in parts]
    return np.concatenate([tf.cast(tf.round(mean), tf.uint8).numpy() for mean in means])


def enlarged(images: np.ndarray, factor: int) -> np.ndarray:
    """uint8 [N, h, w, C] -> uint8 [N, factor h, factor w, C], bilinear: what a network has to do better."""
    large = resampling.enlarged(tf.constant(images, tf.float32), factor)
    return tf.cast(tf.clip_by_value(tf.round(large), 0.0, 255.0), tf.uint8).numpy()
