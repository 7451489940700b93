"""A network that says of each patch of an image whether it is real (Isola et al. 2017)."""

from __future__ import annotations

import itertools

import keras
import tensorflow as tf

from tf_ddpm.networks.group_norm import GroupNorm

_LAYERS = 3
_GROUPS = 8
_SLOPE = 0.2


class PatchDiscriminator(keras.layers.Layer):
    """4x4 convolutions, of which the first three halve the image, and the last gives one number for each patch.

    Each image is normalised alone (by groups of channels, where the original has batch normalisation), so that
    updates do not depend on how a batch is shared out. It computes in float32.
    """

    def __init__(self, width: int, image_channels: int, xla: bool = False, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        widths = [image_channels, *(width * min(2**i, 8) for i in range(_LAYERS + 1)), 1]
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self._steps = []
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            strides = 2 if i < _LAYERS else 1
            conv = keras.layers.Conv2D(
                after, 4, strides, "same", kernel_initializer=normal, name=f"conv_{i}", dtype="float32"
            )
            conv.build((None, None, None, before))
            norm = None
            if 0 < i <= _LAYERS:
                norm = GroupNorm(after, min(_GROUPS, after), xla=xla, name=f"norm_{i}", dtype="float32")
                setattr(self, norm.name, norm)
            setattr(self, conv.name, conv)
            self._steps.append((conv, norm))
        self.built = True

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] from -1 to 1 -> float32 [B, H / 8, W / 8, 1], the larger the more real."""
        h = tf.cast(images, tf.float32)
        for i, (conv, norm) in enumerate(self._steps):
            h = conv(h)
            h = h if norm is None else norm(h)
            h = tf.nn.leaky_relu(h, _SLOPE) if i <= _LAYERS else h
        return h
