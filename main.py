"""The door: flags, dispatch, nothing else. `python main.py --helpshort` explains every flag."""

import os
import sys

from absl import app, flags, logging

import tf_ddpm
from tf_ddpm import config as config_lib
from tf_ddpm import datasets, presets, quiet_tensorflow
from tf_ddpm.errors import UserError

MODES = ("train", "sample", "export")

flags.DEFINE_string("mode", None, "train, sample or export.")
flags.DEFINE_string("preset", None, f"Configuration to start from: {', '.join(presets.PRESETS)}. Default: digits.")
flags.DEFINE_string("run_dir", None, "Directory of the run. Default: runs/<preset>.")
flags.DEFINE_multi_string(
    "set", [], "One changed key of the configuration, for example --set=train.steps=2000. May be repeated."
)
flags.DEFINE_integer("num_images", 64, "sample: how many images to draw.", lower_bound=1, upper_bound=10**9)
flags.DEFINE_string("sampler", None, "sample, export: ddpm, ddim, dpmpp, heun or langevin. Default: the run's own.")
flags.DEFINE_integer("sampling_steps", None, "sample, export: steps of the chain. Default: all T.", lower_bound=1)
flags.DEFINE_float("eta", None, "sample, export: noise of ddim, 0 (deterministic) to 1.")
flags.DEFINE_string("spacing", None, "sample, export: linspace, leading, trailing or quadratic steps.")
flags.DEFINE_string("clip", None, "sample, export: none, static or dynamic clipping of the predicted image.")
flags.DEFINE_string("label", None, "sample: class of the images: a number, all (in turn, the default) or none.")
flags.DEFINE_float("guidance", None, "sample, export: weight of the class: 1 as trained, 0 without, more exaggerates.")
flags.DEFINE_integer("seed", 0, "sample: image i has the seed --seed + i.", lower_bound=-(2**62), upper_bound=2**62)
flags.DEFINE_string("out_dir", None, "sample: where the images go. Default: <run_dir>/samples.")
flags.DEFINE_string("export_dir", None, "export: where the versions go. Default: <run_dir>/serving/ddpm.")
FLAGS = flags.FLAGS
_SAMPLING = {"sampling_steps": "steps"} | {f: f for f in ("sampler", "eta", "spacing", "clip", "guidance")}
_ONLY = {  # flags that some modes alone understand
    "num_images": ("sample",),
    "seed": ("sample",),
    "label": ("sample",),
    "out_dir": ("sample",),
    "export_dir": ("export",),
} | dict.fromkeys(_SAMPLING, ("sample", "export"))


def _dispatch() -> None:
    if FLAGS.mode not in MODES:
        raise UserError(f"--mode={FLAGS.mode or ''}: expected one of {', '.join(MODES)}")
    for name, modes in _ONLY.items():
        if FLAGS[name].present and FLAGS.mode not in modes:
            hint = " (a training run's seed: --set=train.seed=N)" if name == "seed" else ""
            raise UserError(f"--{name} belongs to --mode={' or '.join(modes)}, not to --mode={FLAGS.mode}{hint}")
    if FLAGS.preset is not None:
        presets.preset(FLAGS.preset)
    run_dir = FLAGS.run_dir or os.path.join("runs", FLAGS.preset or "digits")
    if FLAGS.mode == "train":
        config = presets.training_config(run_dir, FLAGS.preset, FLAGS["set"].value)
        datasets.check(config.data)
        quiet_tensorflow.import_tensorflow()
        from tf_ddpm import train_loop

        train_loop.run(config, run_dir)
        return
    flagged = {key: FLAGS[flag].value for flag, key in _SAMPLING.items()}
    config = config_lib.read(run_dir)
    settings = config_lib.sample_changes(config, FLAGS["set"].value, flagged)
    label = config_lib.label(config, FLAGS.label)
    quiet_tensorflow.import_tensorflow()
    run = tf_ddpm.load_run(run_dir, **settings)
    if FLAGS.mode == "sample":
        from tf_ddpm import generate

        out_dir = FLAGS.out_dir or os.path.join(run_dir, "samples")
        print(f"drawing {FLAGS.num_images} images with the weights of step {run.checkpoint_step}", flush=True)
        print(f"wrote {generate.generate(run, out_dir, FLAGS.num_images, FLAGS.seed, label)}")
    else:
        from export import saved_model

        export_dir = FLAGS.export_dir or os.path.join(run_dir, "serving", "ddpm")
        print(f"wrote {saved_model.export_run(run, export_dir)}")


def main(argv: list[str]) -> int:
    """Runs the mode that the flags ask for; 1 and at most three lines on stderr for wrong use."""
    logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise UserError(f"unexpected argument {argv[1]!r}: flags look like --name=value")
        _dispatch()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; a training run goes on from its last checkpoint with the same command", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    app.run(main)
