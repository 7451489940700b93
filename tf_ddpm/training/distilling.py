"""What a student adds to training: its objective, its stages, and probes of what it draws."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tf_ddpm import build
from tf_ddpm.codecs.codec import Codec
from tf_ddpm.config import Config, DistillConfig
from tf_ddpm.datasets.image_set import ImageSet
from tf_ddpm.diffusion import consistency, progressive
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.level_sampling import LevelSampler
from tf_ddpm.diffusion.levels import Level
from tf_ddpm.diffusion.objectives import Objective
from tf_ddpm.evaluation.sliced_wasserstein import SlicedWasserstein
from tf_ddpm.networks.backbone import Condition
from tf_ddpm.runtime import memory
from tf_ddpm.runtime.progress import Progress
from tf_ddpm.sampling import drawing
from tf_ddpm.sampling.teacher import Teacher
from tf_ddpm.training import accumulation, spread
from tf_ddpm.training.optimizers import make_optimizer
from tf_ddpm.training.state import TrainState

_PROBE_BYTES = 16  # of a number of an image: floats, those of the levels, and what is between them
LARGEST_WEIGHT = "largest_weight"  # of an image in the loss of the updates since the last line of the log


def level_sampler(config: Config) -> LevelSampler:
    """What draws the levels of an update of a student."""
    distill, whole = config.distill, build.chain(config.diffusion)
    if distill.method == "consistency":
        return build.level_sampler(config)
    steps = progressive.finest_grid(len(whole), distill.steps, distill.factor**distill.halvings)
    return progressive.Stages(whole.levels, steps, distill.factor, distill.halvings)


def make_state(config: Config, make_network: Callable[[], keras.Model]) -> TrainState:
    """The state of a student, whose optimizer begins anew with each stage of progressive distillation."""
    staged = config.distill.method == "progressive"
    decay = stage_length(config) if staged and config.train.decay_steps else None
    further = further_metrics(config.distill)
    return TrainState(
        make_network, make_optimizer(config.train, decay), level_sampler(config), further, further, distills=staged
    )


def stage_length(config: Config) -> int:
    """Updates of a stage of progressive distillation; what is left over belongs to the last."""
    return (config.train.steps - config.distill.convert) // config.distill.halvings


def further_metrics(distill: DistillConfig) -> tuple[str, ...]:
    """What is logged beside the metrics of every run."""
    return (LARGEST_WEIGHT,) if distill.method == "consistency" else ()


# (denoiser, x_0, level, eps) -> the clean image that the student should say, [B, ...]
Wanted = Callable[[Denoiser, tf.Tensor, Level, tf.Tensor], tf.Tensor]


class Lesson:
    """The objective of a student's update.

    Args:
      teacher: made in the scope of the strategy.
    """

    def __init__(self, config: Config, state: TrainState, teacher: Teacher):
        self._config, self._state, self._teacher = config, state, teacher
        self._levels = build.chain(config.diffusion).levels
        # What eps says of the clean image is without bound at the noisy end. Latents have variance 1.
        self._bound = 1.0 if config.codec.run is None else 5.0

    def objective(self, condition: Condition, x_0: tf.Tensor) -> Objective:
        """Under the condition of the images x_0 [B, ...]."""
        distill = self._config.distill
        teacher = self._teacher.denoiser(condition, tf.shape(x_0)[0])
        wanted = (
            self._consistent(teacher) if distill.method == "consistency" else self._progressive(teacher, condition)
        )
        converts = self._state.step < distill.convert

        def loss(denoiser: Denoiser, x_0: tf.Tensor, level: Level, eps: tf.Tensor) -> tf.Tensor:
            x_t = level.noised(x_0, eps)
            if distill.convert:
                # (The branches give what is taken as given: XLA's gradients do not pass through them.)
                told = lambda: tf.clip_by_value(teacher(x_t, level).x_0, -self._bound, self._bound)  # noqa: E731
                goal = tf.cond(converts, told, lambda: wanted(denoiser, x_0, level, eps))
            else:
                goal = wanted(denoiser, x_0, level, eps)
            goal, output = tf.stop_gradient(goal), denoiser.output(x_t, level)
            squared = progressive.truncated_snr_error(denoiser, x_t, level, output, goal)
            if distill.method == "progressive":
                return squared
            said = denoiser.prediction(x_t, level, output).x_0
            apart = consistency.distance(self._pairs(), level, said, goal, distill.huber)
            return tf.where(converts, squared, apart) if distill.convert else apart

        return loss

    def _consistent(self, teacher: Denoiser) -> Wanted:
        distill = self._config.distill
        path: consistency.Path = consistency.path_of_data
        if distill.target == "teacher":
            path = consistency.path_of_teacher(teacher, distill.solver == "heun")
        return lambda denoiser, *rows: consistency.target(self._pairs(), path, denoiser, *rows)

    def _progressive(self, teacher: Denoiser, condition: Condition) -> Wanted:
        stages, previous = self._state.level_sampler, self._state.previous_network
        assert isinstance(stages, progressive.Stages) and previous is not None
        distill = self._config.distill
        before = build.denoiser(self._config.diffusion, previous, condition)

        def wanted(_: Denoiser, x_0: tf.Tensor, level: Level, eps: tf.Tensor) -> tf.Tensor:
            x_t = level.noised(x_0, eps)
            first, later = (lambda: stages.target(teacher, x_t, level)), (lambda: stages.target(before, x_t, level))
            if distill.convert or not distill.guided:  # what the first stage began with says the same as its teacher
                return later()
            return first() if distill.halvings == 1 else tf.cond(stages.stage == 0, first, later)

        return wanted

    def _pairs(self) -> consistency.Pairs:
        distill, train = self._config.distill, self._config.train
        exponents = np.arange(1, distill.stages + 1) / distill.stages
        length = (train.steps - distill.convert) // distill.stages
        stage = tf.clip_by_value((self._state.step - distill.convert) // length, 0, distill.stages - 1)
        return consistency.Pairs(self._levels, tf.gather(tf.constant(distill.gap**exponents, tf.float32), stage))

    def further(self, batch_size: int) -> list[Callable[[Level, tf.Tensor], tf.Tensor]]:
        """What gives this replica's share [1] of `further_metrics` from the levels and the address of its rows."""

        def largest_weight(level: Level, address: tf.Tensor) -> tf.Tensor:
            weights = accumulation.of_all_replicas(self._pairs().weights(level), address, batch_size)
            return tf.reduce_max(weights)[None] / tf.distribute.get_replica_context().num_replicas_in_sync

        return [largest_weight] if self._config.distill.method == "consistency" else []


class Student:
    """What happens between a student's updates."""

    def __init__(self, config: Config, state: TrainState, images: ImageSet, run_dir: Path, codec: Codec):
        self._config, self._state, self._run_dir = config, state, run_dir
        distill = config.distill
        self._boundaries: list[int] = []
        if distill.method == "progressive":
            first, length = distill.convert, stage_length(config)
            self._boundaries = [first + i * length for i in range(distill.halvings)]
        self._every = distill.probe_every
        if self._every:
            some = spread.places(images, distill.probe_images)
            size = float(_PROBE_BYTES * len(some) * np.prod(images.image_shape))
            memory.check(size, f"a probe of {len(some)} images", "a smaller distill.probe_images takes less")
            self._real = lambda: images.images[some]
            sampler = build.sampler(config.sample, build.chain(config.diffusion))
            self._draw = drawing.compiled_draw(sampler, state.network, config, codec=codec)
            self._labels = images.labels[some] if config.model.classes else np.zeros(len(some), np.int32)

    @functools.cached_property
    def _distance(self) -> SlicedWasserstein:
        """From the data, which is not read before the first probe."""
        return SlicedWasserstein(self._real())

    def until_due(self, step: int) -> list[int]:
        """After how many updates something is due."""
        due = [boundary - step for boundary in self._boundaries if boundary > step]
        return due + ([self._every - step % self._every] if self._every else [])

    def before(self, step: int) -> None:
        """Before the update that follows `step`: where a stage begins, its student becomes the next one's teacher."""
        if not self._boundaries:
            return
        stage = sum(boundary <= step for boundary in self._boundaries) - 1
        stages = self._state.level_sampler
        assert isinstance(stages, progressive.Stages)
        stages.stage.assign(stage)
        if step in self._boundaries and step > 0:
            self._state.begin_stage()

    def probe(self) -> float:
        """How far what the average of the weights draws is from the data."""
        size = self._config.sample.batch_size
        drawn = []
        with self._state.averaged(), Progress(len(self._labels), "drawing a probe") as bar:
            for start in range(0, len(self._labels), size):
                labels = tf.constant(self._labels[start : start + size], tf.int32)
                seeds = tf.range(start, start + len(labels), dtype=tf.int64)
                drawn.append(self._draw(seeds, labels, tf.ones_like(labels, tf.float32))[0].numpy())
                bar.update(len(labels))
        return self._distance(np.concatenate(drawn))

    def probes(self, step: int, last: bool) -> bool:
        """Whether the `step` is probed."""
        return bool(self._every) and (step % self._every == 0 or last)
