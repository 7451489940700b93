"""An autoencoder as TF Serving sees it: images to latents, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from export import comparison, traced_codec
from export.endpoints import Endpoints
from export.limits import Limits
from tf_ddpm.errors import UserError
from tf_ddpm.sampling.first_stage import FirstStage
from tf_ddpm.sampling.image_files import PNG_CHANNELS

_DEFAULT = "decode_latent"
_ROUNDING = 1e-4  # of the largest value


class AutoencoderModule(Endpoints):
    """`encode_image` and `decode_latent`, which is `serving_default` and, as PNG, `png`."""

    def __init__(self, found: FirstStage, max_batch: int, seconds: float):
        shape, codec = found.config.data.image_shape, found.codec
        limits = Limits(max_batch, shape, 1, 0, False, state_shape=codec.state_shape(shape))
        super().__init__(limits, _DEFAULT)
        self.network_variables = [weight.value for weight in found.network.weights]
        queues = traced_codec.queues(traced_codec.of_latents(codec, shape))
        self._publish(queues, seconds, shape[-1] in PNG_CHANNELS, [shape, found.sha256])


def compare(found: FirstStage, model: Path, aside: Path, max_batch: int) -> int:
    """Compares what `model` makes of an image and of a latent with the autoencoder itself: see `comparison.compare`.

    Raises:
      UserError: where the model does not load, or answers differently.
    """
    codec, shape = found.codec, found.config.data.image_shape
    rng, rows = np.random.default_rng(0), min(2, max_batch)
    image = rng.integers(0, 256, (rows, *shape), np.uint8)
    latent = rng.normal(size=(rows, *codec.state_shape(shape))).astype(np.float32)
    requests = {"encode_image": {"image": image}, "decode_latent": {"latent": latent}}
    answers = comparison.asked(model, aside, requests, _DEFAULT)
    live = {
        "encode_image/latent": codec.encode(tf.constant(image)).numpy(),
        "decode_latent/image_float": codec.images(tf.constant(latent)).numpy(),
    }
    for name, value in live.items():
        error = float(np.abs(answers[name] - value).max()) / max(float(np.abs(value).max()), 1e-6)
        if error > _ROUNDING:
            raise UserError(f"the exported model answers {name} differently: {error:.2g} of the largest value apart")
    return comparison.memory(answers, max_batch)
