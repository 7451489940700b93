"""The door: a flag chooses the mode. `python main.py --helpshort` explains every flag."""

import os
import sys
from pathlib import Path

from absl import app, flags, logging

from tf_ddpm import config as config_lib
from tf_ddpm import datasets
from tf_ddpm.commands import command_line
from tf_ddpm.commands.command_line import FLAGS
from tf_ddpm.errors import UserError
from tf_ddpm.runs import configuration, kept_labels
from tf_ddpm.runtime import atomic_files, cluster, interruption, quiet_tensorflow, streams

flags.adopt_module_key_flags(command_line)


def _train(run_dir: str) -> None:
    config = configuration.training_config(run_dir, FLAGS.preset, command_line.settings())
    datasets.check(config.data)
    quiet_tensorflow.import_tensorflow()
    from tf_ddpm.training import loop

    loop.run(config, run_dir)


def _config(run_dir: str, allowed: frozenset[str] = config_lib.SAMPLING_KEYS) -> config_lib.Config:
    """How the flags want the run used; what is wrong is found before TensorFlow is imported."""
    saved = configuration.read(run_dir)
    config = configuration.used(saved, command_line.settings(), command_line.sampling(), allowed)
    command_line.check_eta(config)
    _label(run_dir, config)
    return config


def _label(run_dir: str, config: config_lib.Config) -> int | None:
    """What --label asks for, in the run's own names."""
    return config_lib.parse_label(config, FLAGS.label, kept_labels.label_names(run_dir))


def _open(run_dir: str, config: config_lib.Config):
    quiet_tensorflow.import_tensorflow()
    from tf_ddpm.sampling.run import open_run

    return open_run(run_dir, config)


def _sample(run_dir: str) -> None:
    config = _config(run_dir)
    quiet_tensorflow.import_tensorflow()
    from tf_ddpm.runtime import devices
    from tf_ddpm.sampling import generate
    from tf_ddpm.sampling.run import open_run

    out_dir = FLAGS.out_dir or os.path.join(run_dir, "samples")
    label = _label(run_dir, config)
    count = FLAGS.num_images or 64
    with devices.report_lost_workers():
        strategy = devices.strategy()
        run = open_run(run_dir, config, strategy)
        run.agree(count, FLAGS.seed, label)
        which = "" if label is None else f" of {run.name_of(label)}"
        _tell(f"drawing {count} images{which} with the weights of step {run.checkpoint_step}")
        _tell(f"wrote {generate.generate(run, out_dir, count, FLAGS.seed, label)}")


def _tell(line: str) -> None:
    """Says it once, however many workers there are."""
    if cluster.this_worker().is_chief:
        print(line, flush=True)


def _export(run_dir: str) -> None:
    from export import plans as plans_lib

    config = _config(run_dir)
    one = bool(FLAGS.sampler or FLAGS.sampling_steps)
    plans = plans_lib.parse(plans_lib.own(config) if one and FLAGS.plans is None else FLAGS.plans, config)
    run = _open(run_dir, config)
    from export import saved_model

    export_dir = FLAGS.export_dir or os.path.join(run_dir, "serving", "ddpm")
    print(f"wrote {saved_model.export_run(run, export_dir, plans, FLAGS.max_batch, FLAGS.keep_versions)}")


def _eval(run_dir: str) -> None:
    alone = FLAGS.images is not None and FLAGS.run_dir is None  # a folder of images, and no run
    data = command_line.settings()
    named = any(word.startswith("data.name=") for word in data)
    if alone and not named and FLAGS.reference in (None, "train", "test"):
        raise UserError("against what? give --reference=DIR, --reference=FILE.npz (mu, sigma) or --set=data.name=NAME")
    config = configuration.data_config(data) if alone else _config(run_dir, config_lib.MEASURING_KEYS)
    quiet_tensorflow.import_tensorflow()
    from tf_ddpm.evaluation import evaluate, sweep
    from tf_ddpm.figures import sweeps
    from tf_ddpm.runtime import devices

    wanted = evaluate.EvaluationRequest(
        command_line.metrics(),
        FLAGS.num_images,
        FLAGS.seed,
        None if alone else _label(run_dir, config),
        FLAGS.images,
        FLAGS.reference or config.data.split,
        FLAGS.inception,
        FLAGS.allow_few,
        FLAGS.rounding != "float",
    )
    path = FLAGS.metrics_file or os.path.join("" if FLAGS.images else run_dir, "metrics.json")
    with devices.report_lost_workers():
        if FLAGS.sweep is not None:
            path = sweep.sweep(wanted, config, run_dir, FLAGS.sweep)
            if cluster.this_worker().is_chief:
                print(f"wrote {sweeps.draw(path)}")
        else:
            _tell(f"wrote {evaluate.evaluate(wanted, config, None if alone else run_dir, path)}")


def _figure(run_dir: str) -> None:
    config = _config(run_dir, config_lib.MEASURING_KEYS)
    run = _open(run_dir, config)
    from tf_ddpm.figures import catalogue

    subject = catalogue.FigureContext(run, Path(run_dir), FLAGS.num_images, FLAGS.seed)
    catalogue.draw(FLAGS.figure, subject, Path(FLAGS.out) if FLAGS.out else None)


def _report(run_dir: str) -> None:
    run = _open(run_dir, _config(run_dir))
    from tf_ddpm.report import page

    print(f"wrote {page.write_report(run, run_dir, FLAGS.seed)}")


def _import(run_dir: str) -> None:
    if not FLAGS.diffusers_dir or not FLAGS.run_dir:
        raise UserError("--mode=import needs --diffusers_dir=FOLDER (of diffusers) and --run_dir=DIR (a new one)")
    from tf_ddpm.diffusers_format import reading

    config = reading.read_config(FLAGS.diffusers_dir, command_line.settings())
    for note in reading.notes(FLAGS.diffusers_dir, config):
        print(note)
    quiet_tensorflow.import_tensorflow()
    from tf_ddpm.diffusers_format import folders

    print(f"wrote {folders.import_run(FLAGS.diffusers_dir, config, run_dir)}")


def _export_diffusers(run_dir: str) -> None:
    run = _open(run_dir, _config(run_dir))
    from tf_ddpm.diffusers_format import folders

    print(f"wrote {folders.export_run(run, FLAGS.out_dir or os.path.join(run_dir, 'diffusers'))}")


_TOGETHER = ("train", "sample", "eval")  # modes that several workers share
MODES = {
    "train": _train,
    "sample": _sample,
    "export": _export,
    "eval": _eval,
    "figure": _figure,
    "report": _report,
    "import": _import,
    "export_diffusers": _export_diffusers,
}


def main(argv: list[str]) -> int:
    """Runs the mode that the flags ask for; 1 and at most three lines on stderr for wrong use."""
    logging.set_verbosity(logging.WARNING)
    with streams.unfailing():
        return _run(argv)


def _run(argv: list[str]) -> int:
    try:
        if len(argv) > 1:
            raise UserError(f"unexpected argument {argv[1]!r}: flags look like --name=value")
        command_line.check(tuple(MODES))
        here = cluster.this_worker()
        if here.count > 1 and FLAGS.mode not in _TOGETHER:
            raise UserError(f"--mode={FLAGS.mode} is the work of one process, not of {here.count}: unset TF_CONFIG")
        goes_on = "; the run goes on from its last checkpoint with the same command" if FLAGS.mode == "train" else ""
        with interruption.exit_on_signal(atomic_files.remove_unfinished, f"interrupted{goes_on}"):
            MODES[FLAGS.mode](FLAGS.run_dir or os.path.join("runs", FLAGS.preset or "digits"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
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


if __name__ == "__main__":
    app.run(main)
