"""What the modes share: the run that the flags ask for, opened."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from tf_ddpm import config as config_lib
from tf_ddpm.commands import checks, flags
from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.config import plans as plans_lib
from tf_ddpm.errors import UserError
from tf_ddpm.runs import configuration, kept_labels, pipelines
from tf_ddpm.runs.pipelines import PipelineConfig, Stage
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
    checks.check_idle(config)
    wanted_label(run_dir, config)
    return config


def wanted_label(run_dir: str, config: config_lib.Config) -> int | None:
    """What `--label` asks for, in the run's own names."""
    return config_lib.parse_label(config, FLAGS.label, kept_labels.label_names(run_dir))


def wanted_pipeline() -> PipelineConfig | None:
    """The pipeline that `--pipeline` names, used as the flags want it; None: there is none.

    Raises:
      UserError: where its runs do not fit each other, or not what is wanted.
    """
    if FLAGS.pipeline is None:
        return None
    found = pipelines.find(FLAGS.pipeline, FLAGS.run_dir)
    wanted = {name: value for name, value in flags.sampling().items() if value is not None}
    stages = tuple(_used(stage, wanted) for stage in found.stages)
    if FLAGS.guidance is not None and not any(map(_takes_guidance, stages)):
        raise UserError(f"--guidance={FLAGS.guidance:g}: the null class guides no run of this pipeline")
    if FLAGS.guidance_interval is not None and all(stage.config.sample.guidance == 1.0 for stage in stages):
        raise UserError("--guidance_interval has no effect with guidance 1; expected --guidance=W beside it")
    if FLAGS.plans is not None and FLAGS.mode != "export":
        plan, *more = plans_lib.parse_staged(FLAGS.plans, [stage.config for stage in stages])
        if more:
            raise UserError(f"--plans={FLAGS.plans}: --mode={FLAGS.mode} draws with one plan")
        stages = tuple(
            dataclasses.replace(stage, config=dataclasses.replace(stage.config, sample=part.sample))
            for stage, part in zip(stages, plan.stages, strict=True)
        )
    if FLAGS.mode != "export":  # which has plans
        checks.check_settings(stage.config for stage in stages)
    rounded = found.rounded if FLAGS.between is None else FLAGS.between == "uint8"
    used = dataclasses.replace(found, stages=stages, rounded=rounded)
    wanted_label_of(used)
    if not (found.directory / pipelines.FILE).exists():
        pipelines.write(found)  # as its runs draw: what this command wants otherwise is its own
    return used


def _used(stage: Stage, wanted: dict[str, object]) -> Stage:
    """A stage with what is wanted of all of them, where it is of its kind."""
    takes = {"augmentation": stage.config.model.enlarges, "guidance": _takes_guidance(stage)}
    own = {name: value for name, value in wanted.items() if takes.get(name, True)}
    try:
        return dataclasses.replace(stage, config=configuration.used(stage.config, flags.settings(), own))
    except UserError as error:
        raise UserError(f"{stage.run_dir}: {error}") from None


def _takes_guidance(stage: Stage) -> bool:
    """Whether `--guidance` is of this stage; the weight of another network that guides it is its own."""
    return stage.config.takes_guidance and stage.config.sample.guide is None


def wanted_label_of(pipeline: PipelineConfig) -> int | None:
    """What `--label` asks for, of the stages of a pipeline that know labels."""
    knowing = [stage for stage in pipeline.stages if stage.config.model.classes]
    labels = [wanted_label(stage.run_dir, stage.config) for stage in knowing or pipeline.stages[:1]]
    return labels[0]


def open_run(run_dir: str, config: config_lib.Config) -> Run:
    """The run, on one device."""
    quiet_tensorflow.import_tensorflow()
    from tf_ddpm.sampling import run

    return run.open_run(run_dir, config)


def tell(line: str) -> None:
    """Prints a line once, however many workers there are."""
    if cluster.this_worker().is_chief:
        print(line, flush=True)
