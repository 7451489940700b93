"""The files of checkpoints: which there are, and whether they can be read. Imports no TensorFlow.

A checkpoint is two files, `step-N.data-...` and `step-N.index`. TensorFlow writes both aside and renames the index
last, so a checkpoint whose index is there is whole.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from tf_ddpm.errors import UserError

_PREFIX, _ASIDE = "step", "_average"


def steps(run_dir: str | os.PathLike) -> list[int]:
    """The steps of which `run_dir` has a checkpoint, the oldest first.

    Raises:
      UserError: where its folder of checkpoints is there, and cannot be read.
    """
    found = (re.fullmatch(rf"{_PREFIX}-(\d+)\.index", name) for name in _names(run_dir))
    return sorted(int(match.group(1)) for match in found if match)


def _names(run_dir: str | os.PathLike) -> list[str]:
    """The files of checkpoints."""
    folder = folder_of(run_dir)
    try:
        return os.listdir(folder)
    except OSError as error:
        # A link that leads nowhere is a disk that is not mounted.
        absent = isinstance(error, FileNotFoundError) and not folder.is_symlink()
        if absent or (isinstance(error, NotADirectoryError) and not os.path.isdir(run_dir)):
            return []
        raise UserError(f"cannot read the checkpoints in {folder}: {error.strerror}") from None


def check_name(path: str | os.PathLike) -> None:
    """Whether TensorFlow can read what it writes there: it takes some characters for patterns, but only in reading.

    Raises:
      UserError: where it cannot.
    """
    wrong = re.search(r"\\|\[[^/]*\]", str(path))
    if wrong is not None:
        raise UserError(f"TensorFlow cannot read below a folder with {wrong.group()} in its name: {path}")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"TensorFlow cannot read below a folder whose name is not UTF-8: {str(path)!r}") from None


def step_of(checkpoint: str) -> int:
    """The step of a checkpoint's path."""
    return int(checkpoint.rpartition(f"{_PREFIX}-")[2])


def folder_of(run_dir: str | os.PathLike) -> Path:
    """Where the checkpoints of a run lie."""
    return Path(run_dir) / "checkpoints"


def path_of(run_dir: str | os.PathLike, step: int) -> str:
    """The path of the checkpoint of `step`, as TensorFlow wants it: without the endings of its files."""
    return str(folder_of(run_dir) / f"{_PREFIX}-{step}")


def remove(run_dir: str | os.PathLike, step: int) -> None:
    """Removes a checkpoint: the index first, since what is left of a removal that was cut short is no checkpoint."""
    Path(path_of(run_dir, step) + ".index").unlink(missing_ok=True)
    remove_halves(run_dir)


def aside_of(run_dir: str | os.PathLike, step: int) -> str:
    """The path, as TensorFlow wants it, of what will take the place of the checkpoint of `step`."""
    return path_of(run_dir, step) + _ASIDE


def replace(run_dir: str | os.PathLike, step: int) -> None:
    """Puts what was written aside in the place of a checkpoint. `remove_halves` ends what a kill cuts short."""
    folder, name, aside = folder_of(run_dir), f"{_PREFIX}-{step}", f"{_PREFIX}-{step}{_ASIDE}"
    for path in folder.glob(f"{aside}.data-*"):  # first: without its data, the index aside is a promise to go on
        path.replace(folder / path.name.replace(aside, name))
    (folder / f"{aside}.index").replace(folder / f"{name}.index")


def remove_halves(run_dir: str | os.PathLike) -> None:
    """Removes what killed or failed writing has left: files of a step without an index, and temporary ones."""
    for found in (re.fullmatch(rf"{_PREFIX}-(\d+){_ASIDE}\.index", name) for name in _names(run_dir)):
        if found:
            replace(run_dir, int(found[1]))
    whole = set(steps(run_dir))
    for path in (folder_of(run_dir) / name for name in _names(run_dir)):
        # Only names that TensorFlow gives; whatever else lies there is someone's own.
        name = re.fullmatch(
            rf"{_PREFIX}-(\d+)((?:{_ASIDE})?_temp.*|{_ASIDE}\.data.*|\.(?:index|data-\d+-of-\d+)(\.tempstate\d+)?)",
            path.name,
        )
        if name is None or (int(name[1]) in whole and not name[2].startswith("_") and not name[3]):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):  # on a disk that may only be read
                path.unlink(missing_ok=True)


def check_readable(run_dir: str | os.PathLike, step: int) -> None:
    """What this process may not read, or the disk does not give, is not damaged: it would be passed over and removed.

    Raises:
      UserError: for such a file.
    """
    for name in _names(run_dir):
        if re.fullmatch(rf"{_PREFIX}-{step}\.(index|data-\d+-of-\d+)", name):
            try:
                (folder_of(run_dir) / name).open("rb").close()
            except FileNotFoundError:  # the chief has just removed it
                continue
            except OSError as error:
                raise UserError(f"cannot read {folder_of(run_dir) / name}: {error.strerror}") from None
