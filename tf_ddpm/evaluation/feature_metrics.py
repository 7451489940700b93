"""How far two sets of features are apart: FID, KID, precision and recall. NumPy alone; float64 where sums are taken.

Features are [N, D]. Large products are made in blocks of fixed size, so that the same features give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tf_ddpm.runtime.progress import Progress

_BLOCK, _BLOCK_BYTES = 1000, 2**28  # rows of a block, and the bytes that it takes at most


class Moments(NamedTuple):
    """`mean` [D] and `covariance` [D, D] of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray


def moments(features: np.ndarray) -> Moments:
    """Mean and unbiased covariance of features [N, D]."""
    features = np.asarray(features)
    mean = sum(block.sum(axis=0) for _, block in _blocks(features)) / len(features)
    covariance = np.zeros([len(mean), len(mean)])
    with Progress(len(features), "measuring moments") as bar:
        for _, block in _blocks(features):
            centred = block - mean
            covariance += centred.T @ centred
            bar.update(len(block))
    return Moments(mean, covariance / max(len(features) - 1, 1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^1/2), the squared 2-Wasserstein distance of two normals.

    Heusel et al. 2017, eq. 6. The trace of (A B)^1/2 is the sum of the singular values of A^1/2 B^1/2: no square root
    of a small difference is taken, so singular covariances cost no accuracy.
    """
    with Progress(1, "measuring FID"):
        cross = np.linalg.svd(_root(a.covariance) @ _root(b.covariance), compute_uv=False).sum()
    difference = a.mean - b.mean
    return float(difference @ difference + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * cross)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root, eigenvalues that are rounding taken for zero."""
    values, vectors = np.linalg.eigh(covariance)
    smallest = len(values) * np.finfo(np.float64).eps * values[-1]
    return (vectors * np.sqrt(np.where(values > smallest, values, 0.0))) @ vectors.T


def kernel_distance(a: np.ndarray, b: np.ndarray, within: tuple[float, float] | None = None) -> float:
    """The kernel inception distance: the unbiased squared MMD under (x.y / D + 1)^3 (Binkowski et al. 2018, eq. 4).

    Over the whole sets, without subsets drawn at random. It can be below 0.

    Args:
      within: `kernel_within` of the two, where that is known.
    """
    within = within or (kernel_within(a), kernel_within(b))
    return float(sum(within) - 2.0 * _kernel_sum(a, b) / (len(a) * float(len(b))))


def kernel_within(x: np.ndarray) -> float:
    """The mean of the kernel over all pairs of two rows."""
    return float((_kernel_sum(x, x) - _kernel_diagonal(x)) / (len(x) * (len(x) - 1.0)))


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    total = 0.0
    with Progress(len(a), "measuring KID") as bar:
        for _, rows in _blocks(a):
            for _, columns in _blocks(b):
                total += ((rows @ columns.T / a.shape[1] + 1.0) ** 3).sum()
            bar.update(len(rows))
    return total


def _kernel_diagonal(a: np.ndarray) -> float:
    return sum(((np.square(rows).sum(axis=1) / a.shape[1] + 1.0) ** 3).sum() for _, rows in _blocks(a))


def precision_and_recall(
    real: np.ndarray, generated: np.ndarray, k: int = 3, real_radii: np.ndarray | None = None
) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, eq. 1 to 3).

    Precision is the share of generated features within the k-th nearest neighbour's distance of some real one, recall
    the share of real features within that of some generated one.

    Args:
      real_radii: [N], how far the k-th neighbour of each real one is, where that is known.
    """
    if real_radii is None:
        real_radii = radii(real, k)
    generated_radii = radii(generated, k)
    precise, recalled = np.zeros(len(generated), bool), np.zeros(len(real), bool)
    with Progress(len(real), "measuring precision and recall") as bar:
        for start, rows in _blocks(real):
            here = slice(start, start + len(rows))
            for first, columns in _blocks(generated):
                there = slice(first, first + len(columns))
                distances = _distances(rows, columns)
                precise[there] |= (distances <= real_radii[here, None]).any(axis=0)
                recalled[here] |= (distances <= generated_radii[there]).any(axis=1)
            bar.update(len(rows))
    return float(precise.mean()), float(recalled.mean())


def radii(points: np.ndarray, k: int) -> np.ndarray:
    """How far the k-th neighbour of each point is, [N]."""
    return neighbours(points, points, k + 1)[1][:, k]  # a point is its own nearest


def neighbours(points: np.ndarray, others: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices int64 [N, k], Euclidean distances [N, k]) of each point's k nearest of `others`, the nearest first."""
    indices, distances = [], []
    with Progress(len(points), "looking for neighbours") as bar:
        for _, block in _blocks(points):
            near, far = _neighbours_of(block, others, k)
            indices.append(near)
            distances.append(far)
            bar.update(len(block))
    return np.concatenate(indices), np.concatenate(distances)


def _neighbours_of(block: np.ndarray, others: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`neighbours` of the points of a block."""
    best = np.zeros([len(block), 0]), np.zeros([len(block), 0], np.int64)
    for start, columns in _blocks(others):
        found = np.concatenate([best[0], _distances(block, columns)], axis=1)
        names = np.broadcast_to(np.arange(start, start + len(columns)), [len(block), len(columns)])
        names = np.concatenate([best[1], names], axis=1)
        nearest = np.argpartition(found, min(k, found.shape[1]) - 1, axis=1)[:, :k]
        found, names = (np.take_along_axis(part, nearest, axis=1) for part in (found, names))
        order = np.argsort(found, axis=1, kind="stable")
        best = np.take_along_axis(found, order, axis=1), np.take_along_axis(names, order, axis=1)
    return best[1], best[0]


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2.0 * (a @ b.T)
    return np.sqrt(np.maximum(squared, 0.0))


def _blocks(features: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float64 rows) of each block."""
    rows = _rows(features.shape[1])
    for start in range(0, len(features), rows):
        yield start, features[start : start + rows].astype(np.float64)


def _rows(width: int) -> int:
    return max(1, min(_BLOCK, _BLOCK_BYTES // (8 * width)))


def working(width: int) -> float:
    """Bytes of the blocks that are held at once, of rows so wide."""
    return 3.0 * 8 * width * _rows(width)
