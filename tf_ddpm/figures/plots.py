"""Figures of matplotlib: sheets of images with words beside them, and curves. They open no window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tf_ddpm.runtime import atomic_files, own_files
from tf_ddpm.sampling import image_files

_DPI = 120
_CELL, _ACROSS = 0.55, 4.0  # inches that an image of a sheet, and all of a row, take at least


def sheet(images: np.ndarray, rows: Sequence[str] = (), columns: Sequence[str] = (), title: str = "") -> Figure:
    """Images uint8 [R, K, H, W, C] as R rows of K, with a word beside each row and above each column (or none)."""
    count, across = images.shape[:2]
    cell = max(_CELL, _ACROSS / across)
    figure, axis = pyplot.subplots(figsize=(across * cell + 1.0, count * cell + (0.8 if title or columns else 0.2)))
    _lay(axis, images)
    whole = axis.images[0].get_size()
    step_y, step_x = whole[0] / count, whole[1] / across
    axis.set_yticks([(i + 0.5) * step_y for i in range(count)] if len(rows) else [], rows or [], fontsize=8)
    axis.set_xticks([(i + 0.5) * step_x for i in range(across)] if len(columns) else [], columns or [], fontsize=8)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)
    if title:
        axis.set_title(title, fontsize=9)
    figure.tight_layout()
    return figure


def _lay(axis: Axes, images: np.ndarray) -> None:
    flat = images.reshape(-1, *images.shape[2:])
    channels = flat.shape[-1]
    if channels not in (1, 3):  # grey with alpha, alpha, or more than a screen shows
        flat = flat[..., :3] if channels > 3 else flat[..., :1]
    laid = image_files.grid(flat, columns=images.shape[1])
    axis.imshow(laid[..., 0] if laid.shape[-1] == 1 else laid, cmap="gray", vmin=0, vmax=255)


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels side by side, each with a light grid."""
    figure, axes = pyplot.subplots(1, count, figsize=(3.6 * count if count > 1 else 5.0, 3.2), squeeze=False)
    for axis in axes[0]:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[0])


def curves(x: Sequence[float], values: Mapping[str, Sequence[float]], word: str, logarithmic: bool = False) -> Figure:
    """Each of the `values` [N] above `x` [N], whose name is `word`, in a panel of its own."""
    figure, axes = panels(len(values))
    for axis, (name, row) in zip(axes, values.items(), strict=True):
        axis.plot(x, row, marker="o")
        axis.set(xlabel=word, ylabel=name, xscale="log" if logarithmic else "linear")
    figure.tight_layout()
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Writes the figure as PNG, whole or not at all, and closes it.

    Raises:
      OSError: where it cannot be written.
    """
    try:
        with atomic_files.atomic_write(path) as beside:
            figure.savefig(beside, dpi=_DPI, format="png", metadata={"Software": own_files.MADE_BY})
    finally:
        pyplot.close(figure)
    return path
