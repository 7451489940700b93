"""Whether a long training stays as it began: resident memory and time a step, and how they change.

    python -m benchmarks.long_run [--steps=24000]

A tiny network, so that what surrounds it (input, logs, checkpoints, previews) is most of the work.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags

flags.DEFINE_integer("steps", 24_000, "Updates of the run.", lower_bound=1000)
FLAGS = flags.FLAGS

_SETTINGS = {
    "model.channels": 16,
    "model.groups": 4,
    "model.multipliers": "1",
    "model.attention_levels": "",
    "model.middle": "none",
    "diffusion.timesteps": 100,
    "diffusion.schedule": "cosine",
    "train.batch_size": 32,
    "train.decay_steps": 0,
    "train.log_every": 100,
    "train.checkpoint_every": 500,
    "train.preview_every": 2000,
}


def resident_mb(pid: int) -> float:
    """The resident memory of a process, in MB; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def main(_: list[str]) -> None:
    """Prints both courses, and their slopes over the last three quarters."""
    with tempfile.TemporaryDirectory() as folder:
        flags_of_run = [f"--set={key}={value}" for key, value in (_SETTINGS | {"train.steps": FLAGS.steps}).items()]
        command = [sys.executable, "main.py", "--mode=train", f"--run_dir={folder}/run", *flags_of_run]
        quiet = {"stdout": subprocess.DEVNULL, "env": os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}}
        process, memory, metrics = subprocess.Popen(command, **quiet), [], Path(folder) / "run" / "metrics.jsonl"
        while process.poll() is None:
            time.sleep(2)
            rows = metrics.read_text().splitlines() if metrics.exists() else []
            if rows and resident_mb(process.pid):
                memory.append((len(rows) * 100, resident_mb(process.pid)))
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    if process.returncode:
        sys.exit(f"the run ended with code {process.returncode}")
    times = [(row["step"], 1000 * 32 / row["images_per_second"]) for row in rows[1:]]
    for name, unit, course in (("resident memory", "MB", memory), ("time a step", "ms", times)):
        steps, values = np.array(course, float).T
        parts = [f"{np.median(part):.1f}" for part in np.array_split(values, 8)]
        late = steps > FLAGS.steps / 4
        slope = np.polyfit(steps[late], values[late], 1)[0] * 1000
        print(f"{name}: {' '.join(parts)} {unit} (medians of eighths); {slope:+.3f} {unit} in 1,000 steps")


if __name__ == "__main__":
    app.run(main)
