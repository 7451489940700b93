"""The share of a run's time that goes by waiting for images, on one core and on all that there are."""

import json
import os

import pytest

from tests.support.processes import ended, start

_PROGRAM = """
import os, time
os.sched_setaffinity(0, CORES)
from absl import app
from tf_ddpm.commands import cli
from tf_ddpm.datasets import batches
quick = batches._gathered
def slow(*arguments):
    time.sleep(SECONDS)
    return quick(*arguments)
batches._gathered = slow
app.run(cli.main)
"""


def run(run_dir, cores, seconds):
    """The largest share after the start, and the warnings, of a run whose batches each take so many seconds more."""
    code = _PROGRAM.replace("CORES", repr(cores)).replace("SECONDS", repr(seconds))
    changes = {"train.steps": 30, "train.log_every": 10, "train.preview_every": 1000, "train.steps_per_call": 1}
    code, _, errors = ended([start(run_dir, code=code, **changes)])[0]
    assert code == 0, errors
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return max(line["input_wait"] for line in lines[1:]), errors.count("waiting for images")


@pytest.mark.parametrize("count", [1, 2])
def test_a_warning_of_waiting_comes_from_a_slow_source_alone(tmp_path, count):
    cores = set(sorted(os.sched_getaffinity(0))[:count])
    share, warnings = run(tmp_path / "quick", cores, 0.0)
    slow_share, slow_warnings = run(tmp_path / "slow", cores, 1.0)
    assert warnings == 0 and slow_warnings == 1
    assert 2 * share < slow_share, "and not by little, however busy the machine is"
