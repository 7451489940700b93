"""Which levels an update trains on."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import tensorflow as tf

from tf_ddpm import randomness
from tf_ddpm.diffusion.levels import Level, Levels

_HISTORY = 10  # losses remembered for each t
_UNIFORM_SHARE = 1e-3  # of the draws, so that no t is ever forgotten


class LevelSampler(Protocol):
    """Draws a level for each image of a batch.

    Attributes:
      learns: whether `record` changes what is drawn.
    """

    learns: bool

    def draw(self, address: tf.Tensor, like: tf.Tensor) -> tuple[Level, tf.Tensor]:
        """Levels of images `like` [B, ...] at `address` (`randomness.row_address`), and weights of their losses."""

    def record(self, step: tf.Tensor, losses: tf.Tensor) -> None:
        """Takes in the losses float32 [B] of a global batch, at the steps int [B] of the table."""


class UniformLevels:
    """Every step of the table is as likely (Ho et al. 2020, algorithm 1).

    Args:
      levels: the table.
    """

    learns = False

    def __init__(self, levels: Levels):
        self._levels = levels

    def draw(self, address: tf.Tensor, like: tf.Tensor) -> tuple[Level, tf.Tensor]:
        """See `LevelSampler`; the weights are 1."""
        step = randomness.row_integers(address, randomness.TIMESTEPS, tf.shape(like)[0], len(self._levels))
        return self._levels.at(step, like), tf.ones([])

    def record(self, step: tf.Tensor, losses: tf.Tensor) -> None:
        """Nothing is learned."""


class LogNormalLevels:
    """Draws the step so that log(sigma / alpha) is normally distributed (Karras et al. 2022, table 1).

    A step stands for all levels that are nearer to it than to its neighbours; those beyond the table's ends are left
    out.

    Args:
      levels: the table. mean, std: of log(sigma / alpha).

    Attributes:
      probabilities: [S] float64.
    """

    learns = False

    def __init__(self, levels: Levels, mean: float, std: float):
        self._levels, log_sigma = levels, np.log(levels.relative_sigma)
        between = 0.5 * (log_sigma[1:] + log_sigma[:-1])
        borders = (np.concatenate([log_sigma[:1], between, log_sigma[-1:]]) - mean) / std
        below = np.array([0.5 * math.erfc(-border / math.sqrt(2.0)) for border in borders])
        self.probabilities = np.diff(below) / (below[-1] - below[0])

    def draw(self, address: tf.Tensor, like: tf.Tensor) -> tuple[Level, tf.Tensor]:
        """See `LevelSampler`; the weights are 1."""
        step = _drawn(tf.constant(self.probabilities), address, like)
        return self._levels.at(step, like), tf.ones([])

    def record(self, step: tf.Tensor, losses: tf.Tensor) -> None:
        """Nothing is learned."""


class ImportanceLevels(tf.Module):
    """Draws the step t in proportion to sqrt(E[L_t^2]), weighed so that the expected loss stays that of uniform draws.

    Nichol & Dhariwal 2021, eq. 18. The expectation is over the last ten losses of each t; until every t has ten,
    the draws are uniform. The history is state: it belongs into the checkpoint.

    Args:
      levels: the table of T steps.
    """

    learns = True

    def __init__(self, levels: Levels):
        super().__init__()
        self._levels, timesteps = levels, len(levels)
        self.history = tf.Variable(tf.zeros([timesteps, _HISTORY]), trainable=False, name="history")
        self.counts = tf.Variable(tf.zeros([timesteps], tf.int64), trainable=False, name="counts")

    def probabilities(self) -> tf.Tensor:
        """p_t, float64 [T]."""
        history, counts = tf.convert_to_tensor(self.history), tf.convert_to_tensor(self.counts)
        second_moment = tf.reduce_mean(tf.square(tf.cast(history, tf.float64)), axis=1)
        known = tf.reduce_all(counts >= _HISTORY) & (tf.reduce_sum(second_moment) > 0)
        size = tf.where(known, tf.sqrt(second_moment), tf.ones_like(second_moment))
        share = size / tf.reduce_sum(size)
        return (1.0 - _UNIFORM_SHARE) * share + _UNIFORM_SHARE / share.shape[0]

    def draw(self, address: tf.Tensor, like: tf.Tensor) -> tuple[Level, tf.Tensor]:
        """See `LevelSampler`; the weights are 1 / (T p_t), float32 [B]."""
        p = self.probabilities()
        t = _drawn(p, address, like)
        return self._levels.at(t, like), tf.cast(1.0 / (p.shape[0] * tf.gather(p, t)), tf.float32)

    def record(self, step: tf.Tensor, losses: tf.Tensor) -> None:
        """Remembers the losses float32 [B] of a global batch, at the steps int [B]."""
        t = tf.cast(step, tf.int64)
        same = t[:, None] == t[None, :]
        before = tf.linalg.band_part(tf.ones_like(same, tf.int64), -1, 0) - tf.eye(tf.size(t), dtype=tf.int64)
        same = tf.cast(same, tf.int64)
        rank = tf.reduce_sum(same * before, axis=1)
        later = tf.reduce_sum(same * tf.transpose(before), axis=1)
        kept = tf.where(later < _HISTORY)[:, 0]  # of more than ten of one t, the last ten
        slot = (tf.gather(tf.convert_to_tensor(self.counts), t) + rank) % _HISTORY
        cells = tf.gather(tf.stack([t, slot], axis=1), kept)
        history = tf.tensor_scatter_nd_update(tf.convert_to_tensor(self.history), cells, tf.gather(losses, kept))
        self.history.assign(history)
        counts = tf.math.unsorted_segment_sum(tf.ones_like(t), t, self.counts.shape[0])
        self.counts.assign_add(counts)


def _drawn(probabilities: tf.Tensor, address: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """A step int32 [B] for each image of `like` [B, ...], with the probabilities float64 [S] of the table's steps."""
    bits = randomness.row_bits(address, randomness.TIMESTEPS, tf.shape(like)[0], [1])[:, 0]
    u = (tf.cast(bits, tf.float64) + 0.5) / 2.0**32
    step = tf.searchsorted(tf.cumsum(probabilities), u, side="right", out_type=tf.int32)
    return tf.minimum(step, probabilities.shape[0] - 1)  # the sum may end a rounding below 1
