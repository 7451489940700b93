"""Consistency tuning: a network that says the same clean image all along a path from noise (Song et al. 2023).

Song, Dhariwal, Chen, Sutskever 2023, "Consistency models" (2303.01469); Geng et al. 2024, "Consistency models made
easy" (2406.14548). sigma and r are sigma / alpha here, as in both papers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tf_ddpm.diffusion.bounds import pixel_mean
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.levels import Level, Levels


class Point(NamedTuple):
    """A point on the path of a noisy image, and the clean image to which that leads, both [B, ...]."""

    x: tf.Tensor
    x_0: tf.Tensor


# (x_0, eps, x_t, its level, the lower level) -> the point there
Path = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, Level, Level], Point]


class Pairs:
    """The lower level of each pair: r = sigma (1 - n / q), n = 1 + 8 sigmoid(-sigma) (Geng et al. 2024, section 3).

    What lies below the least level of the table is the clean image, r = 0: a pair's levels would otherwise be so near
    that its weight 1 / (sigma - r) outweighs all others.

    Args:
      levels: the table. q: float32 [], above 1; the larger, the nearer are the two levels.
    """

    def __init__(self, levels: Levels, q: tf.Tensor | float):
        self._levels, self._q = levels, q

    def lower(self, level: Level, like: tf.Tensor) -> Level:
        """The lower level of each image `like` [B, ...]; where that is clean, alpha is 1 and sigma 0."""
        r = self._r(level)
        found, clean = self._levels.between(self._levels.position(tf.maximum(r, 1e-30)), like), r == 0
        clean_shaped = tf.reshape(clean, tf.shape(found.alpha))
        return found._replace(
            alpha=tf.where(clean_shaped, tf.ones_like(found.alpha), found.alpha),
            sigma=tf.where(clean_shaped, tf.zeros_like(found.sigma), found.sigma),
        )

    def weights(self, level: Level) -> tf.Tensor:
        """1 / (sigma - r) of each image, [B] (Geng et al. 2024, section 3)."""
        return 1.0 / (_relative(level) - self._r(level))

    def _r(self, level: Level) -> tf.Tensor:
        sigma = _relative(level)
        r = sigma * (1.0 - (1.0 + 8.0 * tf.sigmoid(-sigma)) / tf.cast(self._q, sigma.dtype))
        return tf.where(r < self._levels.relative_sigma[0], tf.zeros_like(r), r)


def _relative(level: Level) -> tf.Tensor:
    return tf.reshape(level.sigma / level.alpha, [-1])


def path_of_data(x_0: tf.Tensor, eps: tf.Tensor, x_t: tf.Tensor, level: Level, lower: Level) -> Point:
    """The same image under less of the same noise: on average over all images, the path's direction."""
    return Point(lower.noised(x_0, eps), x_0)


def path_of_teacher(teacher: Denoiser, heun: bool = False) -> Path:
    """A step of the teacher's: its probability-flow ODE, from x_t to the lower level (Song et al. 2023, section 4).

    Args:
      heun: whether the slope is the mean of those at both ends; where the lower one is clean, that of the first.
    """

    def path(x_0: tf.Tensor, eps: tf.Tensor, x_t: tf.Tensor, level: Level, lower: Level) -> Point:
        told = teacher(x_t, level).x_0
        slope = level.eps(x_t, told)
        x = lower.noised(told, slope)
        if heun:
            noisy = lower.sigma > 0
            second = lower._replace(sigma=tf.where(noisy, lower.sigma, tf.ones_like(lower.sigma)))
            mean = 0.5 * (slope + second.eps(x, teacher(x, lower).x_0))
            # x / alpha moves by the slope times the change of sigma / alpha.
            moved = x_t / level.alpha + (lower.sigma / lower.alpha - level.sigma / level.alpha) * mean
            x = tf.where(noisy, lower.alpha * moved, x)
        return Point(x, told)

    return path


def target(pairs: Pairs, path: Path, denoiser: Denoiser, x_0: tf.Tensor, level: Level, eps: tf.Tensor) -> tf.Tensor:
    """What the network says at the lower level of each pair [B, ...], taken as given; where that is clean, the image.

    Args:
      denoiser: the student, with the dropout that it has at the upper level.
      level, eps: of the upper level; eps [B, ...].
    """
    lower = pairs.lower(level, x_0)
    point = path(x_0, eps, level.noised(x_0, eps), level, lower)
    below = denoiser(point.x, lower).x_0
    return tf.stop_gradient(tf.where(lower.sigma > 0, below, point.x_0))


def distance(pairs: Pairs, level: Level, said: tf.Tensor, wanted: tf.Tensor, huber: float) -> tf.Tensor:
    """How far what the network says at a pair's levels is apart, [B], times the pair's weight.

    The pseudo-Huber distance sqrt(|.|^2 + c^2) - c of the root mean square over the pixels.

    Args:
      said: the clean image [B, ...] at the upper level. wanted: at the lower one.
      huber: c, of a pixel (Song & Dhariwal 2023, "Improved techniques", section 3.3: 0.00054).
    """
    c = max(huber, 1e-6)  # whose root has a gradient at 0
    squared = pixel_mean(tf.square(said - wanted))
    return pairs.weights(level) * (tf.sqrt(squared + c**2) - c)
