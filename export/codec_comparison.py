"""Whether the exported model encodes images and decodes latents as the autoencoder does."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_ddpm.codecs.latents import Latents
from tf_ddpm.errors import UserError
from tf_ddpm.networks.autoencoder import VQModel

SIGNATURES = ("encode_image", "decode_latent")
_ROUNDING = 1e-4  # of the largest value


def requests(codec: Latents, image_shape: tuple[int, int, int], rows: int) -> dict[str, dict[str, np.ndarray]]:
    """Signature -> inputs."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (rows, *image_shape), np.uint8)
    latent = rng.normal(size=(rows, *codec.state_shape(image_shape))).astype(np.float32)
    if isinstance(codec.first_stage, VQModel):  # codes themselves: rounding cannot make others of them
        shift, scale = (np.array(numbers, np.float32) for numbers in (codec.shift, codec.scale))
        latent = (codec.first_stage.quantised(tf.constant(latent)).numpy() - shift) * scale
    return {"encode_image": {"image": image}, "decode_latent": {"latent": latent}}


def check(codec: Latents, asked: dict[str, dict[str, np.ndarray]], answers: dict[str, np.ndarray]) -> None:
    """Compares the answers to `requests` with the autoencoder's own.

    Raises:
      UserError: where they differ.
    """
    live = {
        "encode_image/latent": codec.encode(tf.constant(asked["encode_image"]["image"])),
        "decode_latent/image_float": codec.images(tf.constant(asked["decode_latent"]["latent"])),
    }
    for name, value in live.items():
        error = float(np.abs(answers[name] - value).max()) / max(float(np.abs(value).max()), 1e-6)
        if error > _ROUNDING:
            raise UserError(f"the exported model answers {name} differently: {error:.2g} of the largest value apart")
