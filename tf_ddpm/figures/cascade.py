"""The figure of a run that enlarges: what it is given, what it draws, and what was there."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from tf_ddpm.errors import UserError
from tf_ddpm.figures import plots
from tf_ddpm.sampling import small_images
from tf_ddpm.sampling.run import Run

_AGAIN = 2  # further seeds


def figure(run: Run, rows: int, seed: int) -> Figure:
    """A picture a row: small, enlarged bilinearly, drawn with several seeds, real.

    Raises:
      UserError: for a run that draws from noise alone.
    """
    if run.low_res_shape is None:
        raise UserError("cascade is of a run that enlarges images (model.condition=low_res)")
    small, seeds = small_images.of_data(run.config), np.arange(seed, seed + rows)
    given, labels, factor = small.low_res(seeds), small.labels(seeds), run.config.model.factor
    drawn = []
    for i in range(1 + _AGAIN):
        batches = run.batches(seeds + i * rows, labels, run.config.sample, low_res=given)
        drawn.append(np.concatenate([images for images, _ in batches]))
    blocks = given.repeat(factor, axis=1).repeat(factor, axis=2)
    columns = [blocks, small_images.enlarged(given, factor), *drawn, small.real(seeds)]
    words = ["small", "bilinear", "drawn", *["again"] * _AGAIN, "real"]
    return plots.sheet(np.stack(columns, axis=1), columns=words)
