"""--mode=sample"""

import os

from tf_ddpm.commands import flags
from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.commands.opening import tell, wanted_config, wanted_label
from tf_ddpm.runtime import quiet_tensorflow


def run(run_dir: str) -> None:
    """Draws images into a folder."""
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
        tell(f"wrote {generate.generate(opened, out, count, FLAGS.seed, label)}")
