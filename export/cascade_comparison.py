"""Whether an exported pipeline, or run that enlarges, answers as the runs do: see `comparison`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from export import comparison, joining
from export.cascade import UPSCALE, CascadeModule
from tf_ddpm import build
from tf_ddpm.config import SampleConfig
from tf_ddpm.config.plans import StagedPlan
from tf_ddpm.sampling.pipeline import Pipeline
from tf_ddpm.sampling.run import Run
from tf_ddpm.sampling.upscaler import Upscaler

_SEEDS = (0, 1)


def compare(
    runs: Sequence[Run], rounded: bool, module: CascadeModule, model: Path, aside: Path, plan: StagedPlan
) -> int:
    """Compares what `model` draws and enlarges with what the runs do.

    Args:
      rounded: between the stages. plan: the first. aside: a folder for what goes to the other process and back.

    Returns:
      The bytes of memory that a server needs with a full batch on every batch thread, and a largest image to enlarge.

    Raises:
      UserError: where the model does not load, or answers differently.
    """
    last, several, limits = runs[-1], len(runs) > 1, module.limits
    factor, (height, width, channels) = last.config.model.factor, last.image_shape
    rows = min(len(_SEEDS), limits.max_batch)
    seeds, label = np.array(_SEEDS[:rows], np.int64), np.zeros(rows, np.int32)
    fits = max(1, min(rows, limits.most_pixels * factor**2 // (height * width)))  # to be enlarged by one request
    shape = (fits, height // factor, width // factor, channels)
    small = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    classes = ({"label": label} if limits.classes else {}) | (
        {"guidance": np.ones(len(seeds), np.float32)} if limits.takes_guidance else {}
    )
    of_fitting = {name: value[:fits] for name, value in ({"seed": seeds} | classes).items()}
    requests = {UPSCALE: {"image": small, "augmentation": np.zeros(fits, np.float32), **of_fitting}}
    if several:
        requests["serving_default"] = {"seed": seeds, **classes}
    measured = "serving_default" if several else UPSCALE
    answers = comparison.asked(model, aside, requests, measured)
    other = comparison.other_precision(last)

    def used(precision: str | None = None) -> list[Run]:
        return [
            _used(run, stage.sample, precision, sent=limits.takes_guidance)
            for run, stage in zip(runs, plan.stages, strict=True)
        ]

    def check(name: str, draw: Callable[[list[Run]], np.ndarray]) -> None:
        comparison.check_images(answers[f"{name}/image"], draw(used()), lambda: draw(used(other)), other)

    check(UPSCALE, lambda runs: _enlarged(runs[-1], small, label))
    if several:
        batches = lambda runs: Pipeline(runs, rounded).batches(seeds, label)  # noqa: E731
        check("serving_default", lambda runs: np.concatenate([images for images, _ in batches(runs)]))
    one_row, each_more, _ = answers["memory"]
    waiting = sum(lane.threads for lane in joining.LANES) * limits.max_batch if several else 0
    pixels = limits.most_pixels * factor**2
    return int(one_row + comparison.MARGIN * (waiting + pixels / (height * width)) * each_more)


def _enlarged(run: Run, small: np.ndarray, label: np.ndarray) -> np.ndarray:
    clean = dataclasses.replace(run.config.sample, augmentation=0)
    enlarge = Upscaler(Run(dataclasses.replace(run.config, sample=clean), run.network, run.checkpoint_step))
    return np.stack([enlarge(image, _SEEDS[i], int(label[i])) for i, image in enumerate(small)])


def _used(run: Run, sample: SampleConfig, precision: str | None, sent: bool) -> Run:
    """The run as a plan uses it, in another precision if it is given; `sent`: with the requests' guidance, 1."""
    if sent and run.guide is None:
        sample = dataclasses.replace(sample, guidance=1.0)
    config = dataclasses.replace(run.config, sample=sample)
    network = run.network if precision is None else build.recast(run.network, precision)
    return Run(config, network, run.checkpoint_step, first_stage=run.first_stage, guide=run.guide)
