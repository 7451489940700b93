"""What stands between images and what is diffused."""

from __future__ import annotations

from typing import Protocol

import tensorflow as tf


class Codec(Protocol):
    """Images uint8 [B, H, W, C] to what is diffused, float32 [B, h, w, c], and back."""

    def state_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(h, w, c) for images (H, W, C)."""

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """uint8 [B, H, W, C] -> float32 [B, h, w, c]."""

    def decode(self, x: tf.Tensor) -> tf.Tensor:
        """float32 [B, h, w, c] -> uint8 [B, H, W, C]."""

    def images(self, x: tf.Tensor) -> tf.Tensor:
        """float32 [B, h, w, c] -> float32 [B, H, W, C] from -1 to 1, clipped."""

    def decode_unrounded(self, x: tf.Tensor) -> tf.Tensor:
        """The same as float32 from 0 to 255, not rounded."""
