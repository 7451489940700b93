"""What a network must be to denoise: a map of (image, time, condition) in three parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import tensorflow as tf

Condition = Mapping[str, tf.Tensor]  # name -> [B, ...]


class Backbone(Protocol):
    """output = forward(x, modulation(embed_time(time), condition)).

    What depends on the time alone, and on time and condition alone, can so be computed outside of a loop over images.

    Attributes:
      conditions: the names of the conditions that it is told of, a number for each image; all have to be given.
      out_channels: of the output.
      image_conditions: the names of those that are images as large as x, whose channels stand behind those of x.
    """

    conditions: tuple[str, ...]
    out_channels: int
    image_conditions: tuple[str, ...]

    def embed_time(self, time: tf.Tensor) -> tf.Tensor:
        """time [B], int or float -> [B, E]."""

    def modulation(self, embedded: tf.Tensor, condition: Condition) -> tf.Tensor:
        """[B, E] and the condition -> what `forward` takes in of both, [B, M]."""

    def forward(self, x: tf.Tensor, modulation: tf.Tensor, address: tf.Tensor | None = None) -> tf.Tensor:
        """The output float32 [B, H, W, C'] for x [B, H, W, C] and, behind it, `image_conditions`.

        Args:
          address: int64 [3], the first row's (`randomness.row_address`); dropout is active if it is given.
        """

    def null(self, name: str, like: tf.Tensor) -> tf.Tensor:
        """What stands for the absence of a condition in a batch `like` [B, ...]."""
