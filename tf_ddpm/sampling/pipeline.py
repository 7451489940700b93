"""Runs that draw one after the other, each enlarging what the one before has drawn (Ho et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_ddpm.runs.pipelines import PipelineConfig
from tf_ddpm.sampling.run import Run, open_run
from tf_ddpm.sampling.source import Batches, Source, facts_of


class Pipeline(Source):
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
        self.small = None
        self._knowing = [run for run in runs if run.config.model.classes] or [runs[0]]
        self.label_names, self.classes = self._knowing[0].label_names, self._knowing[0].config.model.classes

    @property
    def steps(self) -> str:
        """The steps of the stages' checkpoints, in words."""
        return ", ".join(str(run.checkpoint_step) for run in self.runs)

    def labels(self, seeds: np.ndarray, label: int | str | Sequence[int] | None) -> np.ndarray:
        """See `Source`: all stages that know labels have to know it."""
        found, *_ = [run.labels(seeds, label) for run in self._knowing]
        return found

    def batches(self, seeds: np.ndarray, labels: np.ndarray, num_frames: int = 0, rounded: bool = True) -> Batches:
        """See `Source`; the frames are of the last stage's chain."""
        for start in range(0, len(seeds), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield self._drawn(seeds[part], labels[part], 0 if start else num_frames, rounded)

    def _drawn(
        self, seeds: np.ndarray, labels: np.ndarray, num_frames: int, rounded: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        *before, last = self.runs
        small = None
        for run in before:
            batches = run.batches(seeds, labels, run.config.sample, rounded=self.rounded, low_res=small)
            small = np.concatenate([images for images, _ in batches])
        found = list(last.batches(seeds, labels, last.config.sample, num_frames, rounded, small))
        return np.concatenate([images for images, _ in found]), found[0][1]

    def facts(self) -> dict[str, Any]:
        """See `Source`."""
        stages = [facts_of(run, run.config.sample) for run in self.runs]
        return {"pipeline": self.name, "rounded_between_stages": self.rounded, "stages": stages}


def open_pipeline(config: PipelineConfig, strategy: tf.distribute.Strategy | None = None) -> Pipeline:
    """The runs of a pipeline, each with its latest checkpoint.

    Raises:
      UserError: where one of them cannot be read.
    """
    runs = [open_run(stage.run_dir, stage.config, strategy) for stage in config.stages]
    return Pipeline(runs, config.rounded, config.name)
