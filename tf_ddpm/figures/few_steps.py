"""The figure of a student: the same seeds in ever more steps, drawn by it and by its teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tf_ddpm.errors import UserError
from tf_ddpm.figures import plots
from tf_ddpm.sampling.run import Run
from tf_ddpm.sampling.teacher import is_there, open_teacher

_STEPS = (1, 2, 4, 10, 20)
_SEEDS = 3


def figure(run: Run, run_dir: Path, seed: int) -> Figure:
    """Two rows a seed: the teacher by DPM-Solver++, and the student by its own sampler; white where it has no plan.

    Raises:
      UserError: for a run that is no student, or has no teacher beside it.
    """
    if not run.config.distill.student:
        raise UserError("steps is of a student: --mode=distill trains one")
    if not is_there(run.config, run_dir):
        raise UserError("steps shows a student beside its teacher, of which an imported one has no copy")
    teacher = open_teacher(run.config, run_dir)
    teaching = Run(teacher.config, teacher.network, 0, first_stage=run.first_stage, guide=teacher.guide)
    own = run.config.sample.steps or len(run.chain)
    counts = sorted({own, *(count for count in _STEPS if count <= len(run.chain))})
    seeds = range(seed, seed + _SEEDS)
    white = np.full((_SEEDS, *run.image_shape), 255, np.uint8)
    by_teacher = [teaching.sample(seeds, sampler="dpmpp", spacing="trailing", steps=count) for count in counts]
    by_student = [run.sample(seeds, steps=count) if _fits(run, count) else white for count in counts]
    rows = np.stack([np.stack(by_teacher, axis=1), np.stack(by_student, axis=1)], axis=1)
    words = [f"{name}, seed {each}" for each in seeds for name in ("teacher", "student")]
    return plots.sheet(
        rows.reshape(-1, len(counts), *run.image_shape),
        rows=words,
        columns=[f"{count} step{'s' * (count > 1)}" for count in counts],
    )


def _fits(run: Run, steps: int) -> bool:
    """Whether the run's chain has so many levels for its sampler."""
    try:
        run.settings(steps=steps)
    except UserError:
        return False
    return True
