"""The reverse process on a Gaussian, whose denoiser is known exactly, in float64."""

import numpy as np
import pytest
import tensorflow as tf

from tf_ddpm import samplers, schedules
from tf_ddpm.process import DiffusionProcess

MEAN, STD = 0.2, 0.5


def exact_denoiser(process):
    """E[eps | x_t] for images drawn from N(MEAN, STD^2)."""

    def denoiser(x_t, t):
        alpha_bar = tf.gather(tf.constant(process.alpha_bar), t)[:, None]
        return tf.sqrt(1 - alpha_bar) * (x_t - tf.sqrt(alpha_bar) * MEAN) / (alpha_bar * STD**2 + 1 - alpha_bar)

    return denoiser


def chain(steps, timesteps=1000, variance="fixed_large"):
    process = DiffusionProcess(schedules.betas("linear", timesteps), variance=variance)
    return process, process.respaced(schedules.strided_timesteps(timesteps, steps))


def final_std(sampler, denoiser, stochastic):
    """Standard deviation of x_0 when x_T is standard normal: each step is affine in x_t and the noise."""
    variance = 1.0
    for t in reversed(range(len(sampler.process))):
        x, noise = tf.constant([[0.0], [1.0], [0.0]], tf.float64), tf.constant([[0.0], [0.0], [1.0]], tf.float64)
        (zero,), (one,), (noisy,) = sampler.step(denoiser, x, tf.constant(t), noise)[0].numpy()
        variance = (one - zero) ** 2 * variance + (noisy - zero) ** 2
        assert stochastic or noisy == zero
    return np.sqrt(variance)


def test_ddim_converges_at_first_order_to_the_gaussian():
    errors = []
    for steps in (20, 40, 80, 160, 320):
        process, short = chain(steps)
        sampler = samplers.DDIM(short, clip="none")
        errors.append(abs(final_std(sampler, exact_denoiser(process), stochastic=False) - STD))
    ratios = np.array(errors[:-1]) / errors[1:]
    assert np.all(np.abs(ratios - 2) < 0.1), ratios


@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
def test_ancestral_variance_is_its_closed_form_recursion(variance):
    process, short = chain(1000, variance=variance)
    std = final_std(samplers.Ancestral(short, clip="none"), exact_denoiser(process), stochastic=True)
    beta, alpha_bar = process.betas, process.alpha_bar
    expected = 1.0
    for t in reversed(range(1000)):
        slope = (1 - beta[t] / (alpha_bar[t] * STD**2 + 1 - alpha_bar[t])) / np.sqrt(1 - beta[t])  # eq. 11
        small = beta[t] * (1 - (alpha_bar[t - 1] if t else 1)) / (1 - alpha_bar[t])
        noise = 0.0 if t == 0 else beta[t] if variance == "fixed_large" else small
        expected = slope**2 * expected + noise
    assert std == pytest.approx(np.sqrt(expected), rel=1e-10)
    assert std == pytest.approx({"fixed_large": 0.5008, "fixed_small": 0.4961}[variance], abs=1e-4)


def test_ddim_with_eta_1_and_ancestral_with_small_variance_are_the_same_chain():
    process, short = chain(50, variance="fixed_small")
    denoiser = exact_denoiser(process)
    x_t, noise = tf.constant([[0.3], [-1.2]], tf.float64), tf.constant([[1.1], [0.2]], tf.float64)
    for t in (1, 7, 49):
        ours, _ = samplers.DDIM(short, clip="none", eta=1.0).step(denoiser, x_t, tf.constant(t), noise)
        theirs, _ = samplers.Ancestral(short, clip="none").step(denoiser, x_t, tf.constant(t), noise)
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


@pytest.mark.parametrize("make", [samplers.Ancestral, lambda p: samplers.DDIM(p, eta=1.0), samplers.DDIM])
def test_the_last_step_adds_no_noise_and_returns_the_predicted_image(make):
    process, short = chain(10)
    x_t = tf.constant([[0.3], [-0.2]], tf.float64)
    x_prev, x_0 = make(short).step(exact_denoiser(process), x_t, tf.constant(0), 1e6 * tf.ones_like(x_t))
    np.testing.assert_allclose(x_prev, x_0, rtol=1e-12)


def test_clipping_holds_the_predicted_image_before_the_mean():
    _, short = chain(10)
    x_t = tf.constant([[50.0]], tf.float64)
    _, clipped = samplers.Ancestral(short, "static").step(lambda x, t: 0 * x, x_t, tf.constant(5), 0 * x_t)
    _, free = samplers.Ancestral(short, "none").step(lambda x, t: 0 * x, x_t, tf.constant(5), 0 * x_t)
    assert clipped.numpy().item() == 1.0 and free.numpy().item() > 50
    # DDIM derives eps again from the clipped image, so that x_{t-1} stays on the line between them.
    ddim = samplers.DDIM(short, "static")
    x_prev, _ = ddim.step(lambda x, t: 0 * x, x_t, tf.constant(5), 0 * x_t)
    before, now = short.alpha_bar_prev[5], short.alpha_bar[5]
    eps = (50.0 - np.sqrt(now)) / np.sqrt(1 - now)
    np.testing.assert_allclose(x_prev, np.sqrt(before) + np.sqrt(1 - before) * eps, rtol=1e-10)


def test_the_loop_visits_every_step_once_from_last_to_first_with_its_own_noise():
    _, short = chain(7)
    visited, drawn = [], []

    def denoiser(x_t, t):
        tf.numpy_function(lambda t: visited.append(int(t[0])), [t], [])
        return tf.zeros_like(x_t)

    def noise(k):
        tf.numpy_function(lambda k: drawn.append(int(k)), [k], [])
        return tf.zeros([2, 1], tf.float64)

    tf.function(lambda x: samplers.sample_loop(samplers.Ancestral(short), denoiser, x, noise)[0])(
        tf.zeros([2, 1], tf.float64)
    )
    assert visited == list(reversed(short.timesteps.tolist()))
    assert drawn == list(range(7))


@pytest.mark.parametrize(("steps", "wanted", "got"), [(20, 5, 5), (3, 8, 3), (20, 1, 1), (1, 1, 1)])
def test_frames_are_predicted_images_and_the_last_is_the_result(steps, wanted, got):
    process, short = chain(steps)
    loop = tf.function(
        lambda x: samplers.sample_loop(samplers.DDIM(short), exact_denoiser(process), x, lambda k: None, wanted)
    )
    x_0, frames = loop(tf.constant([[0.1], [1.3]], tf.float64))
    assert frames.shape[0] == got
    np.testing.assert_allclose(frames[-1], x_0, rtol=1e-12)
