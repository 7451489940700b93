"""The parts of the U-Net (Ho et al. 2020, appendix B): embedding, normalisation, residual block, attention.

Each layer makes its weights in its constructor, from the widths given there, so that a network exists (and can
be counted, restored or copied) before it has seen an image. Images are [B, H, W, C].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_ddpm import randomness

DType = str | keras.DTypePolicy


def _initializer(scale: float = 1.0) -> keras.initializers.Initializer:
    """Ho et al.'s default: variance scaling, fan average, uniform; scale 0 means 1e-10."""
    return keras.initializers.VarianceScaling(max(scale, 1e-10), mode="fan_avg", distribution="uniform")


def _sides(x: tf.Tensor) -> list:
    """The sides of `x`, each an int where the graph knows it and a scalar tensor where it does not."""
    dynamic = tf.shape(x)
    return [dynamic[axis] if side is None else side for axis, side in enumerate(x.shape)]


def _dense(width_in: int, width: int, name: str, dtype: DType, scale: float = 1.0) -> keras.layers.Dense:
    layer = keras.layers.Dense(width, kernel_initializer=_initializer(scale), name=name, dtype=dtype)
    layer.build((None, width_in))
    return layer


def conv3x3(
    width_in: int,
    width: int,
    name: str,
    dtype: DType,
    scale: float = 1.0,
    strides: int = 1,
    padding: str = "same",
) -> keras.layers.Conv2D:
    """A 3x3 convolution, by default with TensorFlow's `SAME` padding (asymmetric where strides is 2)."""
    layer = keras.layers.Conv2D(
        width, 3, strides, padding=padding, kernel_initializer=_initializer(scale), name=name, dtype=dtype
    )
    layer.build((None, None, None, width_in))
    return layer


def sinusoidal_embedding(t: tf.Tensor, width: int, order: str = "sin_cos", frequency_shift: int = 1) -> tf.Tensor:
    """Sines and cosines of t at geometrically spaced frequencies (Vaswani et al. 2017).

    Args:
      t: [B], any numeric dtype. width: even.
      order: `sin_cos` (Ho et al. 2020) or `cos_sin` (Nichol & Dhariwal 2021).
      frequency_shift: 1, so that the last frequency is 1/10,000 (Ho et al.), or 0 (Nichol & Dhariwal).

    Returns:
      [B, width] float32.
    """
    half = width // 2
    frequencies = np.exp(-math.log(10_000) * np.arange(half) / max(half - frequency_shift, 1))
    angles = tf.cast(t, tf.float32)[:, None] * tf.constant(frequencies, tf.float32)
    waves = [tf.sin(angles), tf.cos(angles)]
    return tf.concat(waves if order == "sin_cos" else waves[::-1], axis=1)


class TimeEmbedding(keras.layers.Layer):
    """t [B] -> [B, width]: sinusoids, Dense, swish, Dense."""

    def __init__(self, channels: int, width: int, order: str = "sin_cos", frequency_shift: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.order, self.frequency_shift = channels, order, frequency_shift
        self.dense_1 = _dense(channels, width, "dense_1", self.dtype_policy)
        self.dense_2 = _dense(width, width, "dense_2", self.dtype_policy)
        self.built = True

    def call(self, t: tf.Tensor) -> tf.Tensor:
        """[B] -> [B, width]."""
        waves = sinusoidal_embedding(t, self.channels, self.order, self.frequency_shift)
        return self.dense_2(tf.nn.silu(self.dense_1(waves)))


class LabelEmbedding(keras.layers.Layer):
    """label [B] -> [B, width]: a learned row for each class, and one more for no class at all if `null_class`."""

    def __init__(self, classes: int, width: int, null_class: bool, **kwargs):
        super().__init__(**kwargs)
        self.classes, self.null_class = classes, null_class
        self.table = self.add_weight(
            shape=(classes + int(null_class), width),
            initializer=keras.initializers.RandomNormal(stddev=1.0),
            name="table",
        )
        self.built = True

    def call(self, label: tf.Tensor) -> tf.Tensor:
        """int [B], 0 to classes-1, or -1 for no class -> [B, width]."""
        row = tf.where(label < 0, self.classes, label) if self.null_class else label
        return tf.gather(tf.cast(tf.convert_to_tensor(self.table.value), self.compute_dtype), row)


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
        growth: float = 1.0,
    ) -> tf.Tensor:
        """[B, H, W, width] -> the same.

        Args:
          bias: [B, width], added to x first. scale, shift: [B, width]; they give norm * (1 + scale) + shift.
          keep: bool [B, H, W, width], what dropout leaves of the outcome. growth: the factor by which that grows.
        """
        shape = _sides(x)
        flat = [shape[0], shape[1] * shape[2], self.width]
        gamma, beta = (tf.cast(tf.convert_to_tensor(w.value), tf.float32) for w in (self.gamma, self.beta))
        if scale is not None:  # an affine map after an affine map is one, of each image's own
            scale, shift = 1.0 + tf.cast(scale, tf.float32), tf.cast(shift, tf.float32)
            gamma, beta = gamma * scale, beta * scale + shift
        forward, backward = self._passes
        kind = self._kind
        keep = None if keep is None else (tf.reshape(keep, flat), growth)

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


class Dropout:
    """Dropout whose mask is a function of the row's address, so that it is the same on one device and on many.

    The rate is honoured to one part in 65,536.

    Attributes:
      growth: the factor by which what stays has to grow.
    """

    def __init__(self, rate: float, stream: int):
        self._dropped, self._stream = round(rate * 65536), stream
        self.growth = 65536 / (65536 - self._dropped)

    def keep(self, shape: Sequence, address: tf.Tensor | None) -> tf.Tensor | None:
        """Which numbers of images of that `shape` stay: bool of the shape, or None for all.

        Args:
          shape: [B, H, W, C]; B may be a scalar tensor. address: int64 [3], the first row's; None: dropout is off.
        """
        if address is None or not self._dropped:
            return None
        batch, *row_shape = shape
        size = math.prod(row_shape)
        words = randomness.row_bits(address, self._stream, batch, [-(-size // 2)])
        bits = tf.reshape(tf.bitcast(words, tf.uint16), [batch, -1])[:, :size]
        return tf.reshape(bits >= tf.constant(self._dropped, tf.uint16), [batch, *row_shape])


def _of_pixels(layer: keras.layers.Dense, x: tf.Tensor) -> tf.Tensor:
    """`layer` of every pixel [B, H, W, C] in oneDNN's fastest forms: a convolution, and products for its gradients."""

    @tf.custom_gradient
    def product(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tuple:
        def gradient(dy: tf.Tensor) -> tuple:
            rows, columns = (tf.reshape(part, [-1, part.shape[-1]]) for part in (x, dy))
            dx = tf.reshape(tf.matmul(columns, kernel, transpose_b=True), tf.shape(x))
            return dx, tf.matmul(rows, columns, transpose_a=True), tf.raw_ops.BiasAddGrad(out_backprop=dy)

        return tf.nn.bias_add(tf.nn.conv2d(x, kernel[None, None], 1, "SAME"), bias), gradient

    return product(x, *(tf.cast(tf.convert_to_tensor(weights), x.dtype) for weights in (layer.kernel, layer.bias)))


class ResidualBlock(keras.layers.Layer):
    """GroupNorm-swish-conv, time, GroupNorm-swish-dropout-conv, + shortcut.

    Args:
      injection: how Dense(swish(time)) enters: `add` before the second norm (Ho et al. 2020), or
        `scale_shift`, which scales and shifts its outcome (Nichol & Dhariwal 2021, "adaptive group normalisation").
      xla: see `GroupNorm`.
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        time_width: int,
        groups: int,
        dropout: float,
        stream: int,
        injection: str = "add",
        epsilon: float = 1e-6,
        xla: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.injection = injection
        self.norm_1 = GroupNorm(width_in, groups, True, epsilon, xla, name="norm_1", dtype=dtype)
        self.conv_1 = conv3x3(width_in, width, "conv_1", dtype)
        self.time = _dense(time_width, width * (1 if injection == "add" else 2), "time", dtype)
        self.norm_2 = GroupNorm(width, groups, True, epsilon, xla, name="norm_2", dtype=dtype)
        self.dropout = Dropout(dropout, stream)
        self.conv_2 = conv3x3(width, width, "conv_2", dtype, scale=0.0)
        self.shortcut = _dense(width_in, width, "shortcut", dtype) if width_in != width else None
        self.built = True

    def call(self, x: tf.Tensor, injected: tf.Tensor, address: tf.Tensor | None = None) -> tf.Tensor:
        """x [B, H, W, width_in], injected [B, ...] = `time`(swish(embedding)) -> [B, H, W, width]."""
        h = self.conv_1(self.norm_1(x))
        dropout = {"keep": self.dropout.keep(_sides(h), address), "growth": self.dropout.growth}
        if self.injection == "add":
            h = self.norm_2(h, bias=injected, **dropout)
        else:
            scale, shift = tf.split(injected, 2, axis=1)
            h = self.norm_2(h, scale=scale, shift=shift, **dropout)
        return self.conv_2(h) + (x if self.shortcut is None else _of_pixels(self.shortcut, x))


class Attention(keras.layers.Layer):
    """GroupNorm, softmax(q k^T / sqrt(width of a head)) v over all pixels, projection, + input.

    Args:
      groups: 0 leaves the normalisation out. xla: see `GroupNorm`.
    """

    def __init__(self, width: int, heads: int, groups: int, epsilon: float = 1e-6, xla: bool = False, **kwargs):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.width, self.heads = width, heads
        self.norm = GroupNorm(width, groups, False, epsilon, xla, name="norm", dtype=dtype) if groups else None
        self.query = _dense(width, width, "query", dtype)
        self.key = _dense(width, width, "key", dtype)
        self.value = _dense(width, width, "value", dtype)
        self.out = _dense(width, width, "out", dtype, scale=0.0)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, width] -> the same. The softmax is float32."""
        shape = _sides(x)
        normed = x if self.norm is None else self.norm(x)
        query, key, value = (self._split(_of_pixels(layer, normed)) for layer in (self.query, self.key, self.value))
        scores = tf.matmul(query, key, transpose_b=True) * (self.width // self.heads) ** -0.5
        weights = tf.cast(tf.nn.softmax(tf.cast(scores, tf.float32)), value.dtype)
        mixed = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])  # [B, HW, heads, width / heads]
        return x + _of_pixels(self.out, tf.reshape(mixed, shape))

    def _split(self, x: tf.Tensor) -> tf.Tensor:  # [B, H, W, width] -> [B, heads, HW, width / heads]
        batch, height, width, _ = _sides(x)
        split = tf.reshape(x, [batch, height * width, self.heads, self.width // self.heads])
        return tf.transpose(split, [0, 2, 1, 3])


class Downsample(keras.layers.Layer):
    """A 3x3 convolution with stride 2: half the height and width.

    Args:
      padding: `same`, a pixel after the last as TensorFlow pads even sides (Ho et al. 2020), or `symmetric`, a
        pixel on every side, as PyTorch does.
    """

    def __init__(self, width: int, padding: str = "same", **kwargs):
        super().__init__(**kwargs)
        self.symmetric = padding == "symmetric"
        within = "valid" if self.symmetric else "same"
        self.conv = conv3x3(width, width, "conv", self.dtype_policy, strides=2, padding=within)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, width] -> [B, H/2, W/2, width]."""
        return self.conv(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]) if self.symmetric else x)


class Upsample(keras.layers.Layer):
    """Each pixel repeated 2x2, then a 3x3 convolution: twice the height and width.

    Every pixel of the outcome sees only 2x2 different pixels, so it is computed as a transposed convolution whose
    4x4 kernel holds the sums of the 3x3 kernel's rows and columns that meet the same pixel: 16 products a pixel of
    the input instead of 36, and half the time.
    """

    # Row u of the 4x4 kernel is the sum of these rows of the 3x3 one; columns likewise.
    _SUMS = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32)

    def __init__(self, width: int, **kwargs):
        super().__init__(**kwargs)
        self.conv = conv3x3(width, width, "conv", self.dtype_policy)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, width] -> [B, 2H, 2W, width]."""
        batch, height, width, channels = _sides(x)
        kernel = tf.cast(tf.convert_to_tensor(self.conv.kernel), tf.float32)
        sums = tf.constant(np.kron(self._SUMS, self._SUMS))  # [16, 9]
        kernel = tf.reshape(sums @ tf.reshape(kernel, [9, -1]), [4, 4, channels, channels])
        kernel = tf.cast(tf.transpose(kernel, [0, 1, 3, 2]), x.dtype)
        y = tf.nn.conv2d_transpose(x, kernel, [batch, 2 * height, 2 * width, channels], 2, "SAME")
        return tf.nn.bias_add(y, tf.convert_to_tensor(self.conv.bias))
