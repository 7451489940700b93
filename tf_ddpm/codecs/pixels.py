"""Diffusion of the pixels themselves: the one map between bytes and a network's numbers."""

import tensorflow as tf


class Pixels:
    """uint8 0..255 as float32 [-1, 1] (Ho et al. 2020, section 3.3)."""

    def state_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape (H, W, C) of what is diffused."""
        return image_shape

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """uint8 [B, H, W, C] -> float32 [B, H, W, C] in [-1, 1]."""
        return tf.cast(images, tf.float32) / 127.5 - 1.0

    def decode(self, x: tf.Tensor) -> tf.Tensor:
        """float [..., H, W, C] -> uint8, rounded to the nearest and clipped."""
        return tf.cast(tf.clip_by_value(tf.round((x + 1.0) * 127.5), 0.0, 255.0), tf.uint8)

    def images(self, x: tf.Tensor) -> tf.Tensor:
        """float32 [..., H, W, C] -> the same, clipped to [-1, 1]."""
        return tf.clip_by_value(x, -1.0, 1.0)

    def decode_unrounded(self, x: tf.Tensor) -> tf.Tensor:
        """float [..., H, W, C] -> float32 [0, 255], clipped and not rounded."""
        return tf.cast(tf.clip_by_value((x + 1.0) * 127.5, 0.0, 255.0), tf.float32)
