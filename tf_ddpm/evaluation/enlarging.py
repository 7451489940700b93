"""How good enlarged images are: against the real ones, and against what they were made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import image_metrics, provenance
from tf_ddpm.sampling import small_images
from tf_ddpm.sampling.small_images import SmallImages
from tf_ddpm.sampling.source import Source

METRIC = "enlarging"
_VERSION = 1  # of how it is computed


def measure(source: Source, images: np.ndarray, seeds: np.ndarray) -> dict[str, dict]:
    """Figures of `images`, which a run that enlarges has drawn for the `seeds`, and of bilinear ones beside them.

    `psnr` and `ssim` are against the real image, `consistency_psnr` is of the drawn image made smaller against what
    the run was given, all of them means over the images and in dB but for SSIM; `colour_drift` is how far the drawn
    images' mean colour is from that of what the run was given, in grey levels (root mean square over the channels).

    Returns:
      Name -> value, and receipt.

    Raises:
      UserError: for a source that enlarges nothing.
    """
    small = check(source)
    factor, given, real = source.runs[0].config.model.factor, small.low_res(seeds), small.real(seeds)
    bilinear = small_images.enlarged(given, factor)
    receipt = {
        "metric_version": _VERSION,
        "drawn": provenance.describe_source(source) | {"first_seed": int(seeds[0]), "images": len(images)},
        "library": image_metrics.LIBRARY,
        "versions": provenance.versions(),
    }
    figures: dict[str, dict[str, Any]] = {}
    for name, of in (("", images), ("bilinear_", bilinear)):
        values = {
            **image_metrics.against(of, real),
            "consistency_psnr": image_metrics.psnr(small_images.smaller(of, factor), given),
            "colour_drift": _drift(of, given),
        }
        figures |= {f"{name}{key}": {"value": value, "receipt": receipt} for key, value in values.items()}
    return figures


def check(source: Source) -> SmallImages:
    """What a source enlarges.

    Raises:
      UserError: where it enlarges nothing.
    """
    if source.small is None:
        raise UserError(f"metrics={METRIC}: this run draws from noise alone; expected one that enlarges")
    return source.small


def _drift(images: np.ndarray, others: np.ndarray) -> float:
    means = [part.mean(axis=(1, 2), dtype=np.float64) for part in (images, others)]
    return float(np.sqrt(np.square(means[0] - means[1]).mean()))
