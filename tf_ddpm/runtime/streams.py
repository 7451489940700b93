"""What is printed is never what a run fails of: its reader may go, and its disk be full."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


class _Unfailing:
    """A stream that drops what can no longer be written."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """The number of characters, written or not."""
        with self._silenced_by_errors():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hands over what was written."""
        with self._silenced_by_errors():
            self._stream.flush()

    @contextlib.contextmanager
    def _silenced_by_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with contextlib.suppress(OSError, ValueError):  # no stream of the system
                os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextlib.contextmanager
def unfailing() -> Iterator[None]:
    """Within the context printing never fails, even if stdout or stderr is closed, full, or has no reader."""
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as opened:
        for number in (0, 1, 2):  # else the next file that is opened would be taken for one of them
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)
        given = (opened.enter_context(open(os.devnull, "w")) if stream is None else stream for stream in before)
        sys.stdout, sys.stderr = map(_Unfailing, given)
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):  # Python would complain of what is left
                stream.flush()
            sys.stdout, sys.stderr = before
