"""A student's own copy of its teacher: a run directory in the student's, with a mark that says whose copy it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tf_ddpm.runtime import own_files

_MARK = own_files.COPY


def place(run_dir: str | os.PathLike) -> Path:
    """Where the student in `run_dir` keeps it."""
    return Path(os.path.abspath(run_dir)) / own_files.TEACHER


def mark(copy: Path, teacher: str | os.PathLike) -> None:
    """Says that the run in `copy` is one of `teacher`, a run or a folder of diffusers."""
    (copy / _MARK).write_text(json.dumps({"copy_of": os.path.realpath(teacher)}) + "\n", encoding="utf-8")


def origin(copy: Path) -> str | None:
    """What the run in `copy` is a copy of; None where it does not say so."""
    try:
        return str(json.loads((copy / _MARK).read_text(encoding="utf-8"))["copy_of"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
