"""The Fréchet distance."""

import numpy as np
import pytest

from tf_ddpm.frechet import Moments, frechet_distance, moments

RNG = np.random.default_rng(0)


def test_of_diagonal_gaussians_is_the_closed_form():
    mean_a, mean_b, std_a, std_b = RNG.normal(size=(4, 6))
    a, b = (Moments(m, np.diag(s**2)) for m, s in ((mean_a, std_a), (mean_b, std_b)))
    expected = np.sum((mean_a - mean_b) ** 2) + np.sum((np.abs(std_a) - np.abs(std_b)) ** 2)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_does_not_depend_on_the_axes():
    rotation, _ = np.linalg.qr(RNG.normal(size=(5, 5)))
    a, b = (moments(RNG.normal(size=(50, 5)) * scale) for scale in (1.0, 3.0))
    turned = [Moments(rotation @ m.mean, rotation @ m.covariance @ rotation.T) for m in (a, b)]
    assert frechet_distance(*turned) == pytest.approx(frechet_distance(a, b), rel=1e-10)


def test_of_correlated_gaussians_is_that_of_the_matrix_square_root():
    from scipy.linalg import sqrtm

    a, b = (moments(RNG.normal(size=(30, 4)) @ RNG.normal(size=(4, 4))) for _ in range(2))
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(
        a.covariance + b.covariance - 2 * sqrtm(a.covariance @ b.covariance).real
    )
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_of_singular_covariances_and_of_a_set_with_itself():
    features = RNG.normal(size=(10, 40))
    assert frechet_distance(moments(features), moments(features)) == pytest.approx(0, abs=1e-10)
    flat = Moments(np.zeros(3), np.zeros((3, 3)))
    assert frechet_distance(flat, Moments(np.ones(3), np.diag([4.0, 0.0, 1.0]))) == pytest.approx(3 + 5)
