"""How much memory there is, before it is asked for."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tf_ddpm.errors import UserError

_GROUP = Path("/sys/fs/cgroup")
_MACHINE = Path("/proc/meminfo")


def available() -> float:
    """Bytes that this process may still take, of the machine and of its control group; infinite where neither says."""
    found = [float("inf")]
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = dict(line.split(":") for line in _MACHINE.read_text(encoding="utf-8").splitlines())
        found.append(1024.0 * int(lines["MemAvailable"].split()[0]))
    with contextlib.suppress(OSError, ValueError):  # which is `max` where there is no limit
        most, used = (int((_GROUP / f"memory.{name}").read_text(encoding="utf-8")) for name in ("max", "current"))
        stat = dict(line.split() for line in (_GROUP / "memory.stat").read_text(encoding="utf-8").splitlines())
        files = int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))  # which are given back
        found.append(float(most - used + files))
    return max(min(found), 0.0)


def check(size: float, what: str, remedy: str) -> None:
    """Whether `size` bytes are there for `what`.

    Raises:
      UserError: where they are not, with the `remedy`.
    """
    left = available()
    if size > left:
        raise UserError(f"{what} takes {size / 1e9:.1f} GB of memory, and {left / 1e9:.1f} GB are free; {remedy}")
