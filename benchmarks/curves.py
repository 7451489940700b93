"""What an image costs as the work grows: one axis at a time, all else as in the base.

    python -m benchmarks.curves [--axis=batch,size,channels,steps,devices] [--out=FILE.json]

On the CPU.
The base: the `fashion_mnist` network and 32x32 images, 16 at once (4 at once where the size grows), bfloat16, one
device, 20 steps of DDIM. Points of an axis are warmed up first and then take turns; medians of --rounds turns.
"""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
from absl import app, flags

from benchmarks.compare import ours
from tf_ddpm import config as config_lib

AXES = {
    "batch": (1, 2, 4, 8, 16, 32, 64, 128),
    "size": (8, 16, 32, 64, 128, 256),
    "channels": (32, 64, 128, 256),
    "steps": (10, 30, 100, 300, 1000),
    "devices": (1, 2, 4),
}
FLAGS = flags.FLAGS
flags.DEFINE_list("axis", list(AXES), "Of: " + ", ".join(AXES) + ".")
flags.DEFINE_list("work", ["train", "sample"], "train, sample.")
flags.DEFINE_integer("rounds", 3, "Turns of each point.", lower_bound=1)
flags.DEFINE_string("out", None, "Where the figures go, as JSON.")
_PRECISION = "bfloat16"


@dataclasses.dataclass(frozen=True)
class Point:
    """What is measured together."""

    batch: int = 16
    size: int = 32
    channels: int = 32
    steps: int = 20
    devices: int = 1

    def prepared(self, work: str) -> Callable[[], None]:
        """The work, warmed up."""
        config = ours.configuration("fashion_mnist", _PRECISION, self.batch)
        values = {"data.image_size": (self.size, self.size), "model.channels": self.channels}
        config = config_lib.with_values(config, values)
        if work == "sample":
            call = ours.sample(config, _PRECISION, self.batch, self.steps)
        else:
            names = [f"/cpu:{i}" for i in range(self.devices)]
            # (Several strategies in one process: their collective operations would collide.)
            reduction = tf.distribute.ReductionToOneDevice()
            strategy = tf.distribute.MirroredStrategy(names, cross_device_ops=reduction)
            call = ours.update(config, _PRECISION, self.batch, strategy)
        call()
        return call


# Kept to the end of the process: TensorFlow 2.21 waits for ever where the iterator over several devices is freed.
_KEPT: list[Callable[[], None]] = []


def measured(axis: str, work: str) -> list[dict]:
    """Seconds an image of every point of an axis."""
    base = Point(batch=4) if axis == "size" else Point()
    points = [dataclasses.replace(base, **{axis: value}) for value in AXES[axis]]
    calls = [point.prepared(work) for point in points]
    if axis == "devices":
        _KEPT.extend(calls)
    seconds: list[list[float]] = [[] for _ in points]
    for _ in range(FLAGS.rounds):
        for call, row in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            call()
            row.append(time.perf_counter() - began)
    return [
        dataclasses.asdict(point)
        | {"work": work, "axis": axis, "seconds_per_image": statistics.median(row) / point.batch}
        for point, row in zip(points, seconds, strict=True)
    ]


def main(_: list[str]) -> None:
    """Prints a row for each axis as it comes, and writes --out."""
    tf.config.set_visible_devices([], "GPU")
    cpu = tf.config.list_physical_devices("CPU")[0]
    copies = [tf.config.LogicalDeviceConfiguration() for _ in range(max(AXES["devices"]))]
    tf.config.set_logical_device_configuration(cpu, copies)
    found = []
    for axis in FLAGS.axis:
        for work in FLAGS.work:
            if (axis, work) in {("steps", "train"), ("devices", "sample")}:
                continue
            rows = measured(axis, work)
            found += rows
            cells = [f"{row[axis]}: {1000 * row['seconds_per_image']:.3g}" for row in rows]
            print(f"{work}, milliseconds an image by {axis}:  " + "  ".join(cells), flush=True)
            if FLAGS.out:
                Path(FLAGS.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
