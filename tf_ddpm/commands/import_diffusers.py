"""--mode=import"""

from tf_ddpm.commands import flags
from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.errors import UserError
from tf_ddpm.runtime import quiet_tensorflow


def run(run_dir: str) -> None:
    """Makes a run of a folder of diffusers."""
    if not FLAGS.diffusers_dir or not FLAGS.run_dir:
        raise UserError("--mode=import needs --diffusers_dir=FOLDER (of diffusers) and --run_dir=DIR (a new one)")
    from tf_ddpm.diffusers_format import reading

    config = reading.read_config(FLAGS.diffusers_dir, flags.settings())
    for note in reading.notes(FLAGS.diffusers_dir, config, FLAGS.scaling_factor):
        print(note)
    quiet_tensorflow.import_tensorflow()
    from tf_ddpm.diffusers_format import folders

    print(f"wrote {folders.import_run(FLAGS.diffusers_dir, config, run_dir, FLAGS.scaling_factor)}")
