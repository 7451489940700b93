"""--mode=export"""

import os

from tf_ddpm.commands import flags
from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.commands.opening import open_run, wanted_config


def run(run_dir: str) -> None:
    """Writes a version for TF Serving."""
    from export import plans as plans_lib

    config = wanted_config(run_dir)
    one = bool(FLAGS.sampler or FLAGS.sampling_steps)
    plans = plans_lib.parse(plans_lib.own(config) if one and FLAGS.plans is None else FLAGS.plans, config)
    opened = open_run(run_dir, config)
    from export import saved_model

    out = flags.out() or os.path.join(run_dir, "serving", "ddpm")
    print(f"wrote {saved_model.export_run(opened, out, plans, FLAGS.max_batch, FLAGS.keep_versions)}")
