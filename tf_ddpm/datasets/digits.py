"""The embedded default: 1,797 real handwritten digits, 8x8, that scikit-learn ships (UCI optdigits)."""

import numpy as np
from sklearn import datasets as sklearn_datasets

from tf_ddpm.config import DataConfig
from tf_ddpm.datasets import pictures
from tf_ddpm.datasets.image_set import ImageSet


def load(data: DataConfig) -> ImageSet:
    """All digits as uint8 = round(value / 16 * 255), at `data.image_size` (8x8) and `data.channels` (1)."""
    digits = sklearn_datasets.load_digits()
    pixels = np.round(digits.images / 16.0 * 255.0).astype(np.uint8)[..., None]
    size, channels = data.image_size or (8, 8), data.channels or 1
    images = np.stack([pictures.array_to_array(image, size, channels, data.decoder) for image in pixels])
    return ImageSet(images, digits.target.astype(np.int32), tuple(str(name) for name in range(10)))
