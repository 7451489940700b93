"""--mode=export_diffusers"""

import os

from tf_ddpm.commands import flags
from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.commands.opening import open_run, wanted_config
from tf_ddpm.runtime import quiet_tensorflow


def run(run_dir: str) -> None:
    """Writes a folder of diffusers."""
    config, out = wanted_config(run_dir), flags.out() or os.path.join(run_dir, "diffusers")
    if config.autoencoder.trained:
        quiet_tensorflow.import_tensorflow()
        from tf_ddpm.diffusers_format import folders
        from tf_ddpm.sampling.first_stage import open_first_stage

        print(f"wrote {folders.export_first_stage(open_first_stage(run_dir, config), out, FLAGS.variant)}")
        return
    opened = open_run(run_dir, config)
    from tf_ddpm.diffusers_format import folders

    print(f"wrote {folders.export_run(opened, out, FLAGS.variant)}")
    note = folders.export_note(config)
    if note:
        print(note)
