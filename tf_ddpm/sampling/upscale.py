"""A folder of pictures enlarged by a run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tf_ddpm import config as config_lib
from tf_ddpm.datasets import finding
from tf_ddpm.datasets.pictures import Reader, Rules
from tf_ddpm.errors import UserError
from tf_ddpm.runtime import atomic_files, own_files
from tf_ddpm.runtime.paths import home_expanded, printable
from tf_ddpm.sampling import image_files
from tf_ddpm.sampling.run import Run
from tf_ddpm.sampling.upscaler import Upscaler

_SHOWN = 5  # bad files named in full
_RECORD = "upscaled.json"


def upscale(run: Run, pictures: str, out_dir: str | os.PathLike, seed: int = 0, label: int | None = None) -> Path:
    """Enlarges every picture below the folder `pictures` into `out_dir`, as PNG under the same name.

    What is there already, of the same picture by the same weights and settings, stays: stopped, it goes on where it
    was. `upscaled.json` says what was done.

    Args:
      seed: of the noise of every picture. label: of all pictures, for a run with classes; None: no class.

    Returns:
      The folder.

    Raises:
      UserError: where there is no picture, or something of another kind would be overwritten.
    """
    root, out = home_expanded(pictures, "images"), Path(out_dir)
    if not root.is_dir():
        raise UserError(f"images={pictures}: no such folder")
    label = _label(run, label)
    upscaler, bad = Upscaler(run), list[str]()
    files = [file for file, _, _ in finding.files(root, bad, samples=True)[0] if finding.is_named_so(file)]
    if not files:
        raise UserError(f"images={pictures}: no picture in it")
    work = _Work(out, _facts(run, seed, label))
    names = _names(root, files)
    work.check_free(names)
    reader = Reader(Rules(), marked=True)
    try:
        with reader.open(), tqdm(total=len(files), unit="picture", disable=None) as bar:
            for file, name in zip(files, names, strict=True):
                pixels = reader.read(file, None, run.config.data.image_channels)
                if isinstance(pixels, str):
                    bad.append(pixels)
                elif pixels is not None and not work.has(name, pixels):
                    work.keep(name, pixels, upscaler(pixels, seed, label))
                bar.update()
    except OSError as error:
        raise UserError(f"cannot write into {out}: {error.strerror or error}") from None
    for line in bad[:_SHOWN]:
        print(f"warning: passed over {printable(line)}", file=sys.stderr)
    if bad[_SHOWN:]:
        print(f"  and {len(bad) - _SHOWN} more", file=sys.stderr)
    if len(bad) == len(files):
        raise UserError(f"images={pictures}: none of its {len(files)} files is an image that Pillow reads")
    return out


def _label(run: Run, label: int | None) -> int:
    if label is None and run.config.model.classes and not run.config.model.null_class:
        raise UserError(f"label: this run has no null class; expected 0 to {run.config.model.classes - 1}")
    return -1 if label is None else label


def _facts(run: Run, seed: int, label: int) -> dict[str, Any]:
    """What decides how a picture is enlarged."""
    weights = hashlib.sha256(config_lib.to_json(config_lib.portable(run.config)).encode())
    for weight in run.network.get_weights():
        weights.update(np.ascontiguousarray(weight).tobytes())
    sample = dataclasses.asdict(run.config.sample)
    return {"sha256": weights.hexdigest(), "seed": seed, "label": label, "factor": run.config.model.factor} | sample


def _names(root: Path, files: list[Path]) -> list[str]:
    """What each is called when it is enlarged: its own name, ending in .png, if no other would be called so."""
    plain = [os.path.relpath(file.with_suffix(".png"), root) for file in files]
    whole = [f"{os.path.relpath(file, root)}.png" for file in files]
    return [one if plain.count(one) == 1 else other for one, other in zip(plain, whole, strict=True)]


class _Work:
    """What is in a folder of enlarged pictures, and in its record."""

    def __init__(self, out: Path, facts: dict[str, Any]):
        self._out, self._facts = out, facts
        self._done: dict[str, str] = {}  # name -> sha256 of the small picture
        self._ours: set[str] = set()
        try:
            record = json.loads((out / _RECORD).read_text(encoding="utf-8"))
            self._ours = set(record["files"])
            if record["facts"] == json.loads(json.dumps(facts)):
                self._done = dict(record["files"])
            if record["made_by"] != own_files.MADE_BY:
                raise ValueError
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{out / _RECORD} is not what this program writes there; choose another folder") from None

    def check_free(self, names: list[str]) -> None:
        """Raises `UserError` where a file of one of the names is not of this program."""
        foreign = [name for name in names if name not in self._ours and os.path.lexists(self._out / name)]
        if foreign:
            raise UserError(f"{self._out / foreign[0]} is there already, and not overwritten; choose another folder")

    def has(self, name: str, pixels: np.ndarray) -> bool:
        """Whether this picture is enlarged already."""
        return self._done.get(name) == _digest(pixels) and (self._out / name).is_file()

    def keep(self, name: str, pixels: np.ndarray, large: np.ndarray) -> None:
        """Writes an enlarged picture; the record first, so that what is there is known to be this program's."""
        self._done[name] = _digest(pixels)
        self._ours.add(name)
        target = self._out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # of other settings
        text = {
            "made_by": own_files.MADE_BY,
            "facts": self._facts,
            "files": dict.fromkeys(self._ours, "") | self._done,
        }
        atomic_files.write_text(self._out / _RECORD, json.dumps(text, indent=1) + "\n")
        image_files.save_image(large, target)


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()
