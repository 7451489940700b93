"""latents.json: the scale that latents of an autoencoder's run have where they are diffused. No TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

from tf_ddpm.config import LatentScale
from tf_ddpm.errors import UserError
from tf_ddpm.runtime import atomic_files

FILE = "latents.json"


def read(run_dir: Path | str) -> LatentScale | None:
    """What the run in `run_dir` has kept; None: nothing yet.

    Raises:
      UserError: where it cannot be read.
    """
    path = Path(run_dir) / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        scale = LatentScale(
            tuple(map(float, found["shift"])),
            tuple(map(float, found["scale"])),
            int(found["images"]),
            int(found["checkpoint_step"]),
        )
        numbers = (*scale.shift, *scale.scale)
        if len(scale.shift) != len(scale.scale) or not all(map(math.isfinite, numbers)) or min(scale.scale) <= 0:
            raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{path} cannot be read; remove it, and resume the training of its run to have it anew"
        ) from None
    return scale


def write(run_dir: Path | str, scale: LatentScale) -> None:
    """Writes latents.json, whole or not at all.

    Raises:
      OSError: where it cannot be written.
    """
    atomic_files.write_text(Path(run_dir) / FILE, json.dumps(dataclasses.asdict(scale), indent=1) + "\n")
