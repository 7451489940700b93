"""A pipeline on disk: pipeline.json names the runs that draw one after the other. Imports no TensorFlow."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from tf_ddpm import config as config_lib
from tf_ddpm.config import Config
from tf_ddpm.errors import UserError
from tf_ddpm.runs import configuration, kept_labels
from tf_ddpm.runtime import atomic_files, own_files

FILE = "pipeline.json"
_FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Stage:
    """A run, and the configuration with which it is used."""

    run_dir: str
    config: Config


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """Runs that draw one after the other.

    Attributes:
      directory: its own, with pipeline.json and what is drawn and measured.
      rounded: whether what goes from one stage to the next is rounded to bytes.
      receipts: of the settings that were chosen by measuring.
    """

    directory: Path
    stages: tuple[Stage, ...]
    rounded: bool = True
    receipts: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The names of its runs, joined by +."""
        return _name(tuple(stage.run_dir for stage in self.stages))

    @property
    def configs(self) -> tuple[Config, ...]:
        """Of its stages."""
        return tuple(stage.config for stage in self.stages)

    @property
    def sha256(self) -> str:
        """Of the configurations and of what goes between the stages; a receipt adds the weights'."""
        words = [config_lib.to_json(config_lib.portable(config)) for config in self.configs]
        return hashlib.sha256(json.dumps([words, self.rounded]).encode()).hexdigest()


def find(words: str, directory: str | None = None) -> PipelineConfig:
    """The pipeline that `words` name: runs separated by commas, or a pipeline.json, or its folder.

    Args:
      directory: the pipeline's own; None: beside the first run, named as the runs are.

    Raises:
      UserError: where a run cannot be read, or two that follow each other do not fit.
    """
    path = Path(words)
    if "," not in words:
        file = path if path.name == FILE else path / FILE
        if not file.is_file():
            raise UserError(f"pipeline={words}: expected runs that follow each other, BASE,LARGER, or a {FILE}")
        if directory is not None and os.path.realpath(directory) != os.path.realpath(file.parent):
            raise UserError(f"run_dir={directory}: {words} has its own directory; leave one of them out")
        return _read(file)
    run_dirs = tuple(part.strip() for part in words.split(","))
    if "" in run_dirs:
        raise UserError(f"pipeline={words}: a name is empty; expected the directories of runs, separated by commas")
    own = Path(directory) if directory else Path(os.path.normpath(run_dirs[0])).parent / _name(run_dirs)
    found = PipelineConfig(own, tuple(Stage(run_dir, configuration.read(run_dir)) for run_dir in run_dirs))
    check(found)
    if own_files.is_run(own):
        raise UserError(f"{own} is a run's own directory; choose another run directory for the pipeline")
    if (own / FILE).exists():
        kept = _read(own / FILE)
        if [os.path.realpath(s.run_dir) for s in kept.stages] != [os.path.realpath(run_dir) for run_dir in run_dirs]:
            raise UserError(f"{own / FILE} is of other runs ({kept.name}); choose another run directory for this one")
        return kept
    return found


def write(pipeline: PipelineConfig) -> Path:
    """Writes pipeline.json, whole or not at all.

    Raises:
      UserError: where it cannot be written.
    """
    stages = []
    for stage in pipeline.stages:
        saved = configuration.read(stage.run_dir)
        changed = config_lib.changed(saved, stage.config)
        values = {key.partition(".")[2]: config_lib.get(stage.config, key) for key in changed}
        stages.append({"run": os.path.relpath(stage.run_dir, pipeline.directory), "sample": values})
    text = {
        "made_by": own_files.MADE_BY,
        "format_version": _FORMAT_VERSION,
        "name": pipeline.name,
        "sha256": pipeline.sha256,
        "stages": stages,
        "rounded": pipeline.rounded,
        "receipts": pipeline.receipts,
    }
    try:
        pipeline.directory.mkdir(parents=True, exist_ok=True)
        atomic_files.write_text(pipeline.directory / FILE, json.dumps(text, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {pipeline.directory / FILE}: {error.strerror or error}") from None
    return pipeline.directory / FILE


def _read(file: Path) -> PipelineConfig:
    try:
        text = json.loads(file.read_text(encoding="utf-8"))
        if text["made_by"] != own_files.MADE_BY or text["format_version"] > _FORMAT_VERSION:
            raise ValueError
        rows = [(str(row["run"]), dict(row["sample"])) for row in text["stages"]]
        rounded, receipts = text["rounded"], dict(text["receipts"])
        if len(rows) < 2 or not isinstance(rounded, bool) or any("\0" in run for run, _ in rows):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{file} is no pipeline of this program; move it away, and name the runs") from None
    stages = []
    for run, sample in rows:
        run_dir = os.path.normpath(os.path.join(file.parent, run))
        values = {f"sample.{name}": value for name, value in sample.items()}
        stages.append(
            Stage(run_dir, config_lib.validated(config_lib.with_values(configuration.read(run_dir), values)))
        )
    found = PipelineConfig(file.parent, tuple(stages), rounded, receipts)
    check(found)
    return found


def check(pipeline: PipelineConfig) -> None:
    """Whether each stage can enlarge what the one before it draws.

    Raises:
      UserError: naming the run that cannot, and why.
    """
    first, *others = pipeline.stages
    if first.config.model.enlarges:
        raise UserError(
            f"{first.run_dir} enlarges images; the first run of a pipeline draws them (model.condition=none)"
        )
    if not others:
        raise UserError(f"pipeline={first.run_dir}: expected at least two runs, BASE,LARGER")
    before = first
    for stage in others:
        _check_follows(before, stage)
        before = stage
    knowing = [stage for stage in pipeline.stages if stage.config.model.classes]
    for stage in knowing[1:]:
        one, other = (kept_labels.label_names(found.run_dir) for found in (knowing[0], stage))
        counts = [found.config.model.classes for found in (knowing[0], stage)]
        if counts[0] != counts[1] or (one and other and one != other):
            shown = [", ".join(names[:5]) or str(count) for names, count in zip((one, other), counts, strict=True)]
            raise UserError(
                f"{stage.run_dir} has other labels ({shown[1]}) than {knowing[0].run_dir} ({shown[0]}); "
                "expected the same, or none"
            )


def _check_follows(before: Stage, stage: Stage) -> None:
    model, (height, width, channels) = stage.config.model, stage.config.data.image_shape
    if not model.enlarges:
        raise UserError(
            f"{stage.run_dir} draws from noise alone; after the first run of a pipeline expected one that enlarges "
            "(model.condition=low_res)"
        )
    wanted = (height // model.factor, width // model.factor, channels)
    got = before.config.data.image_shape
    if wanted != got:
        shown = ["x".join(map(str, shape)) for shape in (wanted, got)]
        raise UserError(f"{stage.run_dir} enlarges images of {shown[0]}, and {before.run_dir} draws {shown[1]}")


def _name(run_dirs: tuple[str, ...]) -> str:
    return "+".join(os.path.basename(os.path.normpath(run_dir)) for run_dir in run_dirs)
