"""The files of a generation of samples: written aside in parts that survive a kill, then moved into place together."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tf_ddpm.errors import UserError
from tf_ddpm.runtime import atomic_files, own_files
from tf_ddpm.sampling import image_files

FORMATS = ("png", "npz", "both")
_FOLDER = 10_000  # files in a folder, where there are more
_OURS = re.compile(r"(\d{6,}|grid)\.(png|npy)|progress\.gif|samples\.npz")
_OUR_FOLDERS = re.compile(r"\d{2,}0000")


class Parts:
    """Images that are drawn one after the other into a folder, in which a killed process has left the first of them.

    Args:
      folder: of nobody else. count: how many there will be. file_format: of `FORMATS`.

    Attributes:
      done: how many are there.
      names: of all files and folders that are moved into place, once that has begun; None: before.
    """

    def __init__(self, folder: Path, count: int, file_format: str):
        self.folder, self._count, self._format = folder / "samples", count, file_format
        self._arrays, self._state, self._moving = folder / "arrays", folder / "done.json", folder / "moving.json"
        found, names = _read_json(self._state), _read_json(self._moving)
        self.done = found if isinstance(found, int) else 0
        self.names = names if isinstance(names, list) and (self.folder / "manifest.json").exists() else None
        if not self.done or (self.names is None and names is not None):
            self.forget()
            self.done = 0
            for left in (self.folder, self._arrays):
                shutil.rmtree(left, ignore_errors=True)
        self.folder.mkdir(exist_ok=True)
        self._arrays.mkdir(exist_ok=True)
        for place in (folder, self._arrays, self.folder, *(path for path in self.folder.iterdir() if path.is_dir())):
            atomic_files.remove_left(place)

    def add(self, images: np.ndarray) -> None:
        """Writes the next images uint8 [b, H, W, C]."""
        if self._format != "npz":
            for i, image in enumerate(images, self.done):
                place = self.folder / self._subfolder(i)
                place.mkdir(exist_ok=True)
                image_files.save_image(image, place / f"{i:06d}")
        if self._format != "png":
            with atomic_files.atomic_write(self._arrays / f"{self.done:09d}.npy") as beside, beside.open("wb") as file:
                np.save(file, images)
        self.done += len(images)
        atomic_files.write_text(self._state, json.dumps(self.done))

    def _subfolder(self, index: int) -> str:
        return "" if self._count <= _FOLDER else f"{index // _FOLDER * _FOLDER:06d}"

    def first(self, count: int) -> np.ndarray:
        """The first images, read back, uint8 [count, H, W, C]."""
        count = min(count, self.done)
        if self._format != "png":
            rows = itertools.chain.from_iterable(self._array_parts())
            return np.stack(list(itertools.islice(rows, count)))
        return np.stack([_read(self.folder / self._subfolder(i) / f"{i:06d}") for i in range(count)])

    def _array_parts(self) -> Iterator[np.ndarray]:
        for path in sorted(self._arrays.glob("[0-9]*.npy")):
            if int(path.stem) < self.done:
                yield np.load(path, allow_pickle=False)

    def finish(self, manifest: dict[str, Any], labels: np.ndarray | None) -> None:
        """Writes what can only be written at the end: the .npz, and the manifests. Then they are to be moved away.

        Args:
          manifest: without the names of the files. labels: int32 [N], kept in the .npz; None: there are none.
        """
        if self._format != "png":
            self._write_npz(labels)
        folders = sorted(path for path in self.folder.iterdir() if path.is_dir())
        for place in folders:
            names = sorted(path.name for path in place.iterdir() if path.name != "manifest.json")
            own = {"made_by": own_files.MADE_BY, "files": names, "part_of": "../manifest.json"}
            _write_json(place / "manifest.json", own)
        names = sorted(path.name for path in self.folder.iterdir() if path.is_file() and path.name != "manifest.json")
        whole = {"made_by": own_files.MADE_BY, "files": names} | manifest
        _write_json(self.folder / "manifest.json", whole | ({"folders": [p.name for p in folders]} if folders else {}))

    def begin_moving(self) -> list[str]:
        """`names`, which whoever goes on with the moving finds again."""
        if self.names is None:
            self.names = [name for name in sorted(os.listdir(self.folder)) if name != "manifest.json"]
            atomic_files.write_text(self._moving, json.dumps(self.names))
        return self.names

    def forget(self) -> None:
        """Forgets what was done: whoever finds any of it begins anew."""
        for state in (self._state, self._moving):
            state.unlink(missing_ok=True)

    def _write_npz(self, labels: np.ndarray | None) -> None:
        """arr_0 uint8 [N, H, W, C] and arr_1 of the labels, as the evaluation of Dhariwal & Nichol 2021 reads them."""
        with (
            atomic_files.atomic_write(self.folder / "samples.npz") as beside,
            zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive,
        ):
            shape = None
            with archive.open("arr_0.npy", "w", force_zip64=True) as file:
                for part in self._array_parts():
                    if shape is None:
                        shape = (self._count, *part.shape[1:])
                        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(np.ascontiguousarray(part).data)
            if labels is not None:
                with archive.open("arr_1.npy", "w") as file:
                    np.lib.format.write_array(file, labels)


def _read(path: Path) -> np.ndarray:
    """An image that `save_image` wrote, uint8 [H, W, C]."""
    if not path.with_suffix(".png").exists():
        return np.load(path.with_suffix(".npy"), allow_pickle=False)
    with Image.open(path.with_suffix(".png")) as picture:
        pixels = np.asarray(picture)
    return pixels.reshape(*pixels.shape[:2], -1)


def _read_json(path: Path) -> Any:
    """What the file holds; None: it is not there, or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def check_free(out_dir: Path) -> None:
    """Whether no file in `out_dir` has a name of ours but those of an earlier generation.

    Raises:
      UserError: naming the first that has.
    """
    names = [name for name in os.listdir(out_dir) if _OURS.fullmatch(name) or _OUR_FOLDERS.fullmatch(name)]
    _check_names(out_dir, names, earlier(out_dir))


def earlier(out_dir: Path) -> list[str]:
    """The files and folders of an earlier generation in `out_dir`, as its manifest names them."""
    found = own_files.manifest(out_dir)
    if (out_dir / "manifest.json").exists() and found is None:
        raise UserError(f"{out_dir / 'manifest.json'} is not of an earlier generation; choose another folder")
    folders = (found or {}).get("folders")
    folders = folders if isinstance(folders, list) else []
    names = [name for name in own_files.manifest_files(out_dir) if _OURS.fullmatch(name)]
    return names + [name for name in folders if isinstance(name, str) and _OUR_FOLDERS.fullmatch(name)]


def publish(parts: Parts, out_dir: Path) -> list[str]:
    """Moves a generation into place, and gives the names of its files and folders.

    Should this process end meanwhile, the manifest says whose the files are, and the next one moves the others.
    """
    aside, before, names = parts.folder, earlier(out_dir), parts.begin_moving()
    left = [name for name in names if os.path.lexists(aside / name)]
    _check_names(out_dir, left, before)  # again: something may have come meanwhile
    every = sorted({*before, *names})
    files = [name for name in every if not _OUR_FOLDERS.fullmatch(name)]
    half = {"made_by": own_files.MADE_BY, "complete": False, "files": files}
    half["folders"] = [name for name in every if name not in files]
    atomic_files.write_text(out_dir / "manifest.json", json.dumps(half) + "\n")
    for name in before:
        if name in left or name not in names:  # and not what is there already
            _remove(out_dir / name)
    for name in left:
        os.replace(aside / name, out_dir / name)
    os.replace(aside / "manifest.json", out_dir / "manifest.json")
    parts.forget()
    return names


def _remove(path: Path) -> None:
    """A file; or of a folder the files of its manifest, and the folder where nothing else is in it."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    atomic_files.remove_left(path)
    for name in own_files.manifest_files(path):
        if _OURS.fullmatch(name):
            (path / name).unlink(missing_ok=True)
    if set(os.listdir(path)) <= {"manifest.json"}:
        (path / "manifest.json").unlink(missing_ok=True)
        path.rmdir()


def _check_names(out_dir: Path, names: list[str], before: list[str]) -> None:
    """Whether none of the `names` is there but those of an earlier generation."""
    foreign = sorted(name for name in names if name not in before and os.path.lexists(out_dir / name))
    for name in (name for name in names if name in before and (out_dir / name).is_dir()):
        own = {*own_files.manifest_files(out_dir / name), "manifest.json"}
        foreign += sorted(f"{name}/{other}" for other in os.listdir(out_dir / name) if other not in own)
    if foreign:
        more = f" and {len(foreign) - 1} more" if foreign[1:] else ""
        raise UserError(
            f"{out_dir / foreign[0]}{more}: not of an earlier generation, and not overwritten; choose another folder"
        )
