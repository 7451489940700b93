"""The parts of the U-Net (Ho et al. 2020, appendix B)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_ddpm import randomness
from tf_ddpm.networks.group_norm import GroupNorm
from tf_ddpm.networks.primitives import conv3x3, dense, pointwise_dense, sides


class Dropout:
    """Dropout whose mask is a function of the row's address, so that it is the same on one device and on many.

    The rate is honoured to one part in 65,536.

    Attributes:
      inverse_keep_rate: the factor by which what stays is scaled.
    """

    def __init__(self, rate: float, stream: int):
        self._dropped, self._stream = round(rate * 65536), stream
        self.inverse_keep_rate = 65536 / (65536 - self._dropped)

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


class ResidualBlock(keras.layers.Layer):
    """GroupNorm-swish-conv, time, GroupNorm-swish-dropout-conv, + shortcut.

    Args:
      time_width: of the time's embedding; 0: the block is told of no time.
      injection: how Dense(swish(time)) enters: `add` before the second norm (Ho et al. 2020), or
        `scale_shift`, which scales and shifts its outcome (Nichol & Dhariwal 2021, "adaptive group normalisation").
      xla: see `GroupNorm`.
      resample: `down` halves the image before the first convolution and on the way past it, `up` doubles it (Dhariwal
        & Nichol 2021, "BigGAN up/downsampling").
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
        resample: str = "none",
        **kwargs,
    ):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.injection, self.resample = injection, resample
        self.norm_1 = GroupNorm(width_in, groups, True, epsilon, xla, name="norm_1", dtype=dtype)
        self.conv_1 = conv3x3(width_in, width, "conv_1", dtype)
        self.time: Any = (
            dense(time_width, width * (1 if injection == "add" else 2), "time", dtype) if time_width else None
        )
        self.norm_2 = GroupNorm(width, groups, True, epsilon, xla, name="norm_2", dtype=dtype)
        self.dropout = Dropout(dropout, stream)
        self.conv_2 = conv3x3(width, width, "conv_2", dtype, scale=0.0)
        self.shortcut = dense(width_in, width, "shortcut", dtype) if width_in != width else None
        self.built = True

    def call(self, x: tf.Tensor, injected: tf.Tensor | None = None, address: tf.Tensor | None = None) -> tf.Tensor:
        """x [B, H, W, width_in], injected [B, ...] = `time`(swish(embedding)) -> [B, H', W', width]."""
        h, x = (self._resampled(part) for part in (self.norm_1(x), x))
        h = self.conv_1(h)
        dropout = {"keep": self.dropout.keep(sides(h), address), "inverse_keep_rate": self.dropout.inverse_keep_rate}
        if injected is None or self.injection == "add":
            h = self.norm_2(h, bias=injected, **dropout)
        else:
            scale, shift = tf.split(injected, 2, axis=1)
            h = self.norm_2(h, scale=scale, shift=shift, **dropout)
        return self.conv_2(h) + (x if self.shortcut is None else pointwise_dense(self.shortcut, x))

    def _resampled(self, x: tf.Tensor) -> tf.Tensor:
        if self.resample == "none":
            return x
        if self.resample == "down":
            return tf.nn.avg_pool2d(x, 2, 2, "VALID")
        batch, height, width, channels = sides(x)
        twice = tf.tile(x[:, :, None, :, None], [1, 1, 2, 1, 2, 1])
        return tf.reshape(twice, [batch, 2 * height, 2 * width, channels])


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
        self.query = dense(width, width, "query", dtype)
        self.key = dense(width, width, "key", dtype)
        self.value = dense(width, width, "value", dtype)
        self.out = dense(width, width, "out", dtype, scale=0.0)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, width] -> the same. The softmax is float32."""
        shape = sides(x)
        normed = x if self.norm is None else self.norm(x)
        query, key, value = (
            self._split(pointwise_dense(layer, normed)) for layer in (self.query, self.key, self.value)
        )
        scores = tf.matmul(query, key, transpose_b=True) * (self.width // self.heads) ** -0.5
        weights = tf.cast(tf.nn.softmax(tf.cast(scores, tf.float32)), value.dtype)
        mixed = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])  # [B, HW, heads, width / heads]
        return x + pointwise_dense(self.out, tf.reshape(mixed, shape))

    def _split(self, x: tf.Tensor) -> tf.Tensor:  # [B, H, W, width] -> [B, heads, HW, width / heads]
        batch, height, width, _ = sides(x)
        split = tf.reshape(x, [batch, height * width, self.heads, self.width // self.heads])
        return tf.transpose(split, [0, 2, 1, 3])


class Downsample(keras.layers.Layer):
    """A 3x3 convolution with stride 2: half the height and width.

    Args:
      padding: `same`, a pixel after the last as TensorFlow pads even sides (Ho et al. 2020), `symmetric`, a pixel
        on every side, as PyTorch does, or `after`, a pixel after the last of even and odd sides (which gives
        floor(H/2)).
      width_in: None: as `width`.
    """

    def __init__(self, width: int, padding: str = "same", width_in: int | None = None, bias: bool = True, **kwargs):
        super().__init__(**kwargs)
        before = {"same": None, "symmetric": 1, "after": 0}[padding]
        self._pad = None if before is None else [before, 1]
        within, dtype = "same" if self._pad is None else "valid", self.dtype_policy
        self.conv = conv3x3(width_in or width, width, "conv", dtype, strides=2, padding=within, bias=bias)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, width_in] -> [B, H/2, W/2, width]."""
        return self.conv(x if self._pad is None else tf.pad(x, [[0, 0], self._pad, self._pad, [0, 0]]))


class Upsample(keras.layers.Layer):
    """Each pixel repeated 2x2, then a 3x3 convolution: twice the height and width.

    Every pixel of the outcome sees only 2x2 different pixels, so it is computed as a transposed convolution whose
    4x4 kernel holds the sums of the 3x3 kernel's rows and columns that meet the same pixel: 16 products a pixel of
    the input instead of 36, and half the time.
    """

    # Row u of the 4x4 kernel is the sum of these rows of the 3x3 one; columns likewise.
    _SUMS = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32)

    def __init__(self, width: int, width_in: int | None = None, bias: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.conv = conv3x3(width_in or width, width, "conv", self.dtype_policy, bias=bias)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, width_in] -> [B, 2H, 2W, width]."""
        batch, height, width, channels = sides(x)
        kernel = tf.cast(tf.convert_to_tensor(self.conv.kernel), tf.float32)
        sums = tf.constant(np.kron(self._SUMS, self._SUMS))  # [16, 9]
        kernel = tf.reshape(sums @ tf.reshape(kernel, [9, -1]), [4, 4, channels, self.width])
        kernel = tf.cast(tf.transpose(kernel, [0, 1, 3, 2]), x.dtype)
        y = tf.nn.conv2d_transpose(x, kernel, [batch, 2 * height, 2 * width, self.width], 2, "SAME")
        return tf.nn.bias_add(y, tf.convert_to_tensor(self.conv.bias)) if self.conv.use_bias else y
