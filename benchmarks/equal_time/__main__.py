"""FID of this project and of `diffusers` on PyTorch after the same time on the same cores.

    python -m benchmarks.equal_time --minutes=25 --out=DIR       (requirements-peers.txt; hours; goes on where it was)

Both sides train a network of the same layout on the same images with the same batch; then the same code measures both,
by 10,000 images of 20 steps of DPM-Solver++. TF_DDPM_INCEPTION names the FID network, TFDS_DATA_DIR where the set is.
The other side has its fastest mode, the better of two objectives, and for each the best of three learning rates after
five minutes. Its clock starts when it is compiled; what it would have seen had it started before is a column of its
own. Ours runs from the start of its process to the end, within the time, and before that with as many images as the
other side has seen: what is left then is the objective's. Every part is a process of its own, so leave the checkout as
it is meanwhile.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags

from benchmarks.compare.subject import SHAPES, machine, unet_of
from benchmarks.equal_time.peer import OBJECTIVES
from benchmarks.kept import begin, kept, ours
from tf_ddpm.config import presets
from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import inception

FLAGS = flags.FLAGS
flags.DEFINE_enum("preset", "fashion_mnist", list(SHAPES), "Of our side; one that mirrors no images.")
flags.DEFINE_float("minutes", 25.0, "Of each training.", lower_bound=0.1)
flags.DEFINE_float("search_minutes", 5.0, "Of each training that looks for a learning rate.", lower_bound=0.1)
flags.DEFINE_list("rates", ["5e-4", "1e-3", "2e-3"], "Learning rates of the other side.")
flags.DEFINE_integer("num_images", 10_000, "Drawn for each FID at the end.", lower_bound=2)
flags.DEFINE_integer("search_images", 1000, "Drawn for each FID of the search.", lower_bound=2)
flags.DEFINE_string("out", None, "Where runs, networks and figures go.", required=True)

_MODES = [(mode, precision) for mode in ("eager", "channels_last", "compile") for precision in ("float32", "bfloat16")]
_SPEED_SECONDS = 30
_SHARE = 0.98  # of the time that our updates are to take: their pace varies, and the table says what they took


def peer(arguments: dict, **process: object) -> dict:
    """A training of the other side, in a process of its own."""
    train = presets.preset(FLAGS.preset).train
    own = {"batch": train.batch_size, "warmup": train.warmup_steps, "decay": train.ema_decay}
    common = {"unet": unet_of(FLAGS.preset), "images": str(Path(FLAGS.out) / "images.npy")} | own
    command = [sys.executable, "-m", "benchmarks.equal_time.peer", json.dumps(common | arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **process)
    return json.loads(done.stdout.splitlines()[-1])


def trained_by_peer(name: str, objective: str, fast: dict, rate: str, minutes: float) -> dict:
    """A training of the other side."""

    def trained() -> dict:
        out = Path(FLAGS.out) / name
        _cleared(out)
        arguments = {"objective": objective, "mode": fast["mode"], "precision": fast["precision"]}
        facts = peer(arguments | {"learning_rate": float(rate), "seconds": 60 * minutes, "out": str(out)})
        return facts | {"learning_rate": float(rate)}

    return kept(FLAGS.out, f"{name}_trained", trained)


def peer_figures(name: str, facts: dict, count: int, metrics: str) -> dict:
    """FID of what the other side trained, which becomes a run of ours; one that diverged has none."""
    if not math.isfinite(facts["loss"]):
        return {"fid": math.inf, "precision": 0.0, "recall": 0.0}

    def measured() -> dict:
        imported = Path(FLAGS.out) / f"imported_{name}"
        if not (imported / "config.json").exists():
            _cleared(imported)
            ours("--mode=import", f"--diffusers_dir={Path(FLAGS.out) / name}", f"--run_dir={imported}")
        return figures(imported, count, metrics)

    return kept(FLAGS.out, name, measured)


def figures(run_dir: Path, count: int, metrics: str) -> dict:
    """FID, and recall beside it, of a run of ours."""
    target = run_dir / f"fid_{count}.json"
    drawing = ["--sampler=dpmpp", "--sampling_steps=20", "--spacing=trailing", "--precision=bfloat16", "--allow_few"]
    measured = [f"--metrics={metrics}", f"--num_images={count}", f"--out={target}"]
    data = [f"--set=data.name={FLAGS.preset}"]
    ours("--mode=eval", f"--run_dir={run_dir}", *drawing, *measured, *data)
    found = json.loads(target.read_text(encoding="utf-8"))
    return {key: found[key]["value"] for key in ("fid", "precision", "recall") if key in found}


def save_images() -> None:
    """The images of the preset, for the other side."""
    path = Path(FLAGS.out) / "images.npy"
    if not path.exists():
        from tf_ddpm import datasets

        aside = path.with_name("part.npy")
        np.save(aside, datasets.load(presets.preset(FLAGS.preset).data).images)
        aside.replace(path)


def fastest() -> dict:
    """The mode and precision of the other side with the most images/s, and all of them.

    Compiled here for the first time, without what was compiled at some other time.
    """
    rates = {}
    for mode, precision in _MODES:
        try:
            measure = lambda mode=mode, precision=precision: speed(mode, precision)  # noqa: E731
            rates[f"{mode} {precision}"] = kept(FLAGS.out, f"speed_{mode}_{precision}", measure)
        except subprocess.CalledProcessError as error:
            why = (error.stderr.strip().splitlines() or [f"code {error.returncode}"])[-1]
            rates[f"{mode} {precision}"] = {"images_a_second": 0.0, "failed": why}
    best = max(rates, key=lambda name: rates[name]["images_a_second"])
    mode, precision = best.split()
    return {"mode": mode, "precision": precision, "rates": rates}


def speed(mode: str, precision: str) -> dict:
    """Images/s of a mode of the other side."""
    arguments = {"objective": "cosine_v", "mode": mode, "precision": precision, "learning_rate": 1e-3}
    environment = os.environ | {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    found = peer(arguments | {"seconds": _SPEED_SECONDS}, env=environment, stderr=subprocess.PIPE)
    rate = round(found["images"] / found["seconds"], 1)
    return {"images_a_second": rate, "seconds_of_compiling": found["seconds_of_compiling"]}


def best_rate(objective: str, fast: dict) -> str:
    """The learning rate with the least FID after a short training."""
    fids = {}
    for rate in FLAGS.rates:
        name = f"search_{objective}_{rate}"
        facts = trained_by_peer(name, objective, fast, rate, FLAGS.search_minutes)
        fids[rate] = peer_figures(name, facts, FLAGS.search_images, "fid")["fid"]
    return min(fids, key=lambda rate: fids[rate])


def peer_row(objective: str, fast: dict) -> dict:
    """The other side's figures after the whole time."""
    rate = best_rate(objective, fast)
    facts = trained_by_peer(f"peer_{objective}", objective, fast, rate, FLAGS.minutes)
    compiling = fast["rates"][f"{fast['mode']} {fast['precision']}"]["seconds_of_compiling"]
    left = max(0.0, 1 - compiling / facts["seconds"])
    counted = {"seconds_of_compiling": compiling, "with_compiling": round(facts["images"] * left)}
    return facts | counted | peer_figures(f"peer_{objective}", facts, FLAGS.num_images, "fid,pr")


def our_row(name: str, trained: Callable[[str], dict]) -> dict:
    """Our figures after a training."""
    facts = kept(FLAGS.out, f"{name}_trained", lambda: trained(name))
    return facts | kept(FLAGS.out, name, lambda: figures(Path(FLAGS.out) / name, FLAGS.num_images, "fid,pr"))


def trained_by_us(name: str, count: int) -> dict:
    """A training of ours, of so many updates; its seconds are those of the whole process."""
    run_dir, began = Path(FLAGS.out) / name, time.perf_counter()
    _cleared(run_dir)
    steps = [f"--set=train.steps={count}", f"--set=train.decay_steps={count}"]
    ours("--mode=train", f"--preset={FLAGS.preset}", f"--run_dir={run_dir}", *steps)
    images = count * presets.preset(FLAGS.preset).train.batch_size
    return {"updates": count, "images": images, "seconds": round(time.perf_counter() - began, 1)}


def trained_in_time(name: str, pace: dict) -> dict:
    """A training of ours with as many updates as the time allows, judged by the one of `pace`.

    One that takes longer, because the machine is slower by then, is repeated with fewer.
    """
    seconds = 60 * FLAGS.minutes
    while True:
        pace = trained_by_us(name, max(1, int(_SHARE * pace["updates"] * seconds / pace["seconds"])))
        if pace["seconds"] <= seconds:
            return pace
        print(f"{name}: {pace} is beyond the time, and is repeated with fewer updates", flush=True)


def _cleared(*folders: Path) -> None:
    """Removes what an interrupted measurement left: one that goes on would be timed from its middle."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def main(_: list[str]) -> None:
    """Trains and measures what has not been yet, and prints the table."""
    names = ("preset", "minutes", "search_minutes", "rates", "num_images", "search_images")
    if presets.preset(FLAGS.preset).data.random_flip:
        raise SystemExit(f"--preset={FLAGS.preset} mirrors images, and the other side does not; expected one without")
    where = machine()
    begin(FLAGS.out, cpu=where["cpu"], cores=where["cores"], **{name: FLAGS[name].value for name in names})
    try:
        inception.load()  # what is missing is told now, and not after the first training
    except UserError as error:
        raise SystemExit(str(error)) from None
    save_images()
    fast = kept(FLAGS.out, "fastest", fastest)
    peers = {objective: peer_row(objective, fast) for objective in OBJECTIVES}
    best = min(peers, key=lambda objective: peers[objective]["fid"])
    rows = {f"diffusers, {name}, {found['learning_rate']:g}": found for name, found in peers.items()}
    same = our_row("ours_same_images", lambda name: trained_by_us(name, peers[best]["updates"]))
    rows["ours, the same images"] = same
    rows["ours, the same time"] = our_row("ours", lambda name: trained_in_time(name, same))
    text = table(rows, fast, rows["ours, the same time"]["fid"] / peers[best]["fid"])
    (Path(FLAGS.out) / "table.md").write_text(text, encoding="utf-8")
    print(text)


def table(rows: dict[str, dict], fast: dict, ratio: float) -> str:
    """All figures, in Markdown."""
    lines = [f"{machine()}; diffusers: {fast['mode']}, {fast['precision']}", ""]
    lines += [f"- {name}: {found}" for name, found in fast["rates"].items()]
    head = "| side | images | with compiling | seconds | compiling | FID | precision | recall |"
    lines += ["", head, "|" + " --- |" * 8]
    for name, row in rows.items():
        compiling, images = row.get("seconds_of_compiling", "within"), f"{row['images']:,}"
        shown = " | ".join(f"{row[key]:.3f}" for key in ("fid", "precision", "recall"))
        with_compiling = f"{row.get('with_compiling', row['images']):,}"
        lines.append(f"| {name} | {images} | {with_compiling} | {row['seconds']:.0f} | {compiling} | {shown} |")
    return "\n".join([*lines, "", f"FID of ours: {ratio:.2f} of the other side's", ""])


if __name__ == "__main__":
    app.run(main)
