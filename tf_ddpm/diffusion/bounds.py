"""The variational bound of Ho et al. 2020, eq. 5, term by term: for each image the mean over its pixels, in bits.

  L_T        KL(q(x_T | x_0) || N(0, I))
  L_{t-1}    KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))
  L_0        -log p(x_0 | x_1), the discretised decoder (eq. 13)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.process import DiffusionProcess, Gaussian


def bound_term(
    process: DiffusionProcess, output: tf.Tensor, x_0: tf.Tensor, x_t: tf.Tensor, t: tf.Tensor, clip: bool = False
) -> tf.Tensor:
    """L_{t-1}, or L_0 where t is the first step: [B], bits per dimension.

    Args:
      output: of the denoiser for x_t. clip: hold the predicted x_0 in [-1, 1], as for reported likelihoods.
    """
    predicted = process.x_0_from_output(x_t, t, output)
    predicted = tf.clip_by_value(predicted, -1.0, 1.0) if clip else predicted
    p = process.p_step(predicted, x_t, t, output)
    divergence = pixel_mean(normal_kl(process.q_posterior(x_0, x_t, t), p)) / math.log(2.0)
    decoder = pixel_mean(-discretised_log_likelihood(x_0, p)) / math.log(2.0)
    return tf.where(t == 0, decoder, divergence)


def prior_term(process: DiffusionProcess, x_0: tf.Tensor) -> tf.Tensor:
    """L_T, which no network changes: [B], bits per dimension."""
    last = tf.fill([tf.shape(x_0)[0]], len(process) - 1)
    standard = Gaussian(tf.zeros_like(x_0), tf.zeros([], x_0.dtype))
    return pixel_mean(normal_kl(process.q_mean_variance(x_0, last), standard)) / math.log(2.0)


class Bound(NamedTuple):
    """Terms of the variational bound of images, in bits per dimension, and the errors of the predictions.

    prior: L_T [B]. terms: [T, B], L_0 first and then L_{t-1} for t = 2 to T. eps_squared_error: [T, B].
    x_0_squared_error: [T, B], of the predicted image held in [-1, 1].
    """

    prior: tf.Tensor
    terms: tf.Tensor
    eps_squared_error: tf.Tensor
    x_0_squared_error: tf.Tensor


def variational_bound(
    process: DiffusionProcess, denoiser: Denoiser, x_0: tf.Tensor, noise: Callable[[tf.Tensor], tf.Tensor]
) -> Bound:
    """Every term of the bound (Ho et al. 2020, eq. 5), each for one draw of its noise; their sum is unbiased.

    Args:
      x_0: [B, ...], bytes in [-1, 1]. noise: scalar int32 t -> [B, ...] standard normal.
    """
    steps = len(process)

    def body(t: tf.Tensor, *columns: tf.TensorArray) -> tuple:
        eps, at = noise(t), tf.fill([tf.shape(x_0)[0]], t)
        x_t = process.q_sample(x_0, at, eps)
        output = denoiser(x_t, process.denoiser_timesteps(at))
        predicted = tf.clip_by_value(process.x_0_from_output(x_t, at, output), -1.0, 1.0)
        values = (
            bound_term(process, output, x_0, x_t, at, clip=True),
            pixel_mean(tf.square(eps - process.eps_from_output(x_t, at, output))),
            pixel_mean(tf.square(x_0 - predicted)),
        )
        return t + 1, *(column.write(t, value) for column, value in zip(columns, values, strict=True))

    columns = [tf.TensorArray(x_0.dtype, size=steps, element_shape=x_0.shape[:1]) for _ in range(3)]
    _, *columns = tf.while_loop(lambda t, *_: t < steps, body, (0, *columns), parallel_iterations=1)
    return Bound(prior_term(process, x_0), *(column.stack() for column in columns))


def normal_kl(q: Gaussian, p: Gaussian) -> tf.Tensor:
    """KL(q || p) of diagonal normal distributions, elementwise, in nats."""
    return 0.5 * (
        -1.0
        + p.log_variance
        - q.log_variance
        + tf.exp(q.log_variance - p.log_variance)
        + tf.square(q.mean - p.mean) * tf.exp(-p.log_variance)
    )


def discretised_log_likelihood(x_0: tf.Tensor, p: Gaussian) -> tf.Tensor:
    """log probability of each byte under a normal distribution, elementwise, in nats (Ho et al. 2020, eq. 13).

    The bins reach 1/255 to both sides of x_0 = byte / 127.5 - 1, the outermost to infinity. The normal
    distribution function is the tanh approximation of the original code.
    """
    centred = x_0 - p.mean
    inverse_std = tf.exp(-0.5 * p.log_variance)
    upper = _normal_cdf(inverse_std * (centred + 1.0 / 255.0))
    lower = _normal_cdf(inverse_std * (centred - 1.0 / 255.0))
    probability = tf.where(x_0 < -0.999, upper, tf.where(x_0 > 0.999, 1.0 - lower, upper - lower))
    return tf.math.log(tf.maximum(probability, 1e-12))


def _normal_cdf(x: tf.Tensor) -> tf.Tensor:
    return 0.5 * (1.0 + tf.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def pixel_mean(values: tf.Tensor) -> tf.Tensor:
    """The mean over the pixels of each image."""
    return tf.reduce_mean(values, axis=list(range(1, values.shape.rank)))
