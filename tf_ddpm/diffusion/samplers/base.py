"""What a sampler is: one step of a reverse chain."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.levels import Level, Levels

Noise = Callable[[int], tf.Tensor]  # number of the draw within the step -> standard normal [B, ...]
SolverState = tuple[tf.Tensor, ...]


class Sampler:
    """One step of the reverse of `chain`, whose steps are the levels that it visits.

    Args:
      clip: what holds the predicted x_0 in range: `none`; `static`, to [-1, 1] (Ho et al. 2020); `dynamic`, to
        the 99.5th percentile of each image's |x_0| if that is above 1, and divided by it (Saharia et al. 2022).
    """

    draws = 0  # standard normal tensors that a step asks for
    calls = 1  # of the denoiser in a step

    def __init__(self, chain: Chain, clip: str = "static"):
        if clip not in ("none", "static", "dynamic"):
            raise ValueError(f"unknown clip {clip!r}: expected none, static or dynamic")
        self.chain = chain
        self.clip = clip

    @property
    def levels(self) -> Levels:
        """Every level at which it asks the denoiser; the first are those of its chain."""
        return self.chain.levels

    def memory(self, x_T: tf.Tensor) -> SolverState:
        """What the first step finds of the steps before it: tensors whose shapes stay the same."""
        return ()

    def entered(self, steps: tf.Tensor) -> Sampler:
        """This sampler for rows that make only their last `steps` int [B]: no row looks back beyond its first step."""
        return self

    def step(
        self, denoiser: Denoiser, x_t: tf.Tensor, step: tf.Tensor, noise: Noise, memory: SolverState
    ) -> tuple[tf.Tensor, tf.Tensor, SolverState]:
        """(x_{t-1}, predicted x_0, memory) from x_t [B, ...] at the scalar step of the chain."""
        raise NotImplementedError

    def predicted_x_0(self, denoiser: Denoiser, x: tf.Tensor, level: Level) -> tf.Tensor:
        """The denoiser's x_0 [B, ...], clipped."""
        return clipped(denoiser(x, level).x_0, self.clip)


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
