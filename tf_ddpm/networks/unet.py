"""The U-Net of Ho et al. 2020: how the layers are wired. It maps (image, number) to an image; no diffusion here."""

from __future__ import annotations

import keras
import tensorflow as tf

from tf_ddpm import randomness
from tf_ddpm.networks import embeddings, group_norm, layers, primitives


@keras.saving.register_keras_serializable(package="tf_ddpm")
class UNet(keras.Model):
    """A U-Net with residual blocks, self-attention at chosen levels and a time embedding in every block.

    Args:
      image_channels: channels of the input.
      out_channels: channels of the output; default: those of the input.
      channels: width of the first convolution, and size of the sinusoidal embedding.
      widths: width of each level, the finest first; each level after the first halves the image.
      blocks: residual blocks a level on the way down; one more on the way up.
      attention_levels: levels (0 the finest) whose residual blocks are followed by attention, on the way down and,
        unless `up_attention_levels` says otherwise, on the way up.
      middle: between them: `attention` (a residual block on both sides), `residual` (two blocks) or `none`.
      heads: attention heads; with `head_channels`, as many heads as that width allows at each level.
      groups: of every GroupNorm. middle_groups: of the middle attention's, if another number; 0: none there.
      epsilon: of every GroupNorm. dropout: rate inside residual blocks.
      injection, downsample_padding: see `layers.ResidualBlock` and `layers.Downsample`.
      embedding_order, frequency_shift: see `layers.sinusoidal_embedding`.
      time_width: width of the embedding of time; default: 4 channels.
      classes: how many labels the network is told apart by, 0: none. null_class: a row more for label -1.
      xla: see `layers.GroupNorm`. remat: whether the gradient computes each residual block a second time instead of
        keeping what is inside it (Chen et al. 2016). Both are ways to compute, and no part of what the network is.

    Raises:
      ValueError: where `groups` does not divide a width.
    """

    def __init__(
        self,
        image_channels: int,
        channels: int,
        widths: tuple[int, ...],
        blocks: int,
        attention_levels: tuple[int, ...] = (),
        up_attention_levels: tuple[int, ...] | None = None,
        middle: str = "attention",
        heads: int = 1,
        head_channels: int | None = None,
        groups: int = 32,
        middle_groups: int | None = None,
        epsilon: float = 1e-6,
        dropout: float = 0.0,
        injection: str = "add",
        downsample_padding: str = "same",
        embedding_order: str = "sin_cos",
        frequency_shift: int = 1,
        time_width: int | None = None,
        classes: int = 0,
        null_class: bool = False,
        out_channels: int | None = None,
        xla: bool = False,
        remat: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.settings = {
            "image_channels": image_channels,
            "channels": channels,
            "widths": tuple(widths),
            "blocks": blocks,
            "attention_levels": tuple(attention_levels),
            "up_attention_levels": tuple(attention_levels if up_attention_levels is None else up_attention_levels),
            "middle": middle,
            "heads": heads,
            "head_channels": head_channels,
            "groups": groups,
            "middle_groups": groups if middle_groups is None else middle_groups,
            "epsilon": epsilon,
            "dropout": dropout,
            "injection": injection,
            "downsample_padding": downsample_padding,
            "embedding_order": embedding_order,
            "frequency_shift": frequency_shift,
            "time_width": time_width or 4 * channels,
            "classes": classes,
            "null_class": null_class,
            "out_channels": out_channels or image_channels,
        }
        self._xla, self._remat = xla, remat
        self.factor = 2 ** (len(widths) - 1)
        self._blocks_made = 0  # each residual block has a random stream of its own
        dtype = self.dtype_policy

        self._make_embeddings()
        self.conv_in = primitives.conv3x3(image_channels, channels, "conv_in", dtype)
        skips = self._make_down()
        self._make_middle(widths[-1])
        self._make_up(skips)
        self.norm_out = group_norm.GroupNorm(widths[0], groups, True, epsilon, xla, name="norm_out", dtype=dtype)
        # The output stays float32 in every precision: it is what the equations work on.
        self.conv_out = primitives.conv3x3(widths[0], self.settings["out_channels"], "conv_out", "float32", scale=0.0)
        self.built = True

    def _make_embeddings(self) -> None:
        settings, dtype = self.settings, self.dtype_policy
        self.embedding = embeddings.TimeEmbedding(
            settings["channels"],
            settings["time_width"],
            settings["embedding_order"],
            settings["frequency_shift"],
            name="embedding",
            dtype=dtype,
        )
        if settings["classes"]:
            self.label_embedding = embeddings.LabelEmbedding(
                settings["classes"],
                settings["time_width"],
                settings["null_class"],
                name="label_embedding",
                dtype=dtype,
            )

    def _attribute(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """Keeps `layer` under its name: TensorFlow's checkpoints follow attributes, not lists."""
        setattr(self, layer.name, layer)
        return layer

    def _residual(self, width_in: int, width: int, name: str) -> layers.ResidualBlock:
        self._blocks_made += 1
        block = layers.ResidualBlock(
            width_in,
            width,
            self.settings["time_width"],
            self.settings["groups"],
            self.settings["dropout"],
            stream=randomness.FIRST_LAYER + self._blocks_made,
            injection=self.settings["injection"],
            epsilon=self.settings["epsilon"],
            xla=self._xla,
            name=name,
            dtype=self.dtype_policy,
        )
        return self._attribute(block)

    def _attention(self, width: int, groups: int, name: str) -> layers.Attention:
        heads = self.settings["heads"]
        if self.settings["head_channels"] is not None:
            heads = width // self.settings["head_channels"]
        layer = layers.Attention(
            width, heads, groups, self.settings["epsilon"], self._xla, name=name, dtype=self.dtype_policy
        )
        return self._attribute(layer)

    def _stage(self, way: str, level: int, widths_in: list[int], width: int) -> list:
        """The (residual block, attention or None) pairs of a level."""
        levels = self.settings["attention_levels" if way == "down" else "up_attention_levels"]
        stage = []
        for i, width_in in enumerate(widths_in):
            residual = self._residual(width_in, width, f"{way}_{level}_{i}")
            attends = level in levels
            name = f"{way}_attention_{level}_{i}"
            stage.append([residual, self._attention(width, self.settings["groups"], name) if attends else None])
        return stage

    def _make_down(self) -> list[int]:
        """Makes the levels on the way down and returns the widths of the skip connections."""
        self.down, self.downsample = [], []
        width = self.settings["channels"]
        skips = [width]
        widths, blocks = self.settings["widths"], self.settings["blocks"]
        for level, level_width in enumerate(widths):
            self.down.append(self._stage("down", level, [width] + [level_width] * (blocks - 1), level_width))
            width = level_width
            skips += [width] * blocks
            if level + 1 < len(widths):
                layer = layers.Downsample(
                    width,
                    self.settings["downsample_padding"],
                    name=f"downsample_{level}",
                    dtype=self.dtype_policy,
                )
                self.downsample.append(self._attribute(layer))
                skips.append(width)
        return skips

    def _make_middle(self, width: int) -> None:
        self.middle = []
        if self.settings["middle"] == "none":
            return
        self.middle.append(self._residual(width, width, "middle_1"))
        if self.settings["middle"] == "attention":
            self._attention(width, self.settings["middle_groups"], "middle_attention")
        self.middle.append(self._residual(width, width, "middle_2"))

    def _make_up(self, skips: list[int]) -> None:
        """Makes the levels on the way up, from the coarsest to the finest; each block takes one skip connection."""
        self.up, self.upsample = [], []
        widths, blocks = self.settings["widths"], self.settings["blocks"]
        width = widths[-1]
        for level, level_width in reversed(list(enumerate(widths))):
            widths_in = [h + skips.pop() for h in [width] + [level_width] * blocks]
            self.up.append(self._stage("up", level, widths_in, level_width))
            width = level_width
            if level:
                layer = layers.Upsample(width, name=f"upsample_{level}", dtype=self.dtype_policy)
                self.upsample.append(self._attribute(layer))

    def call(
        self, x: tf.Tensor, t: tf.Tensor, label: tf.Tensor | None = None, address: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The network's output.

        Args:
          x: [B, H, W, image_channels], H and W divisible by `factor`.
          t: [B], int or float.
          label: int [B], 0 to classes-1, or -1 for the null class; for networks with classes, and only those.
          address: int64 [3], the first row's address (`randomness.row_address`); dropout is active if given.

        Returns:
          [B, H, W, out_channels] float32.

        Raises:
          ValueError: for an image whose static size the levels cannot halve, or a label too many or too few.
        """
        return self.forward(x, self.injections(self.embedding(t), label), address)

    def injections(self, embedding: tf.Tensor, label: tf.Tensor | None = None) -> tf.Tensor:
        """What the residual blocks take in of the time and the label, side by side.

        Args:
          embedding: [B, time_width], `self.embedding(t)`. label: see `call`.

        Returns:
          [B, the sum of all blocks' shares].

        Raises:
          ValueError: for a label too many or too few.
        """
        if (label is not None) != bool(self.settings["classes"]):
            raise ValueError(f"expected {'labels' if self.settings['classes'] else 'no labels'}")
        time = tf.nn.silu(embedding if label is None else embedding + self.label_embedding(label))
        return tf.concat([block.time(time) for block in self._blocks()], axis=1)

    def forward(self, x: tf.Tensor, injections: tf.Tensor, address: tf.Tensor | None = None) -> tf.Tensor:
        """`call` from the `injections` [B, ...] on: all that depends on the images."""
        self._check_image(x)
        injected = iter(tf.split(injections, [block.time.units for block in self._blocks()], axis=1))

        def run(residual: layers.ResidualBlock, h: tf.Tensor, injected: tf.Tensor) -> tf.Tensor:
            block = lambda h, injected: residual(h, injected, address)  # noqa: E731
            return (tf.recompute_grad(block) if self._remat else block)(h, injected)

        h = self.conv_in(tf.cast(x, self.compute_dtype))
        skips = [h]
        for level, stage in enumerate(self.down):
            for residual, attention in stage:
                h = run(residual, h, next(injected))
                h = h if attention is None else attention(h)
                skips.append(h)
            if level < len(self.downsample):
                h = self.downsample[level](h)
                skips.append(h)

        for i, residual in enumerate(self.middle):
            h = run(residual, h, next(injected))
            if i == 0 and self.settings["middle"] == "attention":
                h = self.middle_attention(h)

        for level, stage in enumerate(self.up):
            for residual, attention in stage:
                h = run(residual, tf.concat([h, skips.pop()], axis=-1), next(injected))
                h = h if attention is None else attention(h)
            if level < len(self.upsample):
                h = self.upsample[level](h)
        return self.conv_out(tf.cast(self.norm_out(h), tf.float32))

    def _blocks(self) -> list[layers.ResidualBlock]:
        """The residual blocks in the order in which the image passes them."""
        down, up = ([residual for stage in way for residual, _ in stage] for way in (self.down, self.up))
        return [*down, *self.middle, *up]

    def _check_image(self, x: tf.Tensor) -> None:
        height, width, channels = x.shape[1:]
        if channels != self.settings["image_channels"] or any(
            s is not None and s % self.factor for s in (height, width)
        ):
            raise ValueError(
                f"image of shape {tuple(x.shape[1:])}: expected height and width divisible by {self.factor} "
                f"and {self.settings['image_channels']} channels"
            )

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return super().get_config() | self.settings
