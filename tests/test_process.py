"""The mathematics of the forward process, its posterior and the parametrisations, in float64."""

import numpy as np
import pytest
import tensorflow as tf

from tf_ddpm.diffusion import schedules
from tf_ddpm.diffusion.process import DiffusionProcess

T = 1000
LINEAR = schedules.betas("linear", T)


def column(value):
    return tf.constant(np.full((1, 1), value))


def test_iterating_one_step_noise_gives_the_closed_form():
    process = DiffusionProcess(LINEAR)
    mean, variance = 1.0, 0.0
    for t, beta in enumerate(LINEAR):
        mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        if t in (0, 1, 500, T - 1):
            closed = process.q_mean_variance(column(1.0), tf.constant([t]))
            np.testing.assert_allclose(closed.mean.numpy().item(), mean, rtol=1e-12)
            np.testing.assert_allclose(np.exp(closed.log_variance.numpy().item()), variance, rtol=1e-12)


def test_q_sample_is_the_mean_plus_noise_of_the_closed_form():
    process, t = DiffusionProcess(LINEAR), tf.constant([321])
    x_0, eps = column(0.3), column(-1.7)
    mean, log_variance = process.q_mean_variance(x_0, t)
    np.testing.assert_allclose(process.q_sample(x_0, t, eps), mean + tf.exp(0.5 * log_variance) * eps, rtol=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "quadratic", "constant"])
def test_posterior_is_bayes_rule(schedule):
    beta = schedules.betas(schedule, T)
    process, x_0, x_t = DiffusionProcess(beta), 0.4, -0.9
    alpha_bar = np.cumprod(1 - beta)
    for t in (1, 2, 17, 500, T - 1):
        # q(x_{t-1}|x_0) q(x_t|x_{t-1}) as a product of two Gaussians in x_{t-1}.
        prior_mean, prior_variance = np.sqrt(alpha_bar[t - 1]) * x_0, 1 - alpha_bar[t - 1]
        precision = 1 / prior_variance + (1 - beta[t]) / beta[t]
        mean = (prior_mean / prior_variance + np.sqrt(1 - beta[t]) * x_t / beta[t]) / precision
        posterior = process.q_posterior(column(x_0), column(x_t), tf.constant([t]))
        np.testing.assert_allclose(posterior.mean.numpy().item(), mean, rtol=1e-9)
        np.testing.assert_allclose(np.exp(posterior.log_variance.numpy().item()), 1 / precision, rtol=1e-9)


def test_posterior_at_the_first_step_is_x_0_itself():
    process = DiffusionProcess(LINEAR)
    posterior = process.q_posterior(column(0.4), column(-0.9), tf.constant([0]))
    np.testing.assert_allclose(posterior.mean.numpy().item(), 0.4, rtol=1e-12)
    # Its variance is 0, whose logarithm is replaced by that of the second step.
    np.testing.assert_allclose(np.exp(posterior.log_variance.numpy().item()), process.posterior_variance[1])


def test_reverse_variances_are_beta_and_beta_tilde():
    t = tf.constant([500])
    alpha_bar = np.cumprod(1 - LINEAR)
    expected = {"fixed_large": LINEAR[500], "fixed_small": LINEAR[500] * (1 - alpha_bar[499]) / (1 - alpha_bar[500])}
    for variance, value in expected.items():
        step = DiffusionProcess(LINEAR, variance=variance).p_step(column(0.1), column(0.2), t, column(0.0))
        np.testing.assert_allclose(np.exp(step.log_variance.numpy().item()), value, rtol=1e-12)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_the_first_step_has_the_posterior_variance_of_the_second(variance):
    step = DiffusionProcess(LINEAR, variance=variance).p_step(column(0.1), column(0.2), tf.constant([0]), column(0.0))
    alpha_bar = np.cumprod(1 - LINEAR)
    expected = LINEAR[1] * (1 - alpha_bar[0]) / (1 - alpha_bar[1])
    np.testing.assert_allclose(np.exp(step.log_variance.numpy().item()), expected, rtol=1e-12)


def test_mean_of_p_step_is_equation_11():
    process, t, eps, x_t = DiffusionProcess(LINEAR), 321, 0.7, -0.4
    x_0 = process.x_0_from_eps(column(x_t), tf.constant([t]), column(eps))
    mean = process.p_step(x_0, column(x_t), tf.constant([t]), column(eps)).mean.numpy().item()
    alpha_bar = np.cumprod(1 - LINEAR)[t]
    expected = (x_t - LINEAR[t] / np.sqrt(1 - alpha_bar) * eps) / np.sqrt(1 - LINEAR[t])
    np.testing.assert_allclose(mean, expected, rtol=1e-10)


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_a_perfect_prediction_gives_back_image_and_noise(prediction):
    process = DiffusionProcess(LINEAR, prediction=prediction)
    rng = np.random.default_rng(0)
    x_0, eps = tf.constant(rng.uniform(-1, 1, (5, 4, 4, 3))), tf.constant(rng.normal(size=(5, 4, 4, 3)))
    t = tf.constant([0, 1, 300, 700, T - 1])
    x_t, output = process.q_sample(x_0, t, eps), process.target(x_0, t, eps)
    np.testing.assert_allclose(process.x_0_from_output(x_t, t, output), x_0, atol=1e-10)
    np.testing.assert_allclose(process.eps_from_output(x_t, t, output), eps, atol=1e-10)


def test_v_is_the_velocity_along_the_circle_of_image_and_noise():
    process, t = DiffusionProcess(LINEAR, prediction="v"), tf.constant([400])
    x_0, eps = column(0.3), column(-0.8)
    angle = np.arccos(np.sqrt(np.cumprod(1 - LINEAR)[400]))

    def at(phi):
        return np.cos(phi) * 0.3 + np.sin(phi) * -0.8

    derivative = (at(angle + 1e-6) - at(angle - 1e-6)) / 2e-6
    np.testing.assert_allclose(process.v_from(x_0, t, eps).numpy().item(), derivative, rtol=1e-8)


def test_a_shorter_chain_tells_the_denoiser_the_original_timesteps():
    kept = schedules.strided_timesteps(T, 10)
    short = DiffusionProcess(LINEAR, prediction="v", variance="fixed_small").respaced(kept)
    assert len(short) == 10 and short.prediction == "v" and short.variance == "fixed_small"
    np.testing.assert_array_equal(short.denoiser_timesteps(tf.range(10)), kept)
    again = short.respaced(np.array([0, 9]))
    np.testing.assert_array_equal(again.timesteps, [0, T - 1])


def test_float32_tables_are_rounded_float64_tables():
    process, t = DiffusionProcess(LINEAR), tf.constant([T - 1])
    single = process.q_sample(tf.ones([1, 1]), t, tf.zeros([1, 1])).numpy().item()
    assert single == np.float32(np.sqrt(np.cumprod(1 - LINEAR)[-1]))


@pytest.mark.parametrize(
    "arguments",
    [{"betas": [0.0, 0.1]}, {"betas": [1.1]}, {"betas": [0.1], "prediction": "mu"}, {"betas": [0.1], "variance": "x"}],
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError):
        DiffusionProcess(**arguments)


def test_a_chain_of_one_step_works():
    process = DiffusionProcess(np.array([0.5]))
    assert np.all(np.isfinite(process.fixed_log_variance))


def test_learned_range_interpolates_between_the_two_logarithms():
    process, t = DiffusionProcess(LINEAR, variance="learned_range"), tf.constant([500])
    small, large = np.log(process.posterior_variance[500]), np.log(LINEAR[500])
    for spread, expected in (
        (-1.0, small),
        (1.0, large),
        (0.0, (small + large) / 2),
        (0.5, small / 4 + large * 3 / 4),
    ):
        output = tf.constant([[0.3, spread]], tf.float64)
        np.testing.assert_allclose(process.p_log_variance(t, output), [[expected]], rtol=1e-12)


def test_learned_variance_is_its_own_logarithm_and_leaves_the_prediction_alone():
    process, t = DiffusionProcess(LINEAR, variance="learned"), tf.constant([500])
    output = tf.constant([[0.3, -2.5]], tf.float64)
    np.testing.assert_allclose(process.p_log_variance(t, output), [[-2.5]])
    np.testing.assert_allclose(process.eps_from_output(column(0.1), t, output), [[0.3]])
    plain = DiffusionProcess(LINEAR).x_0_from_output(column(0.1), t, column(0.3))
    np.testing.assert_allclose(process.x_0_from_output(column(0.1), t, output), plain)
