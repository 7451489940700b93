"""Denoising diffusion probabilistic models (Ho et al. 2020) in TensorFlow and Keras 3.

    run = tf_ddpm.load_run("runs/digits")
    images = run.sample(seeds=range(16))  # uint8 [16, H, W, C]

Importing this package imports no TensorFlow; the first use of `load_run` does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tf_ddpm.sampling.run import Run

__all__ = ["__version__", "load_run"]
__version__ = "0.2.0"


def load_run(run_dir: str | os.PathLike, **settings) -> Run:
    """The trained run in `run_dir`: see `tf_ddpm.sampling.run.load_run`."""
    from tf_ddpm.sampling.run import load_run

    return load_run(run_dir, **settings)
