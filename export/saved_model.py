"""A run -> a versioned SavedModel: written aside, loaded in a fresh process, compared, then renamed into place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from export import verify
from export.signatures import ServingModule
from tf_ddpm.errors import UserError
from tf_ddpm.sampling import Run

_SEEDS = (0, 1)


def export_run(run: Run, export_dir: str | os.PathLike) -> Path:
    """Writes `export_dir`/<next free integer> with the signatures `serving_default` and `denoise`.

    Returns:
      The version's folder.

    Raises:
      UserError: where the folder cannot be written, or the reloaded model draws other images than the run.
    """
    export_dir = Path(export_dir).absolute()
    try:
        export_dir.mkdir(parents=True, exist_ok=True)
        # TF Serving looks at integer names only, so the half-written folder beside them is invisible to it.
        aside = Path(tempfile.mkdtemp(prefix=".partial-", dir=export_dir))
    except OSError as error:
        raise UserError(f"cannot write into {export_dir}: {error.strerror}") from None
    try:
        _save(run, aside / "model")
        _compare(run, aside)
        return _publish(aside / "model", export_dir)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _save(run: Run, target: Path) -> None:
    module = ServingModule(run)
    try:
        tf.saved_model.save(module, str(target), signatures=module.endpoints)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"cannot write into {target.parent.parent}: {str(error).splitlines()[0]}") from None


def _compare(run: Run, aside: Path) -> None:
    """Loads the model in a fresh process that knows TensorFlow alone, and compares its images with the run's."""
    inputs, out = aside / "inputs.npz", aside / "images.npy"
    np.savez(inputs, **_inputs(run))
    command = [sys.executable, verify.__file__, str(aside / "model"), str(inputs), str(out)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # this process holds memory of the same GPU
    done = subprocess.run(command, cwd=aside, env=env, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"its process ended with code {done.returncode}"])[-1]
        raise UserError(f"the exported model does not load:\n{last[:300]}")
    served, live = np.load(out).astype(int), run.sample(_SEEDS).astype(int)
    worst = int(np.abs(served - live).max())
    if worst > 1:
        raise UserError(f"the exported model draws other images than the run: up to {worst} grey levels apart")


def _inputs(run: Run) -> dict[str, np.ndarray]:
    """What `run.sample(_SEEDS)` is asked for, in the words of the signature."""
    seeds, known = np.array(_SEEDS, np.int64), run.config.model
    inputs = {"seed": seeds}
    if known.classes:
        inputs["label"] = run.labels(seeds, None)
    if known.null_class:
        inputs["guidance"] = np.full(len(seeds), run.config.sample.guidance, np.float32)
    return inputs


def _publish(model: Path, export_dir: Path) -> Path:
    """Renames `model` to the next free version."""
    while True:
        taken = [int(path.name) for path in export_dir.iterdir() if path.name.isdecimal()]
        target = export_dir / str(max(taken, default=0) + 1)
        try:
            os.rename(model, target)
            return target
        except OSError:
            if not target.exists():  # another export did not take the number: a real failure
                raise
