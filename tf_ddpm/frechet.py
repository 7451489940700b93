"""The Fréchet distance between two sets of features (Heusel et al. 2017). NumPy float64 only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """`mean` [D] and `covariance` [D, D] of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray


def moments(features: np.ndarray) -> Moments:
    """Mean and unbiased covariance of features [N, D]."""
    features = np.asarray(features, np.float64)
    return Moments(features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)))


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^1/2), the squared 2-Wasserstein distance of two normals.

    Heusel et al. 2017, eq. 6. The trace of (A B)^1/2 is that of (A^1/2 B A^1/2)^1/2, whose argument is symmetric and
    positive semi-definite, so singular covariances need no special care.
    """
    root = _root(a.covariance)
    middle = root @ b.covariance @ root
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh((middle + middle.T) / 2), 0.0)).sum()
    difference = a.mean - b.mean
    return float(difference @ difference + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * cross)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
