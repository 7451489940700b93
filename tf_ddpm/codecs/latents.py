"""Diffusion of the latents of an autoencoder (Rombach et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import tensorflow as tf

from tf_ddpm.codecs.pixels import Pixels


class FirstStage(Protocol):
    """Images float32 [B, H, W, C] from -1 to 1 to latents float32 [B, h, w, c], and back.

    Attributes:
      factor: H / h. image_channels: C. autoencoder: how it is wired. weights: all that it has learned.
    """

    factor: int
    image_channels: int
    autoencoder: object
    weights: Sequence

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] -> [B, h, w, c]."""

    def decode(self, latents: tf.Tensor) -> tf.Tensor:
        """[B, h, w, c] -> [B, H, W, C], not clipped."""


class Latents(tf.Module):
    """What is diffused is (latent - shift) * scale.

    Args:
      shift, scale: a number for each channel. Estimated of a `kl`, they give each channel mean 0 and variance 1; of
        other kinds, all channels together a mean square of 1.
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
        return self._decoded(latents)

    def _decoded(self, latents: tf.Tensor) -> tf.Tensor:
        """Batch after batch: an animation takes no more memory than its last images."""
        if latents.shape.rank == 4:
            return self.first_stage.decode(latents)
        height, width = (None if side is None else side * self.first_stage.factor for side in latents.shape[-3:-1])
        spec = tf.TensorSpec([*latents.shape[1:-3], height, width, self.first_stage.image_channels], tf.float32)
        return tf.map_fn(self._decoded, latents, parallel_iterations=1, fn_output_signature=spec)

    @staticmethod
    def _constant(numbers: tuple[float, ...]) -> tf.Tensor:
        return tf.constant(numbers, tf.float32)
