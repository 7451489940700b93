"""What a folder of diffusers holds: its configuration in our words, and its weights. Imports no TensorFlow."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (NumPy knows bfloat16 once it is imported)
import numpy as np
from safetensors import SafetensorError, safe_open

from tf_ddpm import config as config_lib
from tf_ddpm.config import Config, LatentScale
from tf_ddpm.diffusers_format import autoencoder_words, scheduler_words, unet_words
from tf_ddpm.diffusers_format.refusals import refuse
from tf_ddpm.errors import UserError

WEIGHTS = "diffusion_pytorch_model"  # the file's name without its ending
_FIRST_STAGES = ("vqvae", "vae")  # names of an autoencoder in a pipeline
_AVERAGE = "unet_ema"  # folder of the average in a checkpoint of diffusers' training script
_RAW = ".non_ema"  # variant of the file with the weights of the last update
_COMPILED = "_orig_mod."  # what torch.compile puts before a name
OURS = "tf_ddpm.json"  # our own configuration, beside what diffusers reads


def read_config(diffusers_dir: str | os.PathLike, settings: Iterable[str] = ()) -> Config:
    """The configuration of the run that the folder would become, with each `--set` applied.

    Args:
      diffusers_dir: a pipeline with `model_index.json` (`unet/` and `scheduler/`, or all files in one folder, as the
        oldest have them), a checkpoint of diffusers' training script, of which the average `unet_ema` is taken, or a
        UNet2DModel alone, whose chain is then taken to be Ho et al. 2020's.

    Raises:
      UserError: where it is no such folder, or has an option that cannot be honoured.
    """
    folder = Path(diffusers_dir)
    unet = _json(_unet_folder(folder) / "config.json")
    if unet.get("_class_name") in list(autoencoder_words.KINDS):  # (a list is asked by values that have no hash)
        return read_autoencoder(folder, settings)[0]
    if unet.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise UserError(
            f"{folder}: its network is a {unet['_class_name']!r:.60}; expected a UNet2DModel, or one of "
            f"{', '.join(autoencoder_words.KINDS)}"
        )
    first_stage = first_stage_folder(folder)
    scheduler = _scheduler(folder)
    own = folder / OURS
    base = config_lib.from_json(_text(own), str(own)) if own.is_file() else None
    settings = list(settings)
    asked = config_lib.with_settings(
        Config(), [s for s in settings if s.partition("=")[0].strip() == "data.image_size"]
    )
    model = unet_words.model_words(unet, asked.data.image_size)
    if first_stage is not None:
        model |= _latent_words(first_stage, model)
    learned = unet.get("out_channels", 3) != unet.get("in_channels", 3)
    # Without a scheduler: Ho et al. 2020's chain.
    taught = {"diffusion.variance": "learned_range", "train.objective": "hybrid"} if learned else {}
    chain = scheduler_words.chain_words(scheduler, learned) if scheduler else taught
    if first_stage is not None and chain.get("sample.clip", "none") != "none":
        refuse("scheduler", "clip_sample", True, "expected false: latents have no range that they could be clipped to")
    if base is None:
        values = {"data.name": None} | chain | model | ({"sample.clip": "none"} if first_stage is not None else {})
    else:  # ours says more than they can: sampling, data, training, the null class
        values = {key: value for key, value in (chain | model).items() if not key.startswith(("sample.", "train."))}
        if base.model.null_class and values["model.classes"] == base.model.classes + 1:
            values |= {"model.null_class": True, "model.classes": base.model.classes}
    config = config_lib.with_values(base or Config(), values)
    changed = config_lib.with_settings(config, settings)
    if changed.model.null_class and not config.model.null_class and changed.model.classes == config.model.classes:
        # The last class is the null class.
        changed = config_lib.with_values(changed, {"model.classes": max(changed.model.classes - 1, 0)})
    return config_lib.validated(changed)


def _latent_words(first_stage: Path, model: dict[str, Any]) -> dict[str, Any]:
    """What a U-Net's words mean where it diffuses the latents of the autoencoder in a folder."""
    known = read_autoencoder(first_stage)[0]
    channels, (height, width) = model["data.channels"], model["data.image_size"]
    own = known.autoencoder
    if channels != own.state_channels:
        raise UserError(
            f"{first_stage}: its latents have {own.state_channels} channels; the unet takes images of {channels}"
        )
    return {
        "codec.run": str(first_stage),
        "codec.factor": own.factor,
        "codec.channels": channels,
        "codec.sha256": None,  # (our own words may name the one whose scale had not gone into its weights)
        "data.channels": known.data.image_channels,
        "data.image_size": [height * own.factor, width * own.factor],
    }


def read_autoencoder(
    folder: str | os.PathLike, settings: Iterable[str] = (), scaling_factor: float | None = None
) -> tuple[Config, LatentScale]:
    """The configuration of the autoencoder whose config.json is in the folder, and the scale of its latents.

    Args:
      scaling_factor: instead of the one that is there.

    Raises:
      UserError: where it is none, or has an option that cannot be honoured.
    """
    place = Path(folder)
    said = {} if scaling_factor is None else {"scaling_factor": scaling_factor}
    words, scale = autoencoder_words.autoencoder_words(_json(place / "config.json") | said)
    own = place / OURS
    base = config_lib.from_json(_text(own), str(own)) if own.is_file() else None
    values = words if base is not None else {"data.name": None} | words
    values["autoencoder.adversarial"] = 0.0  # the network that judged is not in the folder
    if base is not None and words["autoencoder.kind"] == "tiny":
        values.pop("data.image_size")  # which its words do not say
    config = config_lib.with_values(base or Config(), values)
    config = config_lib.validated(config_lib.with_settings(config, settings))
    if config.autoencoder.adversarial > 0:
        raise UserError(
            f"autoencoder.adversarial={config.autoencoder.adversarial:g}: an imported autoencoder is trained on "
            "without the network that judges; expected 0"
        )
    return config, scale


def read_weights(diffusers_dir: str | os.PathLike) -> dict[str, np.ndarray]:
    """Every weight of the network as float32, by name.

    Raises:
      UserError: where there are none, or they cannot be read.
    """
    path = _weights_file(_unet_folder(Path(diffusers_dir)))
    if path.suffix == ".bin":
        weights = _read_bin(path)
    elif path.suffix == ".json":
        weights = _read_shards(path)
    else:
        weights = _read_safetensors(path)
    return {name.removeprefix("module.").removeprefix(_COMPILED): array for name, array in weights.items()}


def _weights_file(folder: Path) -> Path:
    names = [f"{WEIGHTS}.safetensors", f"{WEIGHTS}.safetensors.index.json"]
    names += [f"{WEIGHTS}{variant}.safetensors" for variant in (".fp16", ".bf16")]
    names += [f"{WEIGHTS}.bin", f"{WEIGHTS}{_RAW}.safetensors"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:8])
    raise UserError(f"{folder}: expected the weights in {WEIGHTS}.safetensors or {WEIGHTS}.bin; it holds {found}")


def _read_shards(index: Path) -> dict[str, np.ndarray]:
    """All weights of the files that an index names."""
    names = _json(index).get("weight_map")
    files = [str(name) for name in names.values()] if isinstance(names, dict) else []
    if not files or any(Path(file).name != file or not file.endswith(".safetensors") for file in files):
        raise UserError(f"{index}: expected a weight_map of names of files beside it")
    found: dict[str, np.ndarray] = {}
    for name in sorted(set(files)):
        found |= _read_safetensors(index.parent / name)
    return found


def _unet_folder(folder: Path) -> Path:
    """Where the network's config.json is."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    for candidate in (folder / _AVERAGE, folder / "unet", folder):
        if (candidate / "config.json").is_file():
            return candidate
    raise UserError(f"{folder}: expected a unet/config.json or config.json of diffusers in it")


def first_stage_folder(folder: Path) -> Path | None:
    """Where the autoencoder of a pipeline is; None: it draws pixels.

    Raises:
      UserError: for a pipeline of more parts than are known here.
    """
    folder = folder.resolve()
    if folder.name in ("unet", _AVERAGE):
        folder = folder.parent
    if not (folder / "model_index.json").is_file():
        beside = [folder / name for name in _FIRST_STAGES if (folder / name / "config.json").is_file()]
        return beside[0] if beside else None
    found = None
    for name, value in _json(folder / "model_index.json").items():
        if name.startswith("_") or name in ("unet", "scheduler") or value in (None, [None, None]):
            continue
        if name not in _FIRST_STAGES:
            raise UserError(
                f"{folder}: a pipeline with the part {name!r:.60}; expected unet and scheduler, and for latents "
                f"{' or '.join(_FIRST_STAGES)}"
            )
        found = folder / name
        if not (found / "config.json").is_file():
            raise UserError(f"{folder}: a pipeline with the part {name!r}; expected {name}/config.json in it")
    return found


def notes(diffusers_dir: str | os.PathLike, config: Config, scaling_factor: float | None = None) -> list[str]:
    """What a person should know of the import of `config`, a line each.

    Args:
      scaling_factor: what that person says of it.
    """
    folder, found = Path(diffusers_dir), list[str]()
    first_stage = folder if config.autoencoder.trained else first_stage_folder(folder)
    if first_stage is not None and scaling_factor is None:
        found += autoencoder_words.scale_notes(_json(first_stage / "config.json"))
    if config.autoencoder.trained:
        return found
    unet = _unet_folder(folder)
    if unet == folder / _AVERAGE:
        found.append(
            f"taking the average of the weights, {_AVERAGE}; those of the last update are in {folder / 'unet'}"
        )
    elif (unet.resolve().parent / _AVERAGE).is_dir() and unet.resolve().name == "unet":
        found.append(f"taking the weights of the last update; their average is in {unet.resolve().parent / _AVERAGE}")
    if _weights_file(unet).name == f"{WEIGHTS}{_RAW}.safetensors":
        found.append(f"taking the weights of the last update ({_RAW}): there is no average in the folder")
    return found + _notes_of_chain(folder, config)


def _notes_of_chain(folder: Path, config: Config) -> list[str]:
    if not _scheduler(folder):
        return [
            "no scheduler in the folder: the chain is taken to be Ho et al. 2020's; the keys diffusion.* say otherwise"
        ]
    if config.sample.sampler == "dpmpp" and config.sample.spacing in ("leading", "linspace"):
        return ["on shorter chains diffusers' solver leaves the last timestep out; spacing=trailing is its own grid"]
    return []


def _scheduler(folder: Path) -> dict[str, Any]:
    """The scheduler's config, empty where there is none."""
    folder = folder.resolve()
    beside = [folder.parent / "scheduler"] if folder.name in ("unet", _AVERAGE) else []
    if folder.name.startswith("checkpoint-") or folder.parent.name.startswith("checkpoint-"):  # of the training script
        beside += [folder.parent / "scheduler", folder.parent.parent / "scheduler"]
    for place in [folder / "scheduler", folder, *beside]:
        path = place / "scheduler_config.json"
        if path.is_file():
            return _json(path)
    return {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {str(error)[:100]}") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {str(error)[:100]}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object")
    return content


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        _refuse_pointer(path)
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0][:150]}") from None


def _refuse_pointer(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            raise UserError(f"{path} is a Git LFS pointer, not the weights themselves; fetch them with: git lfs pull")


def _read_bin(path: Path) -> dict[str, np.ndarray]:
    """A PyTorch file, read by PyTorch itself, which executes nothing in it (`weights_only`)."""
    _refuse_pointer(path)
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} is a PyTorch file: install PyTorch to read it (pip install torch), or use a .safetensors file"
        ) from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {str(name): tensor.float().numpy() for name, tensor in state.items()}
    except Exception as error:  # torch.load raises whatever its parsers do
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot read {path} as weights alone: {reason[:150]}") from None
