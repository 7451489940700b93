"""The training objectives, and the variational bound that they come from.

The network is seen only as `denoiser(x_t, t)`. Every function gives one number for each image, the mean over its
pixels; the terms of the bound are in bits per dimension.

  L_simple   mean squared error                       Ho et al. 2020, eq. 14
  L_T        KL(q(x_T | x_0) || N(0, I))              Ho et al. 2020, eq. 5
  L_{t-1}    KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))
  L_0        -log p(x_0 | x_1), the discretised decoder  Ho et al. 2020, eq. 13
  L_vlb      L_0 or L_{t-1} of the drawn t            Nichol & Dhariwal 2021, eq. 4
  L_hybrid   L_simple + L_vlb T / 1000                Nichol & Dhariwal 2021, eq. 16
  min-SNR    L_simple, weighted                       Hang et al. 2023, eq. 8
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_ddpm.process import DiffusionProcess, Gaussian

Denoiser = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
Objective = Callable[[DiffusionProcess, Denoiser, tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def simple_loss(
    process: DiffusionProcess, denoiser: Denoiser, x_0: tf.Tensor, t: tf.Tensor, eps: tf.Tensor
) -> tf.Tensor:
    """L_simple (Ho et al. 2020, eq. 14): mean squared error of the denoiser, for each image.

    Args:
      denoiser: (x_t [B, ...], t int32 [B]) -> the process' kind of output.
      x_0: [B, ...] in [-1, 1]. t: int [B]. eps: [B, ...] standard normal.

    Returns:
      [B], in the dtype of x_0.
    """
    x_t = process.q_sample(x_0, t, eps)
    return _squared_error(process, denoiser(x_t, process.denoiser_timesteps(t)), x_0, t, eps)


def min_snr_loss(gamma: float) -> Objective:
    """L_simple with the weight of Hang et al. 2023: min(SNR, gamma) on the error of x_0.

    In terms of the prediction: min(SNR, gamma) / SNR for eps, / (SNR + 1) for v, / 1 for x_0.
    """

    def loss(process: DiffusionProcess, denoiser: Denoiser, x_0: tf.Tensor, t: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        snr = process.alpha_bar / (1.0 - process.alpha_bar)
        divisor = {"eps": snr, "v": snr + 1.0, "x_0": np.ones_like(snr)}[process.prediction]
        weight = tf.gather(tf.constant(np.minimum(snr, gamma) / divisor, x_0.dtype), t)
        return weight * simple_loss(process, denoiser, x_0, t, eps)

    return loss


def vlb_loss(process: DiffusionProcess, denoiser: Denoiser, x_0: tf.Tensor, t: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
    """The term of the bound that belongs to t, in bits per dimension (Nichol & Dhariwal 2021, eq. 4 to 7). [B]."""
    x_t = process.q_sample(x_0, t, eps)
    return bound_term(process, denoiser(x_t, process.denoiser_timesteps(t)), x_0, x_t, t)


def hybrid_loss(
    process: DiffusionProcess, denoiser: Denoiser, x_0: tf.Tensor, t: tf.Tensor, eps: tf.Tensor
) -> tf.Tensor:
    """L_hybrid = L_simple + L_vlb T / 1000; the mean is detached inside L_vlb, so that it teaches the variance alone.

    Nichol & Dhariwal 2021, eq. 16 (lambda = 0.001 for a bound summed over T terms). [B].
    """
    x_t = process.q_sample(x_0, t, eps)
    output = denoiser(x_t, process.denoiser_timesteps(t))
    prediction, spread = process.parts(output)
    detached = tf.concat([tf.stop_gradient(prediction), spread], axis=-1)
    bound = bound_term(process, detached, x_0, x_t, t)
    return _squared_error(process, output, x_0, t, eps) + bound * (len(process) / 1000.0)


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
    divergence = _mean(normal_kl(process.q_posterior(x_0, x_t, t), p)) / math.log(2.0)
    decoder = _mean(-discretised_log_likelihood(x_0, p)) / math.log(2.0)
    return tf.where(t == 0, decoder, divergence)


def prior_term(process: DiffusionProcess, x_0: tf.Tensor) -> tf.Tensor:
    """L_T, which no network changes: [B], bits per dimension."""
    last = tf.fill([tf.shape(x_0)[0]], len(process) - 1)
    standard = Gaussian(tf.zeros_like(x_0), tf.zeros([], x_0.dtype))
    return _mean(normal_kl(process.q_mean_variance(x_0, last), standard)) / math.log(2.0)


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
            _mean(tf.square(eps - process.eps_from_output(x_t, at, output))),
            _mean(tf.square(x_0 - predicted)),
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


def _squared_error(
    process: DiffusionProcess, output: tf.Tensor, x_0: tf.Tensor, t: tf.Tensor, eps: tf.Tensor
) -> tf.Tensor:
    prediction, _ = process.parts(output)
    return _mean(tf.square(process.target(x_0, t, eps) - prediction))


def _mean(values: tf.Tensor) -> tf.Tensor:
    """The mean over the pixels of each image."""
    return tf.reduce_mean(values, axis=list(range(1, values.shape.rank)))
