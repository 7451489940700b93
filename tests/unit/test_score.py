"""The variance-exploding chain, denoising score matching, annealed Langevin dynamics."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.gaussian import EXACT, MEAN, STD, denoiser_of
from tf_ddpm import build
from tf_ddpm.config import DiffusionConfig, SampleConfig
from tf_ddpm.diffusion import objectives, samplers, schedules
from tf_ddpm.diffusion.chain import Chain

VE = Chain(schedules.betas("ve", 12, sigma_min=0.02, sigma_max=40.0), variance="fixed_small")
SIGMA = np.geomspace(0.02, 40.0, 12)


def column(*values):
    return tf.constant(np.array(values, np.float64)[:, None])


def test_the_levels_of_ve_grow_geometrically():
    np.testing.assert_allclose(VE.levels.relative_sigma, SIGMA, rtol=1e-9)
    np.testing.assert_allclose(schedules.relative_sigmas(schedules.betas("ve", 1)), [50.0])
    whole = build.chain(DiffusionConfig(schedule="ve", sigma_min=0.1, sigma_max=7.0, timesteps=5))
    np.testing.assert_allclose(whole.levels.relative_sigma[[0, -1]], [0.1, 7.0], rtol=1e-9)


def test_its_equations_are_those_of_exploding_variance_in_x_over_alpha():
    """Song et al. 2021 ("Score-based"), eq. 7 and appendix F: x_t = x_0 + sigma_t eps, and ancestral sampling."""
    x_0, x = 0.3, -1.7  # x is x_t / alpha
    for t in (1, 5, 11):
        alpha, alpha_prev = VE.levels.alpha[t], VE.levels.alpha[t - 1]
        mean, log_variance = VE.q_posterior(column(x_0), column(alpha * x), tf.constant([t]))
        kept = SIGMA[t - 1] ** 2 / SIGMA[t] ** 2
        assert mean.numpy().item() / alpha_prev == pytest.approx(kept * x + (1 - kept) * x_0, rel=1e-9)
        variance = kept * (SIGMA[t] ** 2 - SIGMA[t - 1] ** 2)
        assert np.exp(log_variance.numpy().item()) / alpha_prev**2 == pytest.approx(variance, rel=1e-6)
        noised = VE.levels.at(tf.constant([t]), column(x_0)).noised(column(x_0), column(0.7)).numpy().item()
        assert noised / alpha == pytest.approx(x_0 + SIGMA[t] * 0.7, rel=1e-9)


def test_l_simple_is_denoising_score_matching_weighed_by_sigma_squared():
    """Vincent 2011, eq. 11, with Song & Ermon 2019's weights lambda(sigma) = sigma^2, of x / alpha."""
    rng = np.random.default_rng(0)
    x_0, eps, t = tf.constant(rng.normal(size=(4, 6))), tf.constant(rng.normal(size=(4, 6))), np.array([0, 3, 8, 11])
    level = VE.levels.at(tf.constant(t), x_0)
    denoiser = denoiser_of(lambda x, level: tf.tanh(x))
    losses = objectives.simple_loss(denoiser, x_0, level, eps)
    noisy = x_0 + SIGMA[t][:, None] * eps
    score = -tf.tanh(level.alpha * noisy) / SIGMA[t][:, None]
    matched = np.mean((score - (x_0 - noisy) / SIGMA[t][:, None] ** 2) ** 2, axis=1)
    np.testing.assert_allclose(losses, SIGMA[t] ** 2 * matched, rtol=1e-9)


def test_a_step_at_a_level_is_algorithm_1():
    sampler = samplers.AnnealedLangevin(VE, clip="none", langevin_steps=3, langevin_size=0.1)
    assert sampler.draws == sampler.calls == 3
    noises, t = column(0.4, -1.0, 2.0), 7
    alpha, sigma = VE.levels.alpha[t], SIGMA[t]
    x = 1.3  # x / alpha
    found, _, _ = sampler.step(
        EXACT, column(alpha * x), tf.constant(t), lambda k: tf.reshape(tf.gather(noises, k), [1, 1]), ()
    )
    size = 0.1 * sigma**2  # epsilon sigma_i^2 / sigma_L^2
    for noise in noises.numpy()[:, 0]:
        score = -(x - MEAN) / (STD**2 + sigma**2)  # of N(MEAN, STD^2), noised
        x = x + size / 2 * score + np.sqrt(size) * noise
    assert found.numpy().item() / VE.levels.alpha[t - 1] == pytest.approx(x, rel=1e-9)


@pytest.mark.parametrize("denoise", [True, False])
def test_its_last_step_is_the_papers_or_the_predicted_image(denoise):
    sampler = samplers.AnnealedLangevin(VE, "none", langevin_steps=1, langevin_size=0.1, langevin_denoise=denoise)
    x, sigma = 1.3, SIGMA[0]
    found, _, _ = sampler.step(EXACT, column(VE.levels.alpha[0] * x), tf.constant(0), lambda _: column(0.4), ())
    score = -(x - MEAN) / (STD**2 + sigma**2)
    moved = x + 0.1 * sigma**2 / 2 * score + np.sqrt(0.1) * sigma * 0.4
    assert found.numpy().item() == pytest.approx(x + sigma**2 * score if denoise else moved, rel=1e-9)


def test_annealed_langevin_dynamics_have_the_gaussian_noised_to_each_level():
    """Each of the T steps at a level is x -> r x + noise: its variance is r^2T v + s (1 + r^2 + ... + r^(2T - 2))."""
    count, size = 200, 0.05
    levels = Chain(schedules.betas("ve", 40, sigma_min=0.02, sigma_max=40.0))
    sampler = samplers.AnnealedLangevin(levels, clip="none", langevin_steps=count, langevin_size=size)
    mean, variance, sigma = 0.0, 1.0, levels.levels.relative_sigma
    step = tf.function(lambda x, t: sampler.step(EXACT, x, t, lambda _: tf.zeros([2, 1], tf.float64), ())[0])
    for t in range(39, 0, -1):
        zero, one = step(column(0.0, 1.0), tf.constant(t)).numpy()[:, 0]
        slope, alpha_prev = one - zero, np.sqrt(levels.alpha_bar_prev[t])
        r = (slope * levels.levels.alpha[t] / alpha_prev) ** (1 / count)
        mean = zero + slope * mean
        variance = slope**2 * variance + alpha_prev**2 * size * sigma[t] ** 2 * (1 - r ** (2 * count)) / (1 - r**2)
        assert np.sqrt(variance) / alpha_prev == pytest.approx(np.sqrt(STD**2 + sigma[t] ** 2), rel=0.03)
    assert mean == pytest.approx(MEAN, abs=2e-3)


def test_the_last_step_of_all_takes_the_predicted_image():
    sampler = samplers.AnnealedLangevin(VE, clip="none", langevin_steps=3)
    x, x_0, _ = sampler.step(EXACT, column(0.3), tf.constant(0), lambda _: column(0.5), ())
    np.testing.assert_array_equal(x, x_0)


def test_the_configuration_asks_for_it():
    sample = SampleConfig(sampler="annealed_langevin", steps=10, spacing="linspace", langevin_steps=5)
    sampler = build.sampler(sample, build.chain(DiffusionConfig(schedule="ve")))
    assert isinstance(sampler, samplers.AnnealedLangevin) and sampler.calls == 5 and len(sampler.chain) == 10
    ratio = np.diff(np.log(sampler.chain.levels.relative_sigma))
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=2e-3)  # geometric, but for the rounding of steps
