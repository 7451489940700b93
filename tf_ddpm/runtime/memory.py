"""How much memory there is, before it is asked for."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tf_ddpm.errors import UserError
from tf_ddpm.runtime import control_group

_MACHINE = Path("/proc/meminfo")


def available() -> float:
    """Bytes that this process may still take, of the machine and its control groups; infinite where neither says."""
    found = [float("inf")]
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = dict(line.split(":") for line in _MACHINE.read_text(encoding="utf-8").splitlines())
        found.append(1024.0 * int(lines["MemAvailable"].split()[0]))
    return max(min(*found, control_group.memory_left()), 0.0)


def check(size: float, what: str, remedy: str) -> None:
    """Whether `size` bytes are there for `what`.

    Raises:
      UserError: where they are not, with the `remedy`.
    """
    left = available()
    if size > left:
        raise UserError(f"{what} takes {size / 1e9:.1f} GB of memory, and {left / 1e9:.1f} GB are free; {remedy}")
