"""The training objectives.

Each is a function of (denoiser, x_0, level, eps) that gives one number for each image, the mean over its
pixels.

  L_simple   mean squared error                       Ho et al. 2020, eq. 14
  L_vlb      L_0 or L_{t-1} of the drawn t            Nichol & Dhariwal 2021, eq. 4
  L_hybrid   L_simple + L_vlb T / 1000                Nichol & Dhariwal 2021, eq. 16
  min-SNR    L_simple, weighted                       Hang et al. 2023, eq. 8
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_ddpm.diffusion.bounds import bound_term, pixel_mean
from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.denoiser import Denoiser, Output
from tf_ddpm.diffusion.levels import Level

Objective = Callable[[Denoiser, tf.Tensor, Level, tf.Tensor], tf.Tensor]


def simple_loss(denoiser: Denoiser, x_0: tf.Tensor, level: Level, eps: tf.Tensor) -> tf.Tensor:
    """L_simple (Ho et al. 2020, eq. 14): mean squared error of the network's prediction, for each image.

    Args:
      x_0: [B, ...] in [-1, 1]. level: of each image. eps: [B, ...] standard normal.

    Returns:
      [B], in the dtype of x_0.
    """
    return _squared_error(denoiser, denoiser.output(level.noised(x_0, eps), level), x_0, level, eps)


def min_snr_loss(gamma: float) -> Objective:
    """L_simple with the weight of Hang et al. 2023: min(SNR, gamma) on the error of x_0.

    In terms of the prediction: min(SNR, gamma) / SNR for eps, / (SNR + 1) for v, / 1 for x_0.
    """

    def loss(denoiser: Denoiser, x_0: tf.Tensor, level: Level, eps: tf.Tensor) -> tf.Tensor:
        snr = tf.reshape(level.snr, [-1])
        weight = tf.minimum(snr, gamma) / denoiser.parametrisation.error_scale(snr)
        return weight * simple_loss(denoiser, x_0, level, eps)

    return loss


def vlb_loss(chain: Chain) -> Objective:
    """The term of the bound that belongs to the level, in bits per dimension (Nichol & Dhariwal 2021, eq. 4 to 7).

    Args:
      chain: the levels' own.
    """

    def loss(denoiser: Denoiser, x_0: tf.Tensor, level: Level, eps: tf.Tensor) -> tf.Tensor:
        x_t = level.noised(x_0, eps)
        return bound_term(chain, denoiser(x_t, level), x_0, x_t, level.step)

    return loss


def hybrid_loss(chain: Chain) -> Objective:
    """L_hybrid = L_simple + L_vlb T / 1000; the mean is detached inside L_vlb, so that it teaches the variance alone.

    Nichol & Dhariwal 2021, eq. 16 (lambda = 0.001 for a bound summed over T terms).

    Args:
      chain: the levels' own.
    """

    def loss(denoiser: Denoiser, x_0: tf.Tensor, level: Level, eps: tf.Tensor) -> tf.Tensor:
        x_t = level.noised(x_0, eps)
        output = denoiser.output(x_t, level)
        detached = denoiser.prediction(x_t, level, Output(tf.stop_gradient(output.prediction), output.variance))
        bound = bound_term(chain, detached, x_0, x_t, level.step)
        return _squared_error(denoiser, output, x_0, level, eps) + bound * (len(chain) / 1000.0)

    return loss


def _squared_error(denoiser: Denoiser, output: Output, x_0: tf.Tensor, level: Level, eps: tf.Tensor) -> tf.Tensor:
    target = denoiser.parametrisation.target(x_0, eps, level)
    return pixel_mean(tf.square(target - output.prediction))
