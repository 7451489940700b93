"""Classifier-free guidance (Ho & Salimans 2022)."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_ddpm.diffusion.denoiser import Network
from tf_ddpm.diffusion.levels import Level

Condition = dict[str, tf.Tensor]  # name -> [B, ...]
ConditionalNetwork = Callable[[tf.Tensor, Level, Condition], tf.Tensor]


def conditioned(network: ConditionalNetwork, condition: Condition) -> Network:
    """The network of one condition."""
    return lambda x, level: network(x, level, condition)


def guided(
    network: ConditionalNetwork,
    condition: Condition,
    null: Condition,
    guidance: tf.Tensor,
    learns_variance: bool = False,
) -> Network:
    """The network that exaggerates what the condition adds: out_u + g (out_c - out_u).

    Ho & Salimans 2022, eq. 6, with g = 1 + w: 1 is the conditional prediction, 0 the unconditional one. It is
    written for eps, and holds for x_0 and v alike, which are affine in it. A learned variance is that of the
    conditional output. Both predictions come from one call of the network.

    Args:
      condition, null: what the two predictions are made under, with the same names.
      guidance: float32 [B], each image's own g.
    """
    both = {name: tf.concat([part, null[name]], axis=0) for name, part in condition.items()}

    def predict(x: tf.Tensor, level: Level) -> tf.Tensor:
        output = network(tf.concat([x, x], axis=0), level.twice(), both)
        with_condition, without = tf.split(output, 2, axis=0)
        g = tf.reshape(tf.cast(guidance, x.dtype), [-1] + [1] * (x.shape.rank - 1))
        if not learns_variance:
            return without + g * (with_condition - without)
        conditional, variance = tf.split(with_condition, 2, axis=-1)
        unconditional, _ = tf.split(without, 2, axis=-1)
        return tf.concat([unconditional + g * (conditional - unconditional), variance], axis=-1)

    return predict
