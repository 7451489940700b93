"""SDEdit (Meng et al. 2022): each row enters the chain at a step of its own."""

from __future__ import annotations

import tensorflow as tf

from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.levels import Levels
from tf_ddpm.diffusion.samplers.base import Noise, Sampler, SolverState


class Entering(Sampler):
    """A chain that each row enters at a step of its own (SDEdit, Meng et al. 2022, algorithm 1); till then it is idle.

    The x_T of the loop holds, for each row, the x_t of the step at which it enters.

    Args:
      inner: a sampler, of which a row that enters late begins as the chain does (`Sampler.entered`).
      steps: int32 [B], how many steps each row makes, 0 to the chain's length; 0: it stays as it is given.
    """

    def __init__(self, inner: Sampler, steps: tf.Tensor):
        super().__init__(inner.chain, inner.clip)
        self.draws, self.calls, self.steps, self._inner = inner.draws, inner.calls, steps, inner.entered(steps)

    @property
    def levels(self) -> Levels:
        """The inner sampler's."""
        return self._inner.levels

    def memory(self, x_T: tf.Tensor) -> SolverState:
        """The inner sampler's."""
        return self._inner.memory(x_T)

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, step: tf.Tensor, noise: Noise, memory: SolverState
    ) -> tuple[tf.Tensor, tf.Tensor, SolverState]:
        """The inner step of the rows that have entered; x_t of the others."""
        x_prev, x_0, after = self._inner.step(denoiser, x_t, step, noise, memory)
        entered = tf.reshape(step < self.steps, [-1] + [1] * (x_t.shape.rank - 1))
        after = tuple(tf.where(entered, new, old) for new, old in zip(after, memory, strict=True))
        return tf.where(entered, x_prev, x_t), x_0, after
