"""Heun's method on the probability-flow ODE, with the churn of Karras et al. 2022."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.levels import Levels, lookup
from tf_ddpm.diffusion.samplers.base import Noise, Sampler, SolverState


class Heun(Sampler):
    """Heun's method on the probability-flow ODE (Song et al. 2021 "Score-based", eq. 13; Karras et al. 2022, alg. 1).

    In x / alpha and s = sigma / alpha the ODE is dx/ds = eps. Two network calls a step; the last step goes to s = 0 by
    Euler's method, which is the prediction itself.

    Args:
      churn: S_churn of Karras et al. 2022, algorithm 2: each of S steps first goes back to the s that is
        1 + min(churn / S, sqrt(2) - 1) times as large, by new noise. 0: none.
      churn_min, churn_max: the s between which it does. churn_noise: standard deviation of the new noise.
    """

    calls = 2

    def __init__(
        self,
        chain: Chain,
        clip: str = "static",
        churn: float = 0.0,
        churn_min: float = 0.0,
        churn_max: float = math.inf,
        churn_noise: float = 1.0,
    ):
        super().__init__(chain, clip)
        self.draws = 1 if churn > 0 else 0
        s, largest = chain.levels.relative_sigma, chain.whole.relative_sigma[-1]
        gamma = np.where((s >= churn_min) & (s <= churn_max), min(churn / len(chain), math.sqrt(2.0) - 1.0), 0.0)
        self._s = np.minimum((1.0 + gamma) * s, np.maximum(largest, s))  # a network knows no larger one
        self._added = churn_noise * np.sqrt(self._s**2 - s**2)
        self._levels = chain.levels
        if self.draws:
            self._levels = chain.levels.followed_by(chain.whole.of_sigmas(self._s))

    @property
    def levels(self) -> Levels:
        """Those of the chain, and those that its steps go back to."""
        return self._levels

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, step: tf.Tensor, noise: Noise, memory: SolverState
    ) -> tuple[tf.Tensor, tf.Tensor, SolverState]:
        """x_{t-1} by the mean of the slopes at both ends."""
        level = self._levels.at(step, x_t)
        if self.draws:
            x_t = x_t / level.alpha + lookup(self._added, step, x_t) * noise(0)
            level = self._levels.at(len(self.chain) + step, x_t)
            x_t = level.alpha * x_t
        x_0 = self.predicted_x_0(denoiser, x_t, level)

        def heun() -> tf.Tensor:
            before = self._levels.at(step - 1, x_t)
            slope = level.eps(x_t, x_0)
            distance = lookup(self.chain.levels.relative_sigma, step - 1, x_t) - lookup(self._s, step, x_t)
            start = x_t / level.alpha
            x_euler = before.alpha * (start + distance * slope)
            slope_before = before.eps(x_euler, self.predicted_x_0(denoiser, x_euler, before))
            return before.alpha * (start + distance * 0.5 * (slope + slope_before))

        return tf.cond(step > 0, heun, lambda: x_0), x_0, memory
