"""How far long work is: a bar on a terminal; anywhere else a line now and then, so that a log says what goes on."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

_SECONDS = 10.0  # between lines


class Progress:
    """Counts up to a total. A context manager, too.

    Args:
      total: of what is counted. what: is done, for example `reading images`. initial: done before.
      quiet: whether nothing is shown.
    """

    def __init__(self, total: int, what: str, initial: int = 0, quiet: bool = False):
        self._total, self._what, self._done, self._quiet = total, what, initial, quiet
        self._told = self._began = time.monotonic()
        self._first = initial
        # (`disable=None`: not on what is no terminal.)
        self._bar = tqdm(
            total=total, initial=initial, desc=what, unit="", leave=False, disable=True if quiet else None
        )

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._bar.disable and not self._quiet and now - self._told >= _SECONDS:
            self._told = now
            rate = (self._done - self._first) / (now - self._began)
            left = (self._total - self._done) / max(rate, 1e-9)
            print(f"{self._what}: {self._done:,} of {self._total:,}, {_words(left)} left", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
