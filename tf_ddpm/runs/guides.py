"""Which checkpoints of a run stay to guide it (`train.guide_at`), also those of when it was shorter."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tf_ddpm.config import TrainConfig
from tf_ddpm.errors import UserError
from tf_ddpm.runs import checkpoint_files, configuration
from tf_ddpm.runtime import atomic_files

FILE = "guides.json"


def kept(run_dir: str | os.PathLike, train: TrainConfig) -> tuple[int, ...]:
    """The steps whose checkpoints stay: of `train`, of the configuration that is there, and of those before it."""
    earlier = _read(Path(run_dir) / FILE)
    if os.path.lexists(os.path.join(run_dir, "config.json")):
        earlier += configuration.read(run_dir).train.guide_steps
    return tuple(dict.fromkeys((*train.guide_steps, *earlier)))


def write(run_dir: str | os.PathLike, train: TrainConfig, steps: tuple[int, ...], begun_at: int) -> None:
    """Remembers `steps` where `train` does not name them all, and tells of those that a run is past already.

    Raises:
      UserError: where the disk does not take the list.
    """
    there = checkpoint_files.steps(run_dir)
    earlier = [step for step in steps if step not in train.guide_steps and step in there]
    path = Path(run_dir) / FILE
    if earlier != list(_read(path)):
        try:
            atomic_files.write_text(path, json.dumps(earlier) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None
    for step in train.guide_steps:
        if step < begun_at and step not in there:
            print(f"train.guide_at: the run is past step {step}, of which it keeps no checkpoint", file=sys.stderr)


def _read(path: Path) -> tuple[int, ...]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    return tuple(step for step in found if isinstance(step, int)) if isinstance(found, list) else ()
