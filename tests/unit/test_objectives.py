"""L_simple."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.support.gaussian import denoiser_of
from tf_ddpm.diffusion import bounds, objectives, schedules
from tf_ddpm.diffusion.chain import Chain, Gaussian
from tf_ddpm.diffusion.denoiser import Prediction
from tf_ddpm.diffusion.parametrisation import PARAMETRISATIONS


def test_l_simple_is_the_mean_squared_error_of_the_noise_for_each_image():
    chain = Chain(schedules.betas("linear", 100))
    rng = np.random.default_rng(1)
    x_0, eps = rng.uniform(-1, 1, (3, 4, 6, 2)), rng.normal(size=(3, 4, 6, 2))
    t = np.array([0, 50, 99])
    seen = {}

    def network(x, level):
        seen["x_t"], seen["t"] = x, level.time
        return 0.5 * x

    level = chain.levels.at(tf.constant(t), tf.constant(x_0))
    losses = objectives.simple_loss(denoiser_of(network), tf.constant(x_0), level, tf.constant(eps))
    alpha_bar = np.cumprod(1 - chain.betas)[t].reshape(-1, 1, 1, 1)
    x_t = np.sqrt(alpha_bar) * x_0 + np.sqrt(1 - alpha_bar) * eps
    np.testing.assert_allclose(losses, ((eps - 0.5 * x_t) ** 2).mean(axis=(1, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(seen["x_t"], x_t, rtol=1e-12)
    np.testing.assert_array_equal(seen["t"], t)


def test_a_perfect_denoiser_has_no_loss():
    for prediction in ("eps", "x_0", "v"):
        x_0, eps = tf.ones([2, 1]) * 0.3, tf.constant([[0.5], [-2.0]])
        level = Chain(schedules.betas("linear", 100)).levels.at(tf.constant([3, 90]), x_0)
        target = PARAMETRISATIONS[prediction].target(x_0, eps, level)
        denoiser = denoiser_of(lambda x, level, target=target: target, prediction)
        losses = objectives.simple_loss(denoiser, x_0, level, eps)
        np.testing.assert_allclose(losses, 0, atol=1e-12)


def test_min_snr_weighs_the_error_of_x_0_by_the_bounded_snr():
    gamma, t = 5.0, tf.constant([1, 30, 60, 99])
    rng = np.random.default_rng(0)
    x_0, eps, wrong = (tf.constant(rng.normal(size=(4, 6))) for _ in range(3))
    snr = None
    for prediction in ("eps", "x_0", "v"):
        chain, denoiser = Chain(schedules.betas("linear", 100)), denoiser_of(lambda x, level: wrong, prediction)
        snr = chain.alpha_bar[t.numpy()] / (1 - chain.alpha_bar[t.numpy()])
        level = chain.levels.at(t, x_0)
        losses = objectives.min_snr_loss(gamma)(denoiser, x_0, level, eps)
        error = np.mean((denoiser(level.noised(x_0, eps), level).x_0 - x_0) ** 2, axis=1)
        np.testing.assert_allclose(losses, np.minimum(snr, gamma) * error, rtol=1e-9)
    assert snr.min() < gamma < snr.max()


def test_kl_of_normals_is_that_of_a_numerical_integral():
    q, p = Gaussian(0.3, np.log(0.4)), Gaussian(tf.constant(-0.5, tf.float64), np.log(1.7))
    x = np.linspace(-12, 12, 200_001)
    log_q = -0.5 * ((x - 0.3) ** 2 / 0.4 + np.log(2 * np.pi * 0.4))
    log_p = -0.5 * ((x + 0.5) ** 2 / 1.7 + np.log(2 * np.pi * 1.7))
    expected = np.sum(np.exp(log_q) * (log_q - log_p)) * (x[1] - x[0])
    ours = bounds.normal_kl(Gaussian(*map(tf.constant, map(np.float64, q))), p)
    assert float(ours) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(("mean", "std"), [(0.1, 0.5), (-0.97, 0.02), (1.4, 0.3)])
def test_the_decoders_probabilities_of_all_bytes_sum_to_one_and_follow_the_normal(mean, std):
    x_0 = tf.constant((np.arange(256) / 127.5 - 1)[:, None])
    p = Gaussian(tf.constant([[mean]], tf.float64), tf.constant([[2 * np.log(std)]], tf.float64))
    probability = np.exp(bounds.discretised_log_likelihood(x_0, p).numpy()[:, 0])
    assert probability.sum() == pytest.approx(1.0, abs=1e-6)
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 127.5 - 1, [np.inf]])
    exact = np.diff([0.5 * (1 + math.erf((e - mean) / std / math.sqrt(2))) for e in edges])
    # The tanh form of the normal distribution function is off by up to 3e-4.
    np.testing.assert_allclose(probability, exact, atol=3e-4)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_the_bound_of_a_tiny_chain_is_an_independent_sum(variance):
    """All terms for T = 8 against NumPy, written from the paper with scalars."""
    chain = Chain(schedules.betas("linear", 8, 0.01, 0.4), variance=variance)
    beta, alpha_bar = chain.betas, np.cumprod(1 - chain.betas)
    byte, noise, slope, spread = 77, 0.6, 0.9, 0.3
    x_0 = byte / 127.5 - 1
    total = np.log2(np.e) * 0.5 * (alpha_bar[7] * x_0**2 + (1 - alpha_bar[7]) - 1 - np.log(1 - alpha_bar[7]))
    for t in range(8):
        x_t = np.sqrt(alpha_bar[t]) * x_0 + np.sqrt(1 - alpha_bar[t]) * noise
        before = alpha_bar[t - 1] if t else 1.0
        predicted = (x_t - np.sqrt(1 - alpha_bar[t]) * slope * x_t) / np.sqrt(alpha_bar[t])

        def mean(x, t=t, x_t=x_t, before=before):
            return (np.sqrt(before) * beta[t] * x + np.sqrt(1 - beta[t]) * (1 - before) * x_t) / (1 - alpha_bar[t])

        tilde = beta[t] * (1 - before) / (1 - alpha_bar[t]) if t else beta[1] * (1 - alpha_bar[0]) / (1 - alpha_bar[1])
        share = (spread + 1) / 2
        sigma2 = {
            "fixed_small": tilde,
            "fixed_large": beta[t] if t else tilde,
            "learned_range": np.exp(share * np.log(beta[t]) + (1 - share) * np.log(tilde)),
        }[variance]
        if t:
            kl = 0.5 * (np.log(sigma2 / tilde) + tilde / sigma2 + (mean(x_0) - mean(predicted)) ** 2 / sigma2 - 1)
            total += kl * np.log2(np.e)
        else:
            cdf = lambda z: 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))  # noqa: E731
            edge = (x_0 - mean(predicted)) / np.sqrt(sigma2)
            width = 1 / 255 / np.sqrt(sigma2)
            total -= np.log2(cdf(edge + width) - cdf(edge - width))

    image = tf.fill([1, 1, 1, 1], tf.constant(x_0, tf.float64))
    ours = bounds.prior_term(chain, image).numpy()
    for t in range(8):
        at = tf.constant([t])
        level = chain.levels.at(at, image)
        x_t = level.noised(image, tf.fill([1, 1, 1, 1], tf.constant(noise, tf.float64)))
        learned = tf.fill([1, 1, 1, 1], tf.constant(spread, tf.float64)) if variance == "learned_range" else None
        predicted = Prediction(level.x_0(x_t, slope * x_t), learned)
        ours = ours + bounds.bound_term(chain, predicted, image, x_t, at).numpy()
    np.testing.assert_allclose(ours, [total], rtol=1e-9)


@pytest.mark.parametrize(("variance", "gap"), [("exact", 0.0), ("fixed_large", 0.0016), ("fixed_small", 0.66)])
def test_the_bound_on_a_gaussian_is_its_entropy_and_the_closed_form_gap_of_the_variance(variance, gap):
    """E over x_0, x_t in closed form: everything is quadratic, so three-point Gauss-Hermite sums are exact."""
    std, steps = 0.5, 1000
    beta = schedules.betas("linear", steps)
    alpha_bar = np.cumprod(1 - beta)
    marginal = alpha_bar * std**2 + 1 - alpha_bar  # v_t
    before = np.concatenate([[std**2], marginal[:-1]])
    exact = beta * before / marginal
    bound = 0.5 * np.log2(np.e) * (alpha_bar[-1] * std**2 - alpha_bar[-1] - np.log(1 - alpha_bar[-1]))
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    weights = weights / weights.sum()
    fixed = "learned" if variance == "exact" else variance
    chain = Chain(beta, variance=fixed)
    grid_x, grid_e = (g.reshape(-1, 1, 1, 1) for g in np.meshgrid(nodes, nodes))
    weight = np.outer(weights, weights).ravel()
    for t in range(steps):
        at = tf.fill([9], t)
        x_0, eps = tf.constant(std * grid_x), tf.constant(grid_e)
        level = chain.levels.at(at, x_0)
        x_t = level.noised(x_0, eps)
        learned = tf.fill(x_t.shape, tf.constant(np.log(exact[t]), tf.float64)) if variance == "exact" else None
        predicted = Prediction(level.x_0(x_t, np.sqrt(1 - alpha_bar[t]) * x_t / marginal[t]), learned)
        if t:
            terms = bounds.bound_term(chain, predicted, x_0, x_t, at)
        else:  # a continuous decoder: the density of x_0 itself
            p = chain.p_step(predicted.x_0, x_t, at, learned)
            squared = (x_0 - p.mean) ** 2 * tf.exp(-p.log_variance)
            terms = 0.5 * tf.reshape(squared + p.log_variance + np.log(2 * np.pi), [-1]) / np.log(2)
        bound += np.sum(weight * terms.numpy())
    entropy = 0.5 * np.log2(2 * np.pi * np.e * std**2)
    ours = exact if variance == "exact" else np.exp(chain.fixed_log_variance)
    gaps = 0.5 * np.log2(np.e) * (np.log(ours / exact) + exact / ours - 1)
    assert bound - entropy == pytest.approx(gaps.sum(), abs=1e-5)
    assert gaps[1:].sum() == pytest.approx(gap, abs=0.002)  # the first step's variance is not the schedule's


def test_a_term_of_the_bound_is_the_weighted_error_of_the_noise():
    """Ho et al. 2020, eq. 12: with the variance of the posterior itself the constant is 0."""
    beta = schedules.betas("linear", 1000)
    chain, alpha_bar = Chain(beta, variance="fixed_small"), np.cumprod(1 - beta)
    rng = np.random.default_rng(2)
    t = np.array([1, 2, 30, 500, 999])
    x_0, eps, output = rng.uniform(-1, 1, (5, 3, 4, 2)), *rng.normal(size=(2, 5, 3, 4, 2))
    level = chain.levels.at(tf.constant(t), tf.constant(x_0))
    x_t = level.noised(tf.constant(x_0), tf.constant(eps))
    predicted = Prediction(level.x_0(x_t, tf.constant(output)), None)
    bits = bounds.bound_term(chain, predicted, tf.constant(x_0), x_t, tf.constant(t))
    variance = beta[t] * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
    weight = beta[t] ** 2 / (2 * variance * (1 - beta[t]) * (1 - alpha_bar[t]))
    error = ((eps - output) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(bits * np.log(2), weight * error, rtol=1e-9)


def test_in_the_hybrid_the_bound_teaches_the_variance_alone():
    chain = Chain(schedules.betas("linear", 100), variance="learned_range")
    x_0, eps, t = tf.ones([2, 1, 1, 3]) * 0.3, tf.ones([2, 1, 1, 3]), tf.constant([0, 60])
    output = tf.Variable(tf.random.stateless_normal([2, 1, 1, 6], [0, 0]))

    denoiser = denoiser_of(lambda x, level: tf.convert_to_tensor(output), learns_variance=True)

    def gradient(loss):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(loss(denoiser, x_0, chain.levels.at(t, x_0), eps))
        return tape.gradient(value, output).numpy()

    hybrid, simple, bound = map(
        gradient, (objectives.hybrid_loss(chain), objectives.simple_loss, objectives.vlb_loss(chain))
    )
    np.testing.assert_allclose(hybrid[..., :3], simple[..., :3], rtol=1e-5)
    np.testing.assert_allclose(hybrid[..., 3:], bound[..., 3:] * 100 / 1000, rtol=1e-4)
    assert np.all(simple[..., 3:] == 0) and np.all(hybrid[..., 3:] != 0)
