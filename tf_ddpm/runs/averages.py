"""Averages of the weights that a run has kept on its way, in `averages`: of each width a vector, in float16."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tf_ddpm.errors import UserError
from tf_ddpm.runtime import atomic_files

FOLDER = "averages"
_LARGEST = float(np.finfo(np.float16).max)


def write(run_dir: str | os.PathLike, step: int, vectors: dict[float, np.ndarray]) -> None:
    """Keeps the averages float32 [N] of `step`, by their sigma_rel.

    Raises:
      OSError: where the disk does not take them.
    """
    folder = Path(run_dir) / FOLDER
    folder.mkdir(exist_ok=True)
    fits = all(np.abs(vector).max(initial=0.0) <= _LARGEST for vector in vectors.values())
    stored = {f"{width:g}": vector.astype(np.float16 if fits else np.float32) for width, vector in vectors.items()}
    path = folder / f"step-{step}.safetensors"
    with atomic_files.atomic_write(path) as beside:
        try:
            save_file(stored, beside)
        except SafetensorError as error:
            raise OSError(None, str(error), str(path)) from None


def remove_after(run_dir: str | os.PathLike, step: int) -> None:
    """Removes those of steps after `step`, from where a training goes on: they belong to one that was given up."""
    folder = Path(run_dir) / FOLDER
    for later in steps(run_dir):
        if later > step:
            (folder / f"step-{later}.safetensors").unlink(missing_ok=True)
    atomic_files.remove_left(folder)


def steps(run_dir: str | os.PathLike) -> list[int]:
    """The steps of which there are some, the first first."""
    folder = Path(run_dir) / FOLDER
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(int(found[1]) for name in names if (found := re.fullmatch(r"step-(\d+)\.safetensors", name)))


def read(run_dir: str | os.PathLike, step: int) -> dict[float, np.ndarray]:
    """The averages [N] of `step`, by their sigma_rel.

    Raises:
      UserError: where they cannot be read.
    """
    path = Path(run_dir) / FOLDER / f"step-{step}.safetensors"
    try:
        return {float(name): vector for name, vector in load_file(path).items()}
    except Exception as error:  # safetensors raises errors of its own
        raise UserError(f"cannot read the averages in {path}: {str(error).splitlines()[0]}") from None
