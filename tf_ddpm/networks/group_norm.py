"""Group normalisation, with a gradient written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from tf_ddpm.networks.primitives import sides


class GroupNorm(keras.layers.Layer):
    """Group normalisation (Wu & He 2018) with an optional swish in the same pass.

    Statistics are float32 whatever the dtype of the images. The gradient is written by hand, and keeps nothing of the
    size of the images but the input.

    Args:
      xla: whether XLA compiles the normalisation (into one or two passes over the images), which then is float32
        inside whatever its dtype outside; the network's other operations stay as they are.
    """

    def __init__(
        self, width: int, groups: int, swish: bool = False, epsilon: float = 1e-6, xla: bool = False, **kwargs
    ):
        super().__init__(**kwargs)
        if width % groups:
            raise ValueError(f"{groups} groups do not divide {width} channels")
        self.width = width
        self._kind = _Kind(groups, epsilon, swish, "float32" if xla else self.compute_dtype, xla)
        self._passes = (_forward_xla, _backward_xla) if xla else (_forward, _backward)
        self.gamma = self.add_weight(shape=(width,), initializer="ones", name="gamma", dtype="float32", autocast=False)
        self.beta = self.add_weight(shape=(width,), initializer="zeros", name="beta", dtype="float32", autocast=False)
        self.built = True

    def call(
        self,
        x: tf.Tensor,
        bias: tf.Tensor | None = None,
        scale: tf.Tensor | None = None,
        shift: tf.Tensor | None = None,
        keep: tf.Tensor | None = None,
        inverse_keep_rate: float = 1.0,
    ) -> tf.Tensor:
        """[B, H, W, width] -> the same.

        Args:
          bias: [B, width], added to x first. scale, shift: [B, width]; they give norm * (1 + scale) + shift.
          keep: bool [B, H, W, width], what dropout keeps of the result.
          inverse_keep_rate: the factor that makes up for the rest.
        """
        shape = sides(x)
        flat = [shape[0], shape[1] * shape[2], self.width]
        gamma, beta = (tf.cast(tf.convert_to_tensor(w.value), tf.float32) for w in (self.gamma, self.beta))
        if scale is not None:  # an affine map after an affine map is one, of each image's own
            scale, shift = 1.0 + tf.cast(scale, tf.float32), tf.cast(shift, tf.float32)
            gamma, beta = gamma * scale, beta * scale + shift
        forward, backward = self._passes
        kind = self._kind
        keep = None if keep is None else (tf.reshape(keep, flat), inverse_keep_rate)

        @tf.custom_gradient
        def normalise(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *bias: tf.Tensor) -> tuple:
            y, mean, rstd = forward(kind, keep, x, gamma, beta, *bias)
            return y, lambda dy: backward(kind, keep, dy, mean, rstd, x, gamma, beta, *bias)

        return tf.reshape(normalise(tf.reshape(x, flat), gamma, beta, *([] if bias is None else [bias])), shape)


class _Kind(NamedTuple):
    """What a normalisation is: its arithmetic is of `dtype`, but for the statistics."""

    groups: int
    epsilon: float
    swish: bool
    dtype: str
    xla: bool


_Keep = tuple[tf.Tensor, float] | None


def _group_mean(values: tf.Tensor, groups: int) -> tf.Tensor:
    """[B, C] -> [B, C], each channel the mean of its group."""
    grouped = tf.reshape(values, [-1, groups, values.shape[1] // groups])
    mean = tf.reduce_mean(grouped, axis=2, keepdims=True)
    return tf.reshape(tf.broadcast_to(mean, tf.shape(grouped)), tf.shape(values))


def _affine(
    kind: _Kind, centred: tf.Tensor, rstd: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """gamma centred rstd + beta, and gamma rstd [B, 1, C]."""
    scale = tf.cast(gamma * rstd, kind.dtype)[:, None]
    return centred * scale + tf.cast(beta if beta.shape.rank == 1 else beta[:, None], kind.dtype), scale


def _kept(y: tf.Tensor, keep: _Keep) -> tf.Tensor:
    """What dropout leaves of `y`, and of its gradient."""
    return y if keep is None else y * (tf.cast(keep[0], y.dtype) * keep[1])


def _sums_over(x: tf.Tensor, reduce: Callable) -> tf.Tensor:
    """float32 [B, parts, C]: `reduce` of each part of the N of x [B, N, C]; what bfloat16 rounds off averages out."""
    count = x.shape[1]
    parts = 1 if x.dtype == tf.float32 or count is None else math.gcd(count, 16)
    return tf.cast(reduce(tf.reshape(x, [tf.shape(x)[0], parts, -1, x.shape[2]]), axis=[2]), tf.float32)


def _mean(x: tf.Tensor) -> tf.Tensor:
    """[B, N, C] -> float32 [B, C]."""
    return tf.reduce_mean(_sums_over(x, tf.reduce_mean), axis=1)


def _mean_square(kind: _Kind, x: tf.Tensor) -> tf.Tensor:
    """[B, N, C] -> float32 [B, C]."""
    if kind.xla:  # it lacks the operation below, and makes one pass of these two
        return tf.reduce_mean(tf.square(x), axis=1)
    norms = _sums_over(x, lambda x, axis: tf.raw_ops.EuclideanNorm(input=x, axis=axis))
    return tf.reduce_sum(norms * norms, axis=1) / tf.cast(tf.shape(x)[1], tf.float32)


def _forward(
    kind: _Kind, keep: _Keep, x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *bias: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """swish(gamma (x + bias - mean) / std + beta) for x [B, N, C], statistics over N and the channels of a group.

    gamma and beta are [C], or [B, C] where each image has its own. Gives mean - bias and 1 / std [B, C] as well: that
    is all that the bias comes to, and no x + bias is made.
    """
    dtype, x = x.dtype, tf.cast(x, kind.dtype)
    mean = _mean(x)
    if bias:
        offset = tf.cast(bias[0], tf.float32)
        mean = _group_mean(mean + offset, kind.groups) - offset
    else:
        mean = _group_mean(mean, kind.groups)
    centred = x - tf.cast(mean, kind.dtype)[:, None]
    rstd = tf.math.rsqrt(_group_mean(_mean_square(kind, centred), kind.groups) + kind.epsilon)
    z, _ = _affine(kind, centred, rstd, gamma, beta)
    y = z * tf.sigmoid(z) if kind.swish else z
    return tf.cast(_kept(y, keep), dtype), mean, rstd


def _backward(
    kind: _Kind,
    keep: _Keep,
    dy: tf.Tensor,
    mean: tf.Tensor,
    rstd: tf.Tensor,
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    *bias: tf.Tensor,
) -> tuple[tf.Tensor, ...]:
    """The gradients of x, gamma, beta and, if there is one, bias."""
    dtype, x, dz = x.dtype, tf.cast(x, kind.dtype), tf.cast(dy, kind.dtype)
    centred = x - tf.cast(mean, kind.dtype)[:, None]
    z, scale = _affine(kind, centred, rstd, gamma, beta)
    dz = _kept(dz, keep)
    if kind.swish:
        gate = tf.sigmoid(z)
        dz *= gate * (1.0 + z * (1.0 - gate))
    dz32 = tf.cast(dz, tf.float32)
    dbeta = tf.reduce_mean(dz32, axis=1)  # means over N; [B, C]
    dgamma = tf.reduce_mean(dz32 * tf.cast(centred, tf.float32), axis=1) * rstd
    pull = rstd * rstd * _group_mean(dgamma * gamma, kind.groups)
    shift = rstd * _group_mean(dbeta * gamma, kind.groups)
    dx = dz * scale - centred * tf.cast(pull, kind.dtype)[:, None] - tf.cast(shift, kind.dtype)[:, None]
    count = tf.cast(tf.shape(x)[1], tf.float32)
    dbias = [tf.cast(tf.reduce_sum(tf.cast(dx, tf.float32), axis=1), part.dtype) for part in bias]
    if gamma.shape.rank == 1:
        dgamma, dbeta = tf.reduce_sum(dgamma, axis=0), tf.reduce_sum(dbeta, axis=0)
    return tf.cast(dx, dtype), count * dgamma, count * dbeta, *dbias


_forward_xla, _backward_xla = (
    tf.function(function, jit_compile=True, autograph=False) for function in (_forward, _backward)
)
