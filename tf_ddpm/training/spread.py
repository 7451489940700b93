"""Some images of a set, spread evenly over it: enough to know it by, and read a few at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tf_ddpm.datasets.image_set import ImageSet
from tf_ddpm.runtime.progress import Progress
from tf_ddpm.sampling.first_stage import rows_at_once


def places(images: ImageSet, count: int) -> np.ndarray:
    """Where `count` images are, or all, if there are no more: int64 [count or fewer], ascending."""
    return np.unique(np.linspace(0, len(images) - 1, count).astype(np.int64))


def parts(images: ImageSet, count: int, what: str) -> Iterator[np.ndarray]:
    """The same images uint8 [b, H, W, C], b of them in memory at once: fewer of large ones.

    Args:
      what: is done with them, in words.
    """
    some, rows = places(images, count), rows_at_once(images.image_shape)
    with Progress(len(some), what) as bar:
        for start in range(0, len(some), rows):
            yield images.images[some[start : start + rows]]
            bar.update(len(some[start : start + rows]))
