"""A run -> a versioned SavedModel: written aside, loaded in a fresh process, compared, then renamed into place."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from export import bundle, comparison, model_info, warmup
from export.signatures import ServingModule
from tf_ddpm.config import plans as plans_lib
from tf_ddpm.config.plans import Plan
from tf_ddpm.errors import UserError
from tf_ddpm.runs import checkpoint_files
from tf_ddpm.runtime import atomic_files
from tf_ddpm.sampling.run import Run


def export_run(
    run: Run,
    export_dir: str | os.PathLike,
    plans: tuple[Plan, ...] | None = None,
    max_batch: int = 64,
    keep_versions: int | None = None,
) -> Path:
    """Writes `export_dir`/<next free integer>, and the files that an operator needs beside it.

    Args:
      plans: from `plans.parse`, with its defaults if None; the first is `serving_default`.
      max_batch: the most rows of a request.
      keep_versions: how many versions stay, the newest among them; None: all.

    Returns:
      The version's folder.

    Raises:
      UserError: where the folder cannot be written, or the reloaded model answers differently from the run.
    """
    checkpoint_files.check_name(Path(export_dir).absolute())
    export_dir, plans = Path(export_dir).absolute(), plans or plans_lib.parse(None, run.config)
    try:
        with atomic_files.staging_directory(export_dir) as aside:  # a name that TF Serving does not look at
            _save(run, aside / "model", plans, max_batch)
            memory = comparison.compare(run, aside / "model", aside, plans[0], max_batch)
            names = run.label_names if run.config.model.classes else ()
            for line in bundle.publish(export_dir, bundle.texts(memory, names)):
                print(line, file=sys.stderr)
            version = _publish(aside / "model", export_dir)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"cannot write into {export_dir}: {reason}") from None
    if keep_versions is not None:
        for old in _versions(export_dir)[:-keep_versions]:
            shutil.rmtree(export_dir / str(old), ignore_errors=True)
    return version


def _save(run: Run, target: Path, plans: tuple[Plan, ...], max_batch: int) -> None:
    seconds = _seconds_of_a_call(run)
    module = ServingModule(run, plans, max_batch, seconds)
    tf.saved_model.save(module, str(target), signatures=module.endpoints)
    _share_default(target, module.default)
    extra = target / "assets.extra"
    extra.mkdir()
    chosen = warmup.sizes(module, seconds)
    warmup.write(extra / "tf_serving_warmup_requests", module, chosen)
    info = model_info.model_info(run, module, plans, [*chosen, module.default])
    (extra / "model_info.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")


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
    label = [0] if run.config.model.classes else None
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        run.denoiser(np.zeros((1, *run.image_shape), np.float32), [0], label).numpy()
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
