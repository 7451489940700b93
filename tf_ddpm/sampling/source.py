"""Where images come from, by seed: a run, or a pipeline of several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from tf_ddpm import config as config_lib
from tf_ddpm.config import SampleConfig
from tf_ddpm.sampling import small_images
from tf_ddpm.sampling.run import Run
from tf_ddpm.sampling.small_images import SmallImages

Batches = Iterator[tuple[np.ndarray, np.ndarray | None]]


class Source(Protocol):
    """Images, one for each seed, whatever the batches in which they are drawn.

    Attributes:
      image_shape: (H, W, C).
      classes: how many labels are told apart; 0: none. label_names: by label; empty: not known.
      runs: which draw one after the other. batch_size: images drawn at once.
      small: what a run that enlarges is given; None: the images are drawn from noise alone.
    """

    image_shape: tuple[int, int, int]
    classes: int
    label_names: tuple[str, ...]
    runs: tuple[Run, ...]
    batch_size: int
    small: SmallImages | None

    def labels(self, seeds: np.ndarray, label: int | str | Sequence[int] | None) -> np.ndarray:
        """The label int32 [N] of each of the `seeds`: see `Run.labels`."""

    def batches(self, seeds: np.ndarray, labels: np.ndarray, num_frames: int = 0, rounded: bool = True) -> Batches:
        """Batches of images [b, H, W, C], and for the first one frames [b, num_frames, H, W, C] along the chain."""

    def facts(self) -> dict[str, Any]:
        """How they are drawn."""


class RunSource(Source):
    """A run with its settings; one that enlarges is given the pictures of its data, made smaller."""

    def __init__(self, run: Run, settings: SampleConfig, small: SmallImages | None = None):
        self.runs, self._settings = (run,), settings
        self.image_shape, self.label_names = run.image_shape, run.label_names
        self.classes, self.batch_size = run.config.model.classes, settings.batch_size
        if small is None and run.low_res_shape is not None:
            small = small_images.of_data(run.config)
        self.small = small

    def labels(self, seeds: np.ndarray, label: int | str | Sequence[int] | None) -> np.ndarray:
        """See `Source`; of a run that enlarges, by default those of the pictures."""
        if label is None and self.small is not None and self.classes:
            return self.small.labels(seeds)
        return self.runs[0].labels(seeds, label)

    def batches(self, seeds: np.ndarray, labels: np.ndarray, num_frames: int = 0, rounded: bool = True) -> Batches:
        """See `Source`."""
        if self.small is None:
            yield from self.runs[0].batches(seeds, labels, self._settings, num_frames, rounded)
            return
        for start in range(0, len(seeds), self.batch_size):
            part = slice(start, start + self.batch_size)
            frames, small = 0 if start else num_frames, self.small.low_res(seeds[part])
            yield from self.runs[0].batches(seeds[part], labels[part], self._settings, frames, rounded, small)

    def facts(self) -> dict[str, Any]:
        """See `Source`."""
        facts = facts_of(self.runs[0], self._settings)
        return facts | ({} if self.small is None else {"enlarges": self.small.facts()})


def gathered(batches: Batches, reached: Callable[[int], None]) -> np.ndarray:
    """The images of all `batches` [N, H, W, C]; `reached` is told how many there are by now."""
    found: list[np.ndarray] = []
    for images, _ in batches:
        found.append(images)
        reached(sum(map(len, found)))
    return np.concatenate(found)


def facts_of(run: Run, settings: SampleConfig) -> dict[str, Any]:
    """How a run draws with its `settings`."""
    steps = settings.steps or run.config.diffusion.timesteps
    facts = {**config_lib.said("sample", settings), "steps": steps, "checkpoint_step": run.checkpoint_step}
    if run.guide is not None:
        facts["guide"] = run.guide.facts()
    return facts
