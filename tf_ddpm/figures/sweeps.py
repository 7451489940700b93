"""The curves that `evaluation.sweep` has measured."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure

from tf_ddpm.errors import UserError
from tf_ddpm.figures import plots


def figure(path: Path) -> Figure:
    """Each metric of the sweep in `path` above the curve's values.

    Raises:
      FileNotFoundError: where it was not measured yet. UserError: where it cannot be read.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        values = {name: [row[name]["value"] for row in rows.values()] for name in next(iter(rows.values()))}
        points = [float(point) for point in rows]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, StopIteration, AttributeError) as error:
        raise UserError(f"cannot read {path}: {str(error)[:100]}") from None
    name = path.stem.removeprefix("sweep_")
    return plots.curves(points, values, name.replace("_", " "), logarithmic=name == "sampling_steps")


def draw(path: Path) -> Path:
    """Writes the curves of the sweep in `path` beside it, as PNG, and returns their path.

    Raises:
      UserError: where the sweep cannot be read, or the picture not be written.
    """
    target = path.with_suffix(".png")
    try:
        return plots.save(figure(path), target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from None
