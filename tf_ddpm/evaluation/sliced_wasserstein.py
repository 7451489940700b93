"""How far two sets of images are apart, without a pretrained network (Karras et al. 2018)."""

from __future__ import annotations

import numpy as np

_SIDE, _PATCHES, _DIRECTIONS = 7, 64, 256  # of a patch; of an image and level; on which they are projected
_SMALLEST = 8  # side of the coarsest level
_SEED = 1802


class SlicedWasserstein:
    """The sliced Wasserstein distance between patches of a Laplacian pyramid.

    Karras et al. 2018, "Progressive growing of GANs" (1710.10196), section 5: patches of 7x7 pixels of each level,
    brought to mean 0 and variance 1 of each channel, are projected on random directions, and the sorted projections of
    two sets are compared. Here both sets are brought there by the mean and variance of the real one, so that a set
    that is too dark or too flat is far away.

    Args:
      real: uint8 [N, H, W, C].
    """

    def __init__(self, real: np.ndarray):
        self._count, rng = len(real), np.random.default_rng(_SEED)
        levels = _pyramid(real)
        self._levels = [_Level(level, rng) for level in levels]
        self._real = [own(level) for own, level in zip(self._levels, levels, strict=True)]

    def __call__(self, drawn: np.ndarray) -> float:
        """The distance of as many images uint8 [N, H, W, C], the mean over the levels.

        Raises:
          ValueError: for another number of images.
        """
        if len(drawn) != self._count:
            raise ValueError(f"{len(drawn)} images; expected {self._count}")
        parts = zip(self._levels, _pyramid(drawn), self._real, strict=True)
        return float(np.mean([np.mean(np.abs(own(level) - real)) for own, level, real in parts]))


class _Level:
    """Where a level's patches lie and how they are projected, as the real images and the generator say."""

    def __init__(self, real: np.ndarray, rng: np.random.Generator):
        height, width, channels = real.shape[1:]
        self._side = min(_SIDE, height, width)
        most = (height - self._side + 1, width - self._side + 1)
        self._corners = rng.integers(0, most, size=(len(real), _PATCHES, 2))
        self._mean, self._std = real.mean(axis=(0, 1, 2)), real.std(axis=(0, 1, 2)) + 1e-6
        directions = rng.normal(size=(self._side**2 * channels, _DIRECTIONS))
        self._directions = directions / np.linalg.norm(directions, axis=0)

    def __call__(self, level: np.ndarray) -> np.ndarray:
        """The sorted projections [N * patches, directions] of images [N, h, w, C]."""
        shown = (level - self._mean) / self._std
        windows = np.lib.stride_tricks.sliding_window_view(shown, (self._side, self._side), axis=(1, 2))
        rows, (top, left) = np.arange(len(level))[:, None], np.moveaxis(self._corners, -1, 0)
        patches = windows[rows, top, left].reshape(-1, len(self._directions))
        return np.sort(patches @ self._directions, axis=0)


def _pyramid(images: np.ndarray) -> list[np.ndarray]:
    """Laplacian levels, the finest first, and the coarsest image; each half is made of the means of 2x2 pixels."""
    levels, image = [], images.astype(np.float32)
    while min(image.shape[1:3]) >= 2 * _SMALLEST and not any(side % 2 for side in image.shape[1:3]):
        rows, height, width, channels = image.shape
        half = image.reshape(rows, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
        levels.append(image - half.repeat(2, axis=1).repeat(2, axis=2))
        image = half
    return [*levels, image]
