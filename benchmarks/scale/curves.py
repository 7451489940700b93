"""Draws what `benchmarks.scale` and `benchmarks.scale.sources` have measured.

    python -m benchmarks.scale.curves --out=DIR --png=FILE

Of pictures of 64x64, unless `--kind=12mp` says otherwise.
"""

from __future__ import annotations

from pathlib import Path

from absl import app, flags
from matplotlib.figure import Figure

from benchmarks.scale import rows
from benchmarks.scale.sources import SOURCES

FLAGS = flags.FLAGS
flags.DEFINE_string("kind", "64px", "Of pictures, whose start and memory are drawn.")
flags.DEFINE_string("png", None, "The picture.", required=True)


def main(_: list[str]) -> None:
    """Three curves side by side."""
    scale, sources = (rows.read(Path(FLAGS.out) / f"{name}.json") for name in (f"scale-{FLAGS.kind}", "sources"))
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    start, memory, rate = figure.subplots(1, 3)
    files = [row["files"] for row in scale]
    for name, words in (("cold", "nothing decoded"), ("again", "second start")):
        start.plot(files, [row[name]["first_step_s"] for row in scale], "o-", label=words)
        memory.plot(files, [row[name]["memory_gb"] for row in scale], "o-", label=words)
    for source in SOURCES:
        own = [row for row in sources if row["source"] == source]
        (line,) = rate.plot(
            [row["side"] for row in own], [row["without"] for row in own], "o-", label=source.replace("_", " ")
        )
        rate.plot([row["side"] for row in own], [row["with_flips"] for row in own], "x--", color=line.get_color())
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
