"""PSNR and SSIM of images against others, by TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tf_ddpm.runtime import memory

LIBRARY = "tf.image.psnr and tf.image.ssim of TensorFlow"
_ROWS = 256  # at once
_WINDOW = 11  # pixels of SSIM's filter


def check_room(count: int, image_shape: tuple[int, int, int]) -> None:
    """Whether there is memory to compare so many images (height, width, channels) with the real ones.

    Raises:
      UserError: where there is not.
    """
    # Those that were drawn, the real ones, others beside them, and floats of three sets of those looked at together.
    size = (3.0 * count + 3.0 * 4 * min(count, _ROWS)) * np.prod(image_shape)
    memory.check(size, f"comparing {count} images with the real ones", "compare fewer: --num_images")


def against(images: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """`psnr` in dB and, of images of at least 11 pixels a side, `ssim` of uint8 [N, H, W, C], means over N."""
    found = {"psnr": psnr(images, real)}
    if min(real.shape[1:3]) >= _WINDOW:
        found["ssim"] = _mean(tf.image.ssim, images, real)
    return found


def psnr(images: np.ndarray, others: np.ndarray) -> float:
    """In dB, the mean over the images."""
    return _mean(tf.image.psnr, images, others)


def _mean(metric: Any, images: np.ndarray, others: np.ndarray) -> float:
    parts = [
        metric(tf.constant(images[i : i + _ROWS]), tf.constant(others[i : i + _ROWS]), 255).numpy()
        for i in range(0, len(images), _ROWS)
    ]
    return float(np.minimum(np.concatenate(parts), 100.0).mean())  # (of two equal images PSNR is infinite)
