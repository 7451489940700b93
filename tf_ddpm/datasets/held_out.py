"""Which files of a folder are held out of training: by what they hold, so that a copy goes with its original."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tf_ddpm.datasets.finding import Found, is_still
from tf_ddpm.datasets.picture_cache import PictureCache
from tf_ddpm.runtime.control_group import cores
from tf_ddpm.runtime.progress import Progress

_TOGETHER = 512  # files


def find(
    found: Sequence[Found],
    share: float,
    bad: list[str],
    keys: Sequence[bytes] = (),
    cache: PictureCache | None = None,
) -> list[bool | None]:
    """Whether each file is of the `share` that is never trained on; None where it cannot be read, which goes to `bad`.

    Args:
      keys, cache: what a file holds is kept there under its key, and read once.
    """
    known: dict[bytes, bytes] = {}
    with contextlib.suppress(OSError, sqlite3.Error):  # they are read again another time
        known = cache.digests() if cache is not None else {}
    digests: list[bytes | None] = [known.get(key) for key in keys] or [None] * len(found)
    missing = [i for i, digest in enumerate(digests) if digest is None]

    def read(i: int) -> bytes | str:
        try:
            with found[i][0].open("rb") as opened:
                return hashlib.file_digest(opened, "sha256").digest()
        except OSError as error:
            return f"{found[i][0]}: {error.strerror}"

    with Progress(len(missing), "reading which files are held out") as bar, ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(missing), _TOGETHER):
            part = missing[start : start + _TOGETHER]
            for i, result in zip(part, pool.map(read, part), strict=True):
                if isinstance(result, str):
                    bad.append(result)
                else:
                    digests[i] = result
                bar.update()
            if cache is not None:
                with contextlib.suppress(OSError, sqlite3.Error):
                    sure = (i for i in part if is_still(found[i]))
                    cache.keep_digests({keys[i]: digest for i in sure if (digest := digests[i]) is not None})
    return [None if digest is None else int.from_bytes(digest[:8], "big") < share * 2**64 for digest in digests]
