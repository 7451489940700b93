"""The weights of a layer under the names that diffusers has for them."""

from __future__ import annotations

from collections.abc import Iterator

import keras

from tf_ddpm.networks.group_norm import GroupNorm
from tf_ddpm.networks.layers import Attention, ResidualBlock

Entry = tuple[str, keras.Variable, str]  # their name, our variable, kind (`tensors`)


def residual(prefix: str, block: ResidualBlock) -> Iterator[Entry]:
    """Of a residual block."""
    yield from norm(f"{prefix}.norm1", block.norm_1)
    yield from layer(f"{prefix}.conv1", block.conv_1, "conv")
    if block.time is not None:
        yield from layer(f"{prefix}.time_emb_proj", block.time, "dense")
    yield from norm(f"{prefix}.norm2", block.norm_2)
    yield from layer(f"{prefix}.conv2", block.conv_2, "conv")
    if block.shortcut is not None:
        yield from layer(f"{prefix}.conv_shortcut", block.shortcut, "pointwise")


def attention(prefix: str, block: Attention) -> Iterator[Entry]:
    """Of an attention."""
    if block.norm is not None:
        yield from norm(f"{prefix}.group_norm", block.norm)
    for name, dense in (("to_q", block.query), ("to_k", block.key), ("to_v", block.value), ("to_out.0", block.out)):
        yield from layer(f"{prefix}.{name}", dense, "dense")


def layer(prefix: str, layer: keras.layers.Layer, kind: str) -> Iterator[Entry]:
    """Of a convolution or a dense layer."""
    yield f"{prefix}.weight", layer.kernel, kind
    if layer.bias is not None:
        yield f"{prefix}.bias", layer.bias, "as it is"


def norm(prefix: str, norm: GroupNorm) -> Iterator[Entry]:
    """Of a normalisation."""
    yield f"{prefix}.weight", norm.gamma, "as it is"
    yield f"{prefix}.bias", norm.beta, "as it is"
