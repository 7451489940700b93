"""Ancestral sampling (Ho et al. 2020, algorithm 2)."""

from __future__ import annotations

import tensorflow as tf

from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.samplers.base import Noise, Sampler, SolverState, clipped


class Ancestral(Sampler):
    """Ho et al. 2020, algorithm 2; on a shorter chain Nichol & Dhariwal 2021, section 4."""

    draws = 1

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, step: tf.Tensor, noise: Noise, memory: SolverState
    ) -> tuple[tf.Tensor, tf.Tensor, SolverState]:
        """x_{t-1} = mean + sigma_t noise, and no noise in the last step (step 0)."""
        predicted = denoiser(x_t, self.chain.levels.at(step, x_t))
        x_0 = clipped(predicted.x_0, self.clip)
        mean, log_variance = self.chain.p_step(x_0, x_t, step, predicted.variance)
        sigma = tf.where(step > 0, tf.exp(0.5 * log_variance), tf.zeros_like(log_variance))
        return mean + sigma * noise(0), x_0, memory
