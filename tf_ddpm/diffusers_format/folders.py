"""A folder of diffusers -> a run directory, and back. Read whole before, written aside and renamed after."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save

from tf_ddpm import build
from tf_ddpm import config as config_lib
from tf_ddpm.config import Config, LatentScale
from tf_ddpm.diffusers_format import autoencoder_words, folding, reading, scheduler_words, tensors, unet_words
from tf_ddpm.errors import UserError
from tf_ddpm.runs import checkpoint_files, checkpoints
from tf_ddpm.runtime import atomic_files
from tf_ddpm.sampling import first_stage
from tf_ddpm.sampling.first_stage import FirstStage
from tf_ddpm.sampling.run import Run

# The forms of weights that diffusers knows beside float32, by its names for them.
VARIANTS = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}


def import_run(
    diffusers_dir: str | os.PathLike, config: Config, run_dir: str | os.PathLike, scaling_factor: float | None = None
) -> Path:
    """Writes the run directory of the folder's weights and `config` (`reading.read_config`), at step 0.

    Args:
      scaling_factor: of the latents of its autoencoder; None: what the folder says.

    Raises:
      UserError: where the weights cannot be read or do not fit, it has no autoencoder that a `scaling_factor` were of,
        or `run_dir` is not free.
    """
    run_dir = Path(run_dir)
    checkpoint_files.check_name(run_dir)
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise UserError(f"{run_dir} is not empty; choose another directory for the imported run")
    if config.autoencoder.trained:
        own = _read_first_stage(Path(diffusers_dir), scaling_factor, config)
        return _published(run_dir, lambda aside: first_stage.write(aside, own))
    place = reading.first_stage_folder(Path(diffusers_dir))
    if place is None and scaling_factor is not None:
        raise UserError(f"scaling_factor={scaling_factor:g}: {diffusers_dir} has no autoencoder that it would be of")
    network = build.network(config, "float32")
    tensors.assign(network, reading.read_weights(diffusers_dir))
    found = None if place is None else _read_first_stage(place, scaling_factor)

    def write(aside: Path) -> None:
        made_of = {} if found is None else {"codec.sha256": found.sha256}
        described = config_lib.with_values(config, made_of)
        (aside / "config.json").write_text(config_lib.to_json(described), encoding="utf-8")
        checkpoints.save_imported(network, aside)
        if found is not None:
            (aside / first_stage.FOLDER).mkdir()
            first_stage.write(aside / first_stage.FOLDER, found)

    return _published(run_dir, write)


def _read_first_stage(folder: Path, scaling_factor: float | None, config: Config | None = None) -> FirstStage:
    own, scale = reading.read_autoencoder(folder, scaling_factor=scaling_factor)
    network = build.autoencoder(config or own, "float32")
    tensors.assign(network, reading.read_weights(folder))
    return FirstStage(config or own, network, 0, scale)


def export_run(run: Run, out_dir: str | os.PathLike, variant: str | None = None) -> Path:
    """Writes the run's EMA network and chain as a DDPMPipeline that diffusers loads; of latents, as an LDMPipeline.

    Args:
      variant: fp16 or bf16, the form of the weights, half as large; None: float32.

    Raises:
      UserError: where diffusers has no word for the run, or `out_dir` is not free.
    """
    scheduler_words.check_levels(run.config, timesteps(run.config))
    found = run.first_stage
    latent = found is not None
    if latent and run.config.diffusion.learned_variance:
        raise UserError("diffusers' LDMPipeline has no scheduler for a network that learns the variance")
    # Its LDMPipeline calls every autoencoder vqvae.
    index: dict[str, object] = {
        "_class_name": "LDMPipeline" if latent else "DDPMPipeline",
        "scheduler": ["diffusers", scheduler_words.scheduler_class(run.config)],
        "unet": ["diffusers", "UNet2DModel"],
    }
    files: dict[str, dict] = {
        "unet/config.json": unet_words.unet_config(run.config),
        "scheduler/scheduler_config.json": scheduler_words.scheduler_config(run.config),
    }
    arrays = {"unet": tensors.to_arrays(run.network)}
    if found is not None:
        scale, weights = found.scale, tensors.to_arrays(found.network)
        if not folding.is_one_number(scale):
            weights = folding.folded(weights, scale)
            scale = LatentScale((0.0,) * len(scale.shift), (1.0,) * len(scale.scale))
        files["vqvae/config.json"] = autoencoder_words.autoencoder_config(found.config, scale)
        index["vqvae"] = ["diffusers", files["vqvae/config.json"]["_class_name"]]
        arrays["vqvae"] = weights
    return _write_folder(Path(out_dir), {"model_index.json": index, **files}, arrays, run.config, variant)


def export_note(config: Config) -> str | None:
    """What diffusers has to be told beside the folder of the run: see `scheduler_words.spacing_note`."""
    return scheduler_words.spacing_note(config, timesteps(config))


def timesteps(config: Config) -> list[int]:
    """Those that the run's sampler visits, ascending."""
    return build.shorter_chain(config.sample, build.chain(config.diffusion)).timesteps.tolist()


def export_first_stage(found: FirstStage, out_dir: str | os.PathLike, variant: str | None = None) -> Path:
    """Writes an autoencoder as diffusers loads it: see `export_run`."""
    files = {"config.json": autoencoder_words.autoencoder_config(found.config, found.scale)}
    return _write_folder(Path(out_dir), files, {"": tensors.to_arrays(found.network)}, found.config, variant)


def _in_form(arrays: dict[str, np.ndarray], variant: str | None) -> dict[str, np.ndarray]:
    if variant is None:
        return arrays
    with np.errstate(over="ignore"):
        found = {name: array.astype(VARIANTS[variant]) for name, array in arrays.items()}
    for name, array in found.items():
        if not np.isfinite(array).all():
            raise UserError(f"variant={variant}: {name} has values that it does not hold; bf16 does")
    return found


def _write_folder(
    out_dir: Path,
    files: dict[str, dict],
    weights: dict[str, dict[str, np.ndarray]],
    config: Config,
    variant: str | None,
) -> Path:
    """Writes JSON by name, weights by the folder of their network, and our own configuration beside them."""
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise UserError(f"{out_dir} is not empty; choose another folder")

    weights = {folder: _in_form(arrays, variant) for folder, arrays in weights.items()}
    ending = f".{variant}.safetensors" if variant else ".safetensors"

    def write(aside: Path) -> None:
        for name, content in files.items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (aside / reading.OURS).write_text(config_lib.to_json(config_lib.portable(config)), encoding="utf-8")
        for folder, arrays in weights.items():
            file = aside / folder / f"{reading.WEIGHTS}{ending}"
            file.write_bytes(save(arrays, metadata={"format": "pt"}))

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
