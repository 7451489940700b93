"""This project's side: a run that draws in a few steps."""

import json
import sys
from collections.abc import Callable

import tf_ddpm
from benchmarks.compare.side import serve


def drawing(run_dir: str, sampler: str, steps: int, batch: int) -> Callable[[], None]:
    """A complete sampling loop, as a function to call again and again."""
    run = tf_ddpm.load_run(run_dir, batch_size=batch)
    spacing = "sigmas" if sampler == "consistency" else "trailing"
    return lambda: run.sample(range(batch), sampler=sampler, steps=steps, spacing=spacing)


def main(**arguments: object) -> None:
    """Serves one kind of work."""
    serve(lambda: drawing(**arguments))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
