"""SIGTERM, SIGINT and SIGHUP: the running step is finished and saved; a second signal leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import SimpleNamespace

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                    self._before[number] = signal.signal(number, self._note)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._pass_over_ties
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if number == signal.SIGHUP == self.seen:  # ignored from now on: see `_note`
                continue
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python
        sys.unraisablehook = self._hook

    def _pass_over_ties(self, args: SimpleNamespace) -> None:
        """Of two signals of the same moment the first one counts; Python complains of the other."""
        if not (isinstance(args.exc_value, OSError) and "race condition" in str(args.exc_value)):
            self._hook(args)

    def _note(self, number: int, _: object) -> None:
        self.seen = number
        for each in self._before:
            # A terminal that closes sends SIGHUP more than once.
            signal.signal(each, signal.SIG_IGN if each == signal.SIGHUP else signal.SIG_DFL)
        name = signal.Signals(number).name
        with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody may be listening any more
            text = f"\n{name}: finishing the step and saving; once more to leave at once\n"
            os.write(sys.stderr.fileno(), text.encode())
