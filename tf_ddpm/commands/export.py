"""--mode=export"""

import dataclasses
import importlib.util
import os
from pathlib import Path

from tf_ddpm.commands import flags
from tf_ddpm.commands.checks import check_settings
from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.commands.opening import open_run, wanted_config, wanted_pipeline
from tf_ddpm.config import Config, SampleConfig
from tf_ddpm.config import plans as plans_lib
from tf_ddpm.config.distillation import NO_WAY_BACK
from tf_ddpm.errors import UserError
from tf_ddpm.runs.pipelines import PipelineConfig
from tf_ddpm.runtime import quiet_tensorflow

_OURS = Path(__file__).parents[2] / "export" / "__init__.py"


def _check_package() -> None:
    """`export` is a name that others may have as well: the first on Python's path would be taken.

    Raises:
      UserError: where it is not the one beside this package.
    """
    found = importlib.util.find_spec("export")
    origin = None if found is None else found.origin
    if origin is None or Path(origin).resolve() != _OURS.resolve():
        where = origin or (found and list(found.submodule_search_locations or []))
        raise UserError(f"the package `export` is taken from {where}, not from {_OURS.parent}: run this elsewhere")


def run(run_dir: str) -> None:
    """Writes a version for TF Serving."""
    _check_package()
    pipeline = wanted_pipeline()
    if pipeline is not None:
        _of_pipeline(pipeline)
        return
    config = wanted_config(run_dir)
    if FLAGS.max_pixels is not None and not config.model.enlarges:
        raise UserError(f"--max_pixels={FLAGS.max_pixels} is of a run or pipeline that enlarges images")
    if FLAGS.augmentation is not None and config.model.enlarges:
        raise UserError("--augmentation is what a caller sends to a run that enlarges; a pipeline has one of its own")
    if config.autoencoder.trained:
        _of_first_stage(run_dir, config)
        return
    one = bool(FLAGS.sampler or FLAGS.sampling_steps) or config.model.enlarges
    words = plans_lib.own(config) if one and FLAGS.plans is None else FLAGS.plans
    plans = plans_lib.parse(words, config)
    check_settings(_guided(config, plan.sample) for plan in plans)
    opened = open_run(run_dir, config)
    from export import saved_model

    out = flags.out() or os.path.join(run_dir, "serving", "ddpm")
    version = saved_model.export_run(opened, out, plans, FLAGS.max_batch, FLAGS.keep_versions, FLAGS.max_pixels)
    print(f"wrote {version}")
    if config.distill.jumps:
        print(f"without the signatures encode and decode: {NO_WAY_BACK}")


def _guided(config: Config, sample: SampleConfig) -> Config:
    """A plan's; callers say how strongly they want to be guided."""
    return dataclasses.replace(config, sample=dataclasses.replace(sample, guidance=2.0))


def _of_first_stage(run_dir: str, config: Config) -> None:
    if FLAGS.plans is not None:
        raise UserError(f"--plans={FLAGS.plans}: this run is an autoencoder, which draws no images")
    quiet_tensorflow.import_tensorflow()
    from export import saved_model
    from tf_ddpm.sampling.first_stage import open_first_stage

    out, found = flags.out() or os.path.join(run_dir, "serving", "ddpm"), open_first_stage(run_dir, config)
    print(f"wrote {saved_model.export_first_stage(found, out, FLAGS.max_batch, FLAGS.keep_versions)}")


def _of_pipeline(config: PipelineConfig) -> None:
    plans = plans_lib.parse_staged(FLAGS.plans, config.configs)
    stages = [zip(config.configs, plan.stages, strict=True) for plan in plans]
    check_settings(_guided(stage, part.sample) for plan in stages for stage, part in plan)
    quiet_tensorflow.import_tensorflow()
    from export import saved_model
    from tf_ddpm.sampling.pipeline import open_pipeline

    out = flags.out() or os.path.join(config.directory, "serving", "ddpm")
    opened = open_pipeline(config)
    version = saved_model.export_pipeline(opened, out, plans, FLAGS.max_batch, FLAGS.keep_versions, FLAGS.max_pixels)
    print(f"wrote {version}")
