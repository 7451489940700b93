"""Samplers that start from given images, around the step of another one; and what lies between two noises."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_ddpm.objectives import Denoiser
from tf_ddpm.process import lookup
from tf_ddpm.samplers import Memory, Noise, Sampler


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
        super().__init__(inner.process, inner.clip)
        if inner.memory(x_0):
            raise ValueError(f"{type(inner).__name__} remembers earlier steps, which inpainting repeats")
        self.inner, self.x_0, self.keep, self.repeats = inner, x_0, keep, repeats
        self.draws, self.calls = (inner.draws + 2) * repeats, inner.calls * repeats

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor, noise: Noise, memory: Memory
    ) -> tuple[tf.Tensor, tf.Tensor, Memory]:
        """x_{t-1} whose known pixels are q(x_{t-1} | x_0) of the given image, and at the last step the image's own."""
        process, per_repeat = self.process, self.inner.draws + 2
        root_alpha_bar = lookup(np.sqrt(process.alpha_bar_prev), t, x_t)
        known_std = lookup(np.sqrt(1.0 - process.alpha_bar_prev), t, x_t)  # 0 at the last step
        keep_of_step = lookup(np.sqrt(1.0 - process.betas), t, x_t)
        noise_of_step = lookup(np.sqrt(process.betas), t, x_t)

        def repeat(k: tf.Tensor, x: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            drawn = lambda draw: noise(k * per_repeat + draw)  # noqa: E731
            x_prev, x_0, _ = self.inner.step(denoiser, x, t, drawn, ())
            known = root_alpha_bar * self.x_0 + known_std * drawn(self.inner.draws)
            x_prev = self.keep * known + (1.0 - self.keep) * x_prev
            again = keep_of_step * x_prev + noise_of_step * drawn(self.inner.draws + 1)  # q(x_t | x_{t-1})
            x_next = tf.where(k + 1 < self.repeats, again, x_prev)
            return k + 1, tf.ensure_shape(x_next, x.shape), tf.ensure_shape(x_0, x.shape)

        state = (0, x_t, tf.zeros_like(x_t))
        _, x_prev, x_0 = tf.while_loop(lambda k, *_: k < self.repeats, repeat, state, parallel_iterations=1)
        return x_prev, x_0, memory


class Entering(Sampler):
    """A chain that each row enters at a step of its own (SDEdit, Meng et al. 2022, algorithm 1); till then it is idle.

    The x_T of the loop holds, for each row, the x_t of the step at which it enters.

    Args:
      inner: a sampler, of which a row that enters late begins as the chain does (`Sampler.entered`).
      steps: int32 [B], how many steps each row makes, 0 to the chain's length; 0: it stays as it is given.
    """

    def __init__(self, inner: Sampler, steps: tf.Tensor):
        super().__init__(inner.process, inner.clip)
        self.draws, self.calls, self.steps, self._inner = inner.draws, inner.calls, steps, inner.entered(steps)

    def memory(self, x_T: tf.Tensor) -> Memory:
        """The inner sampler's."""
        return self._inner.memory(x_T)

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor, noise: Noise, memory: Memory
    ) -> tuple[tf.Tensor, tf.Tensor, Memory]:
        """The inner step of the rows that have entered; x_t of the others."""
        x_prev, x_0, after = self._inner.step(denoiser, x_t, t, noise, memory)
        entered = tf.reshape(t < self.steps, [-1] + [1] * (x_t.shape.rank - 1))
        after = tuple(tf.where(entered, new, old) for new, old in zip(after, memory, strict=True))
        return tf.where(entered, x_prev, x_t), x_0, after


def great_circle(a: tf.Tensor, b: tf.Tensor, mix: tf.Tensor) -> tf.Tensor:
    """The point between `a` and `b` [B, ...] at `mix` float32 [B] of the arc from each row to the other (slerp).

    Shoemake 1985. 0 is `a` and 1 is `b`, bit for bit. Rows of the same direction, or of opposite ones, are joined by a
    straight line. The sums are float64: float32 loses the angle between near rows.
    """
    axes = list(range(1, a.shape.rank))
    dot = lambda x, y: tf.reduce_sum(tf.cast(x, tf.float64) * tf.cast(y, tf.float64), axes, keepdims=True)  # noqa: E731
    cosine = dot(a, b) / tf.maximum(tf.sqrt(dot(a, a) * dot(b, b)), 1e-300)
    angle, share = tf.acos(tf.clip_by_value(cosine, -1.0, 1.0)), tf.reshape(tf.cast(mix, tf.float64), tf.shape(cosine))
    sine = tf.sin(angle)
    straight = sine < 1e-6
    sine = tf.where(straight, tf.ones_like(sine), sine)
    of_a = tf.where(straight, 1.0 - share, tf.sin((1.0 - share) * angle) / sine)
    of_b = tf.where(straight, share, tf.sin(share * angle) / sine)
    return tf.cast(of_a, a.dtype) * a + tf.cast(of_b, a.dtype) * b
