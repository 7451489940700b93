"""Start-up, memory and throughput against the number of pictures, on synthetic files.

    python -m benchmarks.scale --files=64,1000,10000,100000 --side=64 --out=DIR

For each number a folder of JPEGs is made (kept in DIR for the next time), and the `digits` network is trained on it
for one update, twice: with nothing decoded, and with what the first left in the cache. (Nothing is done to the
system's own cache of files, which has those that were just made.) Then the pipeline alone: images/s of batches of 64
with and without mirror images. `--megapixels=12` makes photographs of that size instead. Prints a table of medians,
and keeps its rows in DIR, in a file for each kind of pictures: other numbers of files are added to them.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from benchmarks.scale import rows

FLAGS = flags.FLAGS
flags.DEFINE_list("files", ["64", "1000", "10000"], "Numbers of pictures.")
flags.DEFINE_integer("side", 64, "Of the pictures, and of the images that they become.")
flags.DEFINE_float("megapixels", 0.0, "Of the pictures; 0: side x side.")
flags.DEFINE_float("memory_gb", 0.5, "data.memory_gb.")
flags.DEFINE_integer("accumulate", 32, "train.accumulate: of a whole batch the network alone takes gigabytes.")
flags.DEFINE_integer("repeats", 3, "Trainings of each kind, whose medians are shown.", lower_bound=1)
flags.DEFINE_string("out", None, "Where pictures and figures go.", required=True)
flags.DEFINE_string("pipeline", None, "A folder of pictures: measures the pipeline alone, as a process of its own.")

_DISTINCT = 50  # pictures; the others are copies with other bytes at their end
_BATCHES = 400


def kind() -> str:
    """The pictures' size in words."""
    return f"{FLAGS.megapixels:g}mp" if FLAGS.megapixels else f"{FLAGS.side}px"


def folder_of(count: int) -> Path:
    """A folder of so many pictures, made if it is not there."""
    folder = Path(FLAGS.out) / f"{kind()}-{count}"
    if (folder / "whole").exists():
        return folder / "pictures"
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(0)
    height = round((FLAGS.megapixels * 1e6 * 3 / 4) ** 0.5) // 16 * 16 if FLAGS.megapixels else FLAGS.side
    width = height * 4 // 3 // 16 * 16 if FLAGS.megapixels else FLAGS.side  # as cameras make them
    contents = []
    for _ in range(min(_DISTINCT, count)):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        path = Path(FLAGS.out) / "one.jpg"
        small.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=85)
        contents.append(path.read_bytes())
    for i in range(count):
        place = folder / "pictures" / f"{i % 10}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:07d}.jpg").write_bytes(contents[i % len(contents)] + i.to_bytes(8, "big"))
    (folder / "whole").touch()
    return folder / "pictures"


def first_step(folder: Path, cache: Path) -> dict[str, float]:
    """Seconds until one update is made, and the most memory, of a training in a process of its own.

    Raises:
      SystemExit: where it ends otherwise.
    """
    run_dir = Path(FLAGS.out) / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    values = [f"data.path={folder}", "data.name=folder", f"data.image_size={FLAGS.side}", "data.channels=3"]
    values += [
        f"data.memory_gb={FLAGS.memory_gb}",
        f"data.cache_dir={cache}",
        "train.steps=1",
        "train.preview_images=1",
    ]
    values += ["train.log_every=1", "sample.steps=1", "train.warmup_steps=0", "train.decay_steps=0"]
    values += [f"train.accumulate={FLAGS.accumulate}"]
    command = [sys.executable, "main.py", "--mode=train", "--preset=digits", f"--run_dir={run_dir}"]
    began = time.perf_counter()
    process = subprocess.Popen([*command, *(f"--set={value}" for value in values)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = (time.perf_counter() - began for line in process.stdout if line.startswith("step 1/1"))
    seconds = next(first, None)
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    if code or seconds is None:
        raise SystemExit(f"the training on {folder} ended with code {code}{'' if seconds else ', without an update'}")
    return {"first_step_s": round(seconds, 1), "memory_gb": round(usage.ru_maxrss / 1e6, 2)}


def pipeline(folder: Path) -> dict[str, float]:
    """Images/s of batches of 64."""
    import tensorflow as tf

    from tf_ddpm import datasets
    from tf_ddpm.config import DataConfig
    from tf_ddpm.datasets.batches import batch_dataset

    size, cache = (FLAGS.side, FLAGS.side), str(Path(FLAGS.out) / "cache")
    data = DataConfig("folder", str(folder), image_size=size, channels=3, memory_gb=FLAGS.memory_gb, cache_dir=cache)
    images, found = datasets.load(data), {}
    images.whole()
    for flip in (False, True):
        batches = iter(batch_dataset(images, 64, 0, 0, flip))
        next(batches)
        began = time.perf_counter()
        for _ in range(_BATCHES):
            batch = next(batches)
        tf.nest.map_structure(lambda part: part.numpy(), batch)
        found["with_flips" if flip else "without"] = round(64 * _BATCHES / (time.perf_counter() - began))
    found["memory_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
    return found


def main(_: list[str]) -> None:
    """Prints the table."""
    if FLAGS.pipeline is not None:
        print(json.dumps(pipeline(Path(FLAGS.pipeline))))
        return
    Path(FLAGS.out).mkdir(parents=True, exist_ok=True)
    cache, path = Path(FLAGS.out) / "cache", Path(FLAGS.out) / f"scale-{kind()}.json"
    print("| files | first step | memory | second start | memory | pipeline, images/s | with flips |")
    print("|" + " --- |" * 7)
    for count in map(int, FLAGS.files):
        folder = folder_of(count)
        turns: dict[str, list[dict[str, float]]] = {"cold": [], "again": []}
        for _ in range(FLAGS.repeats):
            shutil.rmtree(cache, ignore_errors=True)
            for found in turns.values():
                found.append(first_step(folder, cache))
        cold, again = (rows.medians(found) for found in turns.values())
        command = [sys.executable, "-m", "benchmarks.scale", f"--pipeline={folder}", f"--out={FLAGS.out}"]
        command += [f"--side={FLAGS.side}", f"--memory_gb={FLAGS.memory_gb}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        alone = json.loads(done.stdout.splitlines()[-1])
        rows.keep(path, {"files": count, "cold": cold, "again": again, "pipeline": alone}, "files")
        print(
            f"| {count:,} | {cold['first_step_s']} s | {cold['memory_gb']} GB | {again['first_step_s']} s | "
            f"{again['memory_gb']} GB | {alone['without']:,} | {alone['with_flips']:,} |",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
