"""The exponential moving average of the weights: its decay, and how much of it is still what the run began with."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

STALE = 0.1  # of an average: with a larger share of initial weights its images are mostly noise


def decay(updates: tf.Tensor, most: float, warmup: bool) -> tf.Tensor:
    """The decay at an update, float32.

    Args:
      updates: made before it. most: the decay, or with `warmup` the bound of (1 + n) / (10 + n).
    """
    if not warmup:
        return tf.constant(most, tf.float32)
    updates = tf.cast(updates, tf.float32)
    return tf.minimum(tf.constant(most, tf.float32), (1.0 + updates) / (10.0 + updates))


def initial_share(updates: int, most: float, warmup: bool) -> float:
    """The share of the initial weights in the average after so many updates, all with the same decay."""
    n = np.arange(updates, dtype=np.float64)
    decays = np.minimum(most, (1.0 + n) / (10.0 + n)) if warmup else np.full(updates, most)
    return float(np.prod(decays))
