"""Conditioning augmentation: the image that a network enlarges is noised, and the network is told how much.

Ho et al. 2021, "Cascaded diffusion models", section 4 (non-truncated): a network that has only seen perfect small
images draws the faults of a base model larger; one that is told that its input is noisy does not trust it in detail.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_ddpm import randomness
from tf_ddpm.diffusion import schedules
from tf_ddpm.diffusion.levels import Levels

MOST = 1000  # the noisiest level

_LINEAR = ("linear", MOST, 1e-4, 0.02)


def levels() -> Levels:
    """s = 0: the image itself; s = 1 to 1000: as noisy as x_s of Ho et al. 2020, whatever the network's own chain."""
    alpha_bar = np.concatenate([[1.0], schedules.alpha_bars(schedules.betas(*_LINEAR))])
    return Levels(np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar), np.arange(MOST + 1))


def drawn(address: tf.Tensor, rows: tf.Tensor, most: int, clean_share: float) -> tf.Tensor:
    """The level int32 [rows] of each row of a batch in training: uniform in 0 to `most`, and 0 for a share of them."""
    clean = randomness.row_uniform(address, randomness.CLEAN, rows) < clean_share
    return tf.where(clean, 0, randomness.row_integers(address, randomness.AUGMENTATION, rows, most + 1))


def noised(images: tf.Tensor, level: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
    """`images` [B, ...] at the levels `level` int [B], with the standard normal `eps` [B, ...]."""
    return levels().at(level, images).noised(images, eps)
