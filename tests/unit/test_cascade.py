"""A cascade of exact denoisers, of which everything is known."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.gaussian import denoiser_of
from tf_ddpm import build
from tf_ddpm.codecs.pixels import Pixels
from tf_ddpm.config import DiffusionConfig, SampleConfig
from tf_ddpm.diffusion import augmentation
from tf_ddpm.sampling import drawing

# Images of 2x2 pixels: MEAN + COMMON g + OWN e, with a normal number g for all pixels and e for each.
MEAN, COMMON, OWN = 0.1, 0.15, 0.1
COVARIANCE = COMMON**2 * np.ones((4, 4)) + OWN**2 * np.eye(4)
MEAN_OF_FOUR = np.full((4, 4), 0.25)
WHOLE = build.chain(DiffusionConfig())
# All stages are linear: what they make of no noise, and of each number of noise alone, says what they make of any.
# x_T of the small image, the noise on it, x_T of the large one.
NOISE = np.concatenate([np.zeros((1, 9)), np.eye(9)]).astype(np.float32)


def exact(covariance, steps, matrix, variance):
    """E[x_0 | x] = MEAN + gain (x - alpha MEAN, further) for each step, where `further` is `matrix` x_0 + noise."""
    chain = build.shorter_chain(SampleConfig(steps=steps), WHOLE)
    gains = []
    for alpha, sigma in zip(chain.levels.alpha, chain.levels.sigma, strict=True):
        maps = np.concatenate([alpha * np.eye(len(covariance)), matrix])
        noise = np.diag([sigma**2] * len(covariance) + [variance] * len(matrix))
        gains.append(covariance @ maps.T @ np.linalg.pinv(maps @ covariance @ maps.T + noise, rcond=1e-12))
    return tf.constant(np.stack(gains), tf.float32)


def drawn(gains, steps, noise, further):
    """Images [B, ...] from 0 to 255 by the solver, `further` [B, m] being known of each, without its mean."""
    sampler = build.sampler(SampleConfig(sampler="dpmpp", steps=steps, clip="none"), WHOLE)

    def eps(x, level):
        known = tf.concat([tf.reshape(x - level.alpha * MEAN, [-1, gains.shape[1]]), further], axis=1)
        x_0 = MEAN + tf.einsum("nm,bm->bn", gains[level.step], known)
        return level.eps(x, tf.reshape(x_0, tf.shape(x)))

    return drawing.draw(sampler, denoiser_of(eps), lambda _: noise, Pixels(), rounded=False)[0]


@tf.function
def cascade(level, told, steps):
    """[10, 4] in [-1, 1]: what two stages make of NOISE, the second of which is told another level perhaps."""
    levels = augmentation.levels()
    alpha, sigma = levels.alpha, levels.sigma
    gains = exact(np.array([[COMMON**2 + OWN**2 / 4]]), steps, np.zeros((0, 1)), 1.0)
    small = drawn(gains, steps, tf.reshape(NOISE[:, 0], [-1, 1, 1, 1]), tf.zeros([10, 0]))
    on_small, x_T = (tf.reshape(part, [-1, 2, 2, 1]) for part in (NOISE[:, 1:5], NOISE[:, 5:]))
    given = drawing.low_res_condition(Pixels(), 2, small, tf.fill([10], level), lambda count: on_small)
    further = tf.reshape(given["low_res"], [-1, 4]) - alpha[told] * MEAN
    gains = exact(COVARIANCE, steps, alpha[told] * MEAN_OF_FOUR, max(sigma[told] ** 2, 1e-9))
    large = drawn(gains, steps, x_T, further)
    return tf.reshape(small, [-1]) / 127.5 - 1.0, tf.reshape(large, [-1, 4]) / 127.5 - 1.0


def moments(level, told=None, steps=400):
    small, large = (part.numpy().astype(np.float64) for part in cascade(level, level if told is None else told, steps))
    apart = large[1:] - large[0]
    return small, large, large[0], apart.T @ apart


@pytest.mark.parametrize("level", [0, 100, 400])
def test_exact_stages_draw_the_datas_mean_and_covariance_at_any_augmentation(level):
    _, _, mean, covariance = moments(level)
    np.testing.assert_allclose(mean, MEAN, atol=1e-3)
    np.testing.assert_allclose(covariance, COVARIANCE, atol=0.02 * COVARIANCE[0, 0])


def test_without_augmentation_the_small_image_is_kept():
    small, large, _, _ = moments(0)
    np.testing.assert_allclose(large.mean(axis=1), small, atol=1e-3)


def test_a_stage_that_takes_a_noisy_image_for_a_clean_one_draws_another_distribution():
    """Why the network is told the level: what it takes for clean keeps its noise."""
    assert moments(400, told=0)[3][0, 0] > 1.5 * COVARIANCE[0, 0]
