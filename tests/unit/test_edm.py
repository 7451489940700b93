"""What Karras et al. 2022 add: levels drawn lognormally, preconditioning, their grid, churn."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from tests.support.gaussian import EXACT, MEAN, STD, chain
from tests.unit.test_samplers import final_std
from tf_ddpm import build, randomness
from tf_ddpm.config import DiffusionConfig, SampleConfig
from tf_ddpm.diffusion import noising, objectives, samplers, schedules
from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.level_sampling import LogNormalLevels
from tf_ddpm.diffusion.parametrisation import PARAMETRISATIONS, EDMPrediction

COSINE = build.chain(DiffusionConfig(schedule="cosine"))


def column(*values):
    return tf.constant(np.array(values, np.float64)[:, None])


def test_lognormal_levels_have_the_integral_of_the_density_over_their_cells():
    levels, mean, std = COSINE.levels, -0.85, 1.2
    found, log_sigma = LogNormalLevels(levels, mean, std).probabilities, np.log(levels.relative_sigma)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    for low, high in ((0, 30), (94, 289), (600, 999)):
        ends = [log_sigma[0] if low == 0 else 0.5 * (log_sigma[low - 1] + log_sigma[low])]
        ends += [log_sigma[-1] if high == 999 else 0.5 * (log_sigma[high] + log_sigma[high + 1])]
        u = np.linspace(*ends, 20_001)
        density = np.exp(-0.5 * ((u - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
        # The table ends at sigma 0.0064, below which the normal distribution has 0.02 % of its mass.
        assert found[low : high + 1].sum() == pytest.approx(np.trapezoid(density, u), rel=2e-3)


def test_lognormal_levels_are_drawn_as_often_as_they_are_probable():
    sampler, like = LogNormalLevels(COSINE.levels, -1.2, 1.2), tf.zeros([40_000, 1])
    level, weight = sampler.draw(randomness.row_address(3, tf.constant(5), tf.constant(0)), like)
    log_sigma = np.log(level.sigma / level.alpha)
    assert np.mean(log_sigma) == pytest.approx(-1.2, abs=0.03) and np.std(log_sigma) == pytest.approx(1.2, abs=0.03)
    np.testing.assert_array_equal(weight, 1.0)
    part, _ = sampler.draw(randomness.row_address(3, tf.constant(5), tf.constant(7)), like[:9])
    np.testing.assert_array_equal(part.step, level.step[7:16])  # each row has its own numbers


def test_with_sigma_data_1_the_edm_output_is_the_negative_v():
    x_0, eps = column(0.3, -1.0, 0.9, 0.1), column(0.5, -2.0, 0.1, 1.0)
    level = COSINE.levels.at(tf.constant([0, 300, 700, 990]), x_0)
    edm, v, x = EDMPrediction(1.0), PARAMETRISATIONS["v"], level.noised(x_0, eps)
    output = column(0.4, 0.2, -1.0, 2.0)
    np.testing.assert_allclose(edm.x_0(x, level, -output), v.x_0(x, level, output), rtol=1e-12)
    np.testing.assert_allclose(edm.target(x_0, eps, level), -v.target(x_0, eps, level), rtol=1e-12)
    np.testing.assert_allclose(edm.network_input(x, level), x, rtol=1e-12)
    snr = tf.reshape(level.snr, [-1])
    np.testing.assert_allclose(edm.error_scale(snr), v.error_scale(snr), rtol=1e-12)


@pytest.mark.parametrize("sigma_data", [0.5, 1.7])
def test_preconditioning_is_table_1s_and_gives_inputs_and_targets_of_unit_variance(sigma_data):
    edm, rng = EDMPrediction(sigma_data), np.random.default_rng(0)
    x_0, eps = (tf.constant(scale * rng.normal(size=(4, 200_000))) for scale in (sigma_data, 1.0))
    level = COSINE.levels.at(tf.constant([10, 300, 700, 990]), x_0)
    x, target = level.noised(x_0, eps), edm.target(x_0, eps, level)
    np.testing.assert_allclose(np.var(target, axis=1), 1.0, rtol=0.02)
    np.testing.assert_allclose(np.var(edm.network_input(x, level), axis=1), 1.0, rtol=0.02)
    np.testing.assert_allclose(edm.x_0(x, level, target), x_0, atol=1e-9)
    sigma = level.sigma / level.alpha  # the paper's, and its table 1
    skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    out = sigma * sigma_data / np.sqrt(sigma_data**2 + sigma**2)
    np.testing.assert_allclose(edm.x_0(x, level, eps), skip * x / level.alpha + out * eps, rtol=1e-9)
    np.testing.assert_allclose(edm.network_input(x, level), x / level.alpha / np.sqrt(sigma**2 + sigma_data**2))
    np.testing.assert_allclose(edm.error_scale(tf.reshape(level.snr, [-1])), np.reshape(out, -1) ** -2.0, rtol=1e-9)


def test_an_edm_network_is_told_a_quarter_of_log_sigma_on_every_chain():
    whole = build.chain(DiffusionConfig(schedule="cosine", prediction="edm"))
    np.testing.assert_allclose(whole.levels.time, np.log(COSINE.levels.relative_sigma) / 4, rtol=1e-12)
    short = build.shorter_chain(SampleConfig(steps=7, spacing="karras"), whole)
    np.testing.assert_allclose(short.levels.time, np.log(short.levels.relative_sigma) / 4, rtol=1e-9)
    np.testing.assert_array_equal(whole.respaced(np.array([3, 9])).levels.time, whole.levels.time[[3, 9]])


def test_an_edm_network_has_the_loss_of_a_v_network_and_draws_the_same():
    """The same function F = -v of the same images, each told the same time."""
    diffusion = DiffusionConfig(schedule="cosine", prediction="edm")
    network = lambda x, level: 0.3 * x + 0.1  # noqa: E731
    edm = Denoiser(lambda x, level: -network(x, level), build.parametrisation(diffusion))
    v = Denoiser(network, build.parametrisation(dataclasses.replace(diffusion, prediction="v")))
    x_0, eps = column(0.3, -1.0), column(0.5, -2.0)
    level = COSINE.levels.at(tf.constant([50, 700]), x_0)
    losses = [objectives.simple_loss(denoiser, x_0, level, eps) for denoiser in (edm, v)]
    np.testing.assert_allclose(*losses, rtol=1e-12)
    sampler = samplers.DPMSolverPP(COSINE.respaced(schedules.strided_timesteps(1000, 10)))
    drawn = [samplers.sample_loop(sampler, denoiser, eps, lambda k: None)[0] for denoiser in (edm, v)]
    np.testing.assert_allclose(*drawn, rtol=1e-9)


def test_the_karras_grid_is_eq_5_from_end_to_end():
    found = schedules.karras_sigmas(0.002, 80.0, 18)
    i = np.arange(18)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(found[::-1], expected, rtol=1e-12)
    np.testing.assert_array_equal(schedules.karras_sigmas(0.002, 80.0, 1), [80.0])


def test_a_chain_through_its_own_levels_is_itself_and_one_between_them_has_what_is_asked_for():
    kept = np.array([0, 10, 500, 999])
    same, short = COSINE.at_sigmas(COSINE.levels.relative_sigma[kept]), COSINE.respaced(kept)
    for name in ("alpha_bar", "betas", "posterior_variance", "timesteps"):
        np.testing.assert_allclose(getattr(same, name), getattr(short, name), rtol=1e-9, atol=1e-12)
    wanted = np.array([0.0071, 0.5, 3.0, 79.0])
    between = COSINE.at_sigmas(wanted)
    np.testing.assert_allclose(between.levels.relative_sigma, wanted, rtol=1e-10)  # 1 - alpha_bar rounds
    position = tf.constant(between.timesteps)
    exact = COSINE.levels.between(position, tf.zeros([4, 1], tf.float64))
    np.testing.assert_allclose(between.levels.alpha, exact.alpha[:, 0], rtol=1e-7)
    np.testing.assert_allclose(between.levels.time, exact.time, rtol=1e-6)
    assert np.all(between.timesteps % 1 > 0)


def test_a_karras_grid_visits_the_ends_that_are_wanted():
    sample = SampleConfig(steps=9, spacing="karras")
    ends = build.shorter_chain(sample, COSINE).levels.relative_sigma[[0, -1]]
    np.testing.assert_allclose(ends, [COSINE.levels.relative_sigma[0], 80.0], rtol=1e-9)
    whole = build.shorter_chain(SampleConfig(spacing="karras", sigma_max=10.0), COSINE).levels.relative_sigma
    assert len(whole) == 1000 and np.isclose(whole[-1], 10.0)  # as many as the chain has
    sample = dataclasses.replace(sample, sigma_min=0.02, sigma_max=10.0)
    ends = build.shorter_chain(sample, COSINE).levels.relative_sigma[[0, -1]]
    np.testing.assert_allclose(ends, [0.02, 10.0], rtol=1e-9)


@pytest.mark.parametrize("churn", [0.0, 20.0, 100.0])
def test_churn_keeps_the_gaussian(churn):
    whole, _ = chain(1)
    errors = []
    for steps in (100, 200, 400):
        short = whole.at_sigmas(schedules.karras_sigmas(whole.levels.relative_sigma[0], 80.0, steps))
        sampler = samplers.Heun(short, clip="none", churn=churn)
        assert sampler.draws == (churn > 0) and len(sampler.levels) == steps * (1 + sampler.draws)
        errors.append(abs(final_std(sampler, EXACT, stochastic=churn > 0) - STD))
    assert errors[2] < errors[0] / 5 and errors[2] < 1e-3, errors


def test_churn_stays_between_its_bounds_and_below_the_chains_largest_level():
    whole, _ = chain(1)
    short = whole.at_sigmas(schedules.karras_sigmas(0.02, whole.levels.relative_sigma[-1], 10))
    sampler = samplers.Heun(short, churn=40.0, churn_min=0.5, churn_max=1e6, churn_noise=1.003)
    s = short.levels.relative_sigma
    back = sampler.levels.relative_sigma[10:]
    expected = np.where(s >= 0.5, np.minimum(s * math.sqrt(2.0), whole.levels.relative_sigma[-1]), s)
    np.testing.assert_allclose(back, expected, rtol=1e-9)
    x = tf.constant([[0.7]], tf.float64)
    noisy, plain = (sampler.step(EXACT, x, tf.constant(9), lambda _, n=n: n * x, ())[0].numpy() for n in (1.0, 0.0))
    np.testing.assert_allclose(noisy, plain, rtol=1e-6)  # no room above the chain's largest level
    noisy, plain = (sampler.step(EXACT, x, tf.constant(5), lambda _, n=n: n * x, ())[0].numpy() for n in (1.0, 0.0))
    assert np.abs(noisy - plain).item() > 1e-3


def test_churn_is_spread_over_the_steps_and_its_noise_scaled():
    whole, _ = chain(1)
    short = whole.at_sigmas(schedules.karras_sigmas(0.02, 80.0, 20))
    sampler = samplers.Heun(short, churn=4.0, churn_min=0.05, churn_max=10.0, churn_noise=1.5)
    s = short.levels.relative_sigma
    inside = (s >= 0.05) & (s <= 10.0)
    assert 5 < inside.sum() < 18
    higher = np.where(inside, s * (1 + 4.0 / 20), s)  # Karras et al. 2022, algorithm 2
    np.testing.assert_allclose(sampler.levels.relative_sigma[20:], higher, rtol=1e-9)
    step, x = int(np.flatnonzero(inside)[-2]), tf.constant([[0.7]], tf.float64)
    seen = []

    def network(x, level):
        seen.append((x / level.alpha).numpy().item())
        return tf.zeros_like(x)

    watched, first = Denoiser(network, PARAMETRISATIONS["eps"]), []
    for noise in (1.0, 0.0):
        seen.clear()
        sampler.step(watched, x, tf.constant(step), lambda _, n=noise: n * tf.ones_like(x), ())
        first.append(seen[0])
    assert np.isclose(first[0] - first[1], 1.5 * np.sqrt(higher[step] ** 2 - s[step] ** 2), rtol=1e-6)


def test_the_nearest_of_several_noises_is_taken_row_by_row():
    x_0 = tf.constant(np.random.default_rng(0).normal(size=(6, 4, 4, 1)), tf.float32)
    address = randomness.row_address(1, tf.constant(2), tf.constant(0))
    found = noising.drawn(address, x_0, 8).numpy()
    candidates = randomness.row_normal(address, randomness.NOISE, tf.constant(6), [8, 4, 4, 1]).numpy()
    for row in range(6):
        distances = [np.sum((noise - x_0[row]) ** 2) for noise in candidates[row]]
        np.testing.assert_array_equal(found[row], candidates[row][np.argmin(distances)])
    later = randomness.row_address(1, tf.constant(2), tf.constant(2))
    np.testing.assert_array_equal(noising.drawn(later, x_0[2:], 8), found[2:])
    plain = randomness.row_normal(address, randomness.NOISE, tf.constant(6), [4, 4, 1])
    np.testing.assert_array_equal(noising.drawn(address, x_0), plain)


def test_the_mean_of_the_gaussian_is_kept_too():
    whole, short = chain(200)
    del whole
    sampler, mean = samplers.Heun(short, clip="none", churn=40.0), tf.constant([[0.0]], tf.float64)
    for t in reversed(range(200)):
        mean = sampler.step(EXACT, mean, tf.constant(t), lambda _: tf.zeros([1, 1], tf.float64), ())[0]
    np.testing.assert_allclose(mean, MEAN, atol=2e-3)
    assert isinstance(short, Chain)
