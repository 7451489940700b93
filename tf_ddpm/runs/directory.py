"""The directory of a run in training: created, locked by one process, and recognised again."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tf_ddpm import config as config_lib
from tf_ddpm.config import Config
from tf_ddpm.datasets.image_set import ImageSet
from tf_ddpm.errors import UserError
from tf_ddpm.runs import averages
from tf_ddpm.runtime import atomic_files, own_files
from tf_ddpm.runtime.paths import printable

_BAD_HEADER = "# Files that were passed over, and why (written by tf_ddpm)"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks `folder`, which exists, for this process. The lock ends with the process, however it ends.

    Raises:
      UserError: where another process holds it, or it cannot be read.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot read the run directory {folder}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training in {folder}; wait for it, stop it, or take another run directory"
            ) from None
        except OSError as error:  # some network file systems have no such locks
            print(f"warning: {folder} cannot be held for this process alone: {error.strerror}", file=sys.stderr)
        yield
    finally:
        os.close(descriptor)


def make(run_dir: Path, holds: contextlib.ExitStack) -> None:
    """Creates the directory of a new run, and locks it. If nothing is in it at the end of `holds`, it goes again.

    Raises:
      UserError: where it cannot be made, or another process was quicker.
    """
    created = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the run directory {run_dir}: {error.strerror}") from None
    holds.enter_context(locked(run_dir))
    holds.callback(_remove_if_empty, created)  # while it is still held
    if (run_dir / "config.json").exists():
        raise UserError(f"another process has just trained in {run_dir}; rerun the command to resume its run")


def _remove_if_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def write(run_dir: Path, config: Config, images: ImageSet, step: int) -> None:
    """Writes `config.json`, and `data.json`, a fingerprint of the images; warns if the images have changed.

    The files that were passed over are listed in `passed_over.txt`. What killed processes have left half-written is
    removed, and averages of later steps than the `step` at which training goes on.

    Raises:
      UserError: where the directory cannot be written, or a `data.json` in it is someone's own.
    """
    path = run_dir / "data.json"
    before = _described_before(path)
    if before and before != _described(images, by_files="files" in before):
        print(
            f"warning: the images are not those that {run_dir} was trained on so far ({before['images']} then, "
            f"{len(images)} now); training continues with these, to another result",
            file=sys.stderr,
        )
    now = _described(images, by_files=True)
    for folder in (run_dir, run_dir / "previews"):
        atomic_files.remove_left(folder)
    try:
        averages.remove_after(run_dir, step)
        atomic_files.write_text(run_dir / "config.json", config_lib.to_json(config))
        atomic_files.write_text(path, json.dumps(now, indent=1) + "\n")
        list_bad(run_dir, images)
    except OSError as error:
        raise UserError(f"cannot write the run directory {run_dir}: {error.strerror}") from None


def _described_before(path: Path) -> dict:
    """What a `data.json` says; nothing where there is none, as in a run that is new, or imported.

    Raises:
      UserError: where it is someone's own.
    """
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        before = None
    kinds = [{"images", "labels", name} for name in ("files", "sha256")]
    if not isinstance(before, dict) or set(before) not in kinds:
        raise UserError(f"{path} is not what this program writes there; move it away, or choose another run directory")
    return before


def _described(images: ImageSet, by_files: bool) -> dict:
    """What tells the images of a run from others: their files if these are known and wanted, else some of them."""
    count, names = len(images), list(images.label_names)
    if by_files and images.files is not None:
        return {"images": count, "labels": names, "files": images.files}
    _, _, *digests = images.fingerprint()
    return {"images": count, "labels": names, "sha256": hashlib.sha256(repr(digests).encode()).hexdigest()}


def list_bad(run_dir: Path, images: ImageSet) -> None:
    """Writes the list of files that were passed over, or removes an earlier one; somebody else's file stays.

    Raises:
      OSError: where it cannot be written.
    """
    path, bad = run_dir / "passed_over.txt", images.all_bad
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(_BAD_HEADER):
        print(f"warning: {path} is not this program's, and stays; what was passed over is not listed", file=sys.stderr)
    elif bad:
        atomic_files.write_text(path, printable("\n".join([_BAD_HEADER, *bad])) + "\n")
        print(f"{len(bad)} files that were passed over: {path}", file=sys.stderr)
    else:
        path.unlink(missing_ok=True)


def check_free(run_dir: Path, pictures: Path) -> None:
    """Whether a new run in its own folder of pictures finds no file there that it would take for its own.

    Raises:
      UserError: naming what is there.
    """
    if not run_dir.resolve().is_relative_to(pictures.resolve()):
        return
    taken = sorted(name for name in own_files.RUN_PARTS if (run_dir / name).exists())
    if taken:
        raise UserError(
            f"{run_dir} lies in the folder of pictures and has {taken[0]} already; choose another run directory"
        )


class DirectoryGuard:
    """Whether a directory is still the one that it was: neither removed nor moved, with another in its place."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._number = self._find()

    def _find(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._folder)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def check(self) -> None:
        """Before anything is written.

        Raises:
          UserError: where it is another one.
        """
        if self._find() != self._number:
            raise UserError(
                f"{self._folder} was moved or removed while it was trained; "
                "once it is back, rerun the command to resume from its last checkpoint"
            )
