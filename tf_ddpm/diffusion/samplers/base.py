"""What a sampler is: one step of a reverse process."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.process import DiffusionProcess

Noise = Callable[[int], tf.Tensor]  # number of the draw within the step -> standard normal [B, ...]
SolverState = tuple[tf.Tensor, ...]


class Sampler:
    """One step of a reverse process over `process`.

    Args:
      clip: what holds the predicted x_0 in range: `none`; `static`, to [-1, 1] (Ho et al. 2020); `dynamic`, to
        the 99.5th percentile of each image's |x_0| if that is above 1, and divided by it (Saharia et al. 2022).
    """

    draws = 0  # standard normal tensors that a step asks for
    calls = 1  # of the denoiser in a step

    def __init__(self, process: DiffusionProcess, clip: str = "static"):
        if clip not in ("none", "static", "dynamic"):
            raise ValueError(f"unknown clip {clip!r}: expected none, static or dynamic")
        self.process = process
        self.clip = clip

    def memory(self, x_T: tf.Tensor) -> SolverState:
        """What the first step finds of the steps before it: tensors whose shapes stay the same."""
        return ()

    def entered(self, steps: tf.Tensor) -> Sampler:
        """This sampler for rows that make only their last `steps` int [B]: no row looks back beyond its first step."""
        return self

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor, noise: Noise, memory: SolverState
    ) -> tuple[tf.Tensor, tf.Tensor, SolverState]:
        """(x_{t-1}, predicted x_0, memory) from x_t [B, ...] at the scalar step t."""
        raise NotImplementedError

    def output(self, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        """The denoiser's output for x_t [B, ...] at the scalar step t."""
        return denoiser(x_t, tf.fill([tf.shape(x_t)[0]], self.process.denoiser_timesteps(t)))

    def predicted_x_0(self, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        """The denoiser's x_0 [B, ...] for x_t at the scalar step t, clipped."""
        return clipped(self.process.x_0_from_output(x_t, t, self.output(denoiser, x_t, t)), self.clip)


def clipped(x_0: tf.Tensor, clip: str) -> tf.Tensor:
    """x_0 [B, ...] held in range: see `Sampler`."""
    if clip == "static":
        return tf.clip_by_value(x_0, -1.0, 1.0)
    if clip == "dynamic":
        flat = tf.sort(tf.abs(tf.reshape(x_0, [tf.shape(x_0)[0], -1])), axis=1)
        # Linear interpolation between order statistics, as NumPy and PyTorch define a quantile.
        position = 0.995 * tf.cast(tf.shape(flat)[1] - 1, tf.float64)
        low = tf.cast(tf.floor(position), tf.int32)
        high = tf.minimum(low + 1, tf.shape(flat)[1] - 1)
        share = tf.cast(position - tf.floor(position), x_0.dtype)
        bound = (1.0 - share) * tf.gather(flat, low, axis=1) + share * tf.gather(flat, high, axis=1)
        bound = tf.reshape(tf.maximum(bound, 1.0), [-1] + [1] * (x_0.shape.rank - 1))
        return tf.clip_by_value(x_0, -bound, bound) / bound
    return x_0
