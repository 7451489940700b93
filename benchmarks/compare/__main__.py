"""This project beside `diffusers` on PyTorch, in one run.

    pip install -r requirements-peers.txt
    python -m benchmarks.compare [--model=cifar10] [--precision=float32,bfloat16] [--batch=16] [--out=FILE.json]

Every cell has a process for each side (for diffusers one for each of its modes), which are warmed up and then take
turns, A B A B; medians of --rounds turns. Beside them the matrix product of the same machine, in turns as well. A
cell's share of it is

    images/s x FLOPs an image x (3 for training, 1 else) / FLOP/s of the product

where FLOPs an image are those of a forward pass: two for each product in convolutions, dense layers and attention.
Memory is the process' peak beyond what the imported libraries hold; start-up is from the start of the process, imports
included, to the end of the first call.
"""

import dataclasses
import json
import statistics
from pathlib import Path

from absl import app, flags

from benchmarks.compare.subject import machine, unet_of
from benchmarks.compare.turns import Side

FLAGS = flags.FLAGS
flags.DEFINE_list("model", ["cifar10"], "Presets whose networks are compared: cifar10, fashion_mnist.")
flags.DEFINE_list("precision", ["float32", "bfloat16"], "float32, bfloat16.")
flags.DEFINE_list("work", ["forward", "sample", "train"], "forward, sample, train.")
flags.DEFINE_list("modes", ["eager", "channels_last", "compile"], "Of diffusers: eager, channels_last, compile.")
flags.DEFINE_integer("batch", 16, "Images at once.", lower_bound=1)
flags.DEFINE_integer("rounds", 7, "Turns of each side.", lower_bound=1)
flags.DEFINE_integer("steps", 10, "Of the sampling loop (DDIM).", lower_bound=1)
flags.DEFINE_integer("side", 4096, "Of the matrices of the product.", lower_bound=1)
flags.DEFINE_string("out", None, "Where the figures go, as JSON.")


@dataclasses.dataclass(frozen=True)
class Cell:
    """A row of the table: images/s of both sides."""

    model: str
    work: str
    precision: str
    batch: int
    ours: float
    peer: float
    peer_mode: str
    ratio: float
    matmul_share: float
    spread: dict
    memory_mb: dict
    start_up_s: dict


def product(precision: str) -> float:
    """FLOP/s of the matrix product, the better of both libraries, in turns."""
    common = {"work": "product", "precision": precision, "batch": 0, "steps": 0, "side": FLAGS.side}
    sides = [
        Side("benchmarks.compare.ours", model="", **common),
        Side("benchmarks.compare.peer", mode="", unet={}, **common),
    ]
    for _ in range(FLAGS.rounds):
        for each in sides:
            each.turn()
    for each in sides:
        each.end()
    return 2 * FLAGS.side**3 / min(statistics.median(each.seconds) for each in sides)


def measured(model: str, work: str, precision: str, flops: int, speed: float) -> Cell:
    """One cell, all sides in turns."""
    common = {"work": work, "precision": precision, "batch": FLAGS.batch, "steps": FLAGS.steps, "side": 0}
    sides = {"ours": Side("benchmarks.compare.ours", model=model, **common)}
    sides |= {mode: Side("benchmarks.compare.peer", mode=mode, unet=unet_of(model), **common) for mode in FLAGS.modes}
    for _ in range(FLAGS.rounds):
        for each in sides.values():
            each.turn()
    rates = {name: [FLAGS.batch / seconds for seconds in each.seconds] for name, each in sides.items()}
    memory = {name: round(each.end()) for name, each in sides.items()}
    medians = {name: statistics.median(row) for name, row in rates.items()}
    best = max(FLAGS.modes, key=medians.get)
    calls = FLAGS.steps if work == "sample" else 3 if work == "train" else 1
    return Cell(
        model,
        work,
        precision,
        FLAGS.batch,
        round(medians["ours"], 2),
        round(medians[best], 2),
        best,
        round(medians["ours"] / medians[best], 3),
        round(medians["ours"] * flops * calls / speed, 3),
        {name: [round(min(row), 2), round(max(row), 2)] for name, row in rates.items()},
        memory,
        {name: round(each.facts["first_s"], 1) for name, each in sides.items()},
    )


def main(_: list[str]) -> None:
    """Prints the table as it comes, and writes --out."""
    speeds = {precision: product(precision) for precision in FLAGS.precision}
    found = {"machine": machine() | {"product_gflops": {p: round(s / 1e9) for p, s in speeds.items()}}, "cells": []}
    print(f"{found['machine']}\n")
    columns = ["model", "work", "precision", "batch", "ours, images/s", "diffusers", "mode", "ratio"]
    columns += ["share of product", "memory, MB", "start-up, s"]
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    for model in FLAGS.model:
        counter = Side(
            "benchmarks.compare.peer",
            work="flops",
            mode="",
            unet=unet_of(model),
            precision="",
            batch=1,
            steps=0,
            side=0,
        )
        flops = counter.facts["flops"]
        counter.end()
        found.setdefault("gflops_an_image", {})[model] = round(flops / 1e9, 3)
        for precision in FLAGS.precision:
            for work in FLAGS.work:
                cell = measured(model, work, precision, flops, speeds[precision])
                found["cells"].append(dataclasses.asdict(cell))
                memory, start = (
                    f"{both['ours']} / {both[cell.peer_mode]}" for both in (cell.memory_mb, cell.start_up_s)
                )
                print(
                    f"| {model} | {work} | {precision} | {cell.batch} | {cell.ours} | {cell.peer} | {cell.peer_mode} "
                    f"| {cell.ratio:.2f} | {cell.matmul_share:.2f} | {memory} | {start} |",
                    flush=True,
                )
                if FLAGS.out:
                    Path(FLAGS.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
