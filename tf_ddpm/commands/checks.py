"""Which flags fit together: what is wrong is found before TensorFlow is imported."""

from __future__ import annotations

from collections.abc import Iterable

from tf_ddpm import config as config_lib
from tf_ddpm.commands.flags import FLAGS, METRICS, MODES, ROWS, given, metrics, sampling_flags, settings
from tf_ddpm.config import Config, presets
from tf_ddpm.diffusion.sampler_facts import SAMPLERS
from tf_ddpm.errors import UserError
from tf_ddpm.figures import FIGURES

_DRAWING = ("sampler", "eta", "clip", "guidance", "guide", "guidance_interval", "label", "rounding")
_OF_PICTURES = ("enlarging", "reconstruction")  # metrics against real pictures
_OF_FEATURES = ("images", "reference", "inception", "allow_few", "sweep")


def check() -> None:
    """Whether the mode is known and takes every flag that was given.

    Raises:
      UserError: naming what is wrong and what would be right.
    """
    if FLAGS.mode not in MODES:
        raise UserError(f"--mode={FLAGS.mode or ''}: expected one of {', '.join(MODES)}")
    for row in ROWS:
        if FLAGS[row.name].present and FLAGS.mode not in row.known:
            hint = " (a training run's seed: --set=train.seed=N)" if row.name == "seed" else ""
            raise UserError(
                f"--{row.name} belongs to --mode={' or '.join(row.known)}, not to --mode={FLAGS.mode}{hint}"
            )
        if row.kind == "path" and FLAGS[row.name].value == "":
            raise UserError(f"--{row.name}= is empty; expected a path, or leave it out")
        if row.instead_of is not None and FLAGS[row.name].present and FLAGS[row.instead_of].present:
            raise UserError(f"--{row.name} is another name for --{row.instead_of}; give one of them")
    if FLAGS.preset is not None:
        presets.preset(FLAGS.preset)
    if FLAGS.mode == "eval":
        _check_measuring()
    if FLAGS.pipeline is not None:
        _check_pipeline()
    elif given(("between",)) or (FLAGS.plans is not None and FLAGS.mode != "export"):
        name = "between" if FLAGS.between is not None else "plans"
        raise UserError(f"--{name} belongs to --pipeline; one run draws with --sampler and --sampling_steps")
    if FLAGS.plans is not None:
        for name in given(("sampler", "sampling_steps")):
            raise UserError(f"--{name} and --plans={FLAGS.plans}: the plans name their samplers and steps")
    if FLAGS.mode == "upscale" and FLAGS.images is None:
        raise UserError("--mode=upscale needs the images to enlarge: --images=DIR")
    if FLAGS.mode == "figure":
        _check_figure()


def _check_pipeline() -> None:
    for name in given(("preset", "sampler", "sampling_steps", "eta", "images", "guide")):
        remedy = "; its stages draw with --plans=ddim-50+dpmpp-10" if name in ("sampler", "sampling_steps") else ""
        raise UserError(f"--{name} is of one run, and --pipeline names several{remedy}")
    of_one = [name for name in metrics() if name in ("bpd", "enlarging")] if FLAGS.mode == "eval" else []
    if of_one:
        raise UserError(f"--metrics={of_one[0]} is of one run; of a pipeline: --metrics=fid,kid,pr,memorisation")
    if FLAGS.mode == "eval" and FLAGS.sweep is not None and not FLAGS.sweep.startswith("augmentation"):
        raise UserError(f"--sweep={FLAGS.sweep}: of a pipeline expected --sweep=augmentation:0,25,50,100,200,300")


def check_eta(config: Config) -> None:
    """Whether the samplers of a mode that draws with one of them, or of an export's plans, know `--eta`.

    Raises:
      UserError: naming those that do.
    """
    one_sampler = FLAGS.mode != "export" or FLAGS.sampler is not None
    if FLAGS.mode == "figure":  # `all` has figures with samplers of their own
        one_sampler = FLAGS.figure != "all"
    if FLAGS.eta is None or not one_sampler:
        return
    if not SAMPLERS[config.sample.sampler].takes_eta:
        known = " and ".join(f"--sampler={name}" for name, facts in SAMPLERS.items() if facts.takes_eta)
        raise UserError(f"--eta has no effect with --sampler={config.sample.sampler}; it belongs to {known}")


def check_idle(config: Config) -> None:
    """Whether what is drawn takes notice of all that the command line says of it.

    Raises:
      UserError: where it does not.
    """
    _check_guidance(config)
    drawn = FLAGS.mode in ("sample", "eval", "report", "upscale")
    if not drawn and not (FLAGS.mode == "figure" and "sampler" in FIGURES.get(FLAGS.figure, ())):
        return
    if config.autoencoder.trained and given(("weights",)):
        raise UserError("--weights has no effect here: the scale of an autoencoder's latents is that of the average")
    check_settings([config])


def check_settings(configs: Iterable[Config]) -> None:
    """Whether what `--set` says of sampling changes something in one of `configs` at least.

    Raises:
      UserError: where it does not.
    """
    idle = [config_lib.idle(config) for config in configs]
    for setting in settings():
        key = setting.partition("=")[0].strip()
        if all(key in found for found in idle):
            raise UserError(f"--set={setting} has no effect here: {key} is of {idle[0][key]}")


def _check_guidance(config: Config) -> None:
    """Callers of an export say their weights, and the figure of guidance compares some."""
    of_figure = FLAGS.mode == "figure" and "guidance" in FIGURES.get(FLAGS.figure, ())
    if config.sample.guidance == 1.0 and (of_figure or FLAGS.mode in ("sample", "eval", "report", "upscale")):
        for name in given(("guide", "guidance_interval")):
            raise UserError(f"--{name} has no effect with guidance 1; expected --guidance=W beside it, for example 2")


def _check_figure() -> None:
    if FLAGS.figure not in (*FIGURES, "all"):
        raise UserError(f"--figure={FLAGS.figure or ''}: expected one of {', '.join(FIGURES)}, or all")
    if FLAGS.figure == "all" and FLAGS.out is not None:
        raise UserError("--out names one picture; those of --figure=all go to <run_dir>/figures")
    if FLAGS.out is not None and not FLAGS.out.endswith(".png"):
        raise UserError(f"--out={FLAGS.out}: expected a name that ends in .png")
    for name in given(("num_images", "seed", *sampling_flags())):
        known = [figure for figure, noticed in FIGURES.items() if name in noticed]
        if FLAGS.figure not in (*known, "all"):
            raise UserError(f"--{name} has no effect with --figure={FLAGS.figure}; it belongs to {', '.join(known)}")


def _check_measuring() -> None:
    wrong = [name for name in metrics() if name not in METRICS]
    if "is" in wrong or "inception_score" in wrong:
        raise UserError(
            "--metrics: the inception score needs the network's logits, which its published file leaves out"
        )
    if wrong or len(set(metrics())) < len(metrics()):
        raise UserError(f"--metrics={FLAGS.metrics}: expected some of {','.join(METRICS)}, each once")
    idle = given((*_DRAWING, *_OF_FEATURES))
    if metrics() == ("bpd",) and idle:
        raise UserError(f"--{idle[0]} has no effect with --metrics=bpd; it belongs to fid, kid, pr, memorisation")
    idle = given(("reference", "inception", "allow_few", "rounding"))
    if set(metrics()) <= {"bpd", *_OF_PICTURES} and idle:
        raise UserError(f"--{idle[0]} has no effect with --metrics={FLAGS.metrics}; it belongs to fid, kid, pr")
    if FLAGS.sweep is not None:
        _check_sweep()
    if FLAGS.images is not None:
        _check_images()


def _check_sweep() -> None:
    own = {"sigma": ("sampling_steps", "spacing"), "checkpoint": ("ema",)}  # what is swept itself, but for these
    swept = FLAGS.sweep.partition(":")[0]
    swept_flags = own.get(swept, (swept,) if swept in FLAGS else ())
    for name in given(("out", "metrics_file", *swept_flags)):
        raise UserError(f"--{name} has no effect with --sweep={FLAGS.sweep}, which writes sweep_*.json in the run")
    wrong = [name for name in metrics() if name in ("bpd", *_OF_PICTURES)]
    if wrong:
        raise UserError(f"--sweep measures fid, kid, pr and memorisation; take {wrong[0]} out of --metrics")


def _check_images() -> None:
    if FLAGS.preset is not None:
        raise UserError("--preset names a run; --images have none: say the data with --set=data.name=NAME")
    wrong = [f"metrics={name}" for name in metrics() if name in ("bpd", *_OF_PICTURES)]
    if wrong or FLAGS.sweep is not None:
        raise UserError(f"--images has no network: --{'sweep' if FLAGS.sweep else wrong[0]} needs a run")
    for name in given(dict.fromkeys((*_DRAWING, *sampling_flags(), "num_images", "seed"))):
        raise UserError(f"--{name} says how a run draws; --images are drawn already")
