"""DDIM (Song et al. 2021), and its inversion."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.levels import lookup
from tf_ddpm.diffusion.samplers.base import Noise, Sampler, SolverState


class DDIM(Sampler):
    """Song et al. 2021, eq. 12 and 16; eps is derived again from the clipped x_0."""

    def __init__(self, chain: Chain, clip: str = "static", eta: float = 0.0):
        super().__init__(chain, clip)
        self.draws = 1 if eta > 0 else 0
        # Eq. 16. At step 0 alpha_bar_prev is 1, so the last step has no noise.
        self.sigma = eta * np.sqrt(chain.posterior_variance)
        self.direction = np.sqrt(np.maximum(1.0 - chain.alpha_bar_prev - self.sigma**2, 0.0))

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, step: tf.Tensor, noise: Noise, memory: SolverState
    ) -> tuple[tf.Tensor, tf.Tensor, SolverState]:
        """x_{t-1} = sqrt(alpha_bar_prev) x_0 + sqrt(1 - alpha_bar_prev - sigma^2) eps + sigma noise."""
        level = self.chain.levels.at(step, x_t)
        x_0 = self.predicted_x_0(denoiser, x_t, level)
        eps = level.eps(x_t, x_0)
        x_prev = lookup(np.sqrt(self.chain.alpha_bar_prev), step, x_t) * x_0 + lookup(self.direction, step, x_t) * eps
        if self.draws:
            x_prev += lookup(self.sigma, step, x_t) * noise(0)
        return x_prev, x_0, memory


def ddim_inversion(chain: Chain, denoiser: Denoiser, x_0: tf.Tensor) -> tf.Tensor:
    """The latent x_T from which DDIM (eta 0) draws x_0: its ODE run backwards (Song et al. 2021, section 4.3).

    Args:
      chain: over which DDIM will run.
      x_0: [B, ...] in [-1, 1].

    Returns:
      [B, ...], at the chain's last step. Nothing is clipped.
    """

    def body(step: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # The slope at the step that is left; the image itself is taken for the first step's x_t.
        left = chain.levels.at(tf.maximum(step - 1, 0), x)
        predicted = denoiser(x, left).x_0
        x_next = chain.levels.at(step, x).noised(predicted, left.eps(x, predicted))
        return step + 1, tf.ensure_shape(x_next, x.shape)

    _, latent = tf.while_loop(lambda step, _: step < len(chain), body, (0, x_0), parallel_iterations=1)
    return latent
