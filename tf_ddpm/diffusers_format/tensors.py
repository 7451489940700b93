"""The weights of a UNet under the names and in the shapes that a diffusers UNet2DModel has for them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import keras
import numpy as np

from tf_ddpm.errors import UserError
from tf_ddpm.networks.group_norm import GroupNorm
from tf_ddpm.networks.layers import Attention, ResidualBlock
from tf_ddpm.networks.unet import UNet

# How an array of ours becomes one of theirs, and back.
_KINDS = {
    "as it is": (lambda a: a, lambda a: a),
    "dense": (lambda a: a.T, lambda a: a.T),
    "conv": (lambda a: a.transpose(3, 2, 0, 1), lambda a: a.transpose(2, 3, 1, 0)),
    "pointwise": (lambda a: a.T[:, :, None, None], lambda a: a[:, :, 0, 0].T),
}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.")

Entry = tuple[str, keras.Variable, str]  # their name, our variable, kind


def to_arrays(network: UNet) -> dict[str, np.ndarray]:
    """The weights float32 by their names in diffusers."""
    return {
        name: np.ascontiguousarray(_KINDS[kind][0](np.asarray(variable, np.float32)))
        for name, variable, kind in _entries(network)
    }


def assign(network: UNet, arrays: dict[str, np.ndarray]) -> None:
    """Gives `network` the weights `arrays`, as diffusers names them now or did before its release 0.18.

    Raises:
      UserError: naming a weight that is missing, has another shape, is not finite, or has no place.
    """
    arrays = {
        _OLD_NAME.sub(lambda found: f"{found[1]}.{_OLD_ATTENTION[found[2]]}.", name): array
        for name, array in arrays.items()
    }
    values = []
    for name, variable, kind in _entries(network):
        if name not in arrays:
            raise UserError(f"the weights have no {name}, which the config asks for")
        array = arrays.pop(name)
        if kind == "dense" and array.ndim == 4 and array.shape[2:] == (1, 1):
            array = array[:, :, 0, 0]
        forth, back = _KINDS[kind]
        expected = forth(np.empty(variable.shape, np.bool_)).shape
        if array.shape != expected:
            raise UserError(f"the weight {name} has the shape {array.shape}; the config asks for {expected}")
        if not np.all(np.isfinite(array)):
            raise UserError(f"the weight {name} holds numbers that are not finite")
        values.append((variable, back(array)))
    if arrays:
        raise UserError(f"the weight {min(arrays)} has no place in the network that the config describes")
    for variable, value in values:
        variable.assign(value)


def _entries(network: UNet) -> Iterator[Entry]:
    """Every weight once."""
    yield from _layer("time_embedding.linear_1", network.embedding.dense_1, "dense")
    yield from _layer("time_embedding.linear_2", network.embedding.dense_2, "dense")
    if "label" in network.conditions:
        yield "class_embedding.weight", network.label_embedding.table, "as it is"
    yield from _layer("conv_in", network.conv_in, "conv")
    for way, stages, scaled in (("down", network.down, network.downsample), ("up", network.up, network.upsample)):
        for i, stage in enumerate(stages):
            prefix = f"{way}_blocks.{i}"
            for j, (residual, attention) in enumerate(stage):
                yield from _residual(f"{prefix}.resnets.{j}", residual)
                if attention is not None:
                    yield from _attention(f"{prefix}.attentions.{j}", attention)
            if i < len(scaled):
                between = scaled[i]
                if isinstance(between, ResidualBlock):
                    yield from _residual(f"{prefix}.{way}samplers.0", between)
                else:
                    yield from _layer(f"{prefix}.{way}samplers.0.conv", between.conv, "conv")
    for i, residual in enumerate(network.middle):
        yield from _residual(f"mid_block.resnets.{i}", residual)
    if network.model.middle == "attention":
        yield from _attention("mid_block.attentions.0", network.middle_attention)
    yield from _norm("conv_norm_out", network.norm_out)
    yield from _layer("conv_out", network.conv_out, "conv")


def _residual(prefix: str, block: ResidualBlock) -> Iterator[Entry]:
    yield from _norm(f"{prefix}.norm1", block.norm_1)
    yield from _layer(f"{prefix}.conv1", block.conv_1, "conv")
    yield from _layer(f"{prefix}.time_emb_proj", block.time, "dense")
    yield from _norm(f"{prefix}.norm2", block.norm_2)
    yield from _layer(f"{prefix}.conv2", block.conv_2, "conv")
    if block.shortcut is not None:
        yield from _layer(f"{prefix}.conv_shortcut", block.shortcut, "pointwise")


def _attention(prefix: str, layer: Attention) -> Iterator[Entry]:
    if layer.norm is not None:
        yield from _norm(f"{prefix}.group_norm", layer.norm)
    for name, dense in (("to_q", layer.query), ("to_k", layer.key), ("to_v", layer.value), ("to_out.0", layer.out)):
        yield from _layer(f"{prefix}.{name}", dense, "dense")


def _layer(prefix: str, layer: keras.layers.Layer, kind: str) -> Iterator[Entry]:
    yield f"{prefix}.weight", layer.kernel, kind
    yield f"{prefix}.bias", layer.bias, "as it is"


def _norm(prefix: str, norm: GroupNorm) -> Iterator[Entry]:
    yield f"{prefix}.weight", norm.gamma, "as it is"
    yield f"{prefix}.bias", norm.beta, "as it is"
