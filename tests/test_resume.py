"""A run that is stopped, however, and started again ends as one that was never stopped, bit for bit."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow as tf
from conftest import TINY

from tf_ddpm import checkpoints, interruption
from tf_ddpm.errors import UserError

ROOT = Path(__file__).parent.parent
# Logs, checkpoints and epochs (1,797 images) end at different steps, so that a stop falls within all of them.
SETTINGS = TINY | {
    "train.steps": 300,
    "train.log_every": 7,
    "train.checkpoint_every": 10,
    "train.preview_every": 100,
    "train.timestep_sampling": "importance",
    "model.dropout": 0.1,
    "data.random_flip": "true",
}


def start(run_dir, **changes):
    flags = [f"--set={key}={value}" for key, value in (SETTINGS | changes).items()]
    command = [sys.executable, "main.py", "--mode=train", f"--run_dir={run_dir}", *flags]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(run_dir):
    """Everything that a run leaves but times: tensors, metrics, previews."""
    reader = tf.train.load_checkpoint(str(run_dir / "checkpoints" / f"step-{checkpoints.steps(run_dir)[-1]}"))
    tensors = {
        name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name
    }
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["images_per_second"]
    previews = {path.name: path.read_bytes() for path in (run_dir / "previews").iterdir()}
    return {name: value.tobytes() for name, value in tensors.items()}, lines, previews


def interrupt(run_dir, number, rng):
    """Starts the run and sends the signal at a random moment after its next checkpoint; what it printed."""
    before = checkpoints.steps(run_dir)[-1:]
    process = start(run_dir)
    while process.poll() is None and checkpoints.steps(run_dir)[-1:] == before:
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.5))
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (-number, 128 + number, 0), errors  # 0: it was done before the signal came
    return process.returncode, errors


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The result of a run that was never stopped."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    process = start(run_dir)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return result(run_dir)


def check_interrupted(run_dir, numbers, whole):
    rng = random.Random(0)
    for number in numbers:
        code, errors = interrupt(run_dir, number, rng)
        if code == 128 + number:
            step = int(re.search(r"stopped at step (\d+) of 300, saved in", errors).group(1))
            assert checkpoints.steps(run_dir)[-1] == step and "Traceback" not in errors
    _, errors = start(run_dir).communicate(timeout=600)
    found = result(run_dir)
    for part, expected in zip(found, whole, strict=True):
        assert part == expected, errors


def test_a_run_killed_and_terminated_ends_bit_identical(tmp_path, whole):
    check_interrupted(tmp_path / "run", [signal.SIGTERM, signal.SIGKILL], whole)


@pytest.mark.slow
def test_a_run_stopped_twenty_times_ends_bit_identical(tmp_path, whole):
    for name, number in (("killed", signal.SIGKILL), ("terminated", signal.SIGTERM)):
        check_interrupted(tmp_path / name, [number] * 20, whole)


def test_a_run_in_use_is_refused(tmp_path):
    with interruption.held(tmp_path):
        process = start(tmp_path)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and "another process is training in" in errors and "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_a_hold_ends_with_its_process(tmp_path):
    code = f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n"
    code += f"from tf_ddpm import interruption\nwith interruption.held(Path({str(tmp_path)!r})):\n"
    code += "    print('held', flush=True); time.sleep(100)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another process"), interruption.held(tmp_path):
        pass
    process.kill()
    process.wait()
    with interruption.held(tmp_path):
        pass


def test_the_first_signal_is_noted_and_the_second_acts(capfd):
    with interruption.Signals() as signals:
        assert signals.seen == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.seen == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert "once more to leave at once" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) != signal.SIG_DFL
