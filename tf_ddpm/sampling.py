"""From a run and seeds to images: the one sampler behind generation, previews, notebooks and the export."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tf_ddpm import build, checkpoints, pixels, randomness, samplers
from tf_ddpm import config as config_lib
from tf_ddpm.config import Config, SampleConfig
from tf_ddpm.errors import UserError
from tf_ddpm.objectives import Denoiser


def draw(
    sampler: samplers.Sampler,
    denoiser: Denoiser,
    image_shape: Sequence[int],
    seeds: tf.Tensor,
    num_frames: int = 0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Images from seeds; each depends on its own seed alone.

    Args:
      image_shape: (H, W, C). seeds: int64 [B]. num_frames: as in `samplers.sample_loop`.

    Returns:
      uint8 [B, H, W, C], and the predicted images along the chain, uint8 [num_frames, B, H, W, C].
    """
    image_shape = list(image_shape)
    x_T = randomness.image_normal(seeds, 0, image_shape)
    x_0, frames = samplers.sample_loop(
        sampler, denoiser, x_T, lambda k: randomness.image_normal(seeds, k + 1, image_shape), num_frames
    )
    return pixels.to_pixels(x_0), pixels.to_pixels(frames)


def compiled(
    sampler: samplers.Sampler, network: keras.Model, image_shape: Sequence[int], num_frames: int = 0
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """`draw` as one graph for any number of seeds int64 [B]."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="seed")], autograph=False)
    def sample(seeds: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return draw(sampler, network, image_shape, seeds, num_frames)

    return sample


class Run:
    """A trained run: its configuration, its EMA network, and images from it."""

    def __init__(self, config: Config, network: keras.Model, checkpoint_step: int):
        self.config = config
        self.network = network
        self.checkpoint_step = checkpoint_step
        self.process = build.process(config.diffusion)
        self._denoise = tf.function(lambda x_t, t: network(x_t, t), reduce_retracing=True)
        self._compiled: dict[tuple[SampleConfig, int], Callable] = {}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (*self.config.data.image_size, self.config.data.channels)

    def denoiser(self, x_t: ArrayLike, t: ArrayLike) -> tf.Tensor:
        """The network's output float32 [B, H, W, C]: eps, unless the run says otherwise.

        Where the variance is learned, C more channels that stand for it follow.

        Args:
          x_t: float32 [B, H, W, C]. t: int [B], 0 to T-1.
        """
        return self._denoise(tf.convert_to_tensor(x_t, tf.float32), tf.convert_to_tensor(t, tf.int32))

    def sample(self, seeds: Sequence[int], **settings) -> np.ndarray:
        """Images uint8 [N, H, W, C], one for each seed.

        Args:
          seeds: whole numbers. settings: any key of `config.SampleConfig` but precision, for example steps=50.

        Raises:
          UserError: for a setting that is unknown or out of range, or for no seeds at all.
        """
        seeds = np.asarray(seeds)
        if seeds.ndim != 1 or seeds.size == 0 or seeds.dtype.kind != "i":
            raise UserError("seeds: expected a row of whole numbers of at most 63 bits, for example range(16)")
        return np.concatenate([images for images, _ in self.batches(seeds, self.settings(**settings))])

    def settings(self, **changes) -> SampleConfig:
        """The run's sampling settings with `changes` applied; those that are None are left as they are.

        Raises:
          UserError: for a setting that is unknown or out of range.
        """
        if changes.get("precision", self.config.sample.precision) != self.config.sample.precision:
            raise UserError("precision is chosen when the run is loaded: load_run(run_dir, precision=...)")
        values = {f"sample.{name}": value for name, value in changes.items() if value is not None}
        return config_lib.validated(config_lib.with_values(self.config, values)).sample

    def batches(
        self, seeds: np.ndarray, settings: SampleConfig, num_frames: int = 0
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Batches of at most `settings.batch_size` images uint8, with frames (`draw`) for the first batch."""
        for start in range(0, len(seeds), settings.batch_size):
            count = 0 if start else num_frames
            key = (dataclasses.replace(settings, batch_size=1), count)
            if key not in self._compiled:
                sampler = build.sampler(settings, self.process)
                self._compiled[key] = compiled(sampler, self.network, self.image_shape, count)
            part = tf.constant(seeds[start : start + settings.batch_size], tf.int64)
            images, frames = self._compiled[key](part)
            yield images.numpy(), frames.numpy() if count else None


def load_run(run_dir: str | os.PathLike, **settings) -> Run:
    """The run in `run_dir`, with its latest EMA weights.

    Args:
      settings: changes to the run's `config.SampleConfig`, for example precision="bfloat16".

    Raises:
      UserError: where there is no run or no checkpoint, or it cannot be read.
    """
    config = config_lib.read(run_dir)
    values = {f"sample.{name}": value for name, value in settings.items()}
    config = config_lib.validated(config_lib.with_values(config, values))
    build.share_gpus()
    network = build.network(config, config.sample.precision)
    step = checkpoints.restore_ema_network(network, run_dir)
    return Run(config, network, step)
