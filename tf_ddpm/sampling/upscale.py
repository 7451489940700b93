"""A folder of pictures enlarged by a run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from tf_ddpm import config as config_lib
from tf_ddpm.datasets import finding
from tf_ddpm.datasets.pictures import Reader, Rules
from tf_ddpm.errors import UserError
from tf_ddpm.runtime import atomic_files, own_files
from tf_ddpm.runtime.paths import home_expanded, printable
from tf_ddpm.runtime.progress import Progress
from tf_ddpm.sampling import image_files
from tf_ddpm.sampling.run import Run
from tf_ddpm.sampling.upscaler import Upscaler

_SHOWN = 5  # bad files named in full
_RECORD = "upscaled.jsonl"


def upscale(run: Run, pictures: str, out_dir: str | os.PathLike, seed: int = 0, label: int | None = None) -> Path:
    """Enlarges every picture below the folder `pictures` into `out_dir`, as PNG under the same name.

    What is there already, of the same picture by the same weights and settings, stays: stopped, it goes on where it
    was. `upscaled.jsonl` says what was done.

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
    if out.resolve() == root.resolve():
        raise UserError(f"out={out_dir}: the folder of the pictures themselves; choose another one")
    upscaler, bad, work = Upscaler(run), list[str](), _Work(out, _facts(run, seed, label))
    found = (file for file, _, _ in finding.files(root, bad, samples=True)[0] if finding.is_named_so(file))
    files = [file for file in found if not work.wrote(file)]
    if not files:
        raise UserError(f"images={pictures}: no picture in it")
    names = _names(root, files)
    work.check_free(names)
    reader = Reader(Rules(), marked=True)
    try:
        with reader.open(), Progress(len(files), "enlarging") as bar:
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
    """What each is called when it is enlarged: its own name, ending in .png, or where another would be called so as
    well its whole name with .png behind it."""
    plain = [os.path.relpath(file.with_suffix(".png"), root) for file in files]
    whole = [f"{os.path.relpath(file, root)}.png" for file in files]
    folders = {str(parent) for name in plain for parent in Path(name).parents}
    taken = Counter(plain)
    names = [b if taken[a] > 1 or a in folders else a for a, b in zip(plain, whole, strict=True)]
    return names if len(set(names)) == len(names) else whole


class _Work:
    """What is in a folder of enlarged pictures, as its record tells: a line for each, and for how they are made."""

    def __init__(self, out: Path, facts: dict[str, Any]):
        self._out, self._record = out, out / _RECORD
        self._facts = json.loads(json.dumps(facts))
        self._pngs: dict[str, str] = {}  # name -> sha256 of the file that was written
        self._done: dict[str, str] = {}  # name -> sha256 of the small picture
        self._now = False  # whether a line at the end of the record would be of these facts
        try:
            first, *lines = filter(None, self._record.read_text(encoding="utf-8").splitlines())
            if json.loads(first)["made_by"] != own_files.MADE_BY:
                raise ValueError
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{self._record} is not what this program writes there; choose another folder") from None
        for line in (first, *lines):
            self._now = self._read(line, self._now)

    def _read(self, line: str, now: bool) -> bool:
        """Takes in a line; whether the ones behind it are of these facts."""
        try:
            known = json.loads(line)
            if "facts" in known:
                return known["facts"] == self._facts
            self._pngs[known["name"]] = known["png"]
            self._done.pop(known["name"], None)
            if now:
                self._done[known["name"]] = known["picture"]
        except (ValueError, KeyError, TypeError, RecursionError):  # cut short when the process was killed
            pass
        return now

    def wrote(self, file: Path) -> bool:
        """Whether a file is one that was enlarged, and no picture to enlarge."""
        try:
            return str(file.resolve().relative_to(self._out.resolve())) in self._pngs
        except ValueError:
            return False

    def check_free(self, names: list[str]) -> None:
        """Raises `UserError` where a file of one of the names is not as this program wrote it."""
        for name in names:
            if os.path.lexists(self._out / name) and not self._is_ours(name):
                raise UserError(f"{self._out / name} is there already, and not overwritten; choose another folder")

    def _is_ours(self, name: str) -> bool:
        path = self._out / name
        return path.is_file() and self._pngs.get(name) == hashlib.sha256(path.read_bytes()).hexdigest()

    def has(self, name: str, pixels: np.ndarray) -> bool:
        """Whether this picture is enlarged already."""
        return self._done.get(name) == _digest(pixels) and (self._out / name).is_file()

    def keep(self, name: str, pixels: np.ndarray, large: np.ndarray) -> None:
        """Writes an enlarged picture; the record first, so that what is there is known to be this program's.

        What was made with other settings goes before it: killed in between, a picture is missing, and none is wrong.
        """
        target, png = self._out / name, image_files.png_bytes(large)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        lines = [] if self._now else [{"made_by": own_files.MADE_BY, "facts": self._facts}]
        self._now, self._done[name], self._pngs[name] = True, _digest(pixels), hashlib.sha256(png).hexdigest()
        lines.append({"name": name, "picture": self._done[name], "png": self._pngs[name]})
        with self._record.open("a", encoding="utf-8") as file:
            # (On a line of its own, though the one before was cut short.)
            file.write("\n" * (file.tell() > 0) + "".join(json.dumps(line) + "\n" for line in lines))
        with atomic_files.atomic_write(target) as beside:
            beside.write_bytes(png)


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()
