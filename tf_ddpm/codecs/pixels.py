"""The one map between bytes and the network's numbers."""

import tensorflow as tf


def to_unit(pixels: tf.Tensor) -> tf.Tensor:
    """uint8 0..255 -> float32 [-1, 1] (Ho et al. 2020, section 3.3)."""
    return tf.cast(pixels, tf.float32) / 127.5 - 1.0


def to_pixels(x: tf.Tensor) -> tf.Tensor:
    """float [-1, 1] -> uint8, rounded to the nearest and clipped."""
    return tf.cast(tf.clip_by_value(tf.round((x + 1.0) * 127.5), 0.0, 255.0), tf.uint8)


def to_unrounded(x: tf.Tensor) -> tf.Tensor:
    """float [-1, 1] -> float32 [0, 255], clipped and not rounded."""
    return tf.cast(tf.clip_by_value((x + 1.0) * 127.5, 0.0, 255.0), tf.float32)
