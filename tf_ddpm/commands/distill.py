"""--mode=distill"""

import os
import shutil
from pathlib import Path

from tf_ddpm import config as config_lib
from tf_ddpm import datasets
from tf_ddpm.commands import flags
from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.config import students
from tf_ddpm.errors import NotTrainedError, UserError
from tf_ddpm.runs import configuration, directory, teacher_copies
from tf_ddpm.runtime import cluster, own_files, quiet_tensorflow
from tf_ddpm.runtime.paths import home_expanded


def run(run_dir: str) -> None:
    """Trains a student of another run, or resumes one."""
    begun = os.path.lexists(os.path.join(run_dir, "config.json"))
    config = _resumed(run_dir) if begun else _new(run_dir)
    datasets.check(config.data)
    quiet_tensorflow.import_tensorflow()
    from tf_ddpm.training import loop

    loop.run(config, run_dir)


def _resumed(run_dir: str) -> config_lib.Config:
    saved = configuration.read(run_dir)
    if not saved.distill.student:
        raise UserError(f"{run_dir} is no student's run; choose another directory for the student: --run_dir=DIR")
    settings = [*_taught(), *flags.settings()]
    if FLAGS.method is not None:
        settings.insert(0, f"distill.method={FLAGS.method}")
    if FLAGS.teacher is not None:
        named = os.path.realpath(home_expanded(FLAGS.teacher, "--teacher"))
        began = os.path.realpath(saved.distill.teacher or "")
        copied = teacher_copies.origin(teacher_copies.place(run_dir))
        # (A copy of an earlier version does not say of which folder it is.)
        if named not in (began, copied) and (copied or own_files.is_run(Path(named))):
            raise UserError(
                f"--teacher={FLAGS.teacher}: {run_dir} is a student of {copied or began}; without --teacher it goes on"
            )
    return configuration.training_config(run_dir, None, settings)


def _new(run_dir: str) -> config_lib.Config:
    if FLAGS.teacher is None:
        raise UserError("--mode=distill needs the run that teaches: --teacher=RUN")
    if FLAGS.run_dir is None:
        raise UserError("--mode=distill needs the student's own directory: --run_dir=DIR")
    teacher = Path(os.path.abspath(home_expanded(FLAGS.teacher, "--teacher")))
    if not teacher.is_dir():
        raise UserError(f"--teacher={FLAGS.teacher}: no such folder; expected a trained run, or a diffusers folder")
    foreign = not own_files.is_run(teacher) and not (teacher / "checkpoints").exists()
    if foreign and cluster.this_worker().count > 1:
        raise UserError(
            f"--teacher={FLAGS.teacher}: of several workers none imports it; import it first: --mode=import"
        )
    own = _of_diffusers(teacher) if foreign else _of_run(teacher)
    place = teacher_copies.place(run_dir) if foreign else teacher
    config = students.student_of(own, str(place), FLAGS.method, [*_taught(), *flags.settings()])
    if any(setting.startswith("codec.") for setting in flags.settings()):
        raise UserError("codec.*: a student has the autoencoder of its teacher")
    if config.codec.run is not None:
        config = config_lib.with_values(config, {"codec.run": str(place / "autoencoder")})
    if config.data.name is None:
        raise UserError(
            f"--teacher={FLAGS.teacher} was imported, and does not say what it was trained on; name the data: "
            "--set=data.name=NAME"
        )
    datasets.check(config.data)
    _clear(teacher, run_dir)
    if foreign:
        _import(teacher, own, run_dir)
    return config


def _of_run(teacher: Path) -> config_lib.Config:
    try:
        return configuration.read(teacher)
    except NotTrainedError as error:
        raise UserError(f"--teacher={FLAGS.teacher}: {error}; expected a trained run, or a diffusers folder") from None


def _of_diffusers(teacher: Path) -> config_lib.Config:
    from tf_ddpm.diffusers_format import reading

    return reading.read_config(teacher)


def _taught() -> list[str]:
    """The flags that say how the teacher is guided, as settings."""
    wanted = flags.sampling()
    names = ("guidance", "guide", "guidance_min", "guidance_max")
    given = {name: wanted[name] for name in names if wanted[name] is not None}
    if not str(given.get("guide", "0")).isdecimal():
        given["guide"] = os.path.abspath(home_expanded(str(given["guide"]), "--guide"))  # as the student keeps it
    return [f"distill.{name}={value}" for name, value in given.items()]


def _clear(teacher: Path, run_dir: str) -> None:
    """Removes the copy of a teacher whose student did not begin, which may be of another one.

    Raises:
      UserError: where something else stands in its place.
    """
    target = teacher_copies.place(run_dir)
    if not cluster.this_worker().is_chief or not os.path.lexists(target):
        return
    if teacher_copies.origin(target) is None or target.is_symlink() or target.resolve() == teacher.resolve():
        raise UserError(
            f"--run_dir={run_dir}: {target} is there, where the student keeps its teacher; choose another directory, "
            "or move it away"
        )
    with directory.locked(target.parent):
        shutil.rmtree(target)


def _import(folder: Path, own: config_lib.Config, run_dir: str) -> None:
    """Writes the diffusers folder as a run, which is the student's copy of its teacher."""
    quiet_tensorflow.import_tensorflow()
    from tf_ddpm.diffusers_format import folders

    target = teacher_copies.place(run_dir)
    if target.is_relative_to(folder.resolve()) or folder.is_relative_to(target):
        raise UserError(
            f"--teacher={FLAGS.teacher} and --run_dir={run_dir} lie in each other; choose another directory"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with directory.locked(target.parent):
        folders.import_run(folder, own, target)
        teacher_copies.mark(target, folder)
