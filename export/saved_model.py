"""A run -> a versioned SavedModel: written aside, loaded in a fresh process, compared, then renamed into place."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from export import autoencoder, bundle, cascade_comparison, comparison, model_info, warmup
from export.autoencoder import AutoencoderModule
from export.cascade import CascadeModule
from export.endpoints import Endpoints
from export.signatures import ServingModule
from tf_ddpm.config import plans as plans_lib
from tf_ddpm.config.plans import Plan, StagedPlan
from tf_ddpm.errors import UserError
from tf_ddpm.runs import checkpoint_files
from tf_ddpm.runtime import atomic_files
from tf_ddpm.sampling.first_stage import FirstStage
from tf_ddpm.sampling.pipeline import Pipeline
from tf_ddpm.sampling.run import Run

MAX_PIXELS = 512 * 512  # of all enlarged images of a request


def export_run(
    run: Run,
    export_dir: str | os.PathLike,
    plans: tuple[Plan, ...] | None = None,
    max_batch: int = 64,
    keep_versions: int | None = None,
    max_pixels: int | None = None,
) -> Path:
    """Writes `export_dir`/<next free integer>, and the files that an operator needs beside it.

    Args:
      plans: from `plans.parse`, with its defaults if None; the first is `serving_default`. Of a run that enlarges,
        one, with which it does.
      max_batch: the most rows of a request.
      keep_versions: how many versions stay, the newest among them; None: all.
      max_pixels: of all enlarged images of a request, for a run that enlarges; None: 512x512, or one image of the run
        where that is larger.

    Returns:
      The version's folder.

    Raises:
      UserError: where the folder cannot be written, or the reloaded model answers differently from the run.
    """
    if run.low_res_shape is not None:
        own = plans or plans_lib.parse(plans_lib.own(run.config), run.config)
        staged = tuple(StagedPlan(plan.name, (plan,)) for plan in own)
        if len(staged) > 1:
            raise UserError(f"plans: this run enlarges images, with one plan; got {len(staged)}")
        return _export(_Cascade((run,), True, staged, max_batch, max_pixels), export_dir, keep_versions)
    plans = plans or plans_lib.parse(None, run.config)
    return _export(_OneRun(run, plans, max_batch), export_dir, keep_versions)


def export_pipeline(
    pipeline: Pipeline,
    export_dir: str | os.PathLike,
    plans: tuple[StagedPlan, ...],
    max_batch: int = 64,
    keep_versions: int | None = None,
    max_pixels: int | None = None,
) -> Path:
    """`export_run` of runs that draw one after the other.

    Args:
      plans: from `plans.parse_staged`; the first is `serving_default`.
    """
    cascade = _Cascade(pipeline.runs, pipeline.rounded, plans, max_batch, max_pixels)
    return _export(cascade, export_dir, keep_versions)


class _OneRun:
    """What of an export is that of a run."""

    def __init__(self, run: Run, plans: tuple[Plan, ...], max_batch: int):
        self._run, self._plans, self._max_batch = run, plans, max_batch
        self.label_names = run.label_names if run.config.model.classes else ()

    def seconds(self) -> float:
        return _seconds_of_a_call(self._run)

    def module(self, seconds: float) -> Endpoints:
        run, codec_calls = self._run, 0
        if run.first_stage is not None:
            of_image = _seconds_of(run.codec.images, tf.zeros([1, *run.state_shape]))
            codec_calls = max(1, round(of_image / seconds))
        return ServingModule(run, self._plans, self._max_batch, seconds, codec_calls)

    def compare(self, module: Endpoints, model: Path, aside: Path) -> int:
        return comparison.compare(self._run, model, aside, self._plans[0], self._max_batch)

    def info(self, module: Endpoints, warm: list[str]) -> dict:
        return model_info.of_run(self._run, module, self._plans, warm)


class _FirstStage:
    """What of an export is that of an autoencoder."""

    label_names: tuple[str, ...] = ()

    def __init__(self, found: FirstStage, max_batch: int):
        self._found, self._max_batch = found, max_batch

    def seconds(self) -> float:
        codec, shape = self._found.codec, self._found.config.data.image_shape
        return _seconds_of(codec.images, tf.zeros([1, *codec.state_shape(shape)]))

    def module(self, seconds: float) -> Endpoints:
        return AutoencoderModule(self._found, self._max_batch, seconds)

    def compare(self, module: Endpoints, model: Path, aside: Path) -> int:
        return autoencoder.compare(self._found, model, aside, self._max_batch)

    def info(self, module: Endpoints, warm: list[str]) -> dict:
        return model_info.of_first_stage(self._found, module, warm)


class _Cascade:
    """What of an export is that of a pipeline, or of a run that enlarges."""

    def __init__(
        self, runs: Sequence[Run], rounded: bool, plans: tuple[StagedPlan, ...], max_batch: int, max_pixels: int | None
    ):
        self.runs, self._rounded, self._plans = tuple(runs), rounded, plans
        height, width, _ = runs[-1].image_shape
        self._max_batch, self._max_pixels = max_batch, max_pixels or max(MAX_PIXELS, height * width)
        if self._max_pixels < height * width:
            raise UserError(
                f"max_pixels={max_pixels}: one image of this run has {height * width} pixels; expected at least that"
            )
        self.label_names = next((run.label_names for run in runs if run.config.model.classes), ())

    def seconds(self) -> float:
        return max(_seconds_of_a_call(run) for run in self.runs)

    def module(self, seconds: float) -> CascadeModule:
        return CascadeModule(self.runs, self._rounded, self._plans, self._max_batch, self._max_pixels, seconds)

    def compare(self, module: CascadeModule, model: Path, aside: Path) -> int:
        return cascade_comparison.compare(self.runs, self._rounded, module, model, aside, self._plans[0])

    def info(self, module: CascadeModule, warm: list[str]) -> dict:
        return model_info.of_cascade(self.runs, self._rounded, module, self._plans, warm, self.label_names)


def export_first_stage(
    found: FirstStage, export_dir: str | os.PathLike, max_batch: int = 64, keep_versions: int | None = None
) -> Path:
    """`export_run` of an autoencoder, with the signatures `encode_image` and `decode_latent`."""
    return _export(_FirstStage(found, max_batch), export_dir, keep_versions)


def _export(
    subject: _OneRun | _Cascade | _FirstStage, export_dir: str | os.PathLike, keep_versions: int | None
) -> Path:
    checkpoint_files.check_name(Path(export_dir).absolute())
    export_dir = Path(export_dir).absolute()
    try:
        with atomic_files.staging_directory(export_dir) as aside:  # a name that TF Serving does not look at
            module = _save(subject, aside / "model")
            memory = subject.compare(module, aside / "model", aside)
            for line in bundle.publish(export_dir, bundle.texts(memory, subject.label_names)):
                print(line, file=sys.stderr)
            version = _publish(aside / "model", export_dir)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"cannot write into {export_dir}: {reason}") from None
    if keep_versions is not None:
        for old in _versions(export_dir)[:-keep_versions]:
            shutil.rmtree(export_dir / str(old), ignore_errors=True)
    return version


def _save(subject: _OneRun | _Cascade | _FirstStage, target: Path) -> Any:
    seconds = subject.seconds()
    module = subject.module(seconds)
    tf.saved_model.save(module, str(target), signatures=module.endpoints)
    _share_default(target, module.default)
    extra = target / "assets.extra"
    extra.mkdir()
    chosen = warmup.sizes(module, seconds)
    warmup.write(extra / "tf_serving_warmup_requests", module, chosen)
    info = subject.info(module, [*chosen, module.default])
    (extra / "model_info.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    return module


def _share_default(target: Path, plan: str) -> None:
    """Makes `serving_default` the very tensors of the plan.

    A server optimises a graph for each set of tensors that is asked for, so a copy of the plan's would take as long to
    load again, and one of the two names would be cold.
    """
    model, path = saved_model_pb2.SavedModel(), target / "saved_model.pb"
    model.ParseFromString(path.read_bytes())
    signatures = model.meta_graphs[0].signature_def
    signatures["serving_default"].CopyFrom(signatures[plan])
    path.write_bytes(model.SerializeToString(deterministic=True))
    (target / "fingerprint.pb").unlink(missing_ok=True)  # of the file as it was


def _seconds_of_a_call(run: Run) -> float:
    """Of the network for one row, once it is warm."""
    network, (height, width, _) = run.network, run.state_shape
    x, none = tf.zeros([1, height, width, network.input_channels]), tf.zeros([1], tf.int32)
    condition = dict.fromkeys(network.conditions, none)

    return _seconds_of(lambda x: network.forward(x, network.modulation(network.embed_time(none), condition)), x)


def _seconds_of(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> float:
    """Of a call, once it is warm."""
    call, seconds = tf.function(function, autograph=False), []
    for _ in range(10):
        began = time.perf_counter()
        call(x).numpy()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _versions(export_dir: Path) -> list[int]:
    """The versions that are there, the oldest first."""
    return sorted(int(path.name) for path in export_dir.iterdir() if path.name.isdecimal())


def _publish(model: Path, export_dir: Path) -> Path:
    """Renames `model` to the next free version."""
    while True:
        target = export_dir / str(max(_versions(export_dir), default=0) + 1)
        try:
            os.rename(model, target)
            return target
        except OSError:
            if not target.exists():  # another export did not take the number: a real failure
                raise
