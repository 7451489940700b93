"""The weights of a U-Net under the names that a diffusers UNet2DModel has for them."""

from __future__ import annotations

from collections.abc import Iterator

from tf_ddpm.diffusers_format import layer_names
from tf_ddpm.diffusers_format.layer_names import Entry
from tf_ddpm.networks.layers import ResidualBlock
from tf_ddpm.networks.unet import UNet


def entries(network: UNet) -> Iterator[Entry]:
    """Every weight once."""
    yield from layer_names.layer("time_embedding.linear_1", network.embedding.dense_1, "dense")
    yield from layer_names.layer("time_embedding.linear_2", network.embedding.dense_2, "dense")
    if "label" in network.conditions:
        yield "class_embedding.weight", network.label_embedding.table, "as it is"
    yield from layer_names.layer("conv_in", network.conv_in, "conv")
    for way, stages, scaled in (("down", network.down, network.downsample), ("up", network.up, network.upsample)):
        for i, stage in enumerate(stages):
            prefix = f"{way}_blocks.{i}"
            for j, (residual, attention) in enumerate(stage):
                yield from layer_names.residual(f"{prefix}.resnets.{j}", residual)
                if attention is not None:
                    yield from layer_names.attention(f"{prefix}.attentions.{j}", attention)
            if i < len(scaled):
                between = scaled[i]
                if isinstance(between, ResidualBlock):
                    yield from layer_names.residual(f"{prefix}.{way}samplers.0", between)
                else:
                    yield from layer_names.layer(f"{prefix}.{way}samplers.0.conv", between.conv, "conv")
    for i, residual in enumerate(network.middle):
        yield from layer_names.residual(f"mid_block.resnets.{i}", residual)
    if network.model.middle == "attention":
        yield from layer_names.attention("mid_block.attentions.0", network.middle_attention)
    yield from layer_names.norm("conv_norm_out", network.norm_out)
    yield from layer_names.layer("conv_out", network.conv_out, "conv")
