"""Draws what `benchmarks.scale` and `benchmarks.scale.sources` have measured.

python -m benchmarks.scale.curves --out=DIR --png=FILE
"""

from __future__ import annotations

import json
from pathlib import Path

from absl import app, flags
from matplotlib.figure import Figure

from benchmarks.scale.sources import SOURCES

FLAGS = flags.FLAGS
flags.DEFINE_string("png", None, "The picture.", required=True)


def main(_: list[str]) -> None:
    """Three curves side by side."""
    scale, sources = (
        json.loads((Path(FLAGS.out) / name).read_text(encoding="utf-8")) for name in ("scale.json", "sources.json")
    )
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    start, memory, rate = figure.subplots(1, 3)
    files = [row["files"] for row in scale]
    for name, words in (("cold", "nothing decoded"), ("again", "second start")):
        start.plot(files, [row[name]["first_step_s"] for row in scale], "o-", label=words)
        memory.plot(files, [row[name]["memory_gb"] for row in scale], "o-", label=words)
    for source in SOURCES:
        rows = [row for row in sources if row["source"] == source]
        (line,) = rate.plot(
            [row["side"] for row in rows], [row["without"] for row in rows], "o-", label=source.replace("_", " ")
        )
        rate.plot([row["side"] for row in rows], [row["with_flips"] for row in rows], "x--", color=line.get_color())
    for axes, title, x, y in (
        (start, "Start", "files", "seconds to the first update"),
        (memory, "Memory", "files", "GB at most"),
        (rate, "Pipeline alone (dashed: with flips)", "side of the images", "images/s"),
    ):
        axes.set(title=title, xlabel=x, ylabel=y, xscale="log")
        axes.legend()
        axes.grid(alpha=0.3)
    for axes in (start, memory):
        axes.set_ylim(bottom=0)
    rate.set_yscale("log")
    rate.set_xticks([row["side"] for row in sources], [str(row["side"]) for row in sources])
    rate.minorticks_off()
    figure.savefig(FLAGS.png, dpi=90)


if __name__ == "__main__":
    app.run(main)
