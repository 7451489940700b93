"""--mode=report"""

from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.commands.opening import open_run, wanted_config


def run(run_dir: str) -> None:
    """Writes report.html into the run."""
    opened = open_run(run_dir, wanted_config(run_dir))
    from tf_ddpm.report import page

    print(f"wrote {page.write_report(opened, run_dir, FLAGS.seed)}")
