"""SIGTERM and SIGINT: the running step is finished and saved; a second signal leaves at once. And who holds a run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from tf_ddpm.errors import UserError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal, after it had saved.

    Attributes:
      exit_code: 128 and the signal's number, as shells say it.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number


class Signals:
    """While it is entered, notes the first signal; the second one has its usual effect.

    Attributes:
      seen: the number of the signal, 0 before.
    """

    def __init__(self):
        self.seen = 0

    def __enter__(self) -> Signals:
        self._before = {}
        # Python lets only the main thread handle signals.
        with contextlib.suppress(ValueError):
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python

    def _note(self, number: int, _: object) -> None:
        self.seen = number
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        name = signal.Signals(number).name
        with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody may be listening any more
            text = f"\n{name}: finishing the step and saving; once more to leave at once\n"
            os.write(sys.stderr.fileno(), text.encode())


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds `folder`, which exists, for this process alone. The hold ends with the process, however it ends.

    Raises:
      UserError: where another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training in {folder}; wait for it, stop it, or take another --run_dir"
            ) from None
        except OSError as error:  # some network file systems have no such locks
            print(f"warning: {folder} cannot be held for this process alone: {error.strerror}", file=sys.stderr)
        yield
    finally:
        os.close(descriptor)
