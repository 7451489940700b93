"""FID, KID, precision and recall against closed forms and sums over all pairs."""

import numpy as np
import pytest

from tf_ddpm.evaluation import feature_metrics
from tf_ddpm.evaluation.feature_metrics import (
    Moments,
    frechet_distance,
    kernel_distance,
    moments,
    neighbours,
    precision_and_recall,
)

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


def test_moments_are_numpys():
    features = RNG.normal(size=(2345, 7)).astype(np.float32) + 5
    found = moments(features)
    np.testing.assert_allclose(found.mean, features.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-9)


def test_kernel_distance_is_the_sum_over_all_pairs_but_a_row_with_itself():
    a, b = RNG.normal(size=(5, 3)), RNG.normal(size=(4, 3)) + 1
    kernel = lambda x, y: (x @ y / 3 + 1) ** 3  # noqa: E731
    within = [np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    expected = sum(within) - 2 * np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_is_unbiased():
    found = [kernel_distance(RNG.normal(size=(20, 4)), RNG.normal(size=(20, 4))) for _ in range(300)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0


def test_blocks_change_nothing(monkeypatch):
    a, b = RNG.normal(size=(50, 4)), RNG.normal(size=(41, 4))
    whole = kernel_distance(a, b), precision_and_recall(a, b), neighbours(a, b, 3)
    monkeypatch.setattr(feature_metrics, "_BLOCK", 7)
    assert kernel_distance(a, b) == pytest.approx(whole[0], rel=1e-12)
    assert precision_and_recall(a, b) == whole[1]
    np.testing.assert_array_equal(neighbours(a, b, 3)[0], whole[2][0])


def test_neighbours_are_those_of_all_distances():
    a, b = RNG.normal(size=(30, 4)), RNG.normal(size=(40, 4))
    distances = np.linalg.norm(a[:, None] - b[None], axis=2)
    indices, found = neighbours(a, b, 3)
    np.testing.assert_array_equal(indices, np.argsort(distances, axis=1)[:, :3])
    np.testing.assert_allclose(found, np.sort(distances, axis=1)[:, :3], rtol=1e-9)


def test_precision_and_recall_tell_a_dropped_mode_from_a_strange_one():
    left, right = RNG.normal(size=(200, 2)), RNG.normal(size=(200, 2)) + 100
    both = np.concatenate([left, right])
    assert precision_and_recall(both, both) == (1.0, 1.0)
    precision, recall = precision_and_recall(both, RNG.normal(size=(200, 2)))  # one mode of two
    assert precision > 0.9 and 0.4 < recall < 0.55
    precision, recall = precision_and_recall(left, both)  # half of it strange
    assert 0.45 < precision <= 0.5 + 1e-9 and recall > 0.9


def test_wide_rows_are_looked_at_in_smaller_blocks(monkeypatch):
    points, others = (np.random.default_rng(seed).normal(size=(40, 50)) for seed in range(2))
    expected = neighbours(points, others, 3)
    monkeypatch.setattr(feature_metrics, "_BLOCK_BYTES", 7 * 8 * 50 + 1)
    assert [len(block) for _, block in feature_metrics._blocks(points)] == [7] * 5 + [5]
    for ours, theirs in zip(neighbours(points, others, 3), expected, strict=True):
        np.testing.assert_allclose(ours, theirs)
