"""--mode=train"""

from tf_ddpm import datasets
from tf_ddpm.commands import flags
from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.runs import configuration
from tf_ddpm.runtime import quiet_tensorflow


def run(run_dir: str) -> None:
    """Trains a new run, or resumes the one that is there."""
    config = configuration.training_config(run_dir, FLAGS.preset, flags.settings())
    datasets.check(config.data)
    quiet_tensorflow.import_tensorflow()
    from tf_ddpm.training import loop

    loop.run(config, run_dir)
