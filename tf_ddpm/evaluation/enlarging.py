"""How good enlarged images are: against the real ones, and against what they were made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import provenance
from tf_ddpm.sampling import small_images
from tf_ddpm.sampling.small_images import SmallImages
from tf_ddpm.sampling.source import Source

METRIC = "enlarging"
_VERSION = 1  # of how it is computed
_ROWS = 256  # at once
_WINDOW = 11  # pixels of SSIM's filter


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
        "library": "tf.image.psnr and tf.image.ssim of TensorFlow",
        "versions": provenance.versions(),
    }
    figures: dict[str, dict[str, Any]] = {}
    for name, of in (("", images), ("bilinear_", bilinear)):
        values = {
            "psnr": _mean(tf.image.psnr, of, real),
            "ssim": _mean(tf.image.ssim, of, real) if min(real.shape[1:3]) >= _WINDOW else None,
            "consistency_psnr": _mean(tf.image.psnr, small_images.smaller(of, factor), given),
            "colour_drift": _drift(of, given),
        }
        figures |= {f"{name}{key}": {"value": value, "receipt": receipt} for key, value in values.items()}
    return {name: figure for name, figure in figures.items() if figure["value"] is not None}


def check(source: Source) -> SmallImages:
    """What a source enlarges.

    Raises:
      UserError: where it enlarges nothing.
    """
    if source.small is None:
        raise UserError(f"metrics={METRIC}: this run draws from noise alone; expected one that enlarges")
    return source.small


def _mean(metric: Any, images: np.ndarray, others: np.ndarray) -> float:
    parts = [
        metric(tf.constant(images[i : i + _ROWS]), tf.constant(others[i : i + _ROWS]), 255).numpy()
        for i in range(0, len(images), _ROWS)
    ]
    return float(np.minimum(np.concatenate(parts), 100.0).mean())  # (of two equal images PSNR is infinite)


def _drift(images: np.ndarray, others: np.ndarray) -> float:
    means = [part.mean(axis=(1, 2), dtype=np.float64) for part in (images, others)]
    return float(np.sqrt(np.square(means[0] - means[1]).mean()))
