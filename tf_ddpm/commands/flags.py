"""The flags, a row each: its kind, its default, the modes that take it, and what it means."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from absl import flags

from tf_ddpm.config import presets, students
from tf_ddpm.diffusion.sampler_facts import SAMPLERS
from tf_ddpm.errors import UserError
from tf_ddpm.figures import FIGURES

FLAGS = flags.FLAGS
METRICS = ("bpd", "fid", "kid", "pr", "memorisation", "enlarging", "reconstruction")


@dataclasses.dataclass(frozen=True)
class Mode:
    """What `--mode` may be.

    Attributes:
      file: the module of `commands` with its function `run(run_dir)`. shared: whether several workers share the work.
    """

    file: str
    about: str
    shared: bool = False


MODES = {
    "train": Mode("train", "train a run, or resume it", shared=True),
    "sample": Mode("sample", "draw images", shared=True),
    "export": Mode("export", "write a SavedModel for TF Serving"),
    "eval": Mode("evaluate", "measure bits/dim, FID, KID, precision and recall, memorisation", shared=True),
    "figure": Mode("figure", "draw the papers' figures"),
    "report": Mode("report", "write report.html"),
    "upscale": Mode("upscale", "enlarge a folder of images with a run that enlarges"),
    "distill": Mode("distill", "train a student of a run, which draws in a few steps, or resume it", shared=True),
    "cache": Mode("cache", "show or remove decoded pictures and latents that are kept, or decode a folder's pictures"),
    "import": Mode("import_diffusers", "make a run of a diffusers folder"),
    "export_diffusers": Mode("export_diffusers", "write a diffusers folder"),
}
_RUNNING = "sample export eval figure report upscale"  # modes that run a trained network


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag.

    Attributes:
      kind: str, int, float, bool, `path`, `list` (which may be repeated), or the words that it may be.
      modes: those that take it, space-separated; empty: all.
      key: of `SampleConfig`, which it sets.
      instead_of: a flag that has taken its place. It is still accepted, and not shown.
    """

    name: str
    kind: type | str | tuple[str, ...]
    modes: str
    about: str
    default: Any = None
    low: float | None = None
    high: float | None = None
    key: str | None = None
    instead_of: str | None = None

    @property
    def known(self) -> tuple[str, ...]:
        """The modes that take it."""
        return tuple(self.modes.split()) or tuple(MODES)


ROWS = (
    Flag("mode", str, "", "; ".join(f"{name}: {mode.about}" for name, mode in MODES.items()) + "."),
    Flag("run_dir", "path", "", "Directory of the run. Default: runs/<preset>."),
    Flag(
        "preset",
        str,
        "train sample export eval figure report upscale export_diffusers",
        f"Configuration to start from: {', '.join(presets.PRESETS)}. Default: digits.",
    ),
    Flag("teacher", "path", "distill", "The run that teaches, which the student copies, or a folder of diffusers."),
    Flag(
        "method",
        students.METHODS,
        "distill",
        "How the student learns: consistency, to draw in 1 to 4 steps with new noise in between, or progressive, to "
        "make several of the teacher's steps in one.",
    ),
    Flag("set", "list", "", "A changed key of the configuration, for example --set=train.steps=2000.", default=()),
    Flag(
        "out",
        "path",
        "sample export eval figure upscale export_diffusers cache",
        "Where the result goes. Default, in <run_dir>: samples, serving/ddpm, metrics.json, figures/<name>.png, "
        "upscaled, diffusers. Of cache: for a copy of a set of TensorFlow Datasets (data.name) in ArrayRecord files.",
    ),
    Flag(
        "format",
        ("png", "npz", "both"),
        "sample",
        "Images as PNGs, or as samples.npz (arr_0 uint8 [N, H, W, C], as other programs that measure FID read them).",
        "png",
    ),
    Flag(
        "num_images",
        int,
        "sample eval figure",
        "How many images to draw or to measure. Default: 64; for fid, kid, pr and memorisation 50,000, for enlarging "
        "512, for reconstruction all that were held out; for the bound in figures 16.",
        low=1,
        high=10**9,
    ),
    Flag(
        "pipeline",
        "path",
        "sample eval export",
        "Runs that draw one after the other, BASE,LARGER[,LARGER], or a folder with a pipeline.json.",
    ),
    Flag(
        "between",
        ("uint8", "float"),
        "sample eval export",
        "What goes from stage to stage of a pipeline: images rounded as when saved (uint8, default), or not (float).",
    ),
    Flag(
        "seed",
        int,
        "sample eval figure report upscale",
        "Image i has the seed --seed + i; of upscale, every picture has it.",
        0,
        -(2**62),
        2**62,
    ),
    Flag(
        "label",
        str,
        "sample eval upscale",
        "Class of the images: a number, a name, all (in turn, the default) or none (the default of upscale).",
    ),
    Flag(
        "sampler",
        str,
        _RUNNING,
        "; ".join(f"{name}: {facts.about}" for name, facts in SAMPLERS.items()) + ". Default: the run's own.",
        key="sampler",
    ),
    Flag("sampling_steps", int, _RUNNING, "Steps of the chain. Default: the run's, or all T.", low=1, key="steps"),
    Flag(
        "eta",
        float,
        _RUNNING,
        f"Noise of {' and '.join(name for name, facts in SAMPLERS.items() if facts.takes_eta)}, 0 (none) to 1.",
        key="eta",
    ),
    Flag(
        "spacing",
        str,
        _RUNNING,
        "Steps that a shorter chain visits: linspace, leading, trailing, quadratic, karras or sigmas.",
        key="spacing",
    ),
    Flag("clip", str, _RUNNING, "Clipping of the predicted image: none, static or dynamic.", key="clip"),
    Flag(
        "guidance",
        float,
        f"distill {_RUNNING}",
        "Weight of the class, or beside --guide of the network: 1 as trained, 0 without, or more.",
        key="guidance",
    ),
    Flag(
        "guide",
        str,
        f"distill {_RUNNING}",
        "A worse network that --guidance leads away from, instead of the null class: a step of the run of which there "
        "is a checkpoint, or another run's directory.",
        key="guide",
    ),
    Flag(
        "guidance_interval", str, f"distill {_RUNNING}", "LOW,HIGH: the sigma/alpha between which there is guidance."
    ),
    Flag(
        "augmentation",
        int,
        "sample export eval figure report upscale",
        "Noise on the smaller image of a run that enlarges, 0 (none, the default) to the run's train.augmentation.",
        key="augmentation",
    ),
    Flag("precision", ("float32", "bfloat16"), _RUNNING, "Arithmetic of the network.", key="precision"),
    Flag(
        "weights", ("ema", "raw"), _RUNNING, "The average of the weights, or those of the last update.", key="weights"
    ),
    Flag(
        "ema",
        float,
        _RUNNING,
        "Width sigma_rel of the average of the weights, for example 0.1, rebuilt from what train.averages has kept.",
        key="ema",
    ),
    Flag(
        "plans",
        str,
        "sample eval export",
        "sampler-steps, ...; the first is served by default. Default: ddim-50,dpmpp-20,ddpm-1000. Of a pipeline: "
        "for all stages (ddim-10), or stage by stage (ddim-50+dpmpp-10). Default: as each run draws.",
    ),
    Flag("max_batch", int, "export", "The most rows of a request.", 64, 1, 4096),
    Flag(
        "max_pixels",
        int,
        "export",
        "The most pixels of all enlarged images of a request, of a run or pipeline that enlarges. Default: 512 x 512, "
        "or one image where that is larger.",
        low=1,
        high=2**31 - 1,
    ),
    Flag("keep_versions", int, "export", "How many versions stay. Default: all.", low=1),
    Flag(
        "metrics",
        str,
        "eval",
        "What to measure: bpd (bits/dim of real images; of the chain of --sampling_steps if measured alone, else of "
        "the whole one), fid, kid, pr (precision and recall), memorisation, enlarging (PSNR and SSIM against the real "
        "image, consistency with the smaller one, colour drift), reconstruction (PSNR and SSIM of an autoencoder).",
        default="bpd",
    ),
    Flag("images", "path", "eval upscale", "A folder of images: to measure instead of a run's, or to enlarge."),
    Flag(
        "reference",
        "path",
        "eval",
        "Real images: a split of the data, holdout, a folder, or an .npz of mu and sigma. Default: the split of the "
        "training, for an autoencoder holdout.",
    ),
    Flag("inception", "path", "eval", "The FID network's weights. Default: the file that TF_DDPM_INCEPTION names."),
    Flag("allow_few", bool, "eval", "Allow a FID of fewer images than the network has features.", default=False),
    Flag("rounding", ("uint8", "float"), "eval", "Drawn images as saved (uint8, default) or unrounded."),
    Flag(
        "sweep",
        str,
        "eval",
        "A curve: sampling_steps:10,20,50; checkpoint for all that are kept; ema:0.05,0.1,0.15; sigma:0.5,0.8, the "
        "level of the second of a student's two steps; or augmentation:0,50,100, of a run or pipeline that enlarges, "
        "whose best it keeps in pipeline.json.",
    ),
    Flag(
        "older_than",
        float,
        "cache",
        "Removes decoded pictures and latents that were not used for so many days. (--set=data.name=folder "
        "--set=data.path=DIR --set=data.image_size=N decodes those of a folder.)",
    ),
    Flag("figure", str, "figure", f"{', '.join(FIGURES)}, or all of them."),
    Flag("diffusers_dir", "path", "import", "The folder: a pipeline, a UNet2DModel or an autoencoder."),
    Flag("scaling_factor", float, "import", "Of the autoencoder's latents, instead of what its config.json says."),
    Flag("variant", ("fp16", "bf16"), "export_diffusers", "Form of the weights, half as large. Default: float32."),
    Flag("out_dir", "path", "sample export_diffusers", "The same as --out.", instead_of="out"),
    Flag("export_dir", "path", "export", "The same as --out.", instead_of="out"),
    Flag("metrics_file", "path", "eval", "The same as --out.", instead_of="out"),
)


def _define(row: Flag) -> None:
    about = row.about if not row.modes else f"{', '.join(row.known)}: {row.about}"
    if isinstance(row.kind, tuple):
        flags.DEFINE_enum(row.name, row.default, row.kind, about)
    elif row.kind == "list":
        flags.DEFINE_multi_string(row.name, list(row.default), f"{about} May be repeated.")
    elif row.kind is int:
        flags.DEFINE_integer(row.name, row.default, about, lower_bound=row.low, upper_bound=row.high)
    elif row.kind is float:
        flags.DEFINE_float(row.name, row.default, about)
    elif row.kind is bool:
        flags.DEFINE_bool(row.name, row.default, about)
    else:
        flags.DEFINE_string(row.name, row.default, about)


def define() -> None:
    """Defines every flag; once in a process."""
    for row in ROWS:
        _define(row)


def settings() -> list[str]:
    """Every `--set`."""
    return FLAGS["set"].value


def sampling() -> dict[str, object]:
    """The sampling flags by key of `SampleConfig`, None where not given."""
    low, high = _interval()
    own = {"guidance_min": low, "guidance_max": high}
    return {row.key: FLAGS[row.name].value for row in ROWS if row.key is not None} | own


def _interval() -> tuple[float | None, float | None]:
    """The ends of `--guidance_interval`."""
    text = FLAGS.guidance_interval
    if text is None:
        return None, None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UserError(f"--guidance_interval={text}: expected LOW,HIGH, for example 0.3,3") from None
    return low, high


def sampling_flags() -> list[str]:
    """The names of the flags that say how images are drawn."""
    return [row.name for row in ROWS if row.key is not None or row.name == "guidance_interval"]


def given(names: Iterable[str]) -> list[str]:
    """Those of the flags that the command line gives."""
    return [name for name in names if FLAGS[name].present]


def out() -> str | None:
    """`--out`, or an older flag in its place."""
    older = [FLAGS[row.name].value for row in ROWS if row.instead_of == "out" and FLAGS[row.name].value is not None]
    return older[0] if FLAGS.out is None and older else FLAGS.out


def metrics() -> tuple[str, ...]:
    """What `--metrics` asks for."""
    return tuple(FLAGS.metrics.split(","))


def help_text(mode: str | None) -> str:
    """The flags that a mode takes, or all of them, with what they mean."""
    if mode in MODES:
        head = f"--mode={mode}: {MODES[mode].about}. Its flags:"
    else:
        head = "python main.py --mode=MODE ...; --mode=MODE --helpshort shows the flags of a mode alone. All flags:"
    lines = [head, ""]
    for row in ROWS:
        shown = row.name != "mode" if mode in MODES else True
        if shown and row.instead_of is None and (mode not in MODES or mode in row.known):
            modes = f" ({', '.join(row.known)})" if row.modes and mode not in MODES else ""
            silent = row.default is None or row.kind in ("list", bool) or "Default" in row.about
            default = "" if silent else f" Default: {row.default}."
            lines.append(flags.text_wrap(f"--{row.name}{modes}: {row.about}{default}", 100, "    ", "  "))
    return "\n".join(lines)
