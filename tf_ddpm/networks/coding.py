"""The encoders and decoders of autoencoders: images to something smaller, and back."""

from __future__ import annotations

import itertools

import keras
import tensorflow as tf

from tf_ddpm import randomness
from tf_ddpm.config import AutoencoderConfig
from tf_ddpm.networks import layers
from tf_ddpm.networks.group_norm import GroupNorm
from tf_ddpm.networks.primitives import conv3x3

_LIGHT_RANGE = 3.0  # of what a light decoder makes of a latent


class _Coder(keras.layers.Layer):
    """What an encoder and a decoder share: residual blocks without time, and attention with one head."""

    def __init__(self, autoencoder: AutoencoderConfig, xla: bool = False, **kwargs):
        super().__init__(**kwargs)
        self._autoencoder, self._xla = autoencoder, xla
        self.levels = len(autoencoder.widths)

    def _attribute(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """Keeps `layer` under its name: TensorFlow's checkpoints follow attributes, not lists."""
        setattr(self, layer.name, layer)
        return layer

    def _residual(self, width_in: int, width: int, name: str) -> keras.layers.Layer:
        own, dtype = self._autoencoder, self.dtype_policy
        return self._attribute(
            layers.ResidualBlock(
                width_in,
                width,
                0,
                own.groups,
                0.0,
                randomness.FIRST_LAYER,
                epsilon=own.norm_epsilon,
                xla=self._xla,
                name=name,
                dtype=dtype,
            )
        )

    def _attention(self, width: int, name: str) -> keras.layers.Layer:
        own, dtype = self._autoencoder, self.dtype_policy
        return self._attribute(
            layers.Attention(width, 1, own.groups, own.norm_epsilon, self._xla, name=name, dtype=dtype)
        )

    def _level(self, way: str, level: int, width_in: int, count: int) -> list[keras.layers.Layer]:
        """The `count` residual blocks of a level, each with its attention if the level has any."""
        width, attends, found = self._autoencoder.widths[level], level in self._autoencoder.attention_levels, []
        for i in range(count):
            found.append(self._residual(width_in if i == 0 else width, width, f"{way}_{level}_{i}"))
            if attends:
                found.append(self._attention(width, f"{way}_attention_{level}_{i}"))
        return found

    def _middle(self, width: int) -> list[keras.layers.Layer]:
        found = [self._residual(width, width, "middle_1")]
        if self._autoencoder.middle_attention:
            found.append(self._attention(width, "middle_attention"))
        return [*found, self._residual(width, width, "middle_2")]

    def _make_out(self, width: int, width_out: int, dtype: object) -> None:
        own = self._autoencoder
        self.norm_out = GroupNorm(
            width, own.groups, True, own.norm_epsilon, self._xla, name="norm_out", dtype=self.dtype_policy
        )
        self.conv_out = conv3x3(width, width_out, "conv_out", dtype)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] -> float32 [B, H', W', C']."""
        h = self.conv_in(tf.cast(x, self.compute_dtype))
        for layer in self.steps:
            h = layer(h)
        return self.conv_out(tf.cast(self.norm_out(h), tf.float32))


class Encoder(_Coder):
    """Images to what a latent is made of; each level but the last ends with a strided convolution.

    It pads right and bottom, by one pixel.
    """

    def __init__(self, autoencoder: AutoencoderConfig, image_channels: int, out_channels: int, **kwargs):
        super().__init__(autoencoder, **kwargs)
        widths, dtype = autoencoder.widths, self.dtype_policy
        self.conv_in = conv3x3(image_channels, widths[0], "conv_in", dtype)
        found, width = [], widths[0]
        for level, level_width in enumerate(widths):
            found += self._level("down", level, width, autoencoder.blocks)
            width = level_width
            if level + 1 < len(widths):
                down = layers.Downsample(width, "after", name=f"downsample_{level}", dtype=dtype)
                found.append(self._attribute(down))
        self.steps = (*found, *self._middle(width))
        self._make_out(width, out_channels, "float32")


class Decoder(_Coder):
    """Latents to images; each level but the finest ends with pixels repeated 2x2 and a convolution."""

    def __init__(self, autoencoder: AutoencoderConfig, latent_channels: int, image_channels: int, **kwargs):
        super().__init__(autoencoder, **kwargs)
        widths, dtype = autoencoder.widths, self.dtype_policy
        width = widths[-1]
        self.conv_in = conv3x3(latent_channels, width, "conv_in", dtype)
        found = self._middle(width)
        for level, level_width in reversed(list(enumerate(widths))):
            found += self._level("up", level, width, autoencoder.blocks + 1)
            width = level_width
            if level:
                found.append(self._attribute(layers.Upsample(width, name=f"upsample_{level}", dtype=dtype)))
        self.steps = tuple(found)
        self._make_out(width, image_channels, "float32")


class LightBlock(keras.layers.Layer):
    """relu(conv relu conv relu conv + input)."""

    def __init__(self, width: int, **kwargs):
        super().__init__(**kwargs)
        self.conv_1, self.conv_2, self.conv_3 = (
            conv3x3(width, width, f"conv_{i}", self.dtype_policy) for i in (1, 2, 3)
        )
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, width] -> the same."""
        h = self.conv_2(tf.nn.relu(self.conv_1(x)))
        return tf.nn.relu(self.conv_3(tf.nn.relu(h)) + x)


class _Light(keras.layers.Layer):
    """A coder without normalisation and attention (TAESD): a row's result takes nothing but convolutions."""

    def _attribute(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        setattr(self, layer.name, layer)
        return layer

    def _blocks(self, level: int, width: int, count: int) -> list[LightBlock]:
        return [
            self._attribute(LightBlock(width, name=f"block_{level}_{i}", dtype=self.dtype_policy))
            for i in range(count)
        ]


class LightEncoder(_Light):
    """Images to latents: one block at full size, `blocks` at each level below."""

    def __init__(self, widths: tuple[int, ...], blocks: int, image_channels: int, out_channels: int, **kwargs):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.conv_in = conv3x3(image_channels, widths[0], "conv_in", dtype)
        found: list[keras.layers.Layer] = [*self._blocks(0, widths[0], 1)]
        for level, (before, width) in enumerate(itertools.pairwise(widths), 1):
            down = layers.Downsample(width, "symmetric", before, False, name=f"downsample_{level}", dtype=dtype)
            found.append(self._attribute(down))
            found += self._blocks(level, width, blocks)
        self.steps = tuple(found)
        self.conv_out = conv3x3(widths[-1], out_channels, "conv_out", "float32")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] from -1 to 1 -> float32 [B, h, w, z]."""
        h = self.conv_in(tf.cast((x + 1.0) / 2.0, self.compute_dtype))
        for layer in self.steps:
            h = layer(h)
        return self.conv_out(tf.cast(h, tf.float32))


class LightDecoder(_Light):
    """Latents to images: `blocks` at each level but the finest, which has one."""

    def __init__(self, widths: tuple[int, ...], blocks: int, latent_channels: int, image_channels: int, **kwargs):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.conv_in = conv3x3(latent_channels, widths[-1], "conv_in", dtype)
        found: list[keras.layers.Layer] = []
        for level in range(len(widths) - 1, 0, -1):
            found += self._blocks(level, widths[level], blocks)
            up = layers.Upsample(widths[level - 1], widths[level], False, name=f"upsample_{level}", dtype=dtype)
            found.append(self._attribute(up))
        self.steps = (*found, *self._blocks(0, widths[0], 1))
        self.conv_out = conv3x3(widths[0], image_channels, "conv_out", "float32")
        self.built = True

    def call(self, z: tf.Tensor) -> tf.Tensor:
        """[B, h, w, z] -> float32 [B, H, W, C]."""
        z = tf.tanh(tf.cast(z, tf.float32) / _LIGHT_RANGE) * _LIGHT_RANGE
        h = tf.nn.relu(self.conv_in(tf.cast(z, self.compute_dtype)))
        for layer in self.steps:
            h = layer(h)
        return self.conv_out(tf.cast(h, tf.float32)) * 2.0 - 1.0
