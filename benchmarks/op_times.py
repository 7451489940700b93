"""Where the time of one call goes, by kind of operation, as TensorFlow's profiler sees it.

    python -m benchmarks.op_times [--model=cifar10] [--work=forward|train|sample] [--precision=float32] [--batch=16]

The calls are those of `benchmarks.compare`. Where operations run at the same time, as in training, their times add up
to more than the call takes.
"""

import collections
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
from absl import app, flags
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from benchmarks.compare import ours

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "cifar10", list(ours.SHAPES), "The preset whose network it is.")
flags.DEFINE_enum("work", "forward", ["forward", "train", "sample"], "What is called.")
flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"], "Arithmetic of the network.")
flags.DEFINE_integer("batch", 16, "Images at once.", lower_bound=1)
flags.DEFINE_integer("steps", 10, "Of the sampling loop (DDIM).", lower_bound=1)
flags.DEFINE_integer("rows", 16, "Kinds of operations that are shown.", lower_bound=1)


def prepared(work: str) -> Callable[[], None]:
    """The call."""
    config = ours.configuration(FLAGS.model, FLAGS.precision, FLAGS.batch)
    if work == "sample":
        return ours.sample(config, FLAGS.precision, FLAGS.batch, FLAGS.steps)
    return {"forward": ours.forward, "train": ours.update}[work](config, FLAGS.precision, FLAGS.batch)


def seconds(call: Callable[[], None]) -> float:
    """Of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def by_kind(call: Callable[[], None]) -> tuple[collections.Counter, collections.Counter]:
    """Milliseconds, and how many there are, of each kind of operation of one call."""
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder, tf.profiler.experimental.ProfilerOptions(host_tracer_level=3)):
            call()
        space = xplane_pb2.XSpace.FromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes())
    times, counts = collections.Counter(), collections.Counter()
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            name, _, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
            if name and kind and not name.endswith(":") and kind != "EagerLocalExecute":
                times[kind] += event.duration_ps / 1e9
                counts[kind] += 1
    return times, counts


def main(_: list[str]) -> None:
    """Prints the table."""
    call = prepared(FLAGS.work)
    for _ in range(3):
        call()
    median = statistics.median(seconds(call) for _ in range(5))
    times, counts = by_kind(call)
    print(f"{FLAGS.work} of {FLAGS.model}, {FLAGS.precision}, {FLAGS.batch} at once: {1000 * median:.0f} ms a call\n")
    print("| operation | how many | ms |\n| --- | --- | --- |")
    for kind, spent in times.most_common(FLAGS.rows):
        print(f"| {kind} | {counts[kind]} | {spent:.1f} |")
    rest = times.total() - sum(spent for _, spent in times.most_common(FLAGS.rows))
    print(f"| all others | | {rest:.1f} |")


if __name__ == "__main__":
    app.run(main)
