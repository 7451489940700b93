"""Sampling in a few steps by a network that says at each level where its path ends (Song et al. 2023)."""

from __future__ import annotations

import tensorflow as tf

from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.levels import lookup
from tf_ddpm.diffusion.samplers.base import Noise, Sampler, SolverState


class Consistency(Sampler):
    """Song et al. 2023 ("Consistency models"), algorithm 1: the predicted image, and new noise of the next level.

    Args:
      known: (x_0, keep), as of `Inpainting`: images whose known pixels take their place in each predicted image.
    """

    draws = 1

    def __init__(self, chain: Chain, clip: str = "static", known: tuple[tf.Tensor, tf.Tensor] | None = None):
        super().__init__(chain, clip)
        self._known = known

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, step: tf.Tensor, noise: Noise, memory: SolverState
    ) -> tuple[tf.Tensor, tf.Tensor, SolverState]:
        """x_{t-1} = sqrt(alpha_bar_prev) x_0 + sqrt(1 - alpha_bar_prev) noise, and x_0 itself in the last step."""
        x_0 = self.predicted_x_0(denoiser, x_t, self.chain.levels.at(step, x_t))
        if self._known is not None:
            given, keep = self._known
            x_0 = keep * given + (1.0 - keep) * x_0
        alpha_bar = self.chain.alpha_bar_prev
        return (
            lookup(alpha_bar**0.5, step, x_t) * x_0 + lookup((1.0 - alpha_bar) ** 0.5, step, x_t) * noise(0),
            x_0,
            memory,
        )
