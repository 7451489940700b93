"""A student beside its teacher, and beside diffusers on PyTorch with the teacher's network.

    python -m benchmarks.few_steps --student=RUN --teacher=RUN --out=DIR     (requirements-peers.txt)

It goes on where it was. First the quality: FID and KID of the student in 1, 2 and 4 steps, of its teacher in 10 of
DPM-Solver++, and of what diffusers draws with each of its fast schedulers, in the fewest steps that are as good as the
student: found by bisection, for more steps draw better. The same code measures all, by as many images. Then the speed,
in turns: medians of --rounds batches of --batch images. A student draws as its configuration says (`sample.sigmas`).
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from absl import app, flags

from benchmarks.compare.subject import machine
from benchmarks.compare.turns import Side
from benchmarks.few_steps.peer import SCHEDULERS
from benchmarks.few_steps.search import fewest
from benchmarks.kept import begin, kept, ours

FLAGS = flags.FLAGS
flags.DEFINE_string("student", None, "A run with the sampler `consistency`.", required=True)
flags.DEFINE_string("teacher", None, "The run that it learned from.", required=True)
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps its sets, if not where the run says.")
flags.DEFINE_list("steps", ["1", "2", "4"], "Of the student.")
flags.DEFINE_list("compared", ["2", "4"], "Steps of the student that diffusers is to be as good as.")
flags.DEFINE_integer("most", 10, "Steps of diffusers' at most.", lower_bound=2)
flags.DEFINE_integer("num_images", 10_000, "Of each FID.", lower_bound=2049)
flags.DEFINE_list("modes", ["eager", "channels_last", "compile"], "Of diffusers.")
flags.DEFINE_integer("batch", 64, "Images at once, where speed is measured.", lower_bound=1)
flags.DEFINE_integer("rounds", 7, "Turns of each side.", lower_bound=1)
flags.DEFINE_string("out", None, "Where networks, pictures and figures go.", required=True)

_OURS, _PEER = "benchmarks.few_steps.ours", "benchmarks.few_steps.peer"


def measured(name: str, *arguments: str) -> dict[str, float]:
    """FID and KID of what the arguments name, measured once."""

    def measure() -> dict:
        target = Path(FLAGS.out) / f"{name}.receipt.json"
        data = [] if FLAGS.data_dir is None else [f"--set=data.data_dir={FLAGS.data_dir}"]
        ours(
            "--mode=eval",
            "--metrics=fid,kid",
            f"--out={target}",
            *data,
            *arguments,
        )
        receipt = json.loads(target.read_text(encoding="utf-8"))
        return {metric: receipt[metric]["value"] for metric in ("fid", "kid")}

    return kept(FLAGS.out, name, measure)


def of_diffusers(scheduler: str, steps: int) -> dict[str, float]:
    """The figures of what diffusers draws with the teacher's network."""
    folder = Path(FLAGS.out) / f"{scheduler}-{steps}"

    def draw() -> dict:
        words = {"network": _exported(), "scheduler": scheduler, "steps": steps, "count": FLAGS.num_images}
        subprocess.run([sys.executable, "-m", _PEER, json.dumps(words | {"out": str(folder)})], check=True)
        return {"pictures": str(folder)}

    kept(FLAGS.out, f"{folder.name}_drawn", draw)
    return measured(folder.name, f"--images={folder}", f"--run_dir={FLAGS.teacher}")


def _exported() -> str:
    """The teacher as a folder of diffusers."""
    folder = Path(FLAGS.out) / "teacher"
    if not folder.exists():
        ours("--mode=export_diffusers", f"--run_dir={FLAGS.teacher}", f"--out={folder}")
    return str(folder)


def in_turns(sides: dict[str, Side]) -> dict[str, float]:
    """Images/s of each."""
    for _ in range(FLAGS.rounds):
        for side in sides.values():
            side.turn()
    for side in sides.values():
        side.end()
    return {name: round(FLAGS.batch / statistics.median(side.seconds), 1) for name, side in sides.items()}


def main(_: list[str]) -> None:
    """Prints the figures as they come, and keeps them in --out."""
    begin(FLAGS.out, student=FLAGS.student, teacher=FLAGS.teacher, num_images=FLAGS.num_images)
    drawing = ["--sampler=dpmpp", "--sampling_steps=10", "--spacing=trailing"]
    count = f"--num_images={FLAGS.num_images}"
    measured("teacher_10", f"--run_dir={FLAGS.teacher}", *drawing, count)
    found = {
        steps: measured(f"student_{steps}", f"--run_dir={FLAGS.student}", f"--sampling_steps={steps}", count)
        for steps in (*FLAGS.steps, *FLAGS.compared)
    }
    fid = lambda scheduler, count: of_diffusers(scheduler, count)["fid"]  # noqa: E731
    rivals = {steps: fewest(SCHEDULERS, fid, found[steps]["fid"], FLAGS.most) for steps in FLAGS.compared}
    sides = {"dpmpp, 10": Side(_OURS, run_dir=FLAGS.teacher, sampler="dpmpp", steps=10, batch=FLAGS.batch)}
    for steps, rival in rivals.items():
        sides[f"student, {steps}"] = Side(
            _OURS, run_dir=FLAGS.student, sampler="consistency", steps=int(steps), batch=FLAGS.batch
        )
        for mode in FLAGS.modes if rival else ():
            name, count = rival
            words = {"network": _exported(), "scheduler": name, "steps": count, "batch": FLAGS.batch, "mode": mode}
            sides[f"diffusers {mode}, {name} {count}, as good as {steps}"] = Side(_PEER, **words)
    print({"machine": machine(), "images_a_second": in_turns(sides), "as_good": rivals})


if __name__ == "__main__":
    app.run(main)
