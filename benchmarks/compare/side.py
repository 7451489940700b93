"""A side of the comparison: a process that warms up, and then repeats its work whenever it is told to."""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path


def serve(prepare: Callable[[], Callable[[], None]], facts: dict | None = None, warm_up: int = 2) -> None:
    """Prepares the work and warms up; then, for each line of stdin, answers the seconds that it takes once more.

    The first answer is a line of JSON: `facts`, `library_mb` (resident before anything was prepared) and `first_s`
    (from the start of this process to the end of the first call). The last, to an empty line, is the process' largest
    resident memory in MB.
    """
    library_mb = _resident_mb()
    work = prepare()
    work()
    first_s = _seconds_since_start()
    for _ in range(warm_up - 1):
        work()
    print(json.dumps((facts or {}) | {"library_mb": library_mb, "first_s": first_s}), flush=True)
    for line in sys.stdin:
        if not line.strip():
            print(_resident_mb(), flush=True)
            return
        began = time.perf_counter()
        work()
        print(time.perf_counter() - began, flush=True)


def _resident_mb() -> float:
    """The most that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _seconds_since_start() -> float:
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
