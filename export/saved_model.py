"""A run -> a versioned SavedModel: written aside, loaded in a fresh process, compared, then renamed into place."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from export import plans as plans_lib
from export import serving_files, verify
from export.plans import Plan
from export.signatures import ServingModule
from tf_ddpm import checkpoint_files, whole_files
from tf_ddpm.errors import UserError
from tf_ddpm.sampling import Run

_SEEDS = (0, 1)


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
      UserError: where the folder cannot be written, or the reloaded model answers otherwise than the run.
    """
    checkpoint_files.check_name(Path(export_dir).absolute())
    export_dir, plans = Path(export_dir).absolute(), plans or plans_lib.parse(None, run.config)
    try:
        with whole_files.folder_aside(export_dir) as aside:  # a name that TF Serving does not look at
            _save(run, aside / "model", plans, max_batch)
            _compare(run, aside, plans[0])
            for name, text in serving_files.bundle(max_batch).items():
                (aside / name).write_text(text, encoding="utf-8")
                os.replace(aside / name, export_dir / name)
            version = _publish(aside / "model", export_dir)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"cannot write into {export_dir}: {reason}") from None
    if keep_versions is not None:
        for old in _versions(export_dir)[:-keep_versions]:
            shutil.rmtree(export_dir / str(old), ignore_errors=True)
    return version


def _save(run: Run, target: Path, plans: tuple[Plan, ...], max_batch: int) -> None:
    module = ServingModule(run, plans, max_batch)
    tf.saved_model.save(module, str(target), signatures=module.endpoints)
    extra = target / "assets.extra"
    extra.mkdir()
    serving_files.write_warmup(extra / "tf_serving_warmup_requests", module, plans, max_batch)
    info = serving_files.model_info(run, module, plans)
    (extra / "model_info.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")


def _compare(run: Run, aside: Path, plan: Plan) -> None:
    """Loads the model in a fresh process that knows TensorFlow alone, and compares its answers with the run's."""
    inputs, outputs = aside / "inputs.npz", aside / "outputs.npz"
    seeds, known = np.array(_SEEDS, np.int64), run.config.model
    classes = {"label": run.labels(seeds, None)} if known.classes else {}
    guided = {"guidance": np.full(len(seeds), run.config.sample.guidance, np.float32)} if known.null_class else {}
    x_t = np.random.default_rng(0).normal(size=(len(seeds), *run.image_shape)).astype(np.float32)
    t = np.array([0, run.config.diffusion.timesteps - 1], np.int32)
    requests = {"serving_default": {"seed": seeds, **classes, **guided}, "denoise": {"x_t": x_t, "t": t, **classes}}
    if known.null_class:
        requests["denoise"]["guidance"] = np.ones(len(seeds), np.float32)
    np.savez(inputs, **{f"{name}/{key}": a for name, request in requests.items() for key, a in request.items()})
    command = [sys.executable, verify.__file__, str(aside / "model"), str(inputs), str(outputs)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # this process holds memory of the same GPU
    done = subprocess.run(command, cwd=aside, env=env, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"its process ended with code {done.returncode}"])[-1]
        raise UserError(f"the exported model does not load:\n{last[:300]}")
    with np.load(outputs) as served:
        drawn, eps = served["serving_default/image"].astype(int), served["denoise/eps"]
    live = run.sample(seeds, **{**dataclasses.asdict(plan.sample), "guidance": run.config.sample.guidance})
    worst = int(np.abs(drawn - live.astype(int)).max())
    tolerance = 1 if run.config.sample.precision == "float32" else 16
    if worst > tolerance:
        raise UserError(f"the exported model draws other images than the run: up to {worst} grey levels apart")
    expected = run.process.eps_from_output(x_t, t, run.denoiser(x_t, t, classes.get("label"))).numpy()
    error = float(np.abs(eps - expected).max() / np.abs(expected).max())
    if error > (1e-4 if tolerance == 1 else 0.1):
        raise UserError(f"the exported model denoises otherwise than the run: {error:.2g} of the largest value apart")


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
