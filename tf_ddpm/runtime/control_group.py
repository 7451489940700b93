"""What the control groups of this process (those of a container, say) grant it: cores and memory, versions 1 and 2."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_MOUNTED = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def cores() -> int:
    """How many cores this process may use: those it is bound to, and no more than its control groups grant."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *(round(quota) for quota in _quotas())]))


def memory_left() -> float:
    """Bytes that its control groups still grant; infinite where they set no limit."""
    return min([float("inf"), *_left()])


def _quotas() -> Iterator[float]:
    """Cores, of each group that limits them."""
    for folder in _groups("cpu"):
        with contextlib.suppress(OSError, ValueError):
            quota, period = map(int, (folder / "cpu.max").read_text(encoding="utf-8").split())  # `max`: no limit
            yield quota / period
        with contextlib.suppress(OSError, ValueError):
            quota, period = (_number(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
            if quota > 0:  # -1: no limit
                yield quota / period


def _left() -> Iterator[float]:
    """Bytes, of each group that limits them."""
    for folder in _groups("memory"):
        for most, used, kinds in (
            ("memory.max", "memory.current", ("inactive_file", "active_file")),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
        ):
            with contextlib.suppress(OSError, ValueError):
                left = _number(folder / most) - _number(folder / used)
                lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
                stat = dict(line.split() for line in lines)
                yield float(left + sum(int(stat.get(kind, 0)) for kind in kinds))  # (files are given back)


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process' groups, and of those around them.

    Where a container sees its own group as the root, the folder that the system names is not there, and the root is.
    """
    try:
        lines = _OWN.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines or ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mounts = [_MOUNTED / controllers, _MOUNTED / controller] if controllers else [_MOUNTED, _MOUNTED / "unified"]
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for mount in dict.fromkeys(mounts):
            yield from (mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def _number(file: Path) -> int:
    return int(file.read_text(encoding="utf-8"))
