"""Noise levels: x = alpha x_0 + sigma eps, and the time by which a network is told of a level.

Glossary (Ho et al. 2020; [B, ...] is a batch of images in [-1, 1]):
  x_0         a clean image              x, x_t      the image at a level of noise
  eps         the standard normal noise in x = alpha x_0 + sigma eps
  alpha       sqrt(alpha_bar) in a variance-preserving chain
  sigma       sqrt(1 - alpha_bar) there
  sigma/alpha the noise beside an image of its own size: the sigma of Karras et al. 2022

Tables are float64 and are cast once, to the dtype of the images, where they are looked up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Level(NamedTuple):
    """One level for all images of a batch (scalars), or a level for each ([B, 1, ...], and [B] for time and step).

    Attributes:
      alpha, sigma: in the dtype of the images.
      time: float32, what a network is told.
      step: int32, its place in the table that it came from; None: it came from none.
    """

    alpha: tf.Tensor
    sigma: tf.Tensor
    time: tf.Tensor
    step: tf.Tensor | None = None

    def noised(self, x_0: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        """x = alpha x_0 + sigma eps (Ho et al. 2020, eq. 4, reparametrised). [B, ...]."""
        return self.alpha * x_0 + self.sigma * eps

    def x_0(self, x: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        """x_0 = (x - sigma eps) / alpha (Ho et al. 2020, eq. 9 and 15). [B, ...]."""
        return (x - self.sigma * eps) / self.alpha

    def eps(self, x: tf.Tensor, x_0: tf.Tensor) -> tf.Tensor:
        """eps = (x - alpha x_0) / sigma, the inverse of `x_0`. [B, ...]."""
        return (x - self.alpha * x_0) / self.sigma

    def score(self, eps: tf.Tensor) -> tf.Tensor:
        """grad log q(x) = -eps / sigma (Song et al. 2021, "Score-based", and Vincent 2011). [B, ...]."""
        return -eps / self.sigma

    @property
    def snr(self) -> tf.Tensor:
        """The signal-to-noise ratio alpha^2 / sigma^2, shaped as they are."""
        return tf.square(self.alpha / self.sigma)

    def twice(self) -> Level:
        """The levels of a batch that stands twice, one after the other."""
        again = lambda part: part if part is None or part.shape.rank == 0 else tf.concat([part, part], 0)  # noqa: E731
        return Level(*map(again, self))


class Levels:
    """A table of levels, the least noisy first.

    Args:
      alpha, sigma, time: [S] numbers.
    """

    def __init__(self, alpha: np.ndarray, sigma: np.ndarray, time: np.ndarray):
        self.alpha, self.sigma, self.time = (np.asarray(table, np.float64) for table in (alpha, sigma, time))

    def __len__(self) -> int:
        return len(self.alpha)

    @property
    def relative_sigma(self) -> np.ndarray:
        """sigma / alpha, [S]."""
        return self.sigma / self.alpha

    def of_sigmas(self, relative_sigma: np.ndarray) -> Levels:
        """Levels with these sigma / alpha [N], which this table need not have; for its own ends and all in between.

        The time is linear in log(sigma / alpha) between two steps, as in `between`, and alpha^2 + sigma^2 is 1.
        """
        wanted = np.log(np.asarray(relative_sigma, np.float64))
        time = np.interp(wanted, np.log(self.relative_sigma), self.time)
        return Levels(np.exp(-0.5 * np.logaddexp(0, 2 * wanted)), np.exp(-0.5 * np.logaddexp(0, -2 * wanted)), time)

    def followed_by(self, others: Levels) -> Levels:
        """One table of both."""
        tables = zip((self.alpha, self.sigma, self.time), (others.alpha, others.sigma, others.time), strict=True)
        return Levels(*(np.concatenate(pair) for pair in tables))

    def position(self, relative_sigma: tf.Tensor) -> tf.Tensor:
        """Where in the table these sigma / alpha [B] are, float64 [B], as `between` takes it; outside, at its ends."""
        wanted = tf.math.log(tf.cast(relative_sigma, tf.float64))
        table = tf.constant(np.log(self.relative_sigma), tf.float64)
        low = tf.clip_by_value(tf.searchsorted(table, wanted, side="right") - 1, 0, max(len(self) - 2, 0))
        below, above = tf.gather(table, low), tf.gather(table, tf.minimum(low + 1, len(self) - 1))
        share = tf.math.divide_no_nan(wanted - below, above - below)
        return tf.cast(low, tf.float64) + tf.clip_by_value(share, 0.0, 1.0)

    def at(self, step: tf.Tensor, like: tf.Tensor) -> Level:
        """The levels of the steps `step`, int [B] or scalar, for images shaped and typed `like` [B, ...]."""
        time = tf.gather(tf.constant(self.time, tf.float32), step)
        return Level(lookup(self.alpha, step, like), lookup(self.sigma, step, like), time, tf.cast(step, tf.int32))

    def between(self, position: tf.Tensor, like: tf.Tensor) -> Level:
        """The levels at `position`, float [B] or scalar from 0 to S-1, where a whole number is a step of the table.

        log(alpha / sigma) and the time are linear in between, and alpha^2 + sigma^2 is 1, as it must be in the table.
        """
        position = tf.cast(position, tf.float64)
        low = tf.clip_by_value(tf.cast(tf.floor(position), tf.int32), 0, max(len(self) - 2, 0))
        share = position - tf.cast(low, tf.float64)
        high = tf.minimum(low + 1, len(self) - 1)

        def linear(table: np.ndarray) -> tf.Tensor:
            table = tf.constant(table, tf.float64)
            return (1.0 - share) * tf.gather(table, low) + share * tf.gather(table, high)

        log_ratio = linear(np.log(self.alpha) - np.log(self.sigma))
        alpha, sigma = tf.sqrt(tf.sigmoid(2.0 * log_ratio)), tf.sqrt(tf.sigmoid(-2.0 * log_ratio))
        shaped = lambda part: _shaped(tf.cast(part, like.dtype), like)  # noqa: E731
        return Level(shaped(alpha), shaped(sigma), tf.cast(linear(self.time), tf.float32))


def lookup(table: np.ndarray, step: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """table[step] as [B, 1, 1, ...] in the dtype of `like` [B, ...]; a scalar step gives a scalar."""
    return _shaped(tf.gather(tf.constant(table, like.dtype), step), like)


def _shaped(values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    return values if values.shape.rank == 0 else tf.reshape(values, [-1] + [1] * (like.shape.rank - 1))
