"""The loop that drives every sampler."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.samplers.base import Sampler, SolverState


def sample_loop(
    sampler: Sampler,
    denoiser: Denoiser,
    x_T: tf.Tensor,
    noise: Callable[[tf.Tensor], tf.Tensor],
    num_frames: int = 0,
    first: tf.Tensor | int = 0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The whole reverse chain as one graph loop.

    Args:
      x_T: [B, ...], standard normal.
      noise: scalar int32 count of the draw, from 0, `sampler.draws` a step, -> [B, ...] standard normal.
      num_frames: how many of the predicted x_0, evenly spread over the chain, to return.
      first: scalar int32, how many of the chain's first steps are left out; without frames.

    Returns:
      x_0 [B, ...] and the frames [min(num_frames, steps), B, ...], of which the last is that of the last step.
    """
    steps = len(sampler.chain)
    moments = np.unique(np.round(np.linspace(steps - 1, 0, max(num_frames, 1))).astype(np.int32))
    is_frame = np.zeros(steps, bool)
    is_frame[moments] = True
    frames = tf.TensorArray(x_T.dtype, size=len(moments) if num_frames else 0, element_shape=x_T.shape)

    def body(k: tf.Tensor, slot: tf.Tensor, x_t: tf.Tensor, memory: SolverState, frames: tf.TensorArray) -> tuple:
        x_prev, x_0, after = sampler.step(
            denoiser, x_t, steps - 1 - k, lambda draw: noise(k * sampler.draws + draw), memory
        )
        # A network of images of any size may know less of their shapes than the loop does.
        x_prev = tf.ensure_shape(x_prev, x_t.shape)
        memory = tuple(tf.ensure_shape(new, old.shape) for new, old in zip(after, memory, strict=True))
        if num_frames:
            now = tf.gather(is_frame, k)
            frames = tf.cond(now, lambda: frames.write(slot, x_0), lambda: frames)
            slot += tf.cast(now, tf.int32)
        return k + 1, slot, x_prev, memory, frames

    start = (first, 0, x_T, sampler.memory(x_T), frames)
    _, _, x_0, _, frames = tf.while_loop(lambda k, *_: k < steps, body, start, parallel_iterations=1)
    return x_0, frames.stack() if num_frames else tf.zeros_like(x_T)[tf.newaxis][:0]
