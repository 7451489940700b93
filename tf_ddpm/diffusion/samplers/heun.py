"""Heun's method on the probability-flow ODE."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.levels import lookup
from tf_ddpm.diffusion.samplers.base import Noise, Sampler, SolverState


class Heun(Sampler):
    """Heun's method on the probability-flow ODE (Song et al. 2021 "Score-based", eq. 13; Karras et al. 2022, alg. 1).

    In x / sqrt(alpha_bar) and s = sqrt(1 / alpha_bar - 1) the ODE is dx/ds = eps. Two network calls a step; the
    last step goes to s = 0 by Euler's method, which is the prediction itself.
    """

    calls = 2

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, step: tf.Tensor, noise: Noise, memory: SolverState
    ) -> tuple[tf.Tensor, tf.Tensor, SolverState]:
        """x_{t-1} by the mean of the slopes at both ends."""
        level = self.chain.levels.at(step, x_t)
        x_0 = self.predicted_x_0(denoiser, x_t, level)

        def heun() -> tf.Tensor:
            s, before = np.sqrt(1.0 / self.chain.alpha_bar - 1.0), self.chain.levels.at(step - 1, x_t)
            slope = level.eps(x_t, x_0)
            distance = lookup(s, step - 1, x_t) - lookup(s, step, x_t)
            start = x_t / level.alpha
            x_euler = before.alpha * (start + distance * slope)
            slope_before = before.eps(x_euler, self.predicted_x_0(denoiser, x_euler, before))
            return before.alpha * (start + distance * 0.5 * (slope + slope_before))

        return tf.cond(step > 0, heun, lambda: x_0), x_0, memory
