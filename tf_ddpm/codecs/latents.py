"""Diffusion of the latents of an autoencoder (Rombach et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import tensorflow as tf

from tf_ddpm.codecs.pixels import Pixels


class FirstStage(Protocol):
    """Images float32 [B, H, W, C] from -1 to 1 to latents float32 [B, h, w, c], and back.

    Attributes:
      factor: H / h. autoencoder: how it is wired. weights: all that it has learned.
    """

    factor: int
    autoencoder: object
    weights: Sequence

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] -> [B, h, w, c]."""

    def decode(self, latents: tf.Tensor) -> tf.Tensor:
        """[B, h, w, c] -> [B, H, W, C], not clipped."""


class Latents(tf.Module):
    """What is diffused is (latent - shift) * scale, of mean 0 and variance 1 in each channel.

    Args:
      shift, scale: a number for each channel.
    """

    def __init__(self, first_stage: FirstStage, shift: Sequence[float], scale: Sequence[float]):
        super().__init__()
        self.first_stage = first_stage
        self.shift, self.scale = tuple(shift), tuple(scale)

    def state_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape (h, w, c) of what is diffused."""
        height, width, _ = image_shape
        return height // self.first_stage.factor, width // self.first_stage.factor, len(self.scale)

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """uint8 [B, H, W, C] -> float32 [B, h, w, c]."""
        return (self.first_stage.encode(Pixels().encode(images)) - self._constant(self.shift)) * self._constant(
            self.scale
        )

    def decode(self, x: tf.Tensor) -> tf.Tensor:
        """float32 [..., h, w, c] -> uint8 [..., H, W, C]."""
        return Pixels().decode(self._images(x))

    def images(self, x: tf.Tensor) -> tf.Tensor:
        """float32 [..., h, w, c] -> float32 [..., H, W, C] from -1 to 1, clipped."""
        return tf.clip_by_value(self._images(x), -1.0, 1.0)

    def decode_unrounded(self, x: tf.Tensor) -> tf.Tensor:
        """float32 [..., h, w, c] -> float32 [..., H, W, C] from 0 to 255."""
        return Pixels().decode_unrounded(self._images(x))

    def _images(self, x: tf.Tensor) -> tf.Tensor:
        latents = tf.cast(x, tf.float32) / self._constant(self.scale) + self._constant(self.shift)
        if x.shape.rank == 4:
            return self.first_stage.decode(latents)
        around = tf.shape(x)[:-3]
        images = self.first_stage.decode(tf.reshape(latents, tf.concat([[-1], tf.shape(x)[-3:]], axis=0)))
        whole = tf.reshape(images, tf.concat([around, tf.shape(images)[1:]], axis=0))
        return tf.ensure_shape(whole, [*x.shape[:-3], *images.shape[1:]])

    @staticmethod
    def _constant(numbers: tuple[float, ...]) -> tf.Tensor:
        return tf.constant(numbers, tf.float32)
