"""A folder of diffusers -> a run directory, and back. Read whole before, written aside and renamed after."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from safetensors.numpy import save

from tf_ddpm import build
from tf_ddpm import config as config_lib
from tf_ddpm.config import Config
from tf_ddpm.diffusers_format import reading, scheduler_words, tensors, unet_words
from tf_ddpm.errors import UserError
from tf_ddpm.runs import checkpoint_files, checkpoints
from tf_ddpm.runtime import atomic_files
from tf_ddpm.sampling.run import Run


def import_run(diffusers_dir: str | os.PathLike, config: Config, run_dir: str | os.PathLike) -> Path:
    """Writes the run directory of the folder's weights and `config` (`reading.read_config`), at step 0.

    Raises:
      UserError: where the weights cannot be read or do not fit, or `run_dir` is not free.
    """
    run_dir = Path(run_dir)
    checkpoint_files.check_name(run_dir)
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise UserError(f"{run_dir} is not empty; choose another directory for the imported run")
    network = build.network(config, "float32")
    tensors.assign(network, reading.read_weights(diffusers_dir))

    def write(aside: Path) -> None:
        (aside / "config.json").write_text(config_lib.to_json(config), encoding="utf-8")
        checkpoints.save_imported(network, aside)

    return _published(run_dir, write)


def export_run(run: Run, out_dir: str | os.PathLike) -> Path:
    """Writes the run's EMA network and chain as a DDPMPipeline that diffusers loads.

    Raises:
      UserError: where diffusers has no word for the run, or `out_dir` is not free.
    """
    out_dir = Path(out_dir)
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise UserError(f"{out_dir} is not empty; choose another folder")
    files = {
        "model_index.json": {
            "_class_name": "DDPMPipeline",
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        },
        "unet/config.json": unet_words.unet_config(run.config),
        "scheduler/scheduler_config.json": scheduler_words.scheduler_config(run.config),
    }
    arrays = tensors.to_arrays(run.network)

    def write(aside: Path) -> None:
        for name, content in files.items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (aside / reading.OURS).write_text(config_lib.to_json(config_lib.portable(run.config)), encoding="utf-8")
        (aside / "unet" / f"{reading.WEIGHTS}.safetensors").write_bytes(save(arrays, metadata={"format": "pt"}))

    return _published(out_dir, write)


def _published(target: Path, write: Callable[[Path], None]) -> Path:
    """Has `write(folder)` fill a folder beside `target`, which then takes its name."""
    try:
        with atomic_files.staging_directory(target.parent) as folder:
            aside = folder / "whole"
            aside.mkdir()
            write(aside)
            os.replace(aside, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from None
    return target
