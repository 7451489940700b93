"""--mode=export_diffusers"""

import os

from tf_ddpm.commands import flags
from tf_ddpm.commands.opening import open_run, wanted_config


def run(run_dir: str) -> None:
    """Writes a folder of diffusers."""
    opened = open_run(run_dir, wanted_config(run_dir))
    from tf_ddpm.diffusers_format import folders

    print(f"wrote {folders.export_run(opened, flags.out() or os.path.join(run_dir, 'diffusers'))}")
