"""The run that teaches a student: opened, guided as it teaches, copied into the student's directory."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_ddpm import build
from tf_ddpm import config as config_lib
from tf_ddpm.config import Config, DistillConfig, SampleConfig
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.errors import NotTrainedError, UserError, required
from tf_ddpm.networks.backbone import Condition
from tf_ddpm.networks.unet import UNet
from tf_ddpm.runs import checkpoints, configuration, probes, teacher_copies
from tf_ddpm.runtime import atomic_files
from tf_ddpm.runtime.paths import home_expanded
from tf_ddpm.sampling.guide import OpenGuide, open_guide

_GUIDE = "guide"  # of that copy


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained network as it teaches: with the guide and the guidance that its student's configuration names.

    Attributes:
      place: the run directory that it was read from.
    """

    place: Path
    config: Config
    network: UNet
    guide: OpenGuide | None = None

    def denoiser(self, condition: Condition, rows: tf.Tensor) -> Denoiser:
        """Under the condition of so many rows, guided as `config.sample` says."""
        sample = self.config.sample
        guidance = None if sample.guidance == 1.0 else tf.fill([rows], tf.constant(sample.guidance, tf.float32))
        known = {name: condition[name] for name in self.network.conditions}
        guide = None if self.guide is None else self.guide.guide
        interval = build.guidance_interval(sample)
        return build.denoiser(self.config.diffusion, self.network, known, guidance, guide=guide, interval=interval)

    @property
    def sha256(self) -> str:
        """Of all that it teaches depends on, but its guidance."""
        found = hashlib.sha256()
        for network, diffusion in ((self.network, self.config.diffusion), *self._guiding()):
            said = [config_lib.said("model", network.model), config_lib.said("diffusion", diffusion)]
            found.update(json.dumps(said).encode())
            for weight in network.weights:
                found.update(np.asarray(weight).tobytes())
        return found.hexdigest()

    def _guiding(self) -> list:
        return [] if self.guide is None else [(self.guide.network, self.guide.config.diffusion)]


def is_there(config: Config, run_dir: str | os.PathLike) -> bool:
    """Whether the student in `run_dir` has its teacher still; an imported one never had."""
    return teacher_copies.place(run_dir).exists() or Path(config.distill.teacher or "-").exists()


def open_teacher(config: Config, run_dir: str | os.PathLike, xla: bool = False) -> Teacher:
    """The teacher of the student `config` in `run_dir`: its copy there, or, before there is one, the run it names.

    Args:
      xla: as of `build.network`.

    Raises:
      UserError: where it cannot be read, does not fit the student, or is not the one that began to teach it.
    """
    copy, distill = teacher_copies.place(run_dir), config.distill
    # Before its hash is known, what lies there may be of a student that did not begin.
    copied = copy.exists() and distill.teacher_sha256 is not None
    place = copy if copied else Path(required(distill.teacher, "distill.teacher"))
    kept = copied and distill.guide is not None and (place / _GUIDE).exists()
    own = _teaching(config, read_config(place), str(place / _GUIDE) if kept else distill.guide)
    network = build.network(own, "float32", xla)
    step, _ = checkpoints.restore_network(network, place, probes.best(place))
    teacher = Teacher(place, own, network, open_guide(own, place, step, fits=kept, xla=xla))
    if distill.teacher_sha256 not in (None, teacher.sha256):
        raise UserError(
            f"{place} is not the network that began to teach this student (its weights or its guide have changed); "
            "put that one back, or start a new student in another directory"
        )
    return teacher


def read_config(place: str | os.PathLike) -> Config:
    """The configuration of a run that is to teach.

    Raises:
      UserError: where there is none, or it cannot teach.
    """
    try:
        own = configuration.read(place)
    except NotTrainedError as error:
        raise UserError(f"teacher={place}: {error}; expected the directory of a trained run") from None
    if own.autoencoder.trained:
        raise UserError(f"teacher={place} is the run of an autoencoder, which draws no images")
    return own


def _teaching(config: Config, own: Config, guide: str | None) -> Config:
    """The teacher's configuration with the guidance that the student names."""
    distill, learns, knows = config.distill, config.diffusion.prediction, own.diffusion.prediction
    _check_steps(distill, own)
    if learns != knows and (learns, knows not in ("eps", "x_0"), distill.convert > 0) != ("v", False, True):
        raise UserError(
            f"diffusion.prediction={learns}: the teacher predicts {knows}; expected {knows}, or, of a teacher that "
            "predicts eps or x_0, v and distill.convert above 0"
        )
    for section, ours, theirs in (
        ("model", dataclasses.replace(config.model, dropout=0.0), dataclasses.replace(own.model, dropout=0.0)),
        ("diffusion", _chain_of(config), _chain_of(own)),
        ("data.image_size and channels", config.data.image_shape, own.data.image_shape),
        ("codec", *_codecs(config, own)),
    ):
        if ours != theirs:
            raise UserError(f"{section}: a student has those of its teacher (but for model.dropout)")
    everywhere = SampleConfig.guidance_max
    values = {
        "guidance": distill.guidance,
        "guide": guide,
        "guidance_min": distill.guidance_min,
        "guidance_max": distill.guidance_max if distill.guidance_max < DistillConfig.guidance_max else everywhere,
        "precision": "float32",
        "weights": "ema",
        "ema": None,
    }
    try:
        return config_lib.validated(
            config_lib.with_values(own, {f"sample.{key}": part for key, part in values.items()})
        )
    except UserError as error:
        raise UserError(f"distill.teacher: {error}") from None


def _check_steps(distill: DistillConfig, own: Config) -> None:
    """Whether the teacher makes the steps that it is asked for."""
    asked = distill.method == "progressive" or distill.target == "teacher"
    if asked and own.distill.jumps:
        raise UserError(
            f"distill.teacher={distill.teacher} is a consistency student, which has no steps to be made in one; "
            "expected its teacher, or distill.method=consistency with distill.target=data"
        )
    grid = own.distill.own_steps
    if not asked or grid is None or (distill.method == "progressive" and distill.teacher_steps == grid):
        return
    raise UserError(
        f"distill.teacher={distill.teacher} is a student that knows its own {grid} steps alone; expected its teacher, "
        f"distill.method=progressive with distill.teacher_steps={grid}, or consistency with distill.target=data"
    )


def _codecs(config: Config, own: Config) -> list[tuple]:
    """Whether each diffuses latents, and of which autoencoder if both know."""
    known = config.codec.sha256 is not None and own.codec.sha256 is not None
    return [(one.codec.run is None, one.codec.sha256 if known else None) for one in (config, own)]


def _chain_of(config: Config) -> config_lib.DiffusionConfig:
    """The chain, whatever is predicted about it."""
    usual = config_lib.DiffusionConfig
    return dataclasses.replace(config.diffusion, prediction=usual.prediction, variance=usual.variance)


def describe(config: Config, run_dir: str | os.PathLike) -> Config:
    """`config` of a new student, with its teacher's hash.

    Raises:
      UserError: as `open_teacher`.
    """
    if not config.distill.student or config.distill.teacher_sha256 is not None:
        return config
    named = os.path.abspath(home_expanded(required(config.distill.teacher, "distill.teacher"), "distill.teacher"))
    config = config_lib.with_values(config, {"distill.teacher": named})
    guide = config.distill.guide
    if guide is not None and not guide.isdecimal():
        guide = os.path.abspath(home_expanded(guide, "distill.guide"))
        config = config_lib.with_values(config, {"distill.guide": guide})
    return config_lib.with_values(config, {"distill.teacher_sha256": open_teacher(config, run_dir).sha256})


def copy_into(run_dir: Path, teacher: Teacher) -> None:
    """Keeps the teacher and its guide in `run_dir`, which then needs no other run; whole, or not at all.

    Raises:
      UserError: where it cannot be written.
    """
    target = teacher_copies.place(run_dir)
    try:
        if target.exists():
            if teacher.guide is not None and not (target / _GUIDE).exists():  # of an import
                with atomic_files.staging_directory(run_dir) as folder:
                    _write(folder / _GUIDE, teacher.guide.config, teacher.guide.network)
                    os.replace(folder / _GUIDE, target / _GUIDE)
            return
        with atomic_files.staging_directory(run_dir) as folder:
            aside = folder / target.name
            _write(aside, teacher.config, teacher.network)
            teacher_copies.mark(aside, teacher.place)
            if teacher.guide is not None:
                _write(aside / _GUIDE, teacher.guide.config, teacher.guide.network)
            os.replace(aside, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from None


def _write(folder: Path, config: Config, network: UNet) -> None:
    """A run directory with its weights alone, as an import is; not yet guided."""
    folder.mkdir()
    plain = {"sample.guidance": 1.0, "sample.guide": None}
    config = config_lib.portable(config_lib.with_values(config, plain))
    (folder / "config.json").write_text(config_lib.to_json(config), encoding="utf-8")
    checkpoints.save_imported(network, folder)
