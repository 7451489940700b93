"""Embeddings of the time and of the label."""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf

from tf_ddpm.networks.primitives import dense


def sinusoidal_embedding(t: tf.Tensor, width: int, order: str = "sin_cos", frequency_shift: int = 1) -> tf.Tensor:
    """Sines and cosines of t at geometrically spaced frequencies (Vaswani et al. 2017).

    Args:
      t: [B], any numeric dtype. width: even.
      order: `sin_cos` (Ho et al. 2020) or `cos_sin` (Nichol & Dhariwal 2021).
      frequency_shift: 1, so that the last frequency is 1/10,000 (Ho et al.), or 0 (Nichol & Dhariwal).

    Returns:
      [B, width] float32.
    """
    half = width // 2
    frequencies = np.exp(-math.log(10_000) * np.arange(half) / max(half - frequency_shift, 1))
    angles = tf.cast(t, tf.float32)[:, None] * tf.constant(frequencies, tf.float32)
    waves = [tf.sin(angles), tf.cos(angles)]
    return tf.concat(waves if order == "sin_cos" else waves[::-1], axis=1)


class TimeEmbedding(keras.layers.Layer):
    """t [B] -> [B, width]: sinusoids, Dense, swish, Dense (its initial weights scaled by `scale`)."""

    def __init__(
        self,
        channels: int,
        width: int,
        order: str = "sin_cos",
        frequency_shift: int = 1,
        scale: float = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels, self.order, self.frequency_shift = channels, order, frequency_shift
        self.dense_1 = dense(channels, width, "dense_1", self.dtype_policy)
        self.dense_2 = dense(width, width, "dense_2", self.dtype_policy, scale)
        self.built = True

    def call(self, t: tf.Tensor) -> tf.Tensor:
        """[B] -> [B, width]."""
        waves = sinusoidal_embedding(t, self.channels, self.order, self.frequency_shift)
        return self.dense_2(tf.nn.silu(self.dense_1(waves)))


class LabelEmbedding(keras.layers.Layer):
    """label [B] -> [B, width]: a learned row for each class, and one more for no class at all if `null_class`."""

    def __init__(self, classes: int, width: int, null_class: bool, **kwargs):
        super().__init__(**kwargs)
        self.classes, self.null_class = classes, null_class
        self.table = self.add_weight(
            shape=(classes + int(null_class), width),
            initializer=keras.initializers.RandomNormal(stddev=1.0),
            name="table",
        )
        self.built = True

    def call(self, label: tf.Tensor) -> tf.Tensor:
        """int [B], 0 to classes-1, or -1 for no class -> [B, width]."""
        row = tf.where(label < 0, self.classes, label) if self.null_class else label
        return tf.gather(tf.cast(tf.convert_to_tensor(self.table.value), self.compute_dtype), row)
