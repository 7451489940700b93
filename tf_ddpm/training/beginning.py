"""How a run begins, or goes on: its configuration with what its data, its machine and other runs say."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from tf_ddpm import config as config_lib
from tf_ddpm import datasets
from tf_ddpm.config import Config
from tf_ddpm.errors import UserError, required
from tf_ddpm.runs import checkpoint_files, configuration, directory
from tf_ddpm.runtime import cluster, devices
from tf_ddpm.runtime.paths import home_expanded
from tf_ddpm.sampling import first_stage, teacher
from tf_ddpm.training import accumulation


def prepare(
    config: Config, run_dir: Path, replicas: int, holds: contextlib.ExitStack | None
) -> tuple[Config, datasets.ImageSet | None]:
    """The resolved configuration, and the images if they were needed to resolve it: those of a new run.

    Args:
      replicas: devices that share a batch. holds: takes the lock of a new run's directory; None: it is there.

    Raises:
      UserError: for a configuration that does not fit itself, the run that is there, the data or the devices.
    """
    config = config_lib.validated(config)
    for warning in config_lib.warnings(config):
        print(f"warning: {warning}", file=sys.stderr)
    begun = checkpoint_files.steps(run_dir)
    if os.path.lexists(run_dir / "config.json"):
        config = configuration.resumed(configuration.read(run_dir), config, bool(begun))
        accumulation.check_shares(config.train, replicas)
        return _resolved(config), None
    if begun:
        raise UserError(
            f"{run_dir} has checkpoints and no config.json, which describes their run; "
            "put it back, or take another run directory"
        )
    config = teacher.describe(first_stage.describe(_resolved(config)), run_dir)
    if config.data.name == "folder":
        directory.check_free(run_dir, home_expanded(required(config.data.path, "data.path"), "data.path"))
    accumulation.check_shares(config.train, replicas)  # before anything is decoded
    if holds is not None and cluster.this_worker().is_chief:
        directory.make(run_dir, holds)
    fit = lambda shape: config_lib.validated(_of_shape(config, shape))  # noqa: E731
    images = datasets.load(config.data, config.model.classes, fit)
    return fit(images.image_shape), images


def _of_shape(config: Config, shape: tuple[int, int, int]) -> Config:
    """`config` with what its images are."""
    return config_lib.with_values(config, {"data.image_size": shape[:2], "data.channels": shape[2]})


def _resolved(config: Config) -> Config:
    """With what the newest rules and this machine say where the configuration leaves it open."""
    jit = devices.best_jit() if config.train.jit == "auto" else config.train.jit
    decoder = config.data.decoder or config_lib.DECODER
    return config_lib.with_values(config, {"data.decoder": decoder, "train.jit": jit})
