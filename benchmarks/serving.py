"""What an export does under load.  python -m benchmarks.serving --run_dir=R --export_dir=E [--work=latency,...]

A C++ process built on TensorFlow's own loader, the one of TF Serving, asks the newest version.

  latency  each plan by rows of a request, and in turn with it the run itself, sampling live at the same batch
  callers  images/s of many callers of one row each, against one caller of as many rows; and a lone row, in turn with
           the same model exported without joining
  lanes    a row of `png` beside two callers of a long plan
  start    seconds to load, and to the first answer of each signature
  memory   the peak with a full batch of every signature waiting, and what the export estimated
"""

import contextlib
import json
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from absl import app, flags

import tf_ddpm
from export import joining, saved_model, warmup
from export.check import newest_version
from export.limits import Limits
from tests.support.cpp.build import build
from tf_ddpm.config import plans
from tf_ddpm.sampling.run import Run

FLAGS = flags.FLAGS
flags.DEFINE_string("run_dir", "runs/digits", "The run that was exported.")
flags.DEFINE_string("export_dir", "runs/digits/serving/ddpm", "Its export; the newest version is timed.")
flags.DEFINE_string("precision", "float32", "Arithmetic of the run; give that of the export.")
flags.DEFINE_list("work", ["latency"], "latency, callers, lanes, start, memory.")
flags.DEFINE_list("plans", ["dpmpp_20", "ddim_50"], "Signatures of images to time.")
flags.DEFINE_list("batches", ["1", "4", "16", "64"], "latency: rows of a request.")
flags.DEFINE_list("callers", ["8", "64"], "callers: how many.")
flags.DEFINE_string("beside", "ddpm_1000", "lanes: the long plan.")
flags.DEFINE_integer("repeats", 3, "Calls in each turn.")
flags.DEFINE_integer("rounds", 3, "Turns of each side.")


class Export:
    """A version, and the program that asks it."""

    def __init__(self, program: Path, version: Path, folder: Path):
        self.program, self.version, self.folder = program, version, folder
        self.info = json.loads((version / "assets.extra" / "model_info.json").read_text())
        self.limits = Limits.of_info(self.info)

    def run(self, work: str, *words: object, given: str = "") -> list[list[str]]:
        """The words of each line that the program prints; it reads `given`."""
        command = [self.program, work, self.version, *words]
        done = subprocess.run([*map(str, command)], input=given, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr.strip().splitlines()[-1])
        return [line.split() for line in done.stdout.splitlines()]

    def inputs(self, signature: str, rows: int) -> Path:
        """A folder with a request of so many rows, a file for each input."""
        folder = self.folder / f"{signature}-{rows}"
        folder.mkdir(exist_ok=True)
        for name, value in warmup.example(self.limits, self.info["signatures"][signature], rows).items():
            (folder / f"input.{name}").write_bytes(tf.make_tensor_proto(value).SerializeToString())
        return folder

    def requests(self, rows: int, signatures: list[str]) -> Path:
        """A file of requests of so many rows."""
        lines = []
        for signature in signatures:
            files = sorted(self.inputs(signature, rows).glob("input.*"))
            words = [f"{file.name.removeprefix('input.')}={file}" for file in files]
            lines.append(" ".join([signature, str(self.folder / "answer"), *words]))
        path = self.folder / f"requests-{rows}"
        path.write_text("\n".join(lines))
        return path


def live(run: Run, settings: dict, batches: list[int]) -> dict[int, float]:
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


def seconds(export: Export, plan: str, batches: list[int]) -> dict[int, float]:
    """Batch -> seconds of a request, the median of --repeats."""
    rows = export.run("time", plan, export.inputs(plan, max(batches)), FLAGS.repeats, *batches)
    return {int(batch): float(taken) for _, batch, taken in rows}


def latency(export: Export, run: Run) -> None:
    """Prints a table of each plan beside the live run."""
    batches = [int(word) for word in FLAGS.batches]
    print("| plan | rows | s a request | images/s | live images/s | exported / live |")
    print("| --- | --- | --- | --- | --- | --- |")
    for plan in FLAGS.plans:
        guided = {"guidance": 1.5} if "guidance" in export.info["signatures"][plan] else {}
        settings, turns = export.info["plans"][plan] | guided, []
        for _ in range(FLAGS.rounds):
            turns.append((seconds(export, plan, batches), live(run, settings, batches)))
        for batch in batches:
            ours, theirs = (statistics.median(turn[side][batch] for turn in turns) for side in (0, 1))
            print(
                f"| {plan} | {batch} | {ours:.3f} | {batch / ours:.1f} | {batch / theirs:.1f} | {theirs / ours:.2f} |"
            )


@contextlib.contextmanager
def apart(export: Export, run: Run) -> Iterator[Export]:
    """The same model, in which no request is joined with another."""
    join = joining.joined
    joining.joined = lambda compute, *_: compute
    try:
        words = ",".join(plan.replace("_", "-") for plan in FLAGS.plans)
        target, chosen = export.folder / "apart", plans.parse(words, run.config)
        yield Export(
            export.program, saved_model.export_run(run, target, chosen, export.limits.max_batch), export.folder
        )
    finally:
        joining.joined = join


def callers(export: Export, run: Run) -> None:
    """Prints images/s of many callers, and what joining costs a lone row."""
    print("| plan | callers of one row | images/s | one caller of as many rows | ratio |")
    print("| --- | --- | --- | --- | --- |")
    counts = [int(word) for word in FLAGS.callers]
    for plan in FLAGS.plans:
        pairs = [number for count in counts for number in (count, 1, 1, count)]
        rows = export.run("load", plan, export.inputs(plan, max(counts)), FLAGS.rounds, *pairs)
        speed = [float(row[3]) for row in rows]
        for count, many, one in zip(counts, speed[::2], speed[1::2], strict=True):
            print(f"| {plan} | {count} | {many:.1f} | {one:.1f} | {many / one:.2f} |")
    with apart(export, run) as other:
        for plan in FLAGS.plans:
            turns = [[seconds(side, plan, [1])[1] for side in (export, other)] for _ in range(FLAGS.rounds)]
            joined, alone = (statistics.median(turn[side] for turn in turns) for side in (0, 1))
            ratio = statistics.median(a / b for a, b in turns)
            print(
                f"{plan}, a lone row: {joined:.4f} s, without joining {alone:.4f} s, median of the ratios {ratio:.3f}"
            )


def lanes(export: Export, _: Run) -> None:
    """Prints what a long plan costs a short one."""
    words = export.inputs("png", 1), FLAGS.repeats, FLAGS.beside, export.inputs(FLAGS.beside, 1), 2
    turns = [export.run("beside", "png", *words)[0] for _ in range(FLAGS.rounds)]
    alone, beside = (statistics.median(float(turn[i]) for turn in turns) for i in (1, 3))
    ratio = f"{beside / alone:.1f} times"
    print(f"png, one row: alone {alone:.3f} s, beside two callers of {FLAGS.beside} {beside:.3f} s, {ratio}")


def start(export: Export, _: Run) -> None:
    """Prints the table of first answers."""
    signatures = sorted(export.info["signatures"])
    (_, load, resident), *rows = export.run("first", export.requests(1, signatures))
    print("| | first, s | second, s | resident, MB |\n| --- | --- | --- | --- |")
    print(f"| load | {float(load):.1f} | | {float(resident):.0f} |")
    for name, first, second, resident in rows:
        print(f"| {name} | {float(first):.1f} | {float(second):.2f} | {float(resident):.0f} |")
    print(f"all: {float(load) + sum(float(row[1]) for row in rows):.1f} s")


def memory(export: Export, _: Run) -> None:
    """Prints the peak with every queue full, and the estimate of the Kubernetes manifest."""
    short = [name for name in sorted(export.info["signatures"]) if name not in ("ddpm_1000", "serving_default")]
    asked = short * 4 + [name for name in short if export.info["joining"]["lane"][name] == "long"]
    file = export.requests(export.limits.max_batch, asked)
    _, words = export.run("answer", given=f"{export.requests(1, short)} 1\n{file} 64\n")
    estimate = re.search(r"memory: (\d+)Mi", (export.version.parent / "kubernetes.yml").read_text())[1]
    print(f"peak {float(words[3]):.0f} MB with full batches of every signature; the manifest asks for {estimate} MB")


def main(_: list[str]) -> None:
    """Prints what --work names."""
    run = tf_ddpm.load_run(FLAGS.run_dir, precision=FLAGS.precision)
    works = {work.__name__: work for work in (latency, callers, lanes, start, memory)}
    with tempfile.TemporaryDirectory() as folder:
        export = Export(build(Path(folder)), newest_version(FLAGS.export_dir), Path(folder))
        for word in FLAGS.work:
            works[word](export, run)


if __name__ == "__main__":
    app.run(main)
