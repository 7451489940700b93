"""FID of this project and of `diffusers` on PyTorch after the same time on the same cores.

    python -m benchmarks.equal_time --minutes=25 --out=DIR       (requirements-peers.txt; hours; goes on where it was)

Both sides train a network of the same layout on the same images with the same batch; then the same code measures
both, by 10,000 images of 20 steps of DPM-Solver++. The other side has its fastest mode, the better of two objectives,
and for each the best of three learning rates after five minutes. Its clock starts when it is compiled. Ours runs from
the start of the process, and once more with as many images as the other side has seen: what is left then is the
objective's.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags

from benchmarks.compare.subject import machine, unet_of
from benchmarks.equal_time.peer import OBJECTIVES
from benchmarks.kept import kept, ours

FLAGS = flags.FLAGS
flags.DEFINE_string("preset", "fashion_mnist", "Of our side.")
flags.DEFINE_float("minutes", 25.0, "Of each training.", lower_bound=0.1)
flags.DEFINE_float("search_minutes", 5.0, "Of each training that looks for a learning rate.", lower_bound=0.1)
flags.DEFINE_list("rates", ["5e-4", "1e-3", "2e-3"], "Learning rates of the other side.")
flags.DEFINE_integer("num_images", 10_000, "Drawn for each FID at the end.", lower_bound=2)
flags.DEFINE_integer("search_images", 1000, "Drawn for each FID of the search.", lower_bound=2)
flags.DEFINE_string("out", None, "Where runs, networks and figures go.", required=True)

_MODES = [(mode, precision) for mode in ("eager", "channels_last", "compile") for precision in ("float32", "bfloat16")]
_SPEED_SECONDS = 30


def peer(**arguments: object) -> dict:
    """A training of the other side, in a process of its own."""
    common = {"unet": unet_of(FLAGS.preset), "images": str(Path(FLAGS.out) / "images.npy"), "batch": 64, "warmup": 100}
    command = [sys.executable, "-m", "benchmarks.equal_time.peer", json.dumps(common | arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def fid(run_dir: Path, count: int) -> dict:
    """FID, and recall beside it, of a run of ours."""
    target = run_dir / f"fid_{count}.json"
    drawing = ["--sampler=dpmpp", "--sampling_steps=20", "--spacing=trailing", "--precision=bfloat16", "--allow_few"]
    measured = ["--metrics=fid,pr", f"--num_images={count}", f"--out={target}"]
    data = [f"--set=data.name={FLAGS.preset}"]
    ours("--mode=eval", f"--run_dir={run_dir}", *drawing, *measured, *data)
    return json.loads(target.read_text(encoding="utf-8"))


def fid_of_peer(name: str, count: int) -> dict:
    """The same of a network of the other side, which becomes a run of ours."""
    run_dir = Path(FLAGS.out) / f"imported_{name}"
    if not run_dir.exists():
        ours("--mode=import", f"--diffusers_dir={Path(FLAGS.out) / name}", f"--run_dir={run_dir}")
    return fid(run_dir, count)


def save_images() -> None:
    """The images of the preset, for the other side."""
    path = Path(FLAGS.out) / "images.npy"
    if not path.exists():
        from tf_ddpm import datasets
        from tf_ddpm.config import presets

        np.save(path, datasets.load(presets.preset(FLAGS.preset).data).images)


def fastest() -> dict:
    """The mode and precision of the other side with the most images/s, and all of them."""
    rates = {}
    for mode, precision in _MODES:
        try:
            found = peer(
                objective="cosine_v", mode=mode, precision=precision, learning_rate=1e-3, seconds=_SPEED_SECONDS
            )
        except subprocess.CalledProcessError:
            rates[f"{mode} {precision}"] = {"images_a_second": 0.0}  # a mode that this machine does not have
            continue
        rates[f"{mode} {precision}"] = {
            "images_a_second": round(found["images"] / found["seconds"], 1),
            "seconds_of_compiling": found["seconds_of_compiling"],
        }
    best = max(rates, key=lambda name: rates[name]["images_a_second"])
    mode, precision = best.split()
    return {"mode": mode, "precision": precision, "rates": rates}


def best_rate(objective: str, fast: dict) -> float:
    """The learning rate with the least FID after a short training."""

    def short(rate: str) -> dict:
        name = f"search_{objective}_{rate}"
        arguments = {"objective": objective, "mode": fast["mode"], "precision": fast["precision"]}
        seconds = 60 * FLAGS.search_minutes
        facts = peer(learning_rate=float(rate), seconds=seconds, out=str(Path(FLAGS.out) / name), **arguments)
        return facts | {"fid": fid_of_peer(name, FLAGS.search_images)["fid"]["value"]}

    found = {
        rate: kept(FLAGS.out, f"search_{objective}_{rate}_facts", lambda rate=rate: short(rate))
        for rate in FLAGS.rates
    }
    return float(min(found, key=lambda rate: found[rate]["fid"]))


def trained_by_peer(objective: str, fast: dict) -> dict:
    """The other side's figures after the whole time."""
    rate = best_rate(objective, fast)

    def trained() -> dict:
        out = str(Path(FLAGS.out) / objective)
        arguments = {"objective": objective, "mode": fast["mode"], "precision": fast["precision"]}
        return peer(learning_rate=rate, seconds=60 * FLAGS.minutes, out=out, **arguments) | {"learning_rate": rate}

    facts = kept(FLAGS.out, f"peer_{objective}_trained", trained)
    measured = kept(FLAGS.out, f"peer_{objective}", lambda: _figures(fid_of_peer(objective, FLAGS.num_images)))
    return facts | measured


def trained_by_us(name: str, updates: Callable[[], int]) -> dict:
    """Our figures after so many updates."""
    run_dir = Path(FLAGS.out) / name

    def trained() -> dict:
        _cleared(run_dir)
        count, began = updates(), time.perf_counter()
        steps = [f"--set=train.steps={count}", f"--set=train.decay_steps={count}"]
        ours("--mode=train", f"--preset={FLAGS.preset}", f"--run_dir={run_dir}", *steps)
        return {"updates": count, "images": 64 * count, "seconds": round(time.perf_counter() - began, 1)}

    facts = kept(FLAGS.out, f"{name}_trained", trained)
    return facts | kept(FLAGS.out, name, lambda: _figures(fid(run_dir, FLAGS.num_images)))


def _cleared(run_dir: Path) -> None:
    """Removes what an interrupted measurement left: one that goes on would be timed from its middle."""
    if run_dir.exists():
        shutil.rmtree(run_dir)


def _figures(metrics: dict) -> dict:
    return {key: metrics[key]["value"] for key in ("fid", "precision", "recall") if key in metrics}


def updates_in_time() -> int:
    """How many updates our side makes in the time, start-up included, judged by the first minutes of a run."""
    run_dir, count = Path(FLAGS.out) / "pace", 400
    _cleared(run_dir)
    seconds = []
    for steps in (count, 3 * count):  # the second goes on from the first: what both share is the start-up
        began = time.perf_counter()
        ours("--mode=train", f"--preset={FLAGS.preset}", f"--run_dir={run_dir}", f"--set=train.steps={steps}",
             "--set=train.preview_every=100000", "--set=train.decay_steps=0")  # fmt: skip
        seconds.append(time.perf_counter() - began)
    pace = (seconds[1] - seconds[0]) / count  # of twice as many updates less once as many
    return int((60 * FLAGS.minutes - seconds[0] + count * pace) / pace)


def main(_: list[str]) -> None:
    """Trains and measures what has not been yet, and prints the table."""
    os.makedirs(FLAGS.out, exist_ok=True)
    save_images()
    fast = kept(FLAGS.out, "fastest", fastest)
    peers = {objective: trained_by_peer(objective, fast) for objective in OBJECTIVES}
    best = min(peers, key=lambda objective: peers[objective]["fid"])
    rows = {f"diffusers, {name}": found for name, found in peers.items()}
    pace = kept(FLAGS.out, "pace_facts", lambda: {"updates": updates_in_time()})
    rows["ours, the same time"] = trained_by_us("ours", lambda: pace["updates"])
    rows["ours, the same images"] = trained_by_us("ours_same_images", lambda: peers[best]["updates"])
    print(f"{machine()}; diffusers: {fast['mode']}, {fast['precision']}")
    print("| side | images | seconds | compiling | FID | precision | recall |\n|" + " --- |" * 7)
    for name, row in rows.items():
        compiling = row.get("seconds_of_compiling", "within")
        figures = " | ".join(f"{row[key]:.3f}" if key in row else "" for key in ("fid", "precision", "recall"))
        print(f"| {name} | {row['images']:,} | {row['seconds']:.0f} | {compiling} | {figures} |")
    print(f"FID of ours: {rows['ours, the same time']['fid'] / peers[best]['fid']:.2f} of the other side's")


if __name__ == "__main__":
    app.run(main)
