"""Ancestral steps with annealed-Langevin corrections."""

from __future__ import annotations

import tensorflow as tf

from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.levels import lookup
from tf_ddpm.diffusion.samplers.ancestral import Ancestral
from tf_ddpm.diffusion.samplers.base import Noise, Sampler, SolverState


class Langevin(Sampler):
    """Ancestral steps, each followed by one annealed-Langevin correction (Song et al. 2021 "Score-based", alg. 5).

    Args:
      snr: r of the step size 2 alpha (r |noise| / |score|)^2; the norms are of each image, not of the batch, so
        that an image does not depend on its neighbours.
    """

    draws = 2
    calls = 2

    def __init__(self, chain: Chain, clip: str = "static", snr: float = 0.16):
        super().__init__(chain, clip)
        self.snr = snr
        self._ancestral = Ancestral(chain, clip)

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, step: tf.Tensor, noise: Noise, memory: SolverState
    ) -> tuple[tf.Tensor, tf.Tensor, SolverState]:
        """x_{t-1} = x + size score(x) + sqrt(2 size) noise, for the ancestral x; the last step is not corrected."""
        x_prev, x_0, _ = self._ancestral.step(denoiser, x_t, step, noise, ())

        def corrected() -> tf.Tensor:
            before = self.chain.levels.at(step - 1, x_t)
            score = before.score(before.eps(x_prev, self.predicted_x_0(denoiser, x_prev, before)))
            drawn = noise(1)
            alpha = lookup(1.0 - self.chain.betas, step - 1, x_t)
            size = 2.0 * alpha * tf.square(self.snr * _norms(drawn) / tf.maximum(_norms(score), 1e-12))
            return x_prev + size * score + tf.sqrt(2.0 * size) * drawn

        return tf.cond(step > 0, corrected, lambda: x_prev), x_0, memory


def _norms(x: tf.Tensor) -> tf.Tensor:
    """Euclidean norm of each image, [B, 1, 1, ...]."""
    return tf.sqrt(tf.reduce_sum(tf.square(x), axis=list(range(1, x.shape.rank)), keepdims=True))
