"""The weights of a network under the names and in the shapes that diffusers has for them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import keras
import numpy as np

from tf_ddpm.diffusers_format import autoencoder_names, unet_names
from tf_ddpm.diffusers_format.layer_names import Entry
from tf_ddpm.errors import UserError
from tf_ddpm.networks.autoencoder import Autoencoder

# How an array of ours becomes one of theirs, and back.
_KINDS = {
    "as it is": (lambda a: a, lambda a: a),
    "dense": (lambda a: a.T, lambda a: a.T),
    "conv": (lambda a: a.transpose(3, 2, 0, 1), lambda a: a.transpose(2, 3, 1, 0)),
    "pointwise": (lambda a: a.T[:, :, None, None], lambda a: a[:, :, 0, 0].T),
}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.")


def to_arrays(network: keras.Model) -> dict[str, np.ndarray]:
    """The weights float32 by their names in diffusers."""
    return {
        name: np.ascontiguousarray(_KINDS[kind][0](np.asarray(variable, np.float32)))
        for name, variable, kind in _entries(network)
    }


def assign(network: keras.Model, arrays: dict[str, np.ndarray]) -> None:
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


def _entries(network: keras.Model) -> Iterator[Entry]:
    """Every weight once."""
    return autoencoder_names.entries(network) if isinstance(network, Autoencoder) else unet_names.entries(network)
