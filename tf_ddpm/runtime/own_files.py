"""Files that this program wrote: it never trains on them, and never overwrites a file without its mark."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image, PngImagePlugin

MADE_BY = "tf_ddpm"
TEACHER = "teacher"  # of a student: its own copy
COPY = "copy.json"  # in there: of what
_FILES = (
    "config.json",
    "data.json",
    "metrics.jsonl",
    "metrics.json",
    "report.html",
    "passed_over.txt",
    "latents.json",
    "probes.json",
    "guides.json",
    COPY,
)
_FOLDERS = (
    "checkpoints",
    "logs",
    "previews",
    "samples",
    "serving",
    "evaluation",
    "figures",
    "diffusers",
    "upscaled",
    "autoencoder",
    TEACHER,
    "averages",
)
_SWEPT = ("checkpoint", "sampling_steps", "augmentation", "ema", "sigma")
_PICTURES = ("closest_pairs.png", *(f"sweep_{name}.png" for name in _SWEPT))
_CURVES = tuple(f"sweep_{name}.json" for name in _SWEPT)
RUN_PARTS = frozenset({*_FILES, *_FOLDERS, *_PICTURES, *_CURVES})


def png_mark() -> PngImagePlugin.PngInfo:
    """What every PNG of this program says of itself."""
    mark = PngImagePlugin.PngInfo()
    mark.add_text("Software", MADE_BY)
    return mark


def is_marked(picture: Image.Image) -> bool:
    """Whether an open picture says that this program made it (a PNG, or an animation)."""
    return picture.info.get("Software") == MADE_BY or picture.info.get("comment") == MADE_BY.encode()


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run directory."""
    config = _json(folder / "config.json")
    return config is not None and "format_version" in config and {"diffusion", "train", "sample"} <= config.keys()


def in_folder(folder: Path) -> set[str]:
    """The names in `folder` of what this program has written there; its pictures say so themselves (`is_marked`)."""
    names = set(manifest_files(folder))
    names |= {"manifest.json"} if names else set()
    return names | (RUN_PARTS if is_run(folder) else set())


def is_export(folder: Path) -> bool:
    """Whether `folder` holds what a server serves."""
    return (folder / "models.config").is_file() and (folder / "docker-compose.yml").is_file()


def manifest(folder: Path) -> dict | None:
    """The manifest of the samples in `folder`; None where there is none, or it is somebody else's."""
    found = _json(folder / "manifest.json")
    return found if found is not None and found.get("made_by") == MADE_BY else None


def manifest_files(folder: Path) -> list[str]:
    """The names of the files that `manifest` lists: plain names, whatever is written there."""
    names = (manifest(folder) or {}).get("files")
    plain = lambda name: isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name  # noqa: E731
    return [name for name in names if plain(name)] if isinstance(names, list) else []


def sample_files(folder: Path) -> list[str]:
    """Of `manifest_files` the images themselves: no grid and no animation."""
    return sorted(name for name in manifest_files(folder) if name.partition(".")[0].isdecimal())


def _json(path: Path) -> dict | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
