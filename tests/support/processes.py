"""Training runs in processes of their own, as a person starts them, and all that they leave."""

import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import tensorflow as tf

from tests.support.tiny import TINY
from tf_ddpm.runs import checkpoint_files

ROOT = Path(__file__).parents[2]
# Everything that a run could lose: random numbers, flips, dropout, the history of losses. Epochs (7 steps of 256
# images) end at different steps, so that a stop falls within all of them.
SETTINGS = {key: ",".join(map(str, v)) if isinstance(v, tuple) else v for key, v in TINY.items()} | {
    "train.steps": 400,
    "train.log_every": 7,
    "train.checkpoint_every": 10,
    "train.preview_every": 100,
    "train.steps_per_call": 3,
    "train.timestep_sampling": "importance",
    "train.averages": "0.05,0.2",
    "train.averages_every": 11,
    "train.guide_at": "0.3",
    "model.dropout": 0.1,
    "data.random_flip": "true",
}
LONG = {"train.steps": 3000, "train.decay_steps": 0}  # time for twenty stops
_ON_LOGICAL_DEVICES = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
names = [f"/cpu:{i}" for i in range(DEVICES)]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration() for _ in names])
from absl import app
from tf_ddpm.commands import cli
from tf_ddpm.runtime import devices
devices.strategy = lambda: tf.distribute.MirroredStrategy(names)
app.run(cli.main)
"""


def start(run_dir, devices=1, cluster=None, mode="train", flags=(), code=None, **changes):
    """A process of main.py.

    Args:
      devices: logical ones. cluster: (addresses, index) of this worker. code: what runs instead of main.py itself.
    """
    settings = SETTINGS | changes if mode == "train" else changes
    flags = [
        f"--mode={mode}",
        f"--run_dir={run_dir}",
        *flags,
        *(f"--set={key}={value}" for key, value in settings.items()),
    ]
    if devices > 1:
        code = _ON_LOGICAL_DEVICES.replace("DEVICES", str(devices))
    program = ["-c", code] if code else ["main.py"]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    env.pop("PYTHONUNBUFFERED", None)  # so that something may be left in the buffers at the end
    if cluster is not None:
        addresses, index = cluster
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        env["TF_CONFIG"] = json.dumps(task)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *program, *flags], cwd=ROOT, env=env, **pipes)


def start_workers(run_dir, each=({}, {}), **options):
    """Workers on this machine, with further options for `each`."""
    sockets = [socket.socket() for _ in each]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return [
        start(**{"run_dir": run_dir, "cluster": (addresses, index)} | options | own) for index, own in enumerate(each)
    ]


def ended(processes, seconds=600):
    """(exit code, stdout, stderr) of each; all are gone within so many seconds."""
    until = time.monotonic() + seconds
    try:
        outputs = [process.communicate(timeout=max(1.0, until - time.monotonic())) for process in processes]
        return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]
    finally:
        for process in processes:
            process.kill()


def result(run_dir):
    """Everything that a run leaves but times: tensors, metrics, previews and averages."""
    reader = tf.train.load_checkpoint(str(run_dir / "checkpoints" / f"step-{checkpoint_files.steps(run_dir)[-1]}"))
    tensors = {
        name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name
    }
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["images_per_second"], line["input_wait"]
    files = [path for folder in ("previews", "averages") for path in (run_dir / folder).glob("*")]
    files = {path.name: path.read_bytes() for path in files}
    return {name: value.tobytes() for name, value in tensors.items()}, lines, files


def interrupt(run_dir, number, seconds, victim, begin):
    """Begins the run and sends one of its processes the signal so many seconds after the next checkpoint.

    Returns:
      (exit code, stdout, stderr) of each process.
    """
    before = checkpoint_files.steps(run_dir)[-1:]
    processes = begin(run_dir)
    while all(process.poll() is None for process in processes) and checkpoint_files.steps(run_dir)[-1:] == before:
        time.sleep(0.005)
    time.sleep(seconds)
    processes[victim % len(processes)].send_signal(number)
    return ended(processes, 120)


def check_interrupted(run_dir, numbers, whole, begin):
    """A run stopped by these signals, one after the other, ends as the `whole` one did.

    Returns:
      How many of them came before it was done.
    """
    rng, stops = random.Random(0), 0
    for victim, number in enumerate(numbers):
        outputs = interrupt(run_dir, number, rng.uniform(0, 0.2), victim, begin)
        stops += any(code for code, _, _ in outputs)
        for code, _, errors in outputs:
            # 0: it was done before the signal came; 1: another worker was killed.
            assert code in (-number, 128 + number, 0, 1) and "Traceback" not in errors, errors
            if code == 1:
                assert "stops, since another one is gone" in errors, errors
            if code == 128 + number:
                stopped = re.search(r"stopped at step (\d+) of \d+, saved in", errors)
                step = int(stopped.group(1)) if stopped else whole[1][-1]["step"]  # it was done, and only not yet gone
                assert checkpoint_files.steps(run_dir)[-1] == step, errors
    last = ended(begin(run_dir))
    assert all(code == 0 for code, _, _ in last), last
    assert not [path for path in run_dir.rglob("*") if "partial" in path.name or "_temp" in path.name]
    for part, expected in zip(result(run_dir), whole, strict=True):
        assert part == expected, last
    return stops
