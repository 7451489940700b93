"""The reverse whole on a Gaussian, whose denoiser is known exactly, in float64."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.gaussian import EXACT, MEAN, STD, chain, denoiser_of
from tf_ddpm.diffusion import samplers, schedules
from tf_ddpm.diffusion.chain import Chain


def one_step(sampler, denoiser, x_t, t, noise=None):
    """(x_{t-1}, predicted x_0), with the same noise for every draw."""
    noise = tf.zeros_like(x_t) if noise is None else noise
    return sampler.step(denoiser, x_t, tf.constant(t), lambda _: noise, sampler.memory(x_t))[:2]


def final_std(sampler, denoiser, stochastic):
    """Standard deviation of x_0 when x_T is standard normal: each step is affine in x_t and the noise."""
    variance = 1.0
    for t in reversed(range(len(sampler.chain))):
        x, noise = tf.constant([[0.0], [1.0], [0.0]], tf.float64), tf.constant([[0.0], [0.0], [1.0]], tf.float64)
        (zero,), (one,), (noisy,) = one_step(sampler, denoiser, x, t, noise)[0].numpy()
        variance = (one - zero) ** 2 * variance + (noisy - zero) ** 2
        assert stochastic or noisy == zero
    return np.sqrt(variance)


def test_ddim_converges_at_first_order_to_the_gaussian():
    errors = []
    for steps in (20, 40, 80, 160, 320):
        _, short = chain(steps)
        sampler = samplers.DDIM(short, clip="none")
        errors.append(abs(final_std(sampler, EXACT, stochastic=False) - STD))
    ratios = np.array(errors[:-1]) / errors[1:]
    assert np.all(np.abs(ratios - 2) < 0.1), ratios


@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
def test_ancestral_variance_is_its_closed_form_recursion(variance):
    whole, short = chain(1000, variance=variance)
    std = final_std(samplers.Ancestral(short, clip="none"), EXACT, stochastic=True)
    beta, alpha_bar = whole.betas, whole.alpha_bar
    expected = 1.0
    for t in reversed(range(1000)):
        slope = (1 - beta[t] / (alpha_bar[t] * STD**2 + 1 - alpha_bar[t])) / np.sqrt(1 - beta[t])  # eq. 11
        small = beta[t] * (1 - (alpha_bar[t - 1] if t else 1)) / (1 - alpha_bar[t])
        noise = 0.0 if t == 0 else beta[t] if variance == "fixed_large" else small
        expected = slope**2 * expected + noise
    assert std == pytest.approx(np.sqrt(expected), rel=1e-10)
    assert std == pytest.approx({"fixed_large": 0.5008, "fixed_small": 0.4961}[variance], abs=1e-4)


def test_ddim_with_eta_1_and_ancestral_with_small_variance_are_the_same_chain():
    _, short = chain(50, variance="fixed_small")
    denoiser = EXACT
    x_t, noise = tf.constant([[0.3], [-1.2]], tf.float64), tf.constant([[1.1], [0.2]], tf.float64)
    for t in (1, 7, 49):
        ours, _ = one_step(samplers.DDIM(short, clip="none", eta=1.0), denoiser, x_t, t, noise)
        theirs, _ = one_step(samplers.Ancestral(short, clip="none"), denoiser, x_t, t, noise)
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


@pytest.mark.parametrize(
    "make",
    [
        samplers.Ancestral,
        samplers.DDIM,
        lambda whole: samplers.DDIM(whole, eta=1.0),
        *(lambda whole, order=order: samplers.DPMSolverPP(whole, order=order) for order in (1, 2, 3)),
        lambda whole: samplers.DPMSolverPP(whole, eta=1.0),
        samplers.Heun,
        samplers.Langevin,
    ],
)
def test_the_last_step_adds_no_noise_and_returns_the_predicted_image(make):
    _, short = chain(10)
    x_t = tf.constant([[0.3], [-0.2]], tf.float64)
    x_prev, x_0 = one_step(make(short), EXACT, x_t, 0, 1e6 * tf.ones_like(x_t))
    np.testing.assert_allclose(x_prev, x_0, rtol=1e-12)


def test_clipping_holds_the_predicted_image_before_the_mean():
    _, short = chain(10)
    x_t = tf.constant([[50.0]], tf.float64)
    _, clipped = one_step(samplers.Ancestral(short, "static"), denoiser_of(lambda x, level: 0 * x), x_t, 5)
    _, free = one_step(samplers.Ancestral(short, "none"), denoiser_of(lambda x, level: 0 * x), x_t, 5)
    assert clipped.numpy().item() == 1.0 and free.numpy().item() > 50
    # DDIM derives eps again from the clipped image, so that x_{t-1} stays on the line between them.
    x_prev, _ = one_step(samplers.DDIM(short, "static"), denoiser_of(lambda x, level: 0 * x), x_t, 5)
    before, now = short.alpha_bar_prev[5], short.alpha_bar[5]
    eps = (50.0 - np.sqrt(now)) / np.sqrt(1 - now)
    np.testing.assert_allclose(x_prev, np.sqrt(before) + np.sqrt(1 - before) * eps, rtol=1e-10)


def test_the_loop_visits_every_step_once_from_last_to_first_with_its_own_noise():
    _, short = chain(7)
    visited, drawn = [], []

    def network(x, level):
        tf.numpy_function(lambda time: visited.append(int(time)), [level.time], [])
        return tf.zeros_like(x)

    def noise(k):
        tf.numpy_function(lambda k: drawn.append(int(k)), [k], [])
        return tf.zeros([2, 1], tf.float64)

    tf.function(lambda x: samplers.sample_loop(samplers.Ancestral(short), denoiser_of(network), x, noise)[0])(
        tf.zeros([2, 1], tf.float64)
    )
    assert visited == list(reversed(short.timesteps.tolist()))
    assert drawn == list(range(7))


@pytest.mark.parametrize(("steps", "wanted", "got"), [(20, 5, 5), (3, 8, 3), (20, 1, 1), (1, 1, 1)])
def test_frames_are_predicted_images_and_the_last_is_the_result(steps, wanted, got):
    _, short = chain(steps)
    loop = tf.function(lambda x: samplers.sample_loop(samplers.DDIM(short), EXACT, x, lambda k: None, wanted))
    x_0, frames = loop(tf.constant([[0.1], [1.3]], tf.float64))
    assert frames.shape[0] == got
    np.testing.assert_allclose(frames[-1], x_0, rtol=1e-12)


def log_snr_chain(steps):
    """A chain whose log-SNR is an even grid from 4 down to -4."""
    log_snr = np.linspace(4, -4, steps + 1)
    alpha_bar = 1 / (1 + np.exp(-2 * log_snr))
    beta = 1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])
    return Chain(beta)


def ode_error(make, steps):
    """Distance from the exact solution at log-SNR 4, from exact values at -4, without the last step to x_0."""
    whole = log_snr_chain(steps)
    sampler, denoiser = make(whole), EXACT
    alpha_bar = whole.alpha_bar
    spread = np.sqrt(alpha_bar * STD**2 + 1 - alpha_bar)  # the flow keeps each point's place in the Gaussian

    def exact(t, z):
        return tf.constant([[np.sqrt(alpha_bar[t]) * MEAN + spread[t] * z]])

    x = exact(steps, 1.3)
    # The first steps of a multistep method are of lower order and would hide the method's own: exact values instead.
    memory = sampler.memory(x)
    for t in range(steps, 0, -1):
        x_prev, _, memory = sampler.step(denoiser, x, tf.constant(t), lambda _: None, memory)
        x = exact(t - 1, 1.3) if steps - t < 2 else x_prev
    return abs((x - exact(0, 1.3)).numpy().item())


@pytest.mark.parametrize(
    ("make", "order"),
    [
        (lambda p: samplers.DDIM(p, "none"), 1),
        (lambda p: samplers.DPMSolverPP(p, "none", order=1), 1),
        (lambda p: samplers.DPMSolverPP(p, "none", order=2), 2),
        (lambda p: samplers.DPMSolverPP(p, "none", order=3), 2),
        (lambda p: samplers.Heun(p, "none"), 2),
    ],
)
def test_solvers_converge_at_their_order(make, order):
    errors = [ode_error(make, steps) for steps in (80, 160, 320)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert abs(orders[-1] - order) < 0.15, orders


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_dpm_solver_of_order_1_is_ddim(eta):
    _, short = chain(12)
    denoiser = EXACT
    x_t, noise = tf.constant([[0.3], [-1.2]], tf.float64), tf.constant([[1.1], [0.2]], tf.float64)
    for t in (0, 1, 5, 11):
        ours, _ = one_step(samplers.DPMSolverPP(short, order=1, eta=eta), denoiser, x_t, t, noise)
        theirs, _ = one_step(samplers.DDIM(short, eta=eta), denoiser, x_t, t, noise)
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_stochastic_step_from_one_image_leads_to_its_own_noise_level(order, eta):
    """From N(sqrt(alpha_bar_t) x_0, 1 - alpha_bar_t) to the same of t - 1, whatever the eta."""
    short = chain(20)[1]
    sampler = samplers.DPMSolverPP(short, "none", order, eta=eta)
    now, before = short.alpha_bar[1:], short.alpha_bar[:-1]
    ratio, sigma, of_x_0 = sampler.weight_x_t[1:], sampler.sigma[1:], sampler.weights[:, 1:].sum(axis=0)
    np.testing.assert_allclose(ratio * np.sqrt(now) + of_x_0, np.sqrt(before), rtol=1e-12)
    np.testing.assert_allclose(ratio**2 * (1 - now) + sigma**2, 1 - before, rtol=1e-12)


def test_the_stochastic_solver_of_order_2_converges_at_its_order_where_the_ancestral_chain_is_of_the_first():
    def error(make, steps):
        whole = Chain(schedules.betas("linear", 1000), variance="fixed_small")
        short = whole.respaced(schedules.strided_timesteps(1000, steps, "quadratic"))
        # x_0 is linear in x_T and in every noise: a row of the batch for none of them, and one for each.
        alone = tf.constant(np.vstack([np.zeros(steps + 1), np.eye(steps + 1)]))
        noise = lambda k: tf.gather(alone, k + 1, axis=1)[:, None]  # noqa: E731
        x_0, _ = samplers.sample_loop(make(short), EXACT, alone[:, :1], noise)
        return abs(np.linalg.norm(x_0[1:] - x_0[0]) - STD)

    for make, least, most in (
        (lambda short: samplers.DPMSolverPP(short, "none", order=2, eta=1.0), 3.5, 6.0),
        (lambda short: samplers.Ancestral(short, "none"), 1.8, 2.1),
    ):
        assert least < error(make, 40) / error(make, 80) < most


def test_the_whole_second_derivative_makes_the_third_order_a_third_order():
    errors = [ode_error(lambda p: samplers.DPMSolverPP(p, "none", 3, "taylor"), steps) for steps in (80, 160, 320)]
    assert np.all(np.log2(np.array(errors[:-1]) / errors[1:]) > 2.8)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("order", "degree"), [(1, 0), (3, 2)])
def test_multistep_weights_integrate_polynomials_exactly_on_an_uneven_grid(order, degree, eta):
    """Lu et al. 2022b, eq. 8: x_{t-1} = ratio x_t + sigma_{t-1} times the integral of exp(lambda) x_0(lambda).

    With noise: (1 + e) exp((1 + e) lambda - e lambda_{t-1}) in it, where exp(-2 e h) of the variance stays.
    """
    whole = chain(20)[1]
    log_snr = 0.5 * np.log(whole.alpha_bar / (1 - whole.alpha_bar))
    sampler = samplers.DPMSolverPP(whole, "none", order, "taylor", eta=eta)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    for t in (3, 10, 16):
        middle, half = (log_snr[t - 1] + log_snr[t]) / 2, (log_snr[t - 1] - log_snr[t]) / 2
        at = middle + half * nodes
        e = -0.5 * np.log(1 - eta**2 * (1 - np.exp(-4 * half))) / (2 * half)
        kernel = (1 + e) * np.exp((1 + e) * at - e * log_snr[t - 1])
        integral = np.sqrt(1 - whole.alpha_bar[t - 1]) * half * np.sum(weights * kernel * (at + 1) ** degree)
        ours = sum(sampler.weights[i, t] * (log_snr[t + i] + 1) ** degree for i in range(order))
        assert ours == pytest.approx(integral, rel=1e-9)


def test_higher_order_needs_fewer_steps():
    ddim = ode_error(lambda p: samplers.DDIM(p, "none"), 20)
    assert ode_error(lambda p: samplers.DPMSolverPP(p, "none", order=2), 20) < 0.3 * ddim
    assert ode_error(lambda p: samplers.Heun(p, "none"), 20) < 0.3 * ddim


def test_ddim_inversion_is_undone_by_ddim_ever_better_with_more_steps():
    errors, x_0 = [], tf.constant([[0.9], [0.2], [-0.6]], tf.float64)
    for steps in (125, 250, 500):
        _, short = chain(steps)
        denoiser = EXACT
        latent = samplers.ddim_inversion(short, denoiser, x_0)
        again, _ = samplers.sample_loop(samplers.DDIM(short, "none"), denoiser, latent, lambda k: None)
        errors.append(np.abs(again - x_0).max())
        assert 1.8 < latent.numpy().std() / x_0.numpy().std() < 2.2  # from STD to 1
    assert errors[-1] < 0.01 and np.all(np.log2(np.array(errors[:-1]) / errors[1:]) > 0.85), errors


def test_dynamic_clipping_is_the_quantile_of_each_image():
    x = np.random.default_rng(0).normal(0, 2, (3, 5, 7, 2))
    x[1] *= 0.01
    bound = np.maximum(np.quantile(np.abs(x).reshape(3, -1), 0.995, axis=1), 1).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(
        samplers.clipped(tf.constant(x), "dynamic"), np.clip(x, -bound, bound) / bound, rtol=1e-9
    )


def test_langevin_correction_keeps_the_gaussian_and_its_rows_apart():
    _, short = chain(100)
    sampler, denoiser = samplers.Langevin(short, "none"), EXACT
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(40, 400)))
    for t in range(99, -1, -1):
        draws = [tf.constant(rng.normal(size=(40, 400))) for _ in range(2)]
        x, _, _ = sampler.step(denoiser, x, tf.constant(t), draws.__getitem__, ())
    assert abs(x.numpy().mean() - MEAN) < 0.03 and abs(x.numpy().std() - STD) < 0.03
    row = tf.constant(rng.normal(size=(1, 4)))
    pair = tf.concat([row, 100 * row], axis=0)
    alone, _ = one_step(sampler, denoiser, row, 50, row)
    together, _ = one_step(sampler, denoiser, pair, 50, pair)
    np.testing.assert_allclose(together[:1], alone, rtol=1e-12)


def test_score_is_the_gradient_of_the_log_density():
    whole, x = Chain(schedules.betas("linear", 1000)), tf.constant([[0.4]], tf.float64)
    level, alpha_bar = whole.levels.at(tf.constant([300]), x), whole.alpha_bar[300]
    expected = -(0.4 - np.sqrt(alpha_bar) * MEAN) / (alpha_bar * STD**2 + 1 - alpha_bar)
    np.testing.assert_allclose(level.score(EXACT.eps(x, level)), [[expected]], rtol=1e-10)
