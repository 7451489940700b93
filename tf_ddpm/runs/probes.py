"""probes.json: how good a student was at some steps, by one number, of which less is better. No TensorFlow."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from tf_ddpm.errors import UserError
from tf_ddpm.runs import checkpoint_files
from tf_ddpm.runtime import atomic_files

FILE = "probes.json"


def read(run_dir: str | os.PathLike) -> dict[int, float]:
    """The probes by step; empty where there are none.

    Raises:
      UserError: where the file cannot be read.
    """
    path = Path(run_dir) / FILE
    try:
        found = {int(step): float(value) for step, value in json.loads(path.read_text(encoding="utf-8")).items()}
        if not all(map(math.isfinite, found.values())):
            raise ValueError
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        raise UserError(f"{path} cannot be read; remove it, and the run draws with its latest checkpoint") from None
    return found


def write(run_dir: str | os.PathLike, step: int, value: float) -> bool:
    """Adds the probe of `step`, and says whether none before it was better. Those of later steps are made anew.

    Raises:
      OSError: where it cannot be written.
    """
    before = {earlier: known for earlier, known in read(run_dir).items() if earlier < step}
    atomic_files.write_text(Path(run_dir) / FILE, json.dumps(before | {step: value}, indent=1) + "\n")
    return all(value < known for known in before.values())


def best(run_dir: str | os.PathLike) -> int | None:
    """The step with the best probe among those of which there is a checkpoint; None: there is none."""
    kept = set(checkpoint_files.steps(run_dir))
    found = {step: value for step, value in read(run_dir).items() if step in kept}
    return min(found, key=lambda step: found[step]) if found else None
