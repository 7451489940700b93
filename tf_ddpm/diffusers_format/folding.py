"""The scale of each channel of latents, inside the weights of a variational autoencoder.

diffusers' pipeline of latents knows one scaling factor. A 1x1 convolution stands on either side of a latent, and takes
in the scale of every channel exactly.
"""

from __future__ import annotations

import numpy as np

from tf_ddpm.config import LatentScale
from tf_ddpm.errors import UserError

_PARTS = ("quant_conv.weight", "quant_conv.bias", "post_quant_conv.weight", "post_quant_conv.bias")


def folded(arrays: dict[str, np.ndarray], scale: LatentScale) -> dict[str, np.ndarray]:
    """Weights by diffusers' names of the same autoencoder, whose latents come scaled.

    Raises:
      UserError: where the autoencoder has no such convolutions.
    """
    if not all(name in arrays for name in _PARTS):
        raise UserError(
            "diffusers' LDMPipeline knows one scale for all channels of a latent; an autoencoder without "
            "quant_conv and post_quant_conv cannot take in the others"
        )
    shift, factor = (np.asarray(part, np.float64) for part in (scale.shift, scale.scale))
    before, before_bias, after, after_bias = (arrays[name].astype(np.float64) for name in _PARTS)
    count = len(shift)
    before[:count] *= factor[:, None, None, None]
    before_bias[:count] = (before_bias[:count] - shift) * factor
    before_bias[count:] += 2.0 * np.log(factor)  # the log-variance
    after_bias += after[:, :, 0, 0] @ shift
    after /= factor[None, :, None, None]
    changed = zip(_PARTS, (before, before_bias, after, after_bias), strict=True)
    return arrays | {name: np.ascontiguousarray(array, np.float32) for name, array in changed}


def is_one_number(scale: LatentScale) -> bool:
    """Whether a scaling factor says it all."""
    return len(set(scale.scale)) == 1 and not any(scale.shift)
