"""What was slow or taken twice, beside what it was in 0.1.

    python -m benchmarks.scale.table --out=DIR

Pictures, images and features are synthetic. `--rows=decoding,flips` measures some of the rows; all that were measured
are kept in DIR, and shown. Take `--photographs`, `--updates` and `--features` smaller for a first look.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import app, flags
from PIL import Image

from benchmarks.scale import rows
from benchmarks.scale.sources import data_of, images_a_second
from tf_ddpm import build, datasets
from tf_ddpm.config import DataConfig, presets
from tf_ddpm.datasets.pictures import Reader, Rules
from tf_ddpm.evaluation import feature_metrics
from tf_ddpm.runs.checkpoints import CheckpointManager
from tf_ddpm.training.optimizers import make_optimizer
from tf_ddpm.training.state import TrainState

FLAGS = flags.FLAGS
flags.DEFINE_integer("photographs", 50, "Of 12 megapixels.", lower_bound=1)
flags.DEFINE_integer("pictures", 1000, "Of the folder that changes.", lower_bound=2)
flags.DEFINE_integer("updates", 800, "Of the run on one core.", lower_bound=1)
flags.DEFINE_string("checkpoint_of", "cifar10", "The preset whose checkpoint is written.")
flags.DEFINE_integer("features", 50_000, "Images, of which each set of features is.", lower_bound=10)


def decoding() -> dict[str, str]:
    """Photographs to 64x64, in images per CPU-second."""
    folder = Path(FLAGS.out) / "photographs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(FLAGS.photographs):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        small.resize((4000, 3008), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=85)
    rates = []
    for decoder in (2, 3):  # of which the second asks the decoder of JPEGs for less
        with Reader(Rules(decoder)).open() as reader:
            began = time.process_time()
            for file in folder.iterdir():
                assert isinstance(reader.read(file, (64, 64), 3), np.ndarray)
            rates.append(FLAGS.photographs / (time.process_time() - began))
    return {"12 megapixels to 64x64, images/CPU-s": f"{rates[1]:.0f} (decoder 2: {rates[0]:.0f})"}


def changes() -> dict[str, str]:
    """How many pictures are decoded again after one is touched, one is added, and the folder has moved."""
    root, cache = Path(FLAGS.out) / "changing", Path(FLAGS.out) / "changing-cache"
    for left in (root, root.with_name("moved"), cache):
        shutil.rmtree(left, ignore_errors=True)
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(FLAGS.pictures):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(root / f"{i}.png")
    decoded: list[str] = []
    read = Reader.read
    Reader.read = lambda self, file, *args: (decoded.append(file), read(self, file, *args))[1]  # type: ignore

    def again(folder: Path) -> int:
        decoded.clear()
        data = DataConfig("folder", str(folder), image_size=(16, 16), channels=3, cache_dir=str(cache))
        datasets.load(data).decode_all()
        return len(decoded)

    found = {"nothing has changed": (again(root), again(root))[1]}
    os.utime(root / "0.png", (1, 1))
    found["one is touched"] = again(root)
    shutil.copy(root / "1.png", root / "one more.png")
    found["one is added"] = again(root)
    found["the folder is moved"] = again(root.rename(root.with_name("moved")))
    Reader.read = read  # type: ignore
    return {f"decoded of {FLAGS.pictures} where {words}": f"{count}" for words, count in found.items()}


def flips() -> dict[str, str]:
    """Images/s of the pipeline alone, from memory."""
    images = datasets.load(data_of("memory", 64))
    rates = [images_a_second(images, flip) for flip in (True, False)]
    return {"pipeline with mirror images, images/s": f"{rates[0]:,} of {rates[1]:,}"}


def waiting() -> dict[str, str]:
    """The median of `input_wait` of a run on one core."""
    run_dir, core = Path(FLAGS.out) / "waiting", min(os.sched_getaffinity(0))
    shutil.rmtree(run_dir, ignore_errors=True)
    values = {"train.steps": FLAGS.updates, "train.log_every": max(1, FLAGS.updates // 20), "train.decay_steps": 0}
    command = [sys.executable, "main.py", "--mode=train", "--preset=digits", f"--run_dir={run_dir}"]
    command += [f"--set={key}={value}" for key, value in values.items()]
    subprocess.run(command, check=True, preexec_fn=lambda: os.sched_setaffinity(0, {core}), stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    later = lines[1:] or lines  # the first holds the start of everything
    return {"input_wait on one core": f"{statistics.median(line['input_wait'] for line in later):.3f}"}


def checkpoint() -> dict[str, str]:
    """How long training waits for a checkpoint, with the copies that the next update makes."""
    config = presets.preset(FLAGS.checkpoint_of)
    image = {"image_size": config.data.image_size or (8, 8), "channels": config.data.channels or 1}
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, **image))
    state = TrainState(
        lambda: build.trained_network(config), make_optimizer(config.train), build.level_sampler(config)
    )
    weights = [state.weights, state.average, *state.optimizer.slots, *state.network.weights]
    run_dir = Path(FLAGS.out) / "checkpoint"
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(parents=True)
    keeper, waits = CheckpointManager(run_dir, state, keep=1), []
    for step in range(1, 4):
        usual, began = _change(weights), time.perf_counter()
        keeper.save(step)
        waits.append(time.perf_counter() - began + _change(weights) - usual)
        keeper.finish()
    size = sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file()) / 1e6
    return {f"wait for a checkpoint of {FLAGS.checkpoint_of} ({size:.0f} MB)": f"{statistics.median(waits):.2f} s"}


def _change(weights: list[tf.Variable]) -> float:
    """Seconds in which all that an update writes is written."""
    began = time.perf_counter()
    for weight in weights:
        weight.assign(tf.convert_to_tensor(weight) + 0.0)
    return time.perf_counter() - began


def metrics() -> dict[str, str]:
    """KID, and precision and recall, of two sets of random features."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(FLAGS.features, 2048)).astype(np.float32) for _ in range(2))
    found = {}
    for name, measure in (("KID", feature_metrics.kernel_distance), ("precision and recall", _coverage)):
        began = time.perf_counter()
        measure(a, b)
        found[f"{name} of {FLAGS.features:,}"] = f"{(time.perf_counter() - began) / 60:.1f} min"
    return found


def _coverage(a: np.ndarray, b: np.ndarray) -> object:
    return feature_metrics.precision_and_recall(a, b)


# What measures each row, and what was there before: on 2 cores, beside other work.
MEASURES: dict[str, tuple[Callable[[], dict[str, str]], tuple[str, ...]]] = {
    "decoding": (decoding, ("6",)),
    "changes": (changes, ("0", "all", "all", "all")),
    "flips": (flips, ("6,800 of 68,600",)),
    "waiting": (waiting, ("0.96 to 0.99",)),
    "checkpoint": (checkpoint, ("2.5 to 4.3 s",)),
    "metrics": (metrics, ("7 min (50,000)", "10 min (50,000)")),
}
flags.DEFINE_list("rows", list(MEASURES), "Which rows are measured.")


def main(_: list[str]) -> None:
    """Prints the table."""
    path = Path(FLAGS.out) / "table.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in FLAGS.rows:
        measure, before = MEASURES[name]
        for (what, now), was in zip(measure().items(), before, strict=True):
            rows.keep(path, {"row": name, "what": what, "before": was, "now": now}, "row", "what")
    print("| | before | now |\n| --- | --- | --- |")
    for row in sorted(rows.read(path), key=lambda row: list(MEASURES).index(row["row"])):
        print(f"| {row['what']} | {row['before']} | {row['now']} |")


if __name__ == "__main__":
    app.run(main)
