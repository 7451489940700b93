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

    Heusel et al. 2017, eq. 6. The trace of (A B)^1/2 is the sum of the singular values of A^1/2 B^1/2: no square root
    of a small difference is taken, so singular covariances cost no accuracy.
    """
    cross = np.linalg.svd(_root(a.covariance) @ _root(b.covariance), compute_uv=False).sum()
    difference = a.mean - b.mean
    return float(difference @ difference + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * cross)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root, eigenvalues that are rounding taken for zero."""
    values, vectors = np.linalg.eigh(covariance)
    smallest = len(values) * np.finfo(np.float64).eps * values[-1]
    return (vectors * np.sqrt(np.where(values > smallest, values, 0.0))) @ vectors.T
