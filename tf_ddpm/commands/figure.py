"""--mode=figure"""

from pathlib import Path

from tf_ddpm.commands import flags
from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.commands.opening import open_run, wanted_config
from tf_ddpm.runtime import quiet_tensorflow


def run(run_dir: str) -> None:
    """Draws a figure of the run, or all of them."""
    config, out = wanted_config(run_dir, measures=True), flags.out()
    if config.autoencoder.trained:
        quiet_tensorflow.import_tensorflow()
        from tf_ddpm.figures import catalogue
        from tf_ddpm.sampling.first_stage import open_first_stage

        found, path = open_first_stage(run_dir, config), Path(out) if out else None
        catalogue.draw_first_stage(FLAGS.figure, found, Path(run_dir), FLAGS.num_images, FLAGS.seed, path)
        return
    opened = open_run(run_dir, config)
    from tf_ddpm.figures import catalogue

    context = catalogue.FigureContext(opened, Path(run_dir), FLAGS.num_images, FLAGS.seed)
    catalogue.draw(FLAGS.figure, context, Path(out) if out else None)
