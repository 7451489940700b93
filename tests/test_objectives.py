"""L_simple."""

import numpy as np
import tensorflow as tf

from tf_ddpm import objectives, schedules
from tf_ddpm.process import DiffusionProcess


def test_l_simple_is_the_mean_squared_error_of_the_noise_for_each_image():
    process = DiffusionProcess(schedules.betas("linear", 100))
    rng = np.random.default_rng(1)
    x_0, eps = rng.uniform(-1, 1, (3, 4, 6, 2)), rng.normal(size=(3, 4, 6, 2))
    t = np.array([0, 50, 99])
    seen = {}

    def denoiser(x_t, t):
        seen["x_t"], seen["t"] = x_t, t
        return 0.5 * x_t

    losses = objectives.simple_loss(process, denoiser, tf.constant(x_0), tf.constant(t), tf.constant(eps))
    alpha_bar = np.cumprod(1 - process.betas)[t].reshape(-1, 1, 1, 1)
    x_t = np.sqrt(alpha_bar) * x_0 + np.sqrt(1 - alpha_bar) * eps
    np.testing.assert_allclose(losses, ((eps - 0.5 * x_t) ** 2).mean(axis=(1, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(seen["x_t"], x_t, rtol=1e-12)
    np.testing.assert_array_equal(seen["t"], t)


def test_a_perfect_denoiser_has_no_loss():
    for prediction in ("eps", "x_0", "v"):
        process = DiffusionProcess(schedules.betas("linear", 100), prediction=prediction)
        x_0, eps, t = tf.ones([2, 1]) * 0.3, tf.constant([[0.5], [-2.0]]), tf.constant([3, 90])
        target = process.target(x_0, t, eps)
        losses = objectives.simple_loss(process, lambda x_t, t, target=target: target, x_0, t, eps)
        np.testing.assert_allclose(losses, 0, atol=1e-12)
