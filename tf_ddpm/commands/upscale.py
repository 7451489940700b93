"""--mode=upscale"""

import os

from tf_ddpm.commands import flags
from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.commands.opening import open_run, wanted_config, wanted_label
from tf_ddpm.errors import UserError


def run(run_dir: str) -> None:
    """Enlarges a folder of images."""
    config = wanted_config(run_dir)
    if not config.model.enlarges:
        raise UserError(f"the run in {run_dir} draws from noise alone; expected one that enlarges images")
    label = wanted_label(run_dir, config)
    opened = open_run(run_dir, config)
    from tf_ddpm.sampling import upscale

    out = flags.out() or os.path.join(run_dir, "upscaled")
    print(f"wrote {upscale.upscale(opened, FLAGS.images, out, FLAGS.seed, label)}")
