"""The flags, and which of them each mode understands. `python main.py --helpshort` prints them."""

from absl import flags

from tf_ddpm.config import Config, presets
from tf_ddpm.diffusion.sampler_facts import SAMPLERS
from tf_ddpm.errors import UserError
from tf_ddpm.figures import FIGURES

_RUNNING = ("sample", "export", "eval", "figure", "report")  # modes that run a trained network

flags.DEFINE_string("mode", None, "train, sample, export, eval, figure, report, import or export_diffusers.")
flags.DEFINE_string("preset", None, f"Configuration to start from: {', '.join(presets.PRESETS)}. Default: digits.")
flags.DEFINE_string("run_dir", None, "Directory of the run. Default: runs/<preset>.")
flags.DEFINE_multi_string(
    "set", [], "One changed key of the configuration, for example --set=train.steps=2000. May be repeated."
)
flags.DEFINE_integer(
    "num_images",
    None,
    "sample, eval, figure: how many images to draw or to measure. Default: 64; for fid, kid, pr and memorisation "
    "50,000; for the bound in figures 16.",
    lower_bound=1,
    upper_bound=10**9,
)
flags.DEFINE_string(
    "sampler",
    None,
    "sample, export, eval, figure, report: ddpm, ddim, dpmpp, heun or langevin. Default: the run's own.",
)
flags.DEFINE_integer(
    "sampling_steps", None, "sample, export, eval, figure, report: steps of the chain. Default: all T.", lower_bound=1
)
flags.DEFINE_float("eta", None, "sample, export, eval, figure, report: noise of ddim and dpmpp, 0 (none) to 1.")
flags.DEFINE_string(
    "spacing", None, "sample, export, eval, figure, report: linspace, leading, trailing or quadratic steps."
)
flags.DEFINE_string(
    "clip", None, "sample, export, eval, figure, report: none, static or dynamic clipping of the predicted image."
)
flags.DEFINE_string("label", None, "sample, eval: class of the images: a number, all (in turn, the default) or none.")
flags.DEFINE_float(
    "guidance", None, "sample, export, eval, figure, report: weight of the class: 1 as trained, 0 without, or more."
)
flags.DEFINE_integer(
    "seed",
    0,
    "sample, eval, figure, report: image i has the seed --seed + i.",
    lower_bound=-(2**62),
    upper_bound=2**62,
)
flags.DEFINE_string("out_dir", None, "sample, export_diffusers: where the files go. Default: within <run_dir>.")
flags.DEFINE_string("export_dir", None, "export: where the versions go. Default: <run_dir>/serving/ddpm.")
flags.DEFINE_string(
    "plans", None, "export: sampler-steps, ...; the first is served by default. Default: ddim-50,dpmpp-20,ddpm-1000."
)
flags.DEFINE_integer("max_batch", 64, "export: the most rows of a request.", lower_bound=1, upper_bound=4096)
flags.DEFINE_integer("keep_versions", None, "export: how many versions stay. Default: all.", lower_bound=1)
flags.DEFINE_enum(
    "precision", None, ["float32", "bfloat16"], "sample, export, eval, figure, report: arithmetic of the network."
)
flags.DEFINE_enum(
    "weights",
    None,
    ["ema", "raw"],
    "sample, export, eval, figure, report: the moving average of the weights, or those of the last update.",
)
flags.DEFINE_string(
    "metrics",
    "bpd",
    "eval: what to measure: bpd (bits/dim of real images; of the chain of --sampling_steps if measured alone, else of "
    "the whole one), fid, kid, pr (precision and recall), memorisation.",
)
flags.DEFINE_string("images", None, "eval: a folder of images to measure instead of a run's.")
flags.DEFINE_string(
    "reference", None, "eval: real images: train (default), test, a folder, or an .npz file with mu and sigma."
)
flags.DEFINE_string(
    "inception", None, "eval: the FID network's weights. Default: the file that TF_DDPM_INCEPTION names."
)
flags.DEFINE_string(
    "metrics_file", None, "eval: where the figures go. Default: <run_dir>/metrics.json, for --images metrics.json."
)
flags.DEFINE_bool("allow_few", False, "eval: a FID of fewer images than the network has features.")
flags.DEFINE_enum("rounding", None, ["uint8", "float"], "eval: drawn images as saved (uint8, default) or unrounded.")
flags.DEFINE_string("sweep", None, "eval: a curve: sampling_steps:10,20,50, or checkpoint for all that are kept.")
flags.DEFINE_string("figure", None, f"figure: {', '.join(FIGURES)}, or all of them.")
flags.DEFINE_string("out", None, "figure: the picture. Default: <run_dir>/figures/<name>.png.")
flags.DEFINE_string("diffusers_dir", None, "import: a folder of diffusers: a pipeline, or a UNet2DModel alone.")
FLAGS = flags.FLAGS

_SAMPLING = {  # flag -> key of SampleConfig
    "sampler": "sampler",
    "sampling_steps": "steps",
    "eta": "eta",
    "spacing": "spacing",
    "clip": "clip",
    "guidance": "guidance",
    "precision": "precision",
    "weights": "weights",
}
_PATHS = (
    "run_dir",
    "out_dir",
    "export_dir",
    "images",
    "reference",
    "inception",
    "metrics_file",
    "out",
    "diffusers_dir",
)
_ONLY = {  # flags that some modes alone understand
    "preset": ("train", "sample", "export", "eval", "figure", "report", "export_diffusers"),
    "num_images": ("sample", "eval", "figure"),
    "sampler": _RUNNING,
    "sampling_steps": _RUNNING,
    "eta": _RUNNING,
    "spacing": _RUNNING,
    "clip": _RUNNING,
    "guidance": _RUNNING,
    "label": ("sample", "eval"),
    "seed": ("sample", "eval", "figure", "report"),
    "out_dir": ("sample", "export_diffusers"),
    "export_dir": ("export",),
    "plans": ("export",),
    "max_batch": ("export",),
    "keep_versions": ("export",),
    "precision": _RUNNING,
    "weights": _RUNNING,
    "metrics": ("eval",),
    **dict.fromkeys(("images", "reference", "inception", "metrics_file", "allow_few", "rounding", "sweep"), ("eval",)),
    "figure": ("figure",),
    "out": ("figure",),
    "diffusers_dir": ("import",),
}


METRICS = ("bpd", "fid", "kid", "pr", "memorisation")
_DRAWING = ("sampler", "eta", "clip", "guidance", "label", "rounding")


def check(modes: tuple[str, ...]) -> None:
    """Whether the mode is one of `modes` and understands every flag that was given.

    Raises:
      UserError: naming what is wrong and what would be right.
    """
    if FLAGS.mode not in modes:
        raise UserError(f"--mode={FLAGS.mode or ''}: expected one of {', '.join(modes)}")
    for name, known in _ONLY.items():
        if FLAGS[name].present and FLAGS.mode not in known:
            hint = " (a training run's seed: --set=train.seed=N)" if name == "seed" else ""
            raise UserError(f"--{name} belongs to --mode={' or '.join(known)}, not to --mode={FLAGS.mode}{hint}")
    for name in _PATHS:
        if FLAGS[name].value == "":
            raise UserError(f"--{name}= is empty; expected a path, or leave it out")
    if FLAGS.preset is not None:
        presets.preset(FLAGS.preset)
    if FLAGS.mode == "eval":
        _check_measuring()
    if FLAGS.mode == "export" and FLAGS.plans is not None:
        for name in ("sampler", "sampling_steps"):
            if FLAGS[name].present:
                raise UserError(f"--{name} and --plans={FLAGS.plans}: the plans name their samplers and steps")
    if FLAGS.mode == "figure":
        _check_figure()


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
        raise UserError(f"--eta says nothing to --sampler={config.sample.sampler}; it belongs to {known}")


def metrics() -> tuple[str, ...]:
    """What `--metrics` asks for."""
    return tuple(FLAGS.metrics.split(","))


def _check_figure() -> None:
    if FLAGS.figure not in (*FIGURES, "all"):
        raise UserError(f"--figure={FLAGS.figure or ''}: expected one of {', '.join(FIGURES)}, or all")
    if FLAGS.figure == "all" and FLAGS.out is not None:
        raise UserError("--out names one picture; those of --figure=all go to <run_dir>/figures")
    if FLAGS.out is not None and not FLAGS.out.endswith(".png"):
        raise UserError(f"--out={FLAGS.out}: expected a name that ends in .png")
    for name in ("num_images", "seed", *_SAMPLING):
        known = [figure for figure, noticed in FIGURES.items() if name in noticed]
        if FLAGS[name].present and FLAGS.figure not in (*known, "all"):
            raise UserError(f"--{name} says nothing to --figure={FLAGS.figure}; it belongs to {', '.join(known)}")


def _check_measuring() -> None:
    wrong = [name for name in metrics() if name not in METRICS]
    if "is" in wrong or "inception_score" in wrong:
        raise UserError(
            "--metrics: the inception score needs the network's logits, which its published file leaves out"
        )
    if wrong or len(set(metrics())) < len(metrics()):
        raise UserError(f"--metrics={FLAGS.metrics}: expected some of {','.join(METRICS)}, each once")
    drawing = [name for name in _DRAWING if FLAGS[name].present]
    features = [name for name in ("images", "reference", "inception", "allow_few", "sweep") if FLAGS[name].present]
    if metrics() == ("bpd",) and drawing + features:
        raise UserError(
            f"--{(drawing + features)[0]} says nothing to --metrics=bpd; it belongs to fid, kid, pr, memorisation"
        )
    if FLAGS.sweep is not None:
        for name in ("metrics_file", *(["sampling_steps"] if FLAGS.sweep.startswith("sampling_steps") else [])):
            if FLAGS[name].present:
                raise UserError(
                    f"--{name} says nothing to --sweep={FLAGS.sweep}, which writes sweep_*.json in the run"
                )
        if "bpd" in metrics():
            raise UserError("--sweep measures fid, kid, pr and memorisation; take bpd out of --metrics")
    if FLAGS.images is not None:
        if FLAGS.preset is not None:
            raise UserError("--preset names a run; --images have none: say the data with --set=data.name=NAME")
        if "bpd" in metrics() or FLAGS.sweep is not None:
            raise UserError(f"--images has no network: --{'sweep' if FLAGS.sweep else 'metrics=bpd'} needs a run")
        for name in [*drawing, "sampling_steps", "spacing", "num_images", "seed", "precision", "weights"]:
            if FLAGS[name].present:
                raise UserError(f"--{name} says how a run draws; --images are drawn already")


def settings() -> list[str]:
    """Every `--set`."""
    return FLAGS["set"].value


def sampling() -> dict[str, object]:
    """The sampling flags by key of `SampleConfig`, None where not given."""
    return {key: FLAGS[flag].value for flag, key in _SAMPLING.items()}
