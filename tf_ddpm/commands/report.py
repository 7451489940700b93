"""--mode=report"""

from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.commands.opening import open_run, wanted_config
from tf_ddpm.config import Config
from tf_ddpm.runtime import quiet_tensorflow

_PICTURES = 16  # of an autoencoder's report


def run(run_dir: str) -> None:
    """Writes report.html into the run."""
    config = wanted_config(run_dir)
    if config.autoencoder.trained:
        _of_first_stage(run_dir, config)
        return
    opened = open_run(run_dir, config)
    from tf_ddpm.report import page

    print(f"wrote {page.write_report(opened, run_dir, FLAGS.seed)}")


def _of_first_stage(run_dir: str, config: Config) -> None:
    quiet_tensorflow.import_tensorflow()
    from tf_ddpm import datasets
    from tf_ddpm.report import page
    from tf_ddpm.sampling.first_stage import open_first_stage

    found = open_first_stage(run_dir, config)
    real = datasets.load(datasets.unseen(config.data)).images
    chosen = [(FLAGS.seed + i) % len(real) for i in range(min(_PICTURES, len(real)))]
    print(f"wrote {page.write_first_stage_report(found, run_dir, real[chosen])}")
