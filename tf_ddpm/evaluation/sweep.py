"""Metrics along a curve, by sampling steps or by checkpoint: a table, and a file in the run."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from tf_ddpm import config as config_lib
from tf_ddpm.config import Config, plans
from tf_ddpm.diffusion import schedules
from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import evaluate, quality
from tf_ddpm.evaluation.evaluate import EvaluationRequest
from tf_ddpm.evaluation.quality import FeatureNetwork
from tf_ddpm.runs import averages, checkpoint_files
from tf_ddpm.runs import pipelines as runs_pipelines
from tf_ddpm.runs.pipelines import PipelineConfig
from tf_ddpm.runtime import cluster, devices
from tf_ddpm.sampling.pipeline import open_pipeline
from tf_ddpm.sampling.run import open_run
from tf_ddpm.sampling.source import RunSource, Source

_KEYS = {"augmentation": "sample.augmentation", "ema": "sample.ema"}
_NAMES = ("sampling_steps", *_KEYS, "checkpoint", "sigma")
_DECIDES = ("kid", "fid")  # by which the best is chosen, the first that was measured


def sweep(
    wanted: EvaluationRequest, config: Config, run_dir: str, words: str, pipeline: PipelineConfig | None = None
) -> Path:
    """Measures along the curve, prints a table and writes `sweep_<name>.json` into `run_dir`.

    Args:
      words: `sampling_steps:10,20,50` or `checkpoint`, all that are kept (`checkpoint:1000,2000`: those);
        `ema:0.05,0.1`; `sigma:0.5,0.8`, the level of the second of two steps; or `augmentation:0,50,100`.
      pipeline: measured instead of a run, by augmentation; the best is kept in its pipeline.json. `config` is that of
        its last stage then, and `run_dir` its own.

    Returns:
      The path of the file.

    Raises:
      UserError: for a curve that is not known, and as `evaluate.evaluate`.
    """
    if config.autoencoder.trained:
        raise UserError(f"sweep={words}: this run is an autoencoder, which draws no images")
    name, points = points_of(words, config, run_dir)
    metrics = tuple(metric for metric in wanted.metrics if metric != "bpd")
    # Wrong values are found before anything is drawn.
    configs = [settings_at(config, name, point) for point in points]
    pipelines = [_pipeline_at(pipeline, int(point)) for point in points] if pipeline is not None else []
    strategy = devices.strategy()
    network = FeatureNetwork(wanted.inception, strategy)
    real = evaluate.reference(wanted, config, network)
    path, rows = Path(run_dir) / f"sweep_{name}.json", {}
    for i, (point, changed) in enumerate(zip(points, configs, strict=True)):
        source: Source
        if pipelines:
            source = open_pipeline(pipelines[i], strategy)
        else:
            run = open_run(run_dir, changed, strategy, int(point) if name == "checkpoint" else None)
            source = RunSource(run, changed.sample)
        for run in source.runs:
            run.agree(dataclasses.replace(wanted, inception=None), words)
        quality.check_shapes(metrics, source.image_shape, real)
        drawn = evaluate.drawn(dataclasses.replace(wanted, metrics=metrics), source, run_dir, network, real)
        rows[point] = quality.measure(metrics, drawn, real, network.sha256)
        evaluate.write(path, {str(key): row for key, row in rows.items()})
        if not cluster.this_worker().is_chief:
            continue
        if len(rows) == 1:
            print(f"| {name} | {' | '.join(rows[point])} |\n| --- |{' --- |' * len(rows[point])}")
        figures = " | ".join(f"{figure['value']:.4g}" for figure in rows[point].values())
        print(f"| {point} | {figures} |", flush=True)
    if pipeline is not None and cluster.this_worker().is_chief:
        _keep_best(pipeline, rows)
    return path


def _pipeline_at(pipeline: PipelineConfig, point: int) -> PipelineConfig:
    stages = [
        dataclasses.replace(stage, config=settings_at(stage.config, "augmentation", point))
        if stage.config.model.enlarges
        else stage
        for stage in pipeline.stages
    ]
    return dataclasses.replace(pipeline, stages=tuple(stages))


def _keep_best(pipeline: PipelineConfig, rows: dict[float, dict]) -> None:
    """Writes the best augmentation into the pipeline's file, and nothing else of how it was measured."""
    name = next((name for name in _DECIDES if name in next(iter(rows.values()))), None)
    if name is None:
        return
    best = int(min(rows, key=lambda point: rows[point][name]["value"]))
    measured = {str(point): row[name]["value"] for point, row in rows.items()}
    receipt = {"chosen_by": name, "measured": measured, "receipt": rows[best][name]["receipt"]}
    kept = _pipeline_at(runs_pipelines.find(str(pipeline.directory)), best)
    kept = dataclasses.replace(kept, receipts=kept.receipts | {"augmentation": receipt})
    print(f"augmentation {best} is best by {name}; kept in {runs_pipelines.write(kept)}")


def points_of(words: str, config: Config, run_dir: str | os.PathLike) -> tuple[str, list[float]]:
    """What is swept, and its values.

    Raises:
      UserError: for a sweep that is not known, or that the run with `config` in `run_dir` has not.
    """
    name, points = _points(words, run_dir)
    return name, _with_their_own_weights(words, config, points) if name == "checkpoint" else points


def _points(words: str, run_dir: str | os.PathLike) -> tuple[str, list[float]]:
    name, _, values = words.partition(":")
    if name not in _NAMES or (name != "checkpoint" and not values):
        raise UserError(
            f"sweep={words}: expected sampling_steps:10,20,50, ema:0.05,0.1, sigma:0.5,0.8, "
            "augmentation:0,50,100 or checkpoint"
        )
    if name == "ema" and not averages.steps(run_dir):
        raise UserError(
            f"sweep={words}: the run in {run_dir} has kept no averages; train one with train.averages=0.05,0.1"
        )
    if name in ("ema", "sigma"):
        return name, _numbers(words, values)
    kept = checkpoint_files.steps(run_dir) if name == "checkpoint" else None
    points = values.split(",") if values else [str(step) for step in kept or []]
    if not points:
        raise UserError(f"sweep={words}: the run in {run_dir} has no checkpoint yet")
    for point in points:
        if not point.isdecimal() or (kept is not None and int(point) not in kept):
            known = f"one of {', '.join(map(str, kept))}" if kept is not None else "whole numbers"
            raise UserError(f"sweep={words}: {point!r}; expected {known}")
    return name, sorted({int(point) for point in points})


def _with_their_own_weights(words: str, config: Config, points: list[float]) -> list[float]:
    """Those that are drawn with the checkpoint's own weights, guided by an earlier one where a step guides."""
    guide = config.sample.guide
    if config.sample.ema is not None:
        raise UserError(
            f"sweep={words}: sample.ema={config.sample.ema:g} draws with averages that were kept at other steps; "
            "expected --set=sample.ema=none"
        )
    if ":" in words or guide is None or not guide.isdecimal():
        return points
    later = [point for point in points if point > int(guide)]
    if not later:
        raise UserError(f"sweep={words}: the run has no checkpoint after guide={guide}")
    return later


def settings_at(config: Config, name: str, point: float) -> Config:
    """`config` at a point of the curve `name`.

    Raises:
      UserError: where it does not fit.
    """
    if name == "checkpoint":
        return config
    if name == "sigma":
        first = config.sample.sigmas[:1] or schedules.few_step_sigmas(1)
        grid = {"sample.steps": 2, "sample.spacing": "sigmas", "sample.sigmas": (float(first[0]), point)}
        return config_lib.validated(config_lib.with_values(config, grid))
    values = plans.in_steps(config.sample, int(point)) if name == "sampling_steps" else {_KEYS[name]: point}
    return config_lib.validated(config_lib.with_values(config, values))


def _numbers(words: str, values: str) -> list[float]:
    try:
        return sorted({float(value) for value in values.split(",")})
    except ValueError:
        raise UserError(f"sweep={words}: expected numbers, for example ema:0.05,0.1,0.15 or sigma:0.5,0.8") from None
