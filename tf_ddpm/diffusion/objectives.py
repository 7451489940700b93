"""The training objectives.

The network is seen only as `denoiser(x_t, t)`. Every function gives one number for each image, the mean over its
pixels.

  L_simple   mean squared error                       Ho et al. 2020, eq. 14
  L_vlb      L_0 or L_{t-1} of the drawn t            Nichol & Dhariwal 2021, eq. 4
  L_hybrid   L_simple + L_vlb T / 1000                Nichol & Dhariwal 2021, eq. 16
  min-SNR    L_simple, weighted                       Hang et al. 2023, eq. 8
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_ddpm.diffusion.bounds import bound_term, pixel_mean
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.process import DiffusionProcess

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


def _squared_error(
    process: DiffusionProcess, output: tf.Tensor, x_0: tf.Tensor, t: tf.Tensor, eps: tf.Tensor
) -> tf.Tensor:
    prediction, _ = process.parts(output)
    return pixel_mean(tf.square(process.target(x_0, t, eps) - prediction))
