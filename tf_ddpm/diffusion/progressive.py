"""Progressive distillation: a step of the student arrives where several of the teacher's do (Salimans & Ho 2022)."""

from __future__ import annotations

import itertools

import numpy as np
import tensorflow as tf

from tf_ddpm import randomness
from tf_ddpm.diffusion.bounds import pixel_mean
from tf_ddpm.diffusion.denoiser import Denoiser, Output
from tf_ddpm.diffusion.levels import Level, Levels
from tf_ddpm.diffusion.schedules import strided_timesteps


def finest_grid(timesteps: int, steps: int, parts: int) -> np.ndarray:
    """The first teacher's timesteps: `parts` for each of a student's, which are exactly those that it draws with.

    Returns:
      [steps * parts] int64, increasing.
    """
    grid = strided_timesteps(timesteps, steps * parts, "trailing")
    grid[parts - 1 :: parts] = strided_timesteps(
        timesteps, steps, "trailing"
    )  # halves may have been rounded otherwise
    return grid


class Stages(tf.Module):
    """The grids of all stages, and what draws a level of the present one's.

    Stage s has a teacher that visits every factor^s-th step of the finest grid, and a student that visits every
    factor^(s+1)-th; the last step of the finest grid belongs to all.

    Args:
      levels: of the whole chain. steps: [G] increasing, its steps that are the finest grid.
      factor: k, of the teacher's steps that the student makes in one. count: of stages, with factor^count at most G.

    Attributes:
      stage: int32 [], which is the present one; -1: none yet, and every level of the finest grid is drawn.
    """

    learns = False

    def __init__(self, levels: Levels, steps: np.ndarray, factor: int, count: int):
        super().__init__()
        self._levels, self._steps, self.factor, self.count = levels, np.asarray(steps), factor, count
        self.stage = tf.Variable(0, trainable=False, name="stage")
        self._weights = np.stack([self._weights_of(stage) for stage in range(count)])
        self._places = np.zeros(len(levels), np.int32)
        self._places[self._steps] = np.arange(len(self._steps))

    def _weights_of(self, stage: int) -> np.ndarray:
        """Of the teacher's predictions, in the clean image with which one step of DDIM arrives where k do: [G, k].

        A step of DDIM is x' = (sigma' / sigma) x + (alpha' - sigma' alpha / sigma) x_0, so k of them are a sum of the
        predictions, and one of them is the same with the sum of the weights. Rows of other grids are 0.
        """
        alpha = np.concatenate([[1.0], self._levels.alpha[self._steps]])  # 0: the clean image
        sigma = np.concatenate([[0.0], self._levels.sigma[self._steps]])
        stride, weights = self.factor**stage, np.zeros((len(self._steps), self.factor))
        for end in range(self.factor * stride, len(self._steps) + 1, self.factor * stride):
            visited = [end - k * stride for k in range(self.factor + 1)]
            first, last = visited[0], visited[-1]
            for k, (here, there) in enumerate(itertools.pairwise(visited)):
                left = 1.0 if there == last else sigma[last] / sigma[there]
                weights[end - 1, k] = left * (alpha[there] - sigma[there] * alpha[here] / sigma[here])
            weights[end - 1] /= alpha[last] - sigma[last] * alpha[first] / sigma[first]
        return weights

    def draw(self, address: tf.Tensor, like: tf.Tensor) -> tuple[Level, tf.Tensor]:
        """See `LevelSampler`: every step of the student's grid is as likely; the weights are 1."""
        stride = tf.constant([self.factor**stage for stage in range(self.count + 1)])[self.stage + 1]
        count = len(self._steps) // stride
        u = randomness.row_uniform(address, randomness.TIMESTEPS, tf.shape(like)[0])
        index = tf.minimum(tf.cast(u * tf.cast(count, tf.float32), tf.int32), count - 1)
        place = (index + 1) * stride - 1
        return self._levels.at(tf.gather(tf.constant(self._steps, tf.int32), place), like), tf.ones([])

    def record(self, step: tf.Tensor, losses: tf.Tensor) -> None:
        """Nothing is learned."""

    def target(self, teacher: Denoiser, x_t: tf.Tensor, level: Level) -> tf.Tensor:
        """The clean image [B, ...] with which one step of DDIM arrives where `factor` steps of the teacher's do.

        Args:
          x_t: [B, ...] at the `level` of the student's grid.
        """
        present = tf.maximum(self.stage, 0)
        stride = tf.constant([self.factor**stage for stage in range(self.count)])[present]
        place = tf.gather(tf.constant(self._places), level.step)
        weights = tf.gather(tf.constant(self._weights, x_t.dtype)[present], place)
        x, here, total = x_t, level, tf.zeros_like(x_t)
        for k in range(self.factor):
            told, there = teacher(x, here).x_0, self._at(place - (k + 1) * stride, x_t)
            total += tf.reshape(weights[:, k], [-1] + [1] * (x_t.shape.rank - 1)) * told
            x, here = there.noised(told, here.eps(x, told)), there
        return total

    def _at(self, place: tf.Tensor, like: tf.Tensor) -> Level:
        """The levels at these places [B] of the finest grid; -1 is the clean image."""
        steps = tf.gather(tf.constant(self._steps, tf.int32), tf.maximum(place, 0))
        found = self._levels.at(steps, like)
        clean = tf.reshape(place < 0, tf.shape(found.alpha))
        alpha = tf.where(clean, tf.ones_like(found.alpha), found.alpha)
        return found._replace(alpha=alpha, sigma=tf.where(clean, tf.zeros_like(found.sigma), found.sigma))


def truncated_snr_error(
    denoiser: Denoiser, x_t: tf.Tensor, level: Level, output: Output, wanted: tf.Tensor
) -> tf.Tensor:
    """max(SNR, 1) |x_0 - wanted|^2, mean over the pixels, [B] (Salimans & Ho 2022, eq. 9).

    It is computed from the output: where there is little noise the error of x_0 is a small multiple of the output's,
    and would drown in rounding.

    Args:
      output: of the denoiser's network for x_t. wanted: the clean image.
    """
    snr = tf.reshape(level.snr, [-1])
    goal = denoiser.parametrisation.target(wanted, level.eps(x_t, wanted), level)
    weight = tf.maximum(snr, 1.0) / denoiser.parametrisation.error_scale(snr)
    return weight * pixel_mean(tf.square(output.prediction - goal))
