"""Conditioning on a class, and classifier-free guidance (Ho & Salimans 2022).

The network is seen only as `denoiser(x_t, t, label)`, where label -1 asks for the prediction without a class.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.process import DiffusionProcess

LabelledDenoiser = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def conditioned(denoiser: LabelledDenoiser, label: tf.Tensor) -> Denoiser:
    """The denoiser (x_t, t) of the classes `label` int32 [B]."""
    return lambda x_t, t: denoiser(x_t, t, label)


def guided(process: DiffusionProcess, denoiser: LabelledDenoiser, label: tf.Tensor, guidance: tf.Tensor) -> Denoiser:
    """The denoiser (x_t, t) that exaggerates what the label adds: out_u + g (out_c - out_u).

    Ho & Salimans 2022, eq. 6, with g = 1 + w: 1 is the conditional prediction, 0 the unconditional one. It is
    written for eps, and holds for x_0 and v alike, which are affine in it. A learned variance is that of the
    conditional output. Both predictions come from one call of the denoiser.

    Args:
      label: int32 [B]. guidance: float32 [B], each image's own g.
    """

    def denoise(x_t: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        twice = [tf.concat([part, part], axis=0) for part in (x_t, t)]
        output = denoiser(*twice, tf.concat([label, tf.fill(tf.shape(label), -1)], axis=0))
        with_label, without = tf.split(output, 2, axis=0)
        conditional, spread = process.parts(with_label)
        unconditional, _ = process.parts(without)
        g = tf.reshape(tf.cast(guidance, x_t.dtype), [-1] + [1] * (x_t.shape.rank - 1))
        prediction = unconditional + g * (conditional - unconditional)
        return prediction if spread is None else tf.concat([prediction, spread], axis=-1)

    return denoise
