"""Runs that draw one after the other, each enlarging what the one before has drawn (Ho et al. 2021)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_ddpm.runs.pipelines import PipelineConfig
from tf_ddpm.sampling.run import Run, open_run
from tf_ddpm.sampling.source import Batches


class Pipeline:
    """A `Source` whose images several runs draw: the first from noise, each further one from the images before.

    An image of each stage depends on its seed alone; the stages draw other numbers for the same seed
    (`drawing.stage_of`).

    Args:
      runs: whose settings say how each of them draws.
      rounded: whether what goes from one to the next is rounded to bytes, as it would be saved.
    """

    def __init__(self, runs: Sequence[Run], rounded: bool = True, name: str = ""):
        self.runs, self.rounded, self.name = tuple(runs), rounded, name
        self.image_shape, self.batch_size = runs[-1].image_shape, runs[0].config.sample.batch_size
        knowing = next((run for run in runs if run.config.model.classes), runs[0])
        self._knowing, self.label_names = knowing, knowing.label_names
        self.classes = knowing.config.model.classes

    def labels(self, seeds: np.ndarray, label: int | str | Sequence[int] | None) -> np.ndarray:
        """See `Source`: of the stages that know labels."""
        return self._knowing.labels(seeds, label)

    def batches(self, seeds: np.ndarray, labels: np.ndarray, num_frames: int = 0, rounded: bool = True) -> Batches:
        """See `Source`; the frames are of the last stage's chain."""
        for start in range(0, len(seeds), self.batch_size):
            part = slice(start, start + self.batch_size)
            images, frames = None, None
            for run in self.runs:
                last = run is self.runs[-1]
                drawn = list(
                    run.batches(
                        seeds[part],
                        labels[part],
                        run.config.sample,
                        num_frames if last and start == 0 else 0,
                        rounded if last else self.rounded,
                        images,
                    )
                )
                images, frames = np.concatenate([image for image, _ in drawn]), drawn[0][1]
            yield images, frames

    def facts(self) -> dict[str, Any]:
        """See `Source`."""
        stages = []
        for run in self.runs:
            steps = run.config.sample.steps or run.config.diffusion.timesteps
            stages.append(
                {**dataclasses.asdict(run.config.sample), "steps": steps, "checkpoint_step": run.checkpoint_step}
            )
        return {"pipeline": self.name, "rounded_between_stages": self.rounded, "stages": stages}


def open_pipeline(config: PipelineConfig, strategy: tf.distribute.Strategy | None = None) -> Pipeline:
    """The runs of a pipeline, each with its latest checkpoint.

    Raises:
      UserError: where one of them cannot be read.
    """
    runs = [open_run(stage.run_dir, stage.config, strategy) for stage in config.stages]
    return Pipeline(runs, config.rounded, config.name)
