"""A side of the comparison: a process that warms up, and then repeats its work whenever it is told to."""

import json
import resource
import sys
import time
from collections.abc import Callable

SIDES = {"ours": "benchmarks.compare.ours", "peer": "benchmarks.compare.peer"}


def serve(work: Callable[[], None], facts: dict | None = None, warm_up: int = 2) -> None:
    """Warms up, says `facts` in a line of JSON, and for each line of stdin answers the seconds of one `work()`.

    The last answer, to an empty line, is the process' largest resident memory in MB.
    """
    for _ in range(warm_up):
        work()
    print(json.dumps(facts or {}), flush=True)
    for line in sys.stdin:
        if not line.strip():
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)
            return
        began = time.perf_counter()
        work()
        print(time.perf_counter() - began, flush=True)
