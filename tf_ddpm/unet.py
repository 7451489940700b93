"""The U-Net of Ho et al. 2020: how the layers are wired. It maps (image, number) to an image; no diffusion here."""

from __future__ import annotations

import keras
import tensorflow as tf

from tf_ddpm import layers, randomness


@keras.saving.register_keras_serializable(package="tf_ddpm")
class UNet(keras.Model):
    """A U-Net with residual blocks, self-attention at chosen levels and a time embedding in every block.

    Args:
      image_channels: channels of the input.
      out_channels: channels of the output; default: those of the input.
      channels: width of the first level.
      multipliers: width of each level, in units of `channels`; each level after the first halves the image.
      blocks: residual blocks a level on the way down; one more on the way up.
      attention_levels: levels (0 the finest) whose residual blocks are followed by attention.
      heads: attention heads. groups: of every GroupNorm. dropout: rate inside residual blocks.

    Raises:
      ValueError: where `groups` does not divide a width.
    """

    def __init__(
        self,
        image_channels: int,
        channels: int,
        multipliers: tuple[int, ...],
        blocks: int,
        attention_levels: tuple[int, ...] = (),
        heads: int = 1,
        groups: int = 32,
        dropout: float = 0.0,
        out_channels: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.settings = {
            "image_channels": image_channels,
            "channels": channels,
            "multipliers": tuple(multipliers),
            "blocks": blocks,
            "attention_levels": tuple(attention_levels),
            "heads": heads,
            "groups": groups,
            "dropout": dropout,
            "out_channels": out_channels or image_channels,
        }
        self.factor = 2 ** (len(multipliers) - 1)
        dtype = self.dtype_policy
        widths = [channels * multiplier for multiplier in multipliers]
        made = 0  # residual blocks so far: each has a random stream of its own

        # TensorFlow's checkpoints follow attributes, not lists, so every layer is an attribute as well.
        def attribute(layer: keras.layers.Layer) -> keras.layers.Layer:
            setattr(self, layer.name, layer)
            return layer

        def residual(width_in: int, width: int, name: str) -> layers.ResidualBlock:
            nonlocal made
            made += 1
            stream = randomness.FIRST_LAYER + made
            return attribute(
                layers.ResidualBlock(width_in, width, 4 * channels, groups, dropout, stream, name=name, dtype=dtype)
            )

        def attention(level: int, name: str) -> layers.Attention | None:
            if level not in attention_levels:
                return None
            return attribute(layers.Attention(widths[level], heads, groups, name=name, dtype=dtype))

        self.embedding = layers.TimeEmbedding(channels, name="embedding", dtype=dtype)
        self.conv_in = layers.conv3x3(image_channels, channels, "conv_in", dtype)
        width, skips = channels, [channels]
        self.down = []  # a list of (residual, attention) for each level
        self.downsample = []
        for level, level_width in enumerate(widths):
            stage = []
            for i in range(blocks):
                stage.append(
                    [
                        residual(width, level_width, f"down_{level}_{i}"),
                        attention(level, f"down_attention_{level}_{i}"),
                    ]
                )
                width = level_width
                skips.append(width)
            self.down.append(stage)
            if level + 1 < len(widths):
                self.downsample.append(attribute(layers.Downsample(width, name=f"downsample_{level}", dtype=dtype)))
                skips.append(width)

        residual(width, width, "middle_1")
        attribute(layers.Attention(width, heads, groups, name="middle_attention", dtype=dtype))
        residual(width, width, "middle_2")

        self.up = []  # from the coarsest level to the finest
        self.upsample = []
        for level, level_width in reversed(list(enumerate(widths))):
            stage = []
            for i in range(blocks + 1):
                stage.append(
                    [
                        residual(width + skips.pop(), level_width, f"up_{level}_{i}"),
                        attention(level, f"up_attention_{level}_{i}"),
                    ]
                )
                width = level_width
            self.up.append(stage)
            if level:
                self.upsample.append(attribute(layers.Upsample(width, name=f"upsample_{level}", dtype=dtype)))

        self.norm_out = layers.GroupNorm(width, groups, swish=True, name="norm_out", dtype=dtype)
        # The output stays float32 in every precision: it is what the equations work on.
        self.conv_out = layers.conv3x3(width, self.settings["out_channels"], "conv_out", "float32", scale=0.0)
        self.built = True

    def call(self, x: tf.Tensor, t: tf.Tensor, address: tf.Tensor | None = None) -> tf.Tensor:
        """The network's output.

        Args:
          x: [B, H, W, image_channels], H and W divisible by `factor`.
          t: [B], int or float.
          address: int64 [3], the first row's address (`randomness.row_address`); dropout is active if given.

        Returns:
          [B, H, W, out_channels] float32.

        Raises:
          ValueError: for an image whose static size the levels cannot halve.
        """
        height, width, channels = x.shape[1:]
        if channels != self.settings["image_channels"] or any(
            s is not None and s % self.factor for s in (height, width)
        ):
            raise ValueError(
                f"image of shape {tuple(x.shape[1:])}: expected height and width divisible by {self.factor} "
                f"and {self.settings['image_channels']} channels"
            )
        time = tf.nn.silu(self.embedding(t))
        h = self.conv_in(tf.cast(x, self.compute_dtype))
        skips = [h]
        for level, stage in enumerate(self.down):
            for residual, attention in stage:
                h = residual(h, time, address)
                h = h if attention is None else attention(h)
                skips.append(h)
            if level < len(self.downsample):
                h = self.downsample[level](h)
                skips.append(h)

        h = self.middle_2(self.middle_attention(self.middle_1(h, time, address)), time, address)

        for level, stage in enumerate(self.up):
            for residual, attention in stage:
                h = residual(tf.concat([h, skips.pop()], axis=-1), time, address)
                h = h if attention is None else attention(h)
            if level < len(self.upsample):
                h = self.upsample[level](h)
        return self.conv_out(tf.cast(self.norm_out(h), tf.float32))

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return super().get_config() | self.settings
