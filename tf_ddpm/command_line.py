"""The flags, and which of them each mode understands. `python main.py --helpshort` prints them."""

from absl import flags

from tf_ddpm import presets
from tf_ddpm.errors import UserError

_RUNNING = ("sample", "export", "eval")  # modes that run a trained network

flags.DEFINE_string("mode", None, "train, sample, export, eval, import or export_diffusers.")
flags.DEFINE_string("preset", None, f"Configuration to start from: {', '.join(presets.PRESETS)}. Default: digits.")
flags.DEFINE_string("run_dir", None, "Directory of the run. Default: runs/<preset>.")
flags.DEFINE_multi_string(
    "set", [], "One changed key of the configuration, for example --set=train.steps=2000. May be repeated."
)
flags.DEFINE_integer(
    "num_images", 64, "sample, eval: how many images to draw or to measure.", lower_bound=1, upper_bound=10**9
)
flags.DEFINE_string("sampler", None, "sample, export: ddpm, ddim, dpmpp, heun or langevin. Default: the run's own.")
flags.DEFINE_integer(
    "sampling_steps", None, "sample, export, eval: steps of the chain. Default: all T.", lower_bound=1
)
flags.DEFINE_float("eta", None, "sample, export: noise of ddim, 0 (deterministic) to 1.")
flags.DEFINE_string("spacing", None, "sample, export, eval: linspace, leading, trailing or quadratic steps.")
flags.DEFINE_string("clip", None, "sample, export: none, static or dynamic clipping of the predicted image.")
flags.DEFINE_string("label", None, "sample: class of the images: a number, all (in turn, the default) or none.")
flags.DEFINE_float("guidance", None, "sample, export: weight of the class: 1 as trained, 0 without, more exaggerates.")
flags.DEFINE_integer(
    "seed", 0, "sample, eval: image i has the seed --seed + i.", lower_bound=-(2**62), upper_bound=2**62
)
flags.DEFINE_string("out_dir", None, "sample, export_diffusers: where the files go. Default: within <run_dir>.")
flags.DEFINE_string("export_dir", None, "export: where the versions go. Default: <run_dir>/serving/ddpm.")
flags.DEFINE_string(
    "plans", None, "export: sampler-steps, ...; the first is served by default. Default: ddim-50,dpmpp-20,ddpm-1000."
)
flags.DEFINE_integer("max_batch", 64, "export: the most rows of a request.", lower_bound=1, upper_bound=4096)
flags.DEFINE_integer("keep_versions", None, "export: how many versions stay. Default: all.", lower_bound=1)
flags.DEFINE_enum("precision", None, ["float32", "bfloat16"], "sample, export, eval: arithmetic of the network.")
flags.DEFINE_string("metrics", "bpd", "eval: what to measure: bpd (bits/dim, every term of the bound).")
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
}
_ONLY = {  # flags that some modes alone understand
    "preset": ("train", "sample", "export", "eval", "export_diffusers"),
    "num_images": ("sample", "eval"),
    "sampler": ("sample", "export"),
    "sampling_steps": _RUNNING,
    "eta": ("sample", "export"),
    "spacing": _RUNNING,
    "clip": ("sample", "export"),
    "guidance": ("sample", "export"),
    "label": ("sample",),
    "seed": ("sample", "eval"),
    "out_dir": ("sample", "export_diffusers"),
    "export_dir": ("export",),
    "plans": ("export",),
    "max_batch": ("export",),
    "keep_versions": ("export",),
    "precision": _RUNNING,
    "metrics": ("eval",),
    "diffusers_dir": ("import",),
}


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
    if FLAGS.preset is not None:
        presets.preset(FLAGS.preset)
    if FLAGS.metrics != "bpd":
        raise UserError(f"--metrics={FLAGS.metrics}: expected bpd")


def settings() -> list[str]:
    """Every `--set`."""
    return FLAGS["set"].value


def sampling() -> dict[str, object]:
    """The sampling flags by key of `SampleConfig`, None where not given."""
    return {key: FLAGS[flag].value for flag, key in _SAMPLING.items()}
