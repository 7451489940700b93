"""Dense layers and convolutions with Ho et al.'s initialisation, which exist before they see an image."""

from __future__ import annotations

from typing import TypeAlias

import keras
import tensorflow as tf

DType: TypeAlias = str | keras.DTypePolicy


def initializer(scale: float = 1.0) -> keras.initializers.Initializer:
    """Ho et al.'s default: variance scaling, fan average, uniform; scale 0 means 1e-10."""
    return keras.initializers.VarianceScaling(max(scale, 1e-10), mode="fan_avg", distribution="uniform")


def sides(x: tf.Tensor) -> list:
    """The sides of `x`, each an int where the graph knows it and a scalar tensor where it does not."""
    dynamic = tf.shape(x)
    return [dynamic[axis] if side is None else side for axis, side in enumerate(x.shape)]


def dense(width_in: int, width: int, name: str, dtype: DType, scale: float = 1.0) -> keras.layers.Dense:
    """A dense layer with its weights made."""
    layer = keras.layers.Dense(width, kernel_initializer=initializer(scale), name=name, dtype=dtype)
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
    bias: bool = True,
) -> keras.layers.Conv2D:
    """A 3x3 convolution, by default with TensorFlow's `SAME` padding (asymmetric where strides is 2)."""
    layer = keras.layers.Conv2D(
        width,
        3,
        strides,
        padding=padding,
        use_bias=bias,
        kernel_initializer=initializer(scale),
        name=name,
        dtype=dtype,
    )
    layer.build((None, None, None, width_in))
    return layer


def pointwise_dense(layer: keras.layers.Dense, x: tf.Tensor) -> tf.Tensor:
    """`layer` of every pixel [B, H, W, C] in oneDNN's fastest forms: a convolution, and products for its gradients."""

    @tf.custom_gradient
    def product(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tuple:
        def gradient(dy: tf.Tensor) -> tuple:
            rows, columns = (tf.reshape(part, [-1, side]) for part, side in zip((x, dy), kernel.shape, strict=True))
            dx = tf.reshape(tf.matmul(columns, kernel, transpose_b=True), tf.shape(x))
            return dx, tf.matmul(rows, columns, transpose_a=True), tf.raw_ops.BiasAddGrad(out_backprop=dy)

        return tf.nn.bias_add(tf.nn.conv2d(x, kernel[None, None], 1, "SAME"), bias), gradient

    return product(x, *(tf.cast(tf.convert_to_tensor(weights), x.dtype) for weights in (layer.kernel, layer.bias)))
