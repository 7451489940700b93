"""Long work in chunks on disk: killed and restarted, it resumes where it was and gives the same bits."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tf_ddpm.errors import UserError
from tf_ddpm.runtime import atomic_files, cluster
from tf_ddpm.runtime.progress import Progress

CHUNK = 500  # rows; the same for everyone, since the rows of one batch round alike
Reached = Callable[[int], None]  # takes how many rows of a chunk are done


def in_chunks(
    folder: Path,
    count: int,
    compute: Callable[[int, int, Reached], dict[str, np.ndarray]],
    what: str,
    all_have: Callable[[bool], bool] = bool,
    chunk: int = CHUNK,
) -> tuple[dict[str, np.ndarray], float]:
    """Rows 0 to `count` of everything that `compute(start, stop, reached)` gives, and the seconds that it took in all.

    Args:
      compute: may tell `reached` on its way.
      folder: holds the chunks; its name must say everything that the rows depend on.
      what: a word for the progress bar.
      chunk: how many rows each has.
      all_have: of several processes that compute together, whether all have found a chunk, given whether this one has.

    Raises:
      UserError: where the folder cannot be written.
    """
    parts, seconds, chief = [], 0.0, cluster.this_worker().is_chief
    with _writing(what, folder):
        folder.mkdir(parents=True, exist_ok=True)
        atomic_files.remove_left(folder)
    with Progress(count, what, quiet=not chief) as bar:
        for start in range(0, count, chunk):
            stop = min(start + chunk, count)
            path = folder / f"{start:08d}-{stop:08d}.npz"
            kept = _read(path)
            if all_have(kept is not None) and kept is not None:
                part = kept
            else:
                began = time.perf_counter()
                part = compute(start, stop, lambda rows: bar.reach(start + rows))  # noqa: B023
                part["seconds"] = np.array(time.perf_counter() - began)
                if kept is None:  # every worker for itself: its folder need not be that of the others
                    with _writing(what, folder):
                        _write(path, part)
            seconds += float(part.pop("seconds"))
            parts.append(part)
            bar.reach(stop)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, seconds


@contextlib.contextmanager
def _writing(what: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot keep {what} in {folder}: {error.strerror or error}") from None


def once(path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """What `compute` gives, from the file where it was kept before. Without a disk that takes it, it is not kept."""
    found = _read(path)
    if found is None:
        found = {"value": np.asarray(compute())}
        with contextlib.suppress(OSError):
            _write(path, found)
    return found["value"]


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """A chunk, or None where there is none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except Exception:  # whatever a damaged file makes its readers raise: the chunk is computed again
        return None


def _write(path: Path, part: dict[str, Any]) -> None:
    with atomic_files.atomic_write(path) as beside, beside.open("wb") as file:
        np.savez(file, **part)
        file.flush()
        os.fsync(file.fileno())
