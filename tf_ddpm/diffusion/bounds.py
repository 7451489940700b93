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

from tf_ddpm.diffusion.chain import Chain, Gaussian
from tf_ddpm.diffusion.denoiser import Denoiser, Prediction


def bound_term(
    chain: Chain, predicted: Prediction, x_0: tf.Tensor, x_t: tf.Tensor, step: tf.Tensor, clip: bool = False
) -> tf.Tensor:
    """L_{t-1}, or L_0 at the first step: [B], bits per dimension.

    Args:
      predicted: of x_t. step: int [B]. clip: hold the predicted x_0 in [-1, 1], as for reported likelihoods.
    """
    image = tf.clip_by_value(predicted.x_0, -1.0, 1.0) if clip else predicted.x_0
    p = chain.p_step(image, x_t, step, predicted.variance)
    divergence = pixel_mean(normal_kl(chain.q_posterior(x_0, x_t, step), p)) / math.log(2.0)
    decoder = pixel_mean(-discretised_log_likelihood(x_0, p)) / math.log(2.0)
    return tf.where(step == 0, decoder, divergence)


def prior_term(chain: Chain, x_0: tf.Tensor) -> tf.Tensor:
    """L_T, which no network changes: [B], bits per dimension."""
    last = tf.fill([tf.shape(x_0)[0]], len(chain) - 1)
    standard = Gaussian(tf.zeros_like(x_0), tf.zeros([], x_0.dtype))
    return pixel_mean(normal_kl(chain.q_mean_variance(x_0, last), standard)) / math.log(2.0)


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
    chain: Chain, denoiser: Denoiser, x_0: tf.Tensor, noise: Callable[[tf.Tensor], tf.Tensor]
) -> Bound:
    """Every term of the bound (Ho et al. 2020, eq. 5), each for one draw of its noise; their sum is unbiased.

    Args:
      x_0: [B, ...], bytes in [-1, 1]. noise: scalar int32 step -> [B, ...] standard normal.
    """
    steps = len(chain)

    def body(step: tf.Tensor, *columns: tf.TensorArray) -> tuple:
        eps, level = noise(step), chain.levels.at(tf.fill([tf.shape(x_0)[0]], step), x_0)
        x_t = level.noised(x_0, eps)
        output = denoiser.output(x_t, level)
        predicted = denoiser.prediction(x_t, level, output)
        predicted_eps = denoiser.parametrisation.eps(x_t, level, output.prediction)
        values = (
            bound_term(chain, predicted, x_0, x_t, level.step, clip=True),
            pixel_mean(tf.square(eps - predicted_eps)),
            pixel_mean(tf.square(x_0 - tf.clip_by_value(predicted.x_0, -1.0, 1.0))),
        )
        return step + 1, *(column.write(step, value) for column, value in zip(columns, values, strict=True))

    columns = [tf.TensorArray(x_0.dtype, size=steps, element_shape=x_0.shape[:1]) for _ in range(3)]
    _, *columns = tf.while_loop(lambda step, *_: step < steps, body, (0, *columns), parallel_iterations=1)
    return Bound(prior_term(chain, x_0), *(column.stack() for column in columns))


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
