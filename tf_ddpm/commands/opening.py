"""What the modes share: the run that the flags ask for, opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tf_ddpm import config as config_lib
from tf_ddpm.commands import checks, flags
from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.runs import configuration, kept_labels
from tf_ddpm.runtime import cluster, quiet_tensorflow

if TYPE_CHECKING:
    from tf_ddpm.sampling.run import Run


def wanted_config(run_dir: str, measures: bool = False) -> config_lib.Config:
    """How the flags want the run used; what is wrong is found before TensorFlow is imported.

    Args:
      measures: whether `--set` may name other data to measure the run on.
    """
    saved = configuration.read(run_dir)
    config = configuration.used(saved, flags.settings(), flags.sampling(), measures)
    checks.check_eta(config)
    wanted_label(run_dir, config)
    return config


def wanted_label(run_dir: str, config: config_lib.Config) -> int | None:
    """What `--label` asks for, in the run's own names."""
    return config_lib.parse_label(config, FLAGS.label, kept_labels.label_names(run_dir))


def open_run(run_dir: str, config: config_lib.Config) -> Run:
    """The run, on one device."""
    quiet_tensorflow.import_tensorflow()
    from tf_ddpm.sampling import run

    return run.open_run(run_dir, config)


def tell(line: str) -> None:
    """Prints a line once, however many workers there are."""
    if cluster.this_worker().is_chief:
        print(line, flush=True)
