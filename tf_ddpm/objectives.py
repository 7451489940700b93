"""The training objective. The network is seen only as `denoiser(x_t, t)`."""

from collections.abc import Callable

import tensorflow as tf

from tf_ddpm.process import DiffusionProcess

Denoiser = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def simple_loss(
    process: DiffusionProcess, denoiser: Denoiser, x_0: tf.Tensor, t: tf.Tensor, eps: tf.Tensor
) -> tf.Tensor:
    """L_simple (Ho et al. 2020, eq. 14): mean squared error of the denoiser, for each image.

    Args:
      denoiser: (x_t [B, ...], t int32 [B]) -> [B, ...], the process' kind of prediction.
      x_0: [B, ...] in [-1, 1]. t: int [B]. eps: [B, ...] standard normal.

    Returns:
      [B], in the dtype of x_0.
    """
    x_t = process.q_sample(x_0, t, eps)
    output = denoiser(x_t, process.denoiser_timesteps(t))
    error = tf.square(process.target(x_0, t, eps) - output)
    return tf.reduce_mean(error, axis=list(range(1, error.shape.rank)))
