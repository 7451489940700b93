"""--mode=sample"""

import os

from tf_ddpm.commands import flags
from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.commands.opening import tell, wanted_config, wanted_label, wanted_label_of, wanted_pipeline
from tf_ddpm.runs.pipelines import PipelineConfig
from tf_ddpm.runtime import quiet_tensorflow


def run(run_dir: str) -> None:
    """Draws images into a folder."""
    pipeline = wanted_pipeline()
    if pipeline is not None:
        _of_pipeline(pipeline)
        return
    config = wanted_config(run_dir)
    quiet_tensorflow.import_tensorflow()
    from tf_ddpm.runtime import devices
    from tf_ddpm.sampling import generate
    from tf_ddpm.sampling.run import open_run

    label, count = wanted_label(run_dir, config), FLAGS.num_images or 64
    with devices.report_lost_workers():
        opened = open_run(run_dir, config, devices.strategy())
        opened.agree(count, FLAGS.seed, label)
        which = "" if label is None else f" of {opened.name_of(label)}"
        tell(f"drawing {count} images{which} with the weights of step {opened.checkpoint_step}")
        out = flags.out() or os.path.join(run_dir, "samples")
        tell(f"wrote {generate.generate(opened, out, count, FLAGS.seed, label, FLAGS.format)}")


def _of_pipeline(config: PipelineConfig) -> None:
    label, count = wanted_label_of(config), FLAGS.num_images or 64
    quiet_tensorflow.import_tensorflow()
    from tf_ddpm.runtime import devices
    from tf_ddpm.sampling import generate
    from tf_ddpm.sampling.pipeline import open_pipeline

    with devices.report_lost_workers():
        opened = open_pipeline(config, devices.strategy())
        for stage in opened.runs:
            stage.agree(count, FLAGS.seed, label, config.rounded)
        tell(f"drawing {count} images with {config.name}, the weights of steps {opened.steps}")
        out = flags.out() or os.path.join(config.directory, "samples")
        tell(f"wrote {generate.generate(opened, out, count, FLAGS.seed, label, FLAGS.format)}")
