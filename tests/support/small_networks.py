"""Small U-Nets to test with."""

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
