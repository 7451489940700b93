"""How far long work is: a bar on a terminal; anywhere else a line now and then, so that a log says what goes on."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import weakref
from types import TracebackType

from tqdm import tqdm

_SECONDS = 10.0  # between lines


class Progress:
    """Counts up to a total. A context manager, too.

    The lines come from a thread of its own, so that one comes in time however long a step takes.

    Args:
      total: of what is counted. what: is done, for example `reading images`. initial: done before.
      quiet: whether nothing is shown.
    """

    def __init__(self, total: int, what: str, initial: int = 0, quiet: bool = False):
        self._total, self._what, self._first, self._done = total, what, initial, initial
        self._began, self._closed = time.monotonic(), threading.Event()
        # (`disable=None`: not on what is no terminal.)
        self._bar = tqdm(
            total=total, initial=initial, desc=what, unit="", leave=False, disable=True if quiet else None
        )
        if self._bar.disable and not quiet:
            # It knows this object no longer than others do: one that is forgotten says nothing more.
            told = threading.Thread(target=_tell, args=(weakref.ref(self), self._closed), name="progress", daemon=True)
            told.start()

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        self._done += count
        self._bar.update(count)

    def reach(self, done: int) -> None:
        """So many are done now."""
        self.update(done - self._done)

    def line(self) -> str:
        """What is told where there is no terminal."""
        return said(self._what, self._first, self._done, self._total, time.monotonic() - self._began)

    def close(self) -> None:
        """Takes the bar away, and tells no more."""
        self._closed.set()
        self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _tell(of: weakref.ref[Progress], closed: threading.Event) -> None:
    """Prints a line every ten seconds until the work is done."""
    while not closed.wait(_SECONDS):
        progress = of()
        if progress is None:
            return
        with contextlib.suppress(OSError, ValueError):  # of an output that is closed
            print(progress.line(), file=sys.stderr, flush=True)
        del progress


def said(what: str, first: int, done: int, total: int, seconds: float) -> str:
    """How far work is that has come from `first` to `done` of `total` in so many seconds."""
    if done == first:  # nothing says how long it will take
        return f"{what}{f': {done:,} of {total:,}' if total > 1 else ''}, for {_words(seconds)} now"
    left = (total - done) * seconds / (done - first)
    return f"{what}: {done:,} of {total:,}, {_words(left)} left"


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
