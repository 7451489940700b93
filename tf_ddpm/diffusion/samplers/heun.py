"""Heun's method on the probability-flow ODE."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.process import lookup
from tf_ddpm.diffusion.samplers.base import Noise, Sampler, SolverState


class Heun(Sampler):
    """Heun's method on the probability-flow ODE (Song et al. 2021 "Score-based", eq. 13; Karras et al. 2022, alg. 1).

    In x / sqrt(alpha_bar) and s = sqrt(1 / alpha_bar - 1) the ODE is dx/ds = eps. Two network calls a step; the
    last step goes to s = 0 by Euler's method, which is the prediction itself.
    """

    calls = 2

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor, noise: Noise, memory: SolverState
    ) -> tuple[tf.Tensor, tf.Tensor, SolverState]:
        """x_{t-1} by the mean of the slopes at both ends."""
        x_0 = self.predicted_x_0(denoiser, x_t, t)

        def heun() -> tf.Tensor:
            scale, s = np.sqrt(self.process.alpha_bar), np.sqrt(1.0 / self.process.alpha_bar - 1.0)
            slope = self.process.eps_from_x_0(x_t, t, x_0)
            distance = lookup(s, t - 1, x_t) - lookup(s, t, x_t)
            start, scale_prev = x_t / lookup(scale, t, x_t), lookup(scale, t - 1, x_t)
            x_euler = scale_prev * (start + distance * slope)
            x_0_prev = self.predicted_x_0(denoiser, x_euler, t - 1)
            slope_prev = self.process.eps_from_x_0(x_euler, t - 1, x_0_prev)
            return scale_prev * (start + distance * 0.5 * (slope + slope_prev))

        return tf.cond(t > 0, heun, lambda: x_0), x_0, memory
