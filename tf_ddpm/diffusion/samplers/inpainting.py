"""RePaint (Lugmayr et al. 2022)."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.levels import Levels, lookup
from tf_ddpm.diffusion.samplers.base import Noise, Sampler, SolverState
from tf_ddpm.diffusion.samplers.consistency import Consistency


class Inpainting(Sampler):
    """Fills in a part of given images: RePaint (Lugmayr et al. 2022, algorithm 1) around the steps of another sampler.

    After each step the known pixels are replaced by the given image at that step's noise; going back and forth
    `repeats` times lets the unknown ones come to terms with them.

    Args:
      inner: a sampler without memory of earlier steps.
      x_0: the given images [B, ...]. keep: [B, ...] or broadcastable, 1 where a pixel is known, 0 where not.
      repeats: how often each step is made (the paper's U, with jumps of length 1).
    """

    def __init__(self, inner: Sampler, x_0: tf.Tensor, keep: tf.Tensor, repeats: int = 1):
        super().__init__(inner.chain, inner.clip)
        if inner.memory(x_0):
            raise ValueError(f"{type(inner).__name__} remembers earlier steps, which inpainting repeats")
        self.inner, self.x_0, self.keep, self.repeats = inner, x_0, keep, repeats
        self.draws, self.calls = (inner.draws + 2) * repeats, inner.calls * repeats

    @property
    def levels(self) -> Levels:
        """The inner sampler's."""
        return self.inner.levels

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, step: tf.Tensor, noise: Noise, memory: SolverState
    ) -> tuple[tf.Tensor, tf.Tensor, SolverState]:
        """x_{t-1} whose known pixels are q(x_{t-1} | x_0) of the given image, and at the last step the image's own."""
        chain, per_repeat = self.chain, self.inner.draws + 2
        root_alpha_bar = lookup(np.sqrt(chain.alpha_bar_prev), step, x_t)
        known_std = lookup(np.sqrt(1.0 - chain.alpha_bar_prev), step, x_t)  # 0 at the last step
        keep_of_step = lookup(np.sqrt(1.0 - chain.betas), step, x_t)
        noise_of_step = lookup(np.sqrt(chain.betas), step, x_t)

        def repeat(k: tf.Tensor, x: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            drawn = lambda draw: noise(k * per_repeat + draw)  # noqa: E731
            x_prev, x_0, _ = self.inner.step(denoiser, x, step, drawn, ())
            known = root_alpha_bar * self.x_0 + known_std * drawn(self.inner.draws)
            x_prev = self.keep * known + (1.0 - self.keep) * x_prev
            again = keep_of_step * x_prev + noise_of_step * drawn(self.inner.draws + 1)  # q(x_t | x_{t-1})
            x_next = tf.where(k + 1 < self.repeats, again, x_prev)
            return k + 1, tf.ensure_shape(x_next, x.shape), tf.ensure_shape(x_0, x.shape)

        state = (0, x_t, tf.zeros_like(x_t))
        _, x_prev, x_0 = tf.while_loop(lambda k, *_: k < self.repeats, repeat, state, parallel_iterations=1)
        return x_prev, x_0, memory


def inpainting(inner: Sampler, x_0: tf.Tensor, keep: tf.Tensor, repeats: int = 1) -> Sampler:
    """A sampler that fills in a part of given images with the steps of `inner`: see `Inpainting`.

    One that draws new noise after each predicted image has the known pixels put into that image, once.
    """
    if isinstance(inner, Consistency):
        return Consistency(inner.chain, inner.clip, known=(x_0, keep))
    return Inpainting(inner, x_0, keep, repeats)
