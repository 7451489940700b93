"""What a run directory keeps of its labels."""

from __future__ import annotations

import json
import os
from pathlib import Path


def label_names(run_dir: str | os.PathLike) -> tuple[str, ...]:
    """The names of the labels of the run's images, by label; empty where they are not known."""
    try:
        names = json.loads((Path(run_dir) / "data.json").read_text(encoding="utf-8"))["labels"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()
