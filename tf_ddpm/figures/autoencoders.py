"""The figures of an autoencoder: what comes back of images, and what their latents look like."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from tf_ddpm import datasets
from tf_ddpm.config import DataConfig
from tf_ddpm.figures import plots
from tf_ddpm.sampling.first_stage import FirstStage

_SHOWN_CHANNELS = 8
_SPREAD = 2.0  # standard deviations that are shown, from black to white


def reconstruction(found: FirstStage, data: DataConfig, rows: int, seed: int) -> Figure:
    """A picture a row: itself, what comes back of it, and where the two differ, four times as much."""
    real, codec = _some(data, rows, seed), found.codec
    again = codec.decode(codec.encode(tf.constant(real))).numpy()
    difference = np.clip(128 + 4 * (again.astype(int) - real), 0, 255).astype(np.uint8)
    return plots.sheet(np.stack([real, again, difference], axis=1), columns=["image", "back", "difference, 4 times"])


def latent(found: FirstStage, data: DataConfig, rows: int, seed: int) -> Figure:
    """A picture a row: itself, the channels of its latent, scaled as they are diffused, and its decode."""
    real, codec = _some(data, rows, seed), found.codec
    states = codec.encode(tf.constant(real))
    shown = np.clip(127.5 + 127.5 / _SPREAD * states.numpy(), 0, 255).astype(np.uint8)
    factor, channels = found.network.factor, min(states.shape[-1], _SHOWN_CHANNELS)
    large = shown.repeat(factor, axis=1).repeat(factor, axis=2)
    grey = [np.repeat(large[..., i : i + 1], real.shape[-1], axis=-1) for i in range(channels)]
    columns = [real, *grey, codec.decode(states).numpy()]
    words = ["image", *(f"channel {i + 1}" for i in range(channels)), "decoded"]
    return plots.sheet(np.stack(columns, axis=1), columns=words)


def _some(data: DataConfig, count: int, seed: int) -> np.ndarray:
    images = datasets.load(data).images
    chosen = np.sort(np.random.default_rng(abs(seed)).permutation(len(images))[:count])
    return images[chosen]


FIGURES: dict[str, Callable[[FirstStage, DataConfig, int, int], Figure]] = {
    "reconstruction": reconstruction,
    "latent": latent,
}
