"""The noise that training adds."""

from __future__ import annotations

import tensorflow as tf

from tf_ddpm import randomness


def drawn(address: tf.Tensor, x_0: tf.Tensor, candidates: int = 1) -> tf.Tensor:
    """Noise for the images x_0 [B, ...] at `address`: of some drawn at random, the one nearest to the image.

    Images and noise that are near to begin with are easier to tell apart later on (Li et al. 2024, "Immiscible
    diffusion"; here each image chooses for itself, so that it does not depend on its neighbours). With more than one
    candidate the noise of an image is no longer standard normal, and the bound is not exact.

    Args:
      candidates: from how many each image chooses.

    Returns:
      float32 [B, ...].
    """
    rows, shape = tf.shape(x_0)[0], x_0.shape[1:].as_list()
    if candidates == 1:
        return randomness.row_normal(address, randomness.NOISE, rows, shape)
    noises = randomness.row_normal(address, randomness.NOISE, rows, [candidates, *shape])
    distances = tf.reduce_sum(tf.square(noises - x_0[:, None]), axis=list(range(2, noises.shape.rank)))
    return tf.gather(noises, tf.argmin(distances, axis=1, output_type=tf.int32), batch_dims=1)
