"""--mode=figure"""

from pathlib import Path

from tf_ddpm.commands import flags
from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.commands.opening import open_run, wanted_config


def run(run_dir: str) -> None:
    """Draws a figure of the run, or all of them."""
    opened = open_run(run_dir, wanted_config(run_dir, measures=True))
    from tf_ddpm.figures import catalogue

    context = catalogue.FigureContext(opened, Path(run_dir), FLAGS.num_images, FLAGS.seed)
    out = flags.out()
    catalogue.draw(FLAGS.figure, context, Path(out) if out else None)
