"""Latency of an exported sampler by plan and batch.  python -m benchmarks.serving --run_dir=R --export_dir=E

Each plan is timed in a C++ process built on TensorFlow's own loader, the one of TF Serving, and beside it in the same
run the run itself, sampling live at the same batch. Medians of --repeats calls in each of --rounds turns, A B A B.
"""

import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import app, flags

import tf_ddpm
from export.check import newest_version
from tests.cpp.build import build
from tf_ddpm import sampling

FLAGS = flags.FLAGS
flags.DEFINE_string("run_dir", "runs/digits", "The run that was exported.")
flags.DEFINE_string("export_dir", "runs/digits/serving/ddpm", "Its export; the newest version is timed.")
flags.DEFINE_string("precision", "float32", "Arithmetic of the run; give that of the export.")
flags.DEFINE_list("plans", ["dpmpp_20", "ddim_50"], "Signatures of images to time.")
flags.DEFINE_list("batches", ["1", "4", "16", "64"], "Rows of a request.")
flags.DEFINE_integer("repeats", 3, "Calls in each turn.")
flags.DEFINE_integer("rounds", 3, "Turns of each side.")


def requests(info: dict, plan: str, rows: int) -> dict[str, np.ndarray]:
    """The inputs of a request of `rows` images."""
    inputs = {
        "seed": np.arange(rows, dtype=np.int64),
        "label": np.zeros(rows, np.int32),
        "guidance": np.full(rows, 1.5, np.float32),
    }
    return {name: inputs[name] for name in info["signatures"][plan]}


def exported(program: Path, version: Path, plan: str, folder: Path, batches: list[int]) -> dict[int, float]:
    """Batch -> seconds of a request of the C++ process, the median of --repeats."""
    command = [program, "time", version, plan, folder, FLAGS.repeats, *batches]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    rows = (line.split() for line in done.stdout.splitlines())
    return {int(batch): float(seconds) for _, batch, seconds in rows}


def live(run: sampling.Run, settings: dict, batches: list[int]) -> dict[int, float]:
    """Batch -> seconds of `run.sample`, the median of --repeats."""
    found = {}
    for batch in batches:
        taken = []
        for _ in range(FLAGS.repeats + 3):
            began = time.perf_counter()
            run.sample(range(batch), batch_size=batch, **settings)
            taken.append(time.perf_counter() - began)
        found[batch] = statistics.median(taken[3:])  # the first calls compile for each shape in each thread
    return found


def main(_: list[str]) -> None:
    """Prints a Markdown table."""
    run = tf_ddpm.load_run(FLAGS.run_dir, precision=FLAGS.precision)
    version, batches = newest_version(FLAGS.export_dir), [int(word) for word in FLAGS.batches]
    info = json.loads((version / "assets.extra" / "model_info.json").read_text())
    print("| plan | rows | s a request | images/s | live images/s | exported / live |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        for plan in FLAGS.plans:
            inputs = requests(info, plan, max(batches))
            for name, value in inputs.items():
                (Path(folder) / f"input.{name}").write_bytes(tf.make_tensor_proto(value).SerializeToString())
            settings = info["plans"][plan] | ({"guidance": 1.5} if "guidance" in inputs else {})
            turns = []
            for _ in range(FLAGS.rounds):
                served = exported(program, version, plan, Path(folder), batches)
                turns.append((served, live(run, settings, batches)))
            for batch in batches:
                ours, theirs = (statistics.median(turn[side][batch] for turn in turns) for side in (0, 1))
                ratio = f"{theirs / ours:.2f}"
                print(f"| {plan} | {batch} | {ours:.3f} | {batch / ours:.1f} | {batch / theirs:.1f} | {ratio} |")


if __name__ == "__main__":
    app.run(main)
