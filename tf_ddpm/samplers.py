"""The reverse process: each sampler is one step, and one loop drives them all.

The network is seen only as `denoiser(x_t, t)`, randomness only as `noise(k)`. A sampler is given a chain that
already has the wanted number of steps (`DiffusionProcess.respaced`), and goes from its last step to its first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import tensorflow as tf

from tf_ddpm.objectives import Denoiser
from tf_ddpm.process import DiffusionProcess, lookup


class Sampler(Protocol):
    """One step of a reverse process."""

    process: DiffusionProcess
    stochastic: bool

    def step(self, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(x_{t-1}, x_0 predicted) from x_t [B, ...], the scalar step t and standard normal noise [B, ...]."""


class Ancestral:
    """Ho et al. 2020, algorithm 2; on a shorter chain Nichol & Dhariwal 2021, section 4."""

    stochastic = True

    def __init__(self, process: DiffusionProcess, clip: str = "static"):
        self.process = process
        self.clip = clip

    def step(self, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """x_{t-1} = mean + sigma_t noise, and no noise in the last step (t = 0)."""
        x_0 = predicted_x_0(self.process, denoiser, x_t, t, self.clip)
        mean, log_variance = self.process.p_step(x_0, x_t, t)
        sigma = tf.where(t > 0, tf.exp(0.5 * log_variance), tf.zeros_like(log_variance))
        return mean + sigma * noise, x_0


class DDIM:
    """Song et al. 2021, eq. 12 and 16; eps is derived again from the clipped x_0."""

    def __init__(self, process: DiffusionProcess, clip: str = "static", eta: float = 0.0):
        self.process = process
        self.clip = clip
        self.stochastic = eta > 0
        # Eq. 16. At t = 0 alpha_bar_prev is 1, so the last step has no noise.
        self.sigma = eta * np.sqrt(process.posterior_variance)
        self.direction = np.sqrt(np.maximum(1.0 - process.alpha_bar_prev - self.sigma**2, 0.0))

    def step(self, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """x_{t-1} = sqrt(alpha_bar_prev) x_0 + sqrt(1 - alpha_bar_prev - sigma^2) eps + sigma noise."""
        x_0 = predicted_x_0(self.process, denoiser, x_t, t, self.clip)
        eps = self.process.eps_from_x_0(x_t, t, x_0)
        x_prev = lookup(np.sqrt(self.process.alpha_bar_prev), t, x_t) * x_0 + lookup(self.direction, t, x_t) * eps
        return x_prev + lookup(self.sigma, t, x_t) * noise, x_0


def predicted_x_0(
    process: DiffusionProcess, denoiser: Denoiser, x_t: tf.Tensor, t: tf.Tensor, clip: str = "static"
) -> tf.Tensor:
    """The denoiser's x_0 [B, ...] for x_t at the scalar step t; `static` clips it to [-1, 1], `none` does not."""
    names = tf.fill([tf.shape(x_t)[0]], process.denoiser_timesteps(t))
    x_0 = process.x_0_from_output(x_t, t, denoiser(x_t, names))
    return tf.clip_by_value(x_0, -1.0, 1.0) if clip == "static" else x_0


def sample_loop(
    sampler: Sampler,
    denoiser: Denoiser,
    x_T: tf.Tensor,
    noise: Callable[[tf.Tensor], tf.Tensor],
    num_frames: int = 0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The whole reverse chain as one graph loop.

    Args:
      x_T: [B, ...], standard normal.
      noise: scalar int32 step k, counted from 0 in the order of the loop, -> [B, ...] standard normal.
      num_frames: how many of the predicted x_0, evenly spread over the chain, to return.

    Returns:
      x_0 [B, ...] and the frames [num_frames, B, ...], of which the last is that of the last step.
    """
    steps = len(sampler.process)
    moments = np.unique(np.round(np.linspace(steps - 1, 0, max(num_frames, 1))).astype(np.int32))
    is_frame = np.zeros(steps, bool)
    is_frame[moments] = True
    frames = tf.TensorArray(x_T.dtype, size=len(moments) if num_frames else 0, element_shape=x_T.shape)

    def body(k: tf.Tensor, slot: tf.Tensor, x_t: tf.Tensor, frames: tf.TensorArray) -> tuple:
        t = steps - 1 - k
        drawn = noise(k) if sampler.stochastic else tf.zeros([], x_t.dtype)
        x_prev, x_0 = sampler.step(denoiser, x_t, t, drawn)
        x_prev = tf.ensure_shape(x_prev, x_t.shape)
        if num_frames:
            now = tf.gather(is_frame, k)
            frames = tf.cond(now, lambda: frames.write(slot, x_0), lambda: frames)
            slot += tf.cast(now, tf.int32)
        return k + 1, slot, x_prev, frames

    _, _, x_0, frames = tf.while_loop(lambda k, *_: k < steps, body, (0, 0, x_T, frames), parallel_iterations=1)
    return x_0, frames.stack() if num_frames else tf.zeros([0], x_T.dtype)
