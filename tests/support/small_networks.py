"""Small U-Nets to test with."""

import keras
import numpy as np

from tf_ddpm.config import ModelConfig


def small(**changes):
    """The configuration of a U-Net of one level, 8 channels and no attention; with `changes`."""
    values = {"channels": 8, "widths": (8,), "blocks": 1, "attention_levels": (), "groups": 2}
    return ModelConfig(**values | changes)


def randomised(network, scale=0.2):
    """`network` with all its weights away from zero, so that every path shows."""
    rng = np.random.default_rng(0)
    for weight in network.weights:
        weight.assign(rng.normal(0, scale, weight.shape))
    return network


def saved_and_loaded(network, folder):
    """The network that its .keras file gives, of the same policy and configuration."""
    network.save(folder / "network.keras")
    loaded = keras.models.load_model(folder / "network.keras")
    assert loaded.dtype_policy.name == network.dtype_policy.name and loaded.get_config() == network.get_config()
    return loaded
