"""From the command line to a mode, and from errors to a line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys

from absl import app, logging

from tf_ddpm.commands import checks, flags
from tf_ddpm.commands.flags import FLAGS, MODES
from tf_ddpm.errors import NotTrainedError, UserError
from tf_ddpm.runtime import atomic_files, cluster, interruption, streams

_OF_TRAINING = "; the same command resumes the run from its last checkpoint"
_RESUMES = {
    "train": _OF_TRAINING,
    "distill": _OF_TRAINING,
    "sample": "; the same command goes on behind the images that are there",
}

flags.define()


def entry() -> None:
    """The program: `python main.py`, `python -m tf_ddpm` and `tf-ddpm` alike."""
    if {"--helpshort", "--help", "-helpshort", "-help"} & set(sys.argv[1:]):
        mode = next((word.partition("=")[2] for word in sys.argv[1:] if word.lstrip("-").startswith("mode=")), None)
        print(flags.help_text(mode))
        return
    app.run(main)


def main(argv: list[str]) -> int:
    """Runs the mode that the flags ask for; 1 and at most three lines on stderr for wrong use."""
    logging.set_verbosity(logging.WARNING)
    with streams.unfailing():
        return _run(argv)


def run_mode(mode: str, run_dir: str) -> None:
    """Does the work of a mode."""
    importlib.import_module(f"tf_ddpm.commands.{MODES[mode].file}").run(run_dir)


def _run_dir() -> str:
    return FLAGS.run_dir or os.path.join("runs", FLAGS.preset or "digits")


def _run(argv: list[str]) -> int:
    try:
        if len(argv) > 1:
            raise UserError(f"unexpected argument {argv[1]!r}: flags look like --name=value")
        checks.check()
        here = cluster.this_worker()
        if here.count > 1 and not MODES[FLAGS.mode].shared:
            raise UserError(f"--mode={FLAGS.mode} is the work of one process, not of {here.count}: unset TF_CONFIG")
        resumes = _RESUMES.get(FLAGS.mode, "")
        with interruption.exit_on_signal(atomic_files.remove_unfinished, f"interrupted{resumes}"):
            run_mode(FLAGS.mode, _run_dir())
    except UserError as error:
        remedy = f"; train one with --mode=train --run_dir={_run_dir()}" if isinstance(error, NotTrainedError) else ""
        print(f"error: {error}{remedy}", file=sys.stderr)
        return 1
    except OSError as error:  # what no room has foreseen, named by the system
        print(f"error: {error.filename or 'cannot read or write'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f"error: out of memory: {error or 'no more to be had'}; ask for less", file=sys.stderr)
        return 1
    except interruption.Interrupted as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0
