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
        self._blocks_made = 0  # each residual block has a random stream of its own
        dtype, widths = self.dtype_policy, [channels * multiplier for multiplier in multipliers]

        self.embedding = layers.TimeEmbedding(channels, name="embedding", dtype=dtype)
        self.conv_in = layers.conv3x3(image_channels, channels, "conv_in", dtype)
        skips = self._make_down(widths)
        self._residual(widths[-1], widths[-1], "middle_1")
        self._attribute(layers.Attention(widths[-1], heads, groups, name="middle_attention", dtype=dtype))
        self._residual(widths[-1], widths[-1], "middle_2")
        self._make_up(widths, skips)
        self.norm_out = layers.GroupNorm(widths[0], groups, swish=True, name="norm_out", dtype=dtype)
        # The output stays float32 in every precision: it is what the equations work on.
        self.conv_out = layers.conv3x3(widths[0], self.settings["out_channels"], "conv_out", "float32", scale=0.0)
        self.built = True

    def _attribute(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """Keeps `layer` under its name: TensorFlow's checkpoints follow attributes, not lists."""
        setattr(self, layer.name, layer)
        return layer

    def _residual(self, width_in: int, width: int, name: str) -> layers.ResidualBlock:
        self._blocks_made += 1
        block = layers.ResidualBlock(
            width_in,
            width,
            4 * self.settings["channels"],
            self.settings["groups"],
            self.settings["dropout"],
            stream=randomness.FIRST_LAYER + self._blocks_made,
            name=name,
            dtype=self.dtype_policy,
        )
        return self._attribute(block)

    def _attention(self, level: int, width: int, name: str) -> layers.Attention | None:
        if level not in self.settings["attention_levels"]:
            return None
        heads, groups = self.settings["heads"], self.settings["groups"]
        return self._attribute(layers.Attention(width, heads, groups, name=name, dtype=self.dtype_policy))

    def _make_down(self, widths: list[int]) -> list[int]:
        """Makes the levels on the way down and returns the widths of the skip connections."""
        self.down = []  # for each level a list of (residual, attention)
        self.downsample = []
        width = self.settings["channels"]
        skips = [width]
        for level, level_width in enumerate(widths):
            stage = []
            for i in range(self.settings["blocks"]):
                residual = self._residual(width, level_width, f"down_{level}_{i}")
                stage.append([residual, self._attention(level, level_width, f"down_attention_{level}_{i}")])
                width = level_width
                skips.append(width)
            self.down.append(stage)
            if level + 1 < len(widths):
                layer = layers.Downsample(width, name=f"downsample_{level}", dtype=self.dtype_policy)
                self.downsample.append(self._attribute(layer))
                skips.append(width)
        return skips

    def _make_up(self, widths: list[int], skips: list[int]) -> None:
        """Makes the levels on the way up, from the coarsest to the finest; each block takes one skip connection."""
        self.up = []
        self.upsample = []
        width = widths[-1]
        for level, level_width in reversed(list(enumerate(widths))):
            stage = []
            for i in range(self.settings["blocks"] + 1):
                residual = self._residual(width + skips.pop(), level_width, f"up_{level}_{i}")
                stage.append([residual, self._attention(level, level_width, f"up_attention_{level}_{i}")])
                width = level_width
            self.up.append(stage)
            if level:
                layer = layers.Upsample(width, name=f"upsample_{level}", dtype=self.dtype_policy)
                self.upsample.append(self._attribute(layer))

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
