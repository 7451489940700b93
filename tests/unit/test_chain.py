"""The mathematics of the forward chain, its posterior, levels and parametrisations, in float64."""

import numpy as np
import pytest
import tensorflow as tf

from tf_ddpm.diffusion import schedules
from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.parametrisation import PARAMETRISATIONS

T = 1000
LINEAR = schedules.betas("linear", T)


def column(value):
    return tf.constant(np.full((1, 1), value))


def test_iterating_one_step_noise_gives_the_closed_form():
    chain = Chain(LINEAR)
    mean, variance = 1.0, 0.0
    for t, beta in enumerate(LINEAR):
        mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        if t in (0, 1, 500, T - 1):
            closed = chain.q_mean_variance(column(1.0), tf.constant([t]))
            np.testing.assert_allclose(closed.mean.numpy().item(), mean, rtol=1e-12)
            np.testing.assert_allclose(np.exp(closed.log_variance.numpy().item()), variance, rtol=1e-12)


def test_a_noised_image_is_the_mean_plus_noise_of_the_closed_form():
    chain, t = Chain(LINEAR), tf.constant([321])
    x_0, eps = column(0.3), column(-1.7)
    mean, log_variance = chain.q_mean_variance(x_0, t)
    noised = chain.levels.at(t, x_0).noised(x_0, eps)
    np.testing.assert_allclose(noised, mean + tf.exp(0.5 * log_variance) * eps, rtol=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "quadratic", "constant"])
def test_posterior_is_bayes_rule(schedule):
    beta = schedules.betas(schedule, T)
    chain, x_0, x_t = Chain(beta), 0.4, -0.9
    alpha_bar = np.cumprod(1 - beta)
    for t in (1, 2, 17, 500, T - 1):
        # q(x_{t-1}|x_0) q(x_t|x_{t-1}) as a product of two Gaussians in x_{t-1}.
        prior_mean, prior_variance = np.sqrt(alpha_bar[t - 1]) * x_0, 1 - alpha_bar[t - 1]
        precision = 1 / prior_variance + (1 - beta[t]) / beta[t]
        mean = (prior_mean / prior_variance + np.sqrt(1 - beta[t]) * x_t / beta[t]) / precision
        posterior = chain.q_posterior(column(x_0), column(x_t), tf.constant([t]))
        np.testing.assert_allclose(posterior.mean.numpy().item(), mean, rtol=1e-9)
        np.testing.assert_allclose(np.exp(posterior.log_variance.numpy().item()), 1 / precision, rtol=1e-9)


def test_posterior_at_the_first_step_is_x_0_itself():
    chain = Chain(LINEAR)
    posterior = chain.q_posterior(column(0.4), column(-0.9), tf.constant([0]))
    np.testing.assert_allclose(posterior.mean.numpy().item(), 0.4, rtol=1e-12)
    # Its variance is 0, whose logarithm is replaced by that of the second step.
    np.testing.assert_allclose(np.exp(posterior.log_variance.numpy().item()), chain.posterior_variance[1])


def test_reverse_variances_are_beta_and_beta_tilde():
    t = tf.constant([500])
    alpha_bar = np.cumprod(1 - LINEAR)
    expected = {"fixed_large": LINEAR[500], "fixed_small": LINEAR[500] * (1 - alpha_bar[499]) / (1 - alpha_bar[500])}
    for variance, value in expected.items():
        step = Chain(LINEAR, variance=variance).p_step(column(0.1), column(0.2), t)
        np.testing.assert_allclose(np.exp(step.log_variance.numpy().item()), value, rtol=1e-12)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_the_first_step_has_the_posterior_variance_of_the_second(variance):
    step = Chain(LINEAR, variance=variance).p_step(column(0.1), column(0.2), tf.constant([0]))
    alpha_bar = np.cumprod(1 - LINEAR)
    expected = LINEAR[1] * (1 - alpha_bar[0]) / (1 - alpha_bar[1])
    np.testing.assert_allclose(np.exp(step.log_variance.numpy().item()), expected, rtol=1e-12)


def test_mean_of_p_step_is_equation_11():
    chain, t, eps, x_t = Chain(LINEAR), 321, 0.7, -0.4
    x_0 = chain.levels.at(tf.constant([t]), column(x_t)).x_0(column(x_t), column(eps))
    mean = chain.p_step(x_0, column(x_t), tf.constant([t])).mean.numpy().item()
    alpha_bar = np.cumprod(1 - LINEAR)[t]
    expected = (x_t - LINEAR[t] / np.sqrt(1 - alpha_bar) * eps) / np.sqrt(1 - LINEAR[t])
    np.testing.assert_allclose(mean, expected, rtol=1e-10)


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_a_perfect_prediction_gives_back_image_and_noise(prediction):
    parametrisation = PARAMETRISATIONS[prediction]
    rng = np.random.default_rng(0)
    x_0, eps = tf.constant(rng.uniform(-1, 1, (5, 4, 4, 3))), tf.constant(rng.normal(size=(5, 4, 4, 3)))
    level = Chain(LINEAR).levels.at(tf.constant([0, 1, 300, 700, T - 1]), x_0)
    x_t, output = level.noised(x_0, eps), parametrisation.target(x_0, eps, level)
    np.testing.assert_allclose(parametrisation.x_0(x_t, level, output), x_0, atol=1e-10)
    np.testing.assert_allclose(parametrisation.eps(x_t, level, output), eps, atol=1e-10)


def test_v_is_the_velocity_along_the_circle_of_image_and_noise():
    x_0, eps = column(0.3), column(-0.8)
    level = Chain(LINEAR).levels.at(tf.constant([400]), x_0)
    angle = np.arccos(np.sqrt(np.cumprod(1 - LINEAR)[400]))

    def at(phi):
        return np.cos(phi) * 0.3 + np.sin(phi) * -0.8

    derivative = (at(angle + 1e-6) - at(angle - 1e-6)) / 2e-6
    v = PARAMETRISATIONS["v"].target(x_0, eps, level)
    np.testing.assert_allclose(v.numpy().item(), derivative, rtol=1e-8)


def test_a_shorter_chain_tells_the_network_the_original_timesteps():
    kept = schedules.strided_timesteps(T, 10)
    short = Chain(LINEAR, variance="fixed_small").respaced(kept)
    assert len(short) == len(short.levels) == 10 and short.variance == "fixed_small"
    np.testing.assert_array_equal(short.levels.at(tf.range(10), tf.zeros([10, 1])).time, kept)
    again = short.respaced(np.array([0, 9]))
    np.testing.assert_array_equal(again.timesteps, [0, T - 1])


def test_float32_tables_are_rounded_float64_tables():
    chain, t = Chain(LINEAR), tf.constant([T - 1])
    single = chain.levels.at(t, tf.ones([1, 1])).noised(tf.ones([1, 1]), tf.zeros([1, 1])).numpy().item()
    assert single == np.float32(np.sqrt(np.cumprod(1 - LINEAR)[-1]))


@pytest.mark.parametrize(
    "arguments",
    [{"betas": [0.0, 0.1]}, {"betas": [1.1]}, {"betas": [0.1], "variance": "x"}],
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError):
        Chain(**arguments)


def test_a_chain_of_one_step_works():
    chain = Chain(np.array([0.5]))
    assert np.all(np.isfinite(chain.fixed_log_variance))


def test_learned_range_interpolates_between_the_two_logarithms():
    chain, t = Chain(LINEAR, variance="learned_range"), tf.constant([500])
    small, large = np.log(chain.posterior_variance[500]), np.log(LINEAR[500])
    for spread, expected in (
        (-1.0, small),
        (1.0, large),
        (0.0, (small + large) / 2),
        (0.5, small / 4 + large * 3 / 4),
    ):
        log_variance = chain.p_log_variance(t, column(0.1), column(spread))
        np.testing.assert_allclose(log_variance, [[expected]], rtol=1e-12)


def test_learned_variance_is_its_own_logarithm_and_leaves_the_prediction_alone():
    chain, t, x = Chain(LINEAR, variance="learned"), tf.constant([500]), column(0.1)
    level, output = chain.levels.at(t, x), tf.constant([[0.3, -2.5]], tf.float64)
    learned = Denoiser(lambda x, level: output, PARAMETRISATIONS["eps"], learns_variance=True)
    plain = Denoiser(lambda x, level: output[:, :1], PARAMETRISATIONS["eps"])
    np.testing.assert_allclose(chain.p_log_variance(t, x, learned(x, level).variance), [[-2.5]])
    np.testing.assert_allclose(learned.eps(x, level), [[0.3]])
    np.testing.assert_allclose(learned(x, level).x_0, plain(x, level).x_0)
    assert plain(x, level).variance is None


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_levels_between_two_steps_join_them_smoothly_and_are_theirs_at_the_ends(schedule):
    levels, like = Chain(schedules.betas(schedule, T)).levels, tf.zeros([4, 1, 1], tf.float64)
    at, between = (
        levels.at(tf.constant([0, 7, 500, T - 1]), like),
        levels.between(tf.constant([0.0, 7, 500, T - 1]), like),
    )
    for name in ("alpha", "sigma", "time"):
        np.testing.assert_allclose(getattr(between, name), getattr(at, name), rtol=1e-10)
    fine = levels.between(tf.linspace(tf.constant(0.0, tf.float64), T - 1.0, 7991), tf.zeros([7991, 1], tf.float64))
    np.testing.assert_allclose(fine.alpha**2 + fine.sigma**2, 1.0, rtol=1e-12)
    assert np.all(np.diff(fine.snr.numpy()[:, 0]) < 0) and np.all(np.diff(fine.time) > 0)
    assert levels.between(tf.constant(0.5), like).time.numpy() == 0.5  # one level for all
    with pytest.raises(AssertionError):  # a step lower is another level
        np.testing.assert_allclose(between.alpha, levels.between(tf.constant([0.0, 6, 499, T - 2]), like).alpha)


def test_a_level_twice_is_that_of_a_batch_twice():
    levels, x = Chain(LINEAR).levels, tf.zeros([2, 3], tf.float64)
    one, each = levels.at(tf.constant(5), x), levels.at(tf.constant([5, 9]), x)
    assert one.twice().alpha.shape == () and one.twice().step.numpy() == 5
    np.testing.assert_array_equal(each.twice().time, [5, 9, 5, 9])
    assert each.twice().sigma.shape == (4, 1)
