"""The U-Net of Ho et al. 2020: how the layers are wired. It maps (image, number) to an image; no diffusion here."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tf_ddpm import randomness
from tf_ddpm.config import ModelConfig
from tf_ddpm.networks import layers
from tf_ddpm.networks.backbone import Condition
from tf_ddpm.networks.embeddings import LabelEmbedding, TimeEmbedding
from tf_ddpm.networks.group_norm import GroupNorm
from tf_ddpm.networks.primitives import conv3x3


@keras.saving.register_keras_serializable(package="tf_ddpm")
class UNet(keras.Model):
    """A U-Net with residual blocks, self-attention at chosen levels and a time embedding in every block.

    Args:
      model: its widths, levels, attentions, normalisation, dropout and embeddings: see `config.ModelConfig`.
      image_channels, out_channels: of what it takes and gives. With `model.condition=low_res` it takes as many
        channels again, those of the smaller image, enlarged.
      xla: see `group_norm.GroupNorm`. remat: whether the gradient computes each residual block a second time instead
        of keeping what is inside it (Chen et al. 2016). Both are ways to compute, and no part of what the network is.

    Raises:
      ValueError: where `model.groups` does not divide a width.
    """

    def __init__(
        self,
        model: ModelConfig,
        image_channels: int,
        out_channels: int | None = None,
        xla: bool = False,
        remat: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.model, self.image_channels, self.out_channels = model, image_channels, out_channels or image_channels
        self._xla, self._remat = xla, remat
        self._time_width = model.time_width or 4 * model.channels
        widths = model.level_widths
        self.factor = 2 ** (len(widths) - 1)
        self._blocks_made = 0  # each residual block has a random stream of its own
        dtype = self.dtype_policy

        self._make_embeddings()
        self.conv_in = conv3x3(self.input_channels, model.channels, "conv_in", dtype)
        skips = self._make_down()
        self._make_middle(widths[-1])
        self._make_up(skips)
        self.norm_out = GroupNorm(widths[0], model.groups, True, model.norm_epsilon, xla, name="norm_out", dtype=dtype)
        # The output stays float32 in every precision: it is what the equations work on.
        self.conv_out = conv3x3(widths[0], self.out_channels, "conv_out", "float32", scale=0.0)
        self.built = True

    @property
    def conditions(self) -> tuple[str, ...]:
        """`label`, if it tells classes apart, and `augmentation`, the noise on a smaller image that it is shown."""
        return ("label",) * bool(self.model.classes) + ("augmentation",) * self.model.enlarges

    @property
    def image_conditions(self) -> tuple[str, ...]:
        """`low_res`: the smaller image as large as the network's own, if it is shown one."""
        return ("low_res",) * self.model.enlarges

    @property
    def input_channels(self) -> int:
        """Channels of x and of `image_conditions`."""
        return self.image_channels * (1 + len(self.image_conditions))

    def null(self, name: str, like: tf.Tensor) -> tf.Tensor:
        """No label: -1 for each row; guidance leaves all else as it is."""
        return tf.fill(tf.shape(like), tf.constant(-1, like.dtype)) if name == "label" else like

    def _make_embeddings(self) -> None:
        model, width, dtype = self.model, self._time_width, self.dtype_policy
        order, shift = model.embedding_order, model.frequency_shift
        self.embedding = TimeEmbedding(model.channels, width, order, shift, name="embedding", dtype=dtype)
        if model.classes:
            self.label_embedding = LabelEmbedding(
                model.classes, width, model.null_class, name="label_embedding", dtype=dtype
            )
        if model.enlarges:  # at first it says nothing, so that a network that does without may become one
            self.augmentation_embedding = TimeEmbedding(
                model.channels, width, order, shift, scale=0.0, name="augmentation_embedding", dtype=dtype
            )

    def _attribute(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """Keeps `layer` under its name: TensorFlow's checkpoints follow attributes, not lists."""
        setattr(self, layer.name, layer)
        return layer

    def _residual(self, width_in: int, width: int, name: str, resample: str = "none") -> layers.ResidualBlock:
        self._blocks_made += 1
        block = layers.ResidualBlock(
            width_in,
            width,
            self._time_width,
            self.model.groups,
            self.model.dropout,
            stream=randomness.FIRST_LAYER + self._blocks_made,
            injection=self.model.injection,
            epsilon=self.model.norm_epsilon,
            xla=self._xla,
            resample=resample,
            name=name,
            dtype=self.dtype_policy,
        )
        return self._attribute(block)

    def _attention(self, width: int, groups: int, name: str) -> layers.Attention:
        per_head, epsilon = self.model.head_channels, self.model.norm_epsilon
        heads = self.model.heads if per_head is None else width // per_head
        layer = layers.Attention(width, heads, groups, epsilon, self._xla, name=name, dtype=self.dtype_policy)
        return self._attribute(layer)

    def _stage(self, way: str, level: int, widths_in: list[int], width: int) -> list:
        """The (residual block, attention or None) pairs of a level."""
        levels = self.model.attention_levels
        if way == "up" and self.model.up_attention_levels is not None:
            levels = self.model.up_attention_levels
        stage = []
        for i, width_in in enumerate(widths_in):
            residual = self._residual(width_in, width, f"{way}_{level}_{i}")
            attends = level in levels
            name = f"{way}_attention_{level}_{i}"
            stage.append([residual, self._attention(width, self.model.groups, name) if attends else None])
        return stage

    def _make_down(self) -> list[int]:
        """Makes the levels on the way down and returns the widths of the skip connections."""
        self.down, self.downsample = [], []
        width = self.model.channels
        skips = [width]
        widths, blocks = self.model.level_widths, self.model.blocks
        for level, level_width in enumerate(widths):
            self.down.append(self._stage("down", level, [width] + [level_width] * (blocks - 1), level_width))
            width = level_width
            skips += [width] * blocks
            if level + 1 < len(widths):
                self.downsample.append(self._resampling("down", width, f"downsample_{level}"))
                skips.append(width)
        return skips

    def _make_middle(self, width: int) -> None:
        self.middle = []
        if self.model.middle == "none":
            return
        groups = self.model.groups if self.model.middle_groups is None else self.model.middle_groups
        self.middle.append(self._residual(width, width, "middle_1"))
        if self.model.middle == "attention":
            self._attention(width, groups, "middle_attention")
        self.middle.append(self._residual(width, width, "middle_2"))

    def _make_up(self, skips: list[int]) -> None:
        """Makes the levels on the way up, from the coarsest to the finest; each block takes one skip connection."""
        self.up, self.upsample = [], []
        widths, blocks = self.model.level_widths, self.model.blocks
        width = widths[-1]
        for level, level_width in reversed(list(enumerate(widths))):
            widths_in = [h + skips.pop() for h in [width] + [level_width] * blocks]
            self.up.append(self._stage("up", level, widths_in, level_width))
            width = level_width
            if level:
                self.upsample.append(self._resampling("up", width, f"upsample_{level}"))

    def _resampling(self, way: str, width: int, name: str) -> keras.layers.Layer:
        """What leads from a level to the next one."""
        if self.model.resampling == "residual":
            return self._residual(width, width, name, resample=way)
        if way == "up":
            return self._attribute(layers.Upsample(width, name=name, dtype=self.dtype_policy))
        padding = self.model.downsample_padding
        return self._attribute(layers.Downsample(width, padding, name=name, dtype=self.dtype_policy))

    def call(
        self,
        x: tf.Tensor,
        t: tf.Tensor,
        label: tf.Tensor | None = None,
        address: tf.Tensor | None = None,
        augmentation: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The network's output.

        Args:
          x: [B, H, W, input_channels], H and W divisible by `factor`.
          t: [B], int or float.
          label: int [B], 0 to classes-1, or -1 for the null class; for networks with classes, and only those.
          augmentation: [B], int or float, for networks that enlarge, and only those.
          address: int64 [3], the first row's address (`randomness.row_address`); dropout is active if given.

        Returns:
          [B, H, W, out_channels] float32.

        Raises:
          ValueError: for an image whose static size the levels cannot halve, or a label too many or too few.
        """
        given = {"label": label, "augmentation": augmentation}
        condition = {name: value for name, value in given.items() if value is not None}
        return self.forward(x, self.modulation(self.embed_time(t), condition), address)

    def embed_time(self, time: tf.Tensor) -> tf.Tensor:
        """time [B], int or float -> [B, time_width]."""
        return self.embedding(time)

    def modulation(self, embedded: tf.Tensor, condition: Condition) -> tf.Tensor:
        """What the residual blocks take in of the time and the conditions, side by side.

        Args:
          embedded: [B, time_width], from `embed_time`. condition: see `conditions`.

        Returns:
          [B, the sum of all blocks' shares].

        Raises:
          ValueError: for a condition too many or too few.
        """
        if set(condition) != set(self.conditions):
            raise ValueError(
                f"expected {', '.join(self.conditions) or 'no condition'}, got {', '.join(condition) or 'none'}"
            )
        if "label" in condition:
            embedded = embedded + self.label_embedding(condition["label"])
        if "augmentation" in condition:
            embedded = embedded + self.augmentation_embedding(condition["augmentation"])
        time = tf.nn.silu(embedded)
        return tf.concat([block.time(time) for block in self._blocks()], axis=1)

    def forward(self, x: tf.Tensor, modulation: tf.Tensor, address: tf.Tensor | None = None) -> tf.Tensor:
        """`call` from the `modulation` [B, ...] on: all that depends on the images."""
        self._check_image(x)
        injected = iter(tf.split(modulation, [block.time.units for block in self._blocks()], axis=1))

        def run(residual: layers.ResidualBlock, h: tf.Tensor, injected: tf.Tensor) -> tf.Tensor:
            block = lambda h, injected: residual(h, injected, address)  # noqa: E731
            return (tf.recompute_grad(block) if self._remat else block)(h, injected)

        def resampled(layer: keras.layers.Layer, h: tf.Tensor) -> tf.Tensor:
            return run(layer, h, next(injected)) if isinstance(layer, layers.ResidualBlock) else layer(h)

        h = self.conv_in(tf.cast(x, self.compute_dtype))
        skips = [h]
        for level, stage in enumerate(self.down):
            for residual, attention in stage:
                h = run(residual, h, next(injected))
                h = h if attention is None else attention(h)
                skips.append(h)
            if level < len(self.downsample):
                h = resampled(self.downsample[level], h)
                skips.append(h)

        for i, residual in enumerate(self.middle):
            h = run(residual, h, next(injected))
            if i == 0 and self.model.middle == "attention":
                h = self.middle_attention(h)

        for level, stage in enumerate(self.up):
            for residual, attention in stage:
                h = run(residual, tf.concat([h, skips.pop()], axis=-1), next(injected))
                h = h if attention is None else attention(h)
            if level < len(self.upsample):
                h = resampled(self.upsample[level], h)
        return self.conv_out(tf.cast(self.norm_out(h), tf.float32))

    def _blocks(self) -> list[layers.ResidualBlock]:
        """The residual blocks in the order in which the image passes them."""

        def of(stages: list, between: list) -> list[layers.ResidualBlock]:
            found = []
            for level, stage in enumerate(stages):
                found += [residual for residual, _ in stage]
                found += [layer for layer in between[level : level + 1] if isinstance(layer, layers.ResidualBlock)]
            return found

        return [*of(self.down, self.downsample), *self.middle, *of(self.up, self.upsample)]

    def _check_image(self, x: tf.Tensor) -> None:
        height, width, channels = x.shape[1:]
        if channels != self.input_channels or any(s is not None and s % self.factor for s in (height, width)):
            raise ValueError(
                f"image of shape {tuple(x.shape[1:])}: expected height and width divisible by {self.factor} "
                f"and {self.input_channels} channels"
            )

    def get_config(self) -> dict:
        """The constructor's arguments; JSON of them gives the same network."""
        sizes = {"image_channels": self.image_channels, "out_channels": self.out_channels}
        return super().get_config() | {"model": dataclasses.asdict(self.model)} | sizes

    @classmethod
    def from_config(cls, config: dict) -> UNet:
        """The inverse of `get_config`."""
        known = {field.name for field in dataclasses.fields(ModelConfig)}
        values = config["model"].items()
        model: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values if name in known}
        return cls(**config | {"model": ModelConfig(**model)})
