"""An autoencoder as TF Serving sees it: images to latents, and back."""

from __future__ import annotations

from pathlib import Path

from export import codec_comparison, comparison, traced_codec
from export.endpoints import Endpoints
from export.limits import Limits
from tf_ddpm.sampling.first_stage import FirstStage
from tf_ddpm.sampling.image_files import PNG_CHANNELS

_DEFAULT = "decode_latent"


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
    requests = codec_comparison.requests(codec, shape, min(2, max_batch))
    answers = comparison.asked(model, aside, requests, ",".join(codec_comparison.SIGNATURES))
    codec_comparison.check(codec, requests, answers)
    return comparison.memory(answers, max_batch)
