"""The exponential moving average of the weights: its decay, and how much of it is still what the run began with."""

from __future__ import annotations

from collections.abc import Sequence

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


# Power functions (Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models", 2312.02696,
# section 3 and appendix C): the average of width sigma_rel after t updates weighs those at the time tau as tau^gamma.
# Two of them, kept at some moments, say afterwards what an average of nearly any width would have been.

WIDEST = 12**-0.5  # sigma_rel of gamma = 0, where all updates weigh the same


def gamma_of(sigma_rel: float) -> float:
    """The exponent of the power function whose width, in units of its length, is `sigma_rel`, below `WIDEST`.

    sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), solved for gamma.
    """
    inverse = sigma_rel**-2.0
    return float(np.max(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real))


def power_share(updates: tf.Tensor, sigma_rel: float) -> tf.Tensor:
    """What the average takes of the weights of an update, 1 - (1 - 1/t)^(gamma + 1), float32.

    Args:
      updates: made before it, t - 1.
    """
    t = tf.cast(updates, tf.float64) + 1.0
    return tf.cast(-tf.math.expm1((gamma_of(sigma_rel) + 1.0) * tf.math.log1p(-1.0 / t)), tf.float32)


def combination(kept: Sequence[tuple[float, float]], t: float, sigma_rel: float) -> tuple[np.ndarray, float]:
    """How averages that were kept make another one: least squares between their profiles.

    Args:
      kept: the t and the sigma_rel of each. t, sigma_rel: of the wanted one.

    Returns:
      The weight float64 of each, 1 in sum, and the norm of the difference between the wanted profile and what they
      make of it, in units of its own.
    """
    times, gammas = (np.array(part, np.float64) for part in zip(*[(a, gamma_of(b)) for a, b in kept], strict=True))
    wanted = np.array([t], np.float64), np.array([gamma_of(sigma_rel)])
    products = _inner_products(times, gammas, times, gammas)
    targets = _inner_products(times, gammas, *wanted)[:, 0]
    weights = np.linalg.lstsq(products, targets, rcond=1e-14)[0]
    weights /= weights.sum()
    own = float(_inner_products(*wanted, *wanted)[0, 0])
    squared = own - 2.0 * weights @ targets + weights @ products @ weights
    return weights, float(np.sqrt(max(squared, 0.0) / own))


def _inner_products(t_a: np.ndarray, gamma_a: np.ndarray, t_b: np.ndarray, gamma_b: np.ndarray) -> np.ndarray:
    """Of each profile of one row with each of another, [A, B]."""
    t_a, gamma_a, t_b, gamma_b = t_a[:, None], gamma_a[:, None], t_b[None], gamma_b[None]
    ratio = t_a / t_b
    exponent = np.where(t_a < t_b, gamma_b, -gamma_a)
    return (gamma_a + 1) * (gamma_b + 1) * ratio**exponent / ((gamma_a + gamma_b + 1) * np.maximum(t_a, t_b))
