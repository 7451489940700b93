"""SIGTERM, SIGINT and SIGHUP: training finishes its step and saves; all else ends soon, with nothing half-written."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeAlias

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PATIENCE = 2.0  # seconds

_Handler: TypeAlias = Callable[[int, FrameType | None], Any] | int | None  # as `signal` gives it


class Interrupted(KeyboardInterrupt):
    """A signal has stopped what was going on; training, after it had saved.

    Attributes:
      exit_code: 128 and the signal's number, as shells say it.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number


def _heeded() -> list[signal.Signals]:
    """The signals to handle: all but a SIGHUP that is ignored, as under nohup."""
    return [each for each in _SIGNALS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]


@contextlib.contextmanager
def exit_on_signal(clean_up: Callable[[], None], told: str) -> Iterator[None]:
    """Within the context a signal raises `Interrupted`; a second one, or too long a wait, ends the process.

    Python raises nothing before a call into C++ has returned, and a whole chain of samples is one such call. So a
    thread, too, hears of the signals; after two seconds it ends the process itself.

    Args:
      clean_up: what is done before.
      told: what is said of it on stderr: by the thread, or else by whoever catches the exception.
    """
    if threading.current_thread() is not threading.main_thread():  # Python lets no other handle signals
        yield
        return
    hears, tells = socket.socketpair()
    tells.setblocking(False)

    def interrupt(number: int, _: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN if each == signal.SIGHUP else lambda *_: None)  # for the thread alone
        raise Interrupted(told, number)

    def heard() -> bytes:
        while (number := hears.recv(1)) and number[0] not in before:  # a library may handle others
            pass
        return number  # none: closed

    def watch() -> None:
        number = heard()
        hears.settimeout(_PATIENCE)
        with contextlib.suppress(TimeoutError):
            if not heard():  # what was to be done is done, or has been given up in order
                return
        clean_up()
        _tell(f"\n{told}\n")
        os._exit(128 + number[0])

    before = {number: signal.getsignal(number) for number in _heeded()}
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    wakes = signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
    try:
        for number in before:
            signal.signal(number, interrupt)
        yield
    except Interrupted:
        clean_up()  # what was interrupted may have been a clean-up
        raise
    finally:
        _restore(before)
        signal.set_wakeup_fd(wakes)
        tells.close()
        thread.join()
        hears.close()


def _restore(handlers: dict[signal.Signals, _Handler]) -> None:
    """All but a SIGHUP that is ignored by now: a terminal that closes sends it more than once."""
    for number, handler in handlers.items():
        if number in _heeded():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python


def _tell(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody may be listening any more
        os.write(sys.stderr.fileno(), text.encode())


class Signals:
    """While it is entered, notes the first signal; the second one has its usual effect.

    Attributes:
      seen: the number of the signal, 0 before.
    """

    def __init__(self):
        self.seen = 0

    def __enter__(self) -> Signals:
        self._before: dict[signal.Signals, _Handler] = {}
        with contextlib.suppress(ValueError):  # not the main thread
            self._wakes = signal.set_wakeup_fd(-1)  # `exit_on_signal` does not hear of them
            for number in _heeded():
                self._before[number] = signal.signal(number, self._note)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._pass_over_ties
        return self

    def __exit__(self, *_: object) -> None:
        _restore(self._before)
        if self._before:
            signal.set_wakeup_fd(self._wakes)
        sys.unraisablehook = self._hook

    def _pass_over_ties(self, args: sys.UnraisableHookArgs) -> None:
        """Of two simultaneous signals the first one counts; Python's complaint about the other is dropped."""
        if not (isinstance(args.exc_value, OSError) and "race condition" in str(args.exc_value)):
            self._hook(args)

    def _note(self, number: int, _: object) -> None:
        self.seen = number
        for each in self._before:
            signal.signal(each, signal.SIG_IGN if each == signal.SIGHUP else signal.SIG_DFL)
        name = signal.Signals(number).name
        _tell(f"\n{name}: finishing the step and saving; once more to leave at once\n")
