"""Guidance: by a network without the condition (Ho & Salimans 2022), or by a worse network (Karras et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tf_ddpm.diffusion.denoiser import Denoiser, Network, Output, Prediction
from tf_ddpm.diffusion.levels import Level

Condition = dict[str, tf.Tensor]  # name -> [B, ...]
ConditionalNetwork = Callable[[tf.Tensor, Level, Condition], tf.Tensor]


class Interval(NamedTuple):
    """The levels at which there is guidance: low < sigma / alpha <= high (Kynkäänniemi et al. 2024)."""

    low: float = 0.0
    high: float = float("inf")

    @property
    def whole(self) -> bool:
        """Whether no level lies outside."""
        return self.low <= 0.0 and self.high == float("inf")

    def contains(self, level: Level) -> tf.Tensor:
        """bool, shaped as the level's sigma."""
        relative_sigma = level.sigma / level.alpha
        rounding = 1.0 + 1e-6  # of a level that is the border itself
        return (relative_sigma > self.low * rounding) & (relative_sigma <= self.high * rounding)


EVERYWHERE = Interval()


def conditioned(network: ConditionalNetwork, condition: Condition) -> Network:
    """The network of one condition."""
    return lambda x, level: network(x, level, condition)


def guided(
    network: ConditionalNetwork,
    condition: Condition,
    null: Condition,
    guidance: tf.Tensor,
    learns_variance: bool = False,
    interval: Interval = EVERYWHERE,
) -> Network:
    """The network that exaggerates what the condition adds: out_c + (g - 1) (out_c - out_u).

    Ho & Salimans 2022, eq. 6, with g = 1 + w: 1 is the conditional prediction, to the bit, and 0 the unconditional
    one. It is written for eps, and holds for x_0 and v alike, which are affine in it. A learned variance is that of
    the conditional output. Both predictions come from one call of the network.

    Args:
      condition, null: what the two predictions are made under, with the same names.
      guidance: float32 [B], each image's own g.
      interval: outside, only the conditional prediction is made, and taken.
    """
    both = {name: tf.concat([part, null[name]], axis=0) for name, part in condition.items()}

    def exaggerated(x: tf.Tensor, level: Level) -> tf.Tensor:
        output = network(tf.concat([x, x], axis=0), level.twice(), both)
        with_condition, without = tf.split(output, 2, axis=0)
        beyond = _weights(guidance, x, level, interval) - 1.0
        if not learns_variance:
            return with_condition + beyond * (with_condition - without)
        conditional, variance = tf.split(with_condition, 2, axis=-1)
        unconditional, _ = tf.split(without, 2, axis=-1)
        return tf.concat([conditional + beyond * (conditional - unconditional), variance], axis=-1)

    plain = conditioned(network, condition)
    return lambda x, level: _where_guided(interval, level, lambda: exaggerated(x, level), lambda: plain(x, level))


class Autoguided(Denoiser):
    """A denoiser that exaggerates what it knows better than a worse one: D_g + w (D - D_g).

    Karras et al. 2024 ("Guiding a diffusion model with a bad version of itself"); with w = 1 it is `main`
    itself, with 0 the guide. A learned variance is that of `main`.

    Args:
      main, guide: of the same images. What their networks give may stand for different things.
      guidance: float32 [B], each image's own w.
      interval: outside, `main` alone is asked.
    """

    def __init__(self, main: Denoiser, guide: Denoiser, guidance: tf.Tensor, interval: Interval = EVERYWHERE):
        self.parametrisation, self._main, self._guide = main.parametrisation, main, guide
        self._guidance, self._interval = guidance, interval

    def output(self, x: tf.Tensor, level: Level) -> Output:
        """What the network of `main` gives; see `prediction` for the guided image."""
        return self._main.output(x, level)

    def prediction(self, x: tf.Tensor, level: Level, output: Output) -> Prediction:
        """The clean image of x [B, ...], guided, from what the network of `main` gives for it."""
        x_0, variance = self._main.prediction(x, level, output)
        return Prediction(x_0 + self._exaggeration(x, level, x_0), variance)

    def eps_of(self, x: tf.Tensor, level: Level, output: Output) -> tf.Tensor:
        """The noise in x [B, ...] that the guided image leaves."""
        x_0, _ = self._main.prediction(x, level, output)
        # (Not from the guided image: where there is little noise, its rounding would be all that is left.)
        return self._main.eps_of(x, level, output) - level.alpha / level.sigma * self._exaggeration(x, level, x_0)

    def _exaggeration(self, x: tf.Tensor, level: Level, x_0: tf.Tensor) -> tf.Tensor:
        """What guidance adds to the image x_0 [B, ...]; with w = 1 it is 0 to the bit."""

        def added() -> tf.Tensor:
            weight = _weights(self._guidance, x, level, self._interval) - 1.0
            return weight * (x_0 - self._guide(x, level).x_0)

        return _where_guided(self._interval, level, added, lambda: tf.zeros_like(x_0))


def _weights(guidance: tf.Tensor, x: tf.Tensor, level: Level, interval: Interval) -> tf.Tensor:
    """The weight of each image [B, 1, ...], 1 outside of the interval."""
    weights = tf.reshape(tf.cast(guidance, x.dtype), [-1] + [1] * (x.shape.rank - 1))
    return weights if interval.whole else tf.where(interval.contains(level), weights, tf.ones_like(weights))


def _where_guided(
    interval: Interval, level: Level, guided: Callable[[], tf.Tensor], plain: Callable[[], tf.Tensor]
) -> tf.Tensor:
    """What is guided; where all images are outside of the interval, what is not, which asks one network less."""
    if interval.whole:
        return guided()
    return tf.cond(tf.reduce_any(interval.contains(level)), guided, plain)
