"""Annealed Langevin dynamics (Song & Ermon 2019)."""

from __future__ import annotations

import tensorflow as tf

from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.levels import lookup
from tf_ddpm.diffusion.samplers.base import Noise, Sampler, SolverState


class AnnealedLangevin(Sampler):
    """Langevin dynamics at each level, from the noisiest to the least noisy (Song & Ermon 2019, algorithm 1).

    It needs the score alone, and neither a forward chain nor a reverse one. The levels are those of `chain`; in the
    paper ten, whose sigma fall geometrically.

    Args:
      langevin_steps: the paper's T, steps at each level.
      langevin_size: epsilon / sigma_L^2, so that the step size at level i is `langevin_size` sigma_i^2.
      langevin_denoise: whether the predicted image, without the noise of the last level, takes the place of the last
        step of all (Jolicoeur-Martineau et al. 2020, "Adversarial score matching"). The paper's algorithm has False.
    """

    def __init__(
        self,
        chain: Chain,
        clip: str = "static",
        langevin_steps: int = 100,
        langevin_size: float = 0.2,
        langevin_denoise: bool = True,
    ):
        super().__init__(chain, clip)
        self.draws = self.calls = langevin_steps
        self._size, self._denoise = langevin_size, langevin_denoise

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, step: tf.Tensor, noise: Noise, memory: SolverState
    ) -> tuple[tf.Tensor, tf.Tensor, SolverState]:
        """x = x + size / 2 score(x) + sqrt(size) noise, again and again; the score is that of x / alpha."""
        level = self.chain.levels.at(step, x_t)
        sigma = level.sigma / level.alpha

        def body(k: tf.Tensor, x: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            x_0 = self.predicted_x_0(denoiser, level.alpha * x, level)
            eps = level.eps(level.alpha * x, x_0)
            moved = x - 0.5 * self._size * sigma * eps + (self._size**0.5) * sigma * noise(k)
            x_next = tf.where((step == 0) & (k + 1 == self.draws), x_0, moved) if self._denoise else moved
            return k + 1, tf.ensure_shape(x_next, x.shape), tf.ensure_shape(x_0, x.shape)

        state = (0, x_t / level.alpha, tf.zeros_like(x_t))
        _, x, x_0 = tf.while_loop(lambda k, *_: k < self.draws, body, state, parallel_iterations=1)
        return lookup(self.chain.alpha_bar_prev**0.5, step, x_t) * x, x_0, memory
