"""The weights of an autoencoder under the names that diffusers has for them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import keras

from tf_ddpm.diffusers_format import layer_names
from tf_ddpm.diffusers_format.layer_names import Entry
from tf_ddpm.networks import coding
from tf_ddpm.networks.autoencoder import Autoencoder
from tf_ddpm.networks.layers import Attention, ResidualBlock, Upsample

_MIDDLE = {
    "middle_1": "mid_block.resnets.0",
    "middle_attention": "mid_block.attentions.0",
    "middle_2": "mid_block.resnets.1",
}
_PLACE = re.compile(r"(down|up)(_attention|sample)?_(\d+)(?:_(\d+))?$")


def entries(network: Autoencoder) -> Iterator[Entry]:
    """Every weight once, but for those of the network that judges patches."""
    yield from _coder("encoder", network.encoder)
    for name in ("quant_conv", "post_quant_conv"):
        layer = getattr(network, name, None)
        if layer is not None:
            yield from layer_names.layer(name, layer, "pointwise")
    if hasattr(network, "codebook"):
        yield "quantize.embedding.weight", network.codebook, "as it is"
    yield from _coder("decoder", network.decoder)


def _coder(prefix: str, coder: keras.layers.Layer) -> Iterator[Entry]:
    if isinstance(coder, coding.LightEncoder | coding.LightDecoder):
        yield from _light(f"{prefix}.layers", coder)
        return
    yield from layer_names.layer(f"{prefix}.conv_in", coder.conv_in, "conv")
    for layer in coder.steps:
        place = f"{prefix}.{_place(layer.name, coder.levels)}"
        if isinstance(layer, ResidualBlock):
            yield from layer_names.residual(place, layer)
        elif isinstance(layer, Attention):
            yield from layer_names.attention(place, layer)
        else:
            yield from layer_names.layer(place, layer.conv, "conv")
    yield from layer_names.norm(f"{prefix}.conv_norm_out", coder.norm_out)
    yield from layer_names.layer(f"{prefix}.conv_out", coder.conv_out, "conv")


def _place(name: str, levels: int) -> str:
    """Theirs for a layer of ours; they count the levels on the way up from the coarsest."""
    if name in _MIDDLE:
        return _MIDDLE[name]
    way, kind, level, number = _PLACE.match(name).groups()  # type: ignore[union-attr]
    block = f"{way}_blocks.{levels - 1 - int(level) if way == 'up' else level}"
    if kind == "sample":
        return f"{block}.{way}samplers.0.conv"
    return f"{block}.{'resnets' if kind is None else 'attentions'}.{number}"


def _light(prefix: str, coder: keras.layers.Layer) -> Iterator[Entry]:
    """They number all parts in order, those without weights as well: a ReLU behind a decoder's first convolution, and
    what repeats the pixels."""
    yield from layer_names.layer(f"{prefix}.0", coder.conv_in, "conv")
    number = 2 if isinstance(coder, coding.LightDecoder) else 1
    for layer in coder.steps:
        if isinstance(layer, coding.LightBlock):
            for i, conv in enumerate((layer.conv_1, layer.conv_2, layer.conv_3)):
                yield from layer_names.layer(f"{prefix}.{number}.conv.{2 * i}", conv, "conv")
        else:
            number += isinstance(layer, Upsample)
            yield from layer_names.layer(f"{prefix}.{number}", layer.conv, "conv")
        number += 1
    yield from layer_names.layer(f"{prefix}.{number}", coder.conv_out, "conv")
