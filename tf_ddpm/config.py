"""The words of a run: frozen dataclasses, `--set a.b=c`, and the JSON that is saved beside the weights.

Imports no TensorFlow, so that a wrong word is answered at once. Each key carries its help text and its
legal range; `tf_ddpm/build.py` is the only place that turns words into objects.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import os
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tf_ddpm import schedules
from tf_ddpm.errors import UserError

FORMAT_VERSION = 1
DECODER = 2  # the newest rules by which picture files become pixels; 1: as up to November 2026 (`first_decoder`)
SAMPLERS_WITH_ETA = ("ddim", "dpmpp")
_SMALLEST_ALPHA_BAR = 1e-14  # 1 / sqrt(alpha_bar) multiplies the rounding of the predicted eps


def _key(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A config key: its default, what it means, and its range (`low` and `high` inclusive, `above` exclusive)."""
    return dataclasses.field(
        default=default,
        metadata={"help": text, "low": low, "high": high, "above": above, "choices": choices},
    )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The U-Net (Ho et al. 2020, appendix B)."""

    channels: int = _key(32, "width of the first convolution, and size of the sinusoidal embedding", low=2, high=4096)
    multipliers: tuple[int, ...] = _key((1, 2), "width of each level, in units of channels", low=1, high=64)
    widths: tuple[int, ...] | None = _key(
        None, "width of each level, where multipliers cannot say it", low=1, high=65536
    )
    blocks: int = _key(1, "residual blocks a level", low=1, high=64)
    attention_levels: tuple[int, ...] = _key((1,), "levels with self-attention, 0 the finest", low=0, high=16)
    up_attention_levels: tuple[int, ...] | None = _key(
        None, "the same on the way up; none: as on the way down", low=0, high=16
    )
    middle: str = _key("attention", "what is between down and up", choices=("attention", "residual", "none"))
    heads: int = _key(1, "attention heads", low=1, high=1024)
    head_channels: int | None = _key(None, "width of an attention head, instead of heads", low=1, high=4096)
    groups: int = _key(8, "groups of each GroupNorm", low=1, high=4096)
    middle_groups: int | None = _key(
        None, "groups of the middle attention's GroupNorm; none: as groups; 0: it has no GroupNorm", low=0, high=4096
    )
    norm_epsilon: float = _key(1e-6, "epsilon of each GroupNorm", above=0.0, high=1.0)
    dropout: float = _key(0.0, "dropout rate inside residual blocks", low=0.0, high=0.95)
    injection: str = _key(
        "add", "how the time enters a residual block: added, or as scale and shift", choices=("add", "scale_shift")
    )
    downsample_padding: str = _key("same", "padding of the strided convolutions", choices=("same", "symmetric"))
    embedding_order: str = _key("sin_cos", "order of the sinusoids", choices=("sin_cos", "cos_sin"))
    frequency_shift: int = _key(1, "1: the last frequency is 1/10,000; 0: just above", low=0, high=1)
    time_width: int | None = _key(None, "width of the time embedding; none: 4 channels", low=1, high=65536)
    classes: int = _key(0, "labels the network is told apart by, as many as the data has; 0: none", low=0, high=10**6)
    null_class: bool = _key(False, "one label more for no label at all, which guidance needs")

    @property
    def level_widths(self) -> tuple[int, ...]:
        """The width of each level, the finest first."""
        return self.widths or tuple(self.channels * multiplier for multiplier in self.multipliers)


@dataclasses.dataclass(frozen=True)
class DiffusionConfig:
    """The chain: q(x_t | x_{t-1}) and what the network predicts about it."""

    timesteps: int = _key(1000, "length T of the chain", low=1, high=100_000)
    schedule: str = _key("linear", "beta schedule", choices=("linear", "cosine", "quadratic", "constant"))
    beta_start: float = _key(1e-4, "first beta (linear, quadratic)", low=1e-8, high=0.999)
    beta_end: float = _key(0.02, "last beta (linear, quadratic), every beta (constant)", low=1e-8, high=0.999)
    prediction: str = _key("eps", "what the network outputs", choices=("eps", "x_0", "v"))
    variance: str = _key(
        "fixed_large", "reverse variance", choices=("fixed_small", "fixed_large", "learned", "learned_range")
    )

    @property
    def learned_variance(self) -> bool:
        """Whether the network outputs the variance as well."""
        return self.variance in ("learned", "learned_range")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images. `none` for image_size or channels means: as the set has them."""

    name: str | None = _key(
        "digits", "digits, folder, or a TensorFlow Datasets name such as mnist or cifar10; none: not known"
    )
    path: str | None = _key(None, "the folder of images, for name=folder")
    data_dir: str | None = _key(None, "where TensorFlow Datasets keeps its sets (default: TFDS_DATA_DIR or its own)")
    split: str = _key(
        "train", "split of a TensorFlow Datasets set, or of a folder with subfolders train, validation, test"
    )
    image_size: tuple[int, ...] | None = _key(None, "side, or height,width in pixels", low=1, high=4096)
    channels: int | None = _key(None, "1 grey, 3 RGB, 4 RGBA", low=1, high=4096)
    max_megapixels: float = _key(200.0, "larger pictures are passed over, for name=folder", above=0.0, high=2000.0)
    truncated: str = _key(
        "skip",
        "a picture file that ends too early, for name=folder: passed over, or read as far as it goes",
        choices=("skip", "read"),
    )
    decoder: int | None = _key(
        None,
        "rules by which pictures become pixels; none: the newest, which a new run then keeps",
        low=1,
        high=DECODER,
    )
    on_bad_file: str = _key("warn", "what a file that is no image does, for name=folder", choices=("warn", "fail"))
    random_flip: bool = _key(False, "mirror half of the training images left to right")
    memory_gb: float = _key(4.0, "decoded images above this size go to a file in cache_dir", low=0.0, high=1e6)
    cache_dir: str = _key("~/.cache/tf_ddpm", "where decoded images too large for memory are kept")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One optimisation run."""

    steps: int = _key(3000, "updates in all", low=1, high=10**9)
    batch_size: int = _key(128, "images an update, over all devices", low=1, high=10**6)
    objective: str = _key("simple", "what is minimised", choices=("simple", "vlb", "hybrid"))
    timestep_sampling: str = _key(
        "uniform", "how t is drawn; importance: by each t's recent losses", choices=("uniform", "importance")
    )
    label_dropout: float = _key(0.0, "share of the labels replaced by the null class", low=0.0, high=0.95)
    min_snr_gamma: float | None = _key(None, "bound of min-SNR weights, for objective=simple", above=0.0, high=1e6)
    optimizer: str = _key("adam", "update rule", choices=("adam", "sgd"))
    learning_rate: float = _key(1e-3, "after the warm-up", above=0.0, high=100.0)
    warmup_steps: int = _key(100, "updates over which the learning rate rises linearly", low=0, high=10**9)
    decay_steps: int = _key(
        0, "update at which a cosine decay from the end of the warm-up reaches 0; 0: none", low=0, high=10**9
    )
    clip_norm: float | None = _key(
        1.0, "largest norm of the gradient of the global batch; none: not clipped", above=0.0, high=1e9
    )
    ema_decay: float = _key(0.999, "decay of the moving average of the weights", low=0.0, high=1.0)
    ema_warmup: bool = _key(True, "let the decay rise as (1+n)/(10+n)")
    seed: int = _key(0, "weights, order of the data, timesteps, noise, dropout", low=0, high=2**31 - 1)
    precision: str = _key("float32", "arithmetic of the network", choices=("float32", "bfloat16"))
    jit: str = _key(
        "auto",
        "what XLA compiles: nothing, the normalisations, or the step; auto: step on GPUs, norms elsewhere",
        choices=("auto", "off", "norms", "step"),
    )
    accumulate: int = _key(
        1, "parts in which a device computes its images, one after the other: less memory", low=1, high=10**6
    )
    steps_per_call: int = _key(
        1,
        "updates in one call, after which signals are looked at: saves a small network what Python costs between them",
        low=1,
        high=1000,
    )
    remat: bool = _key(False, "compute each residual block a second time for its gradient: less memory, 30 % slower")
    log_every: int = _key(50, "updates between two lines of metrics.jsonl", low=1, high=10**9)
    checkpoint_every: int = _key(1000, "updates between two checkpoints", low=1, high=10**9)
    preview_every: int = _key(1000, "updates between two preview grids", low=1, high=10**9)
    preview_images: int = _key(64, "images in a preview grid", low=1, high=10_000)
    keep: int = _key(3, "the last checkpoints that are kept", low=1, high=10**6)
    max_bad_steps: int = _key(
        0,
        "updates in a row that are skipped if loss or gradient is not finite; one more ends the run",
        low=0,
        high=10**9,
    )
    deterministic: bool = _key(False, "let TensorFlow choose operations that give the same bits every time; slower")
    keep_every: int = _key(0, "checkpoints of multiples of this step are kept as well; 0: none", low=0, high=10**9)


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How images are drawn when the command line says nothing else."""

    sampler: str = _key("ddpm", "reverse process", choices=("ddpm", "ddim", "dpmpp", "heun", "langevin"))
    steps: int | None = _key(None, "steps of the reverse chain; none: all T", low=1, high=100_000)
    eta: float = _key(0.0, "noise of ddim and dpmpp: 0 deterministic, 1 as much as ddpm", low=0.0, high=1.0)
    order: int = _key(2, "order of dpmpp", low=1, high=3)
    third_order: str = _key("diffusers", "second-derivative term of dpmpp order 3", choices=("diffusers", "taylor"))
    snr: float = _key(0.16, "signal-to-noise ratio of a langevin correction", above=0.0, high=10.0)
    spacing: str = _key(
        "trailing", "which steps a shorter chain visits", choices=("linspace", "leading", "trailing", "quadratic")
    )
    guidance: float = _key(
        1.0, "weight of the label: 1 as trained, 0 without it, more to exaggerate it", low=0.0, high=100.0
    )
    clip: str = _key("static", "what holds x_0 in range at each step", choices=("none", "static", "dynamic"))
    batch_size: int = _key(64, "images drawn at once", low=1, high=10**6)
    weights: str = _key(
        "ema", "the moving average of the weights, or those of the last update", choices=("ema", "raw")
    )
    precision: str = _key("float32", "arithmetic of the network", choices=("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True)
class Config:
    """All that a run needs; saved as `config.json` in its directory."""

    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    sample: SampleConfig = SampleConfig()


# Keys that may change when a run goes on; any other would make it a different run.
CHANGEABLE = frozenset(
    {"data.path", "data.data_dir", "data.memory_gb", "data.cache_dir", "data.on_bad_file"}
    | {
        f"train.{n}"
        for n in (
            "steps",
            "jit",
            "accumulate",
            "steps_per_call",
            "remat",
            "log_every",
            "checkpoint_every",
            "preview_every",
            "preview_images",
            "keep",
            "keep_every",
            "max_bad_steps",
            "ema_decay",
            "ema_warmup",
        )
    }
    | {f"sample.{field.name}" for field in dataclasses.fields(SampleConfig)}
)


def closest(word: str, known: Iterable[str]) -> str:
    """The names that a misspelt `word` may have meant, else all of them, as text."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return ", ".join(near or known)


@dataclasses.dataclass(frozen=True)
class Key:
    """What a key of the configuration may hold."""

    kind: type
    optional: bool
    default: Any
    help: str
    low: float | None
    high: float | None
    above: float | None
    choices: tuple[str, ...] | None

    @property
    def expected(self) -> str:
        """In words, what the key takes."""
        if self.choices:
            text = "one of " + ", ".join(self.choices)
        else:
            words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
            text = words.get(self.kind, "whole numbers separated by commas")
            if self.above is not None:
                text += f" above {self.above:g} and at most {self.high:g}"
            elif self.low is not None:
                text += f" from {self.low} to {self.high}"
        return text + (" or none" if self.optional else "")


@functools.cache
def keys() -> dict[str, Key]:
    """All keys of the configuration, `section.name`, in order."""
    found = {}
    for section in dataclasses.fields(Config):
        hints = typing.get_type_hints(type(section.default))
        for field in dataclasses.fields(section.default):
            hint = hints[field.name]
            options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            kind = next(option for option in options if option is not type(None))
            kind = typing.get_origin(kind) or kind
            found[f"{section.name}.{field.name}"] = Key(kind, len(options) > 1, field.default, **field.metadata)
    return found


def get(config: Config, key: str) -> Any:
    """The value of `section.name`."""
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def changed(before: Config, after: Config) -> list[str]:
    """The keys that the two do not share, in order."""
    names = list(keys())
    return [name for name in names if get(before, name) != get(after, name)]


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """A copy with typed `values` (`section.name` -> value), each checked on its own."""
    known = keys()
    for key, value in values.items():
        if key not in known:
            raise UserError(f"unknown config key {key!r}; did you mean: {_closest_keys(key)}?")
        section, name = key.split(".")
        value = _checked(key, known[key], value)
        config = dataclasses.replace(
            config, **{section: dataclasses.replace(getattr(config, section), **{name: value})}
        )
    return config


def with_settings(config: Config, settings: Iterable[str]) -> Config:
    """A copy with each `section.name=value` of the command line applied."""
    known = keys()
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals:
            raise UserError(
                f"--set={' '.join(setting.split())}: expected section.key=value, for example --set=train.steps=2000"
            )
        if key not in known:
            raise UserError(
                f"--set={' '.join(setting.split())}: unknown key {key!r}; did you mean: {_closest_keys(key)}?"
            )
        values[key] = _parsed(key, known[key], text.strip())
    return with_values(config, values)


def _closest_keys(key: str) -> str:
    known = list(keys())
    tail = key.rpartition(".")[2]
    same_name = [name for name in known if name.endswith("." + tail)]
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    found = list(dict.fromkeys(same_name + near))
    return (
        ", ".join(found) if found else "one of " + ", ".join(f.name for f in dataclasses.fields(Config)) + " .<name>"
    )


def _refuse(name: str, key: Key, value: Any) -> typing.NoReturn:
    shown = " ".join(value.split()) if isinstance(value, str) else repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    raise UserError(f"{name}={shown}: expected {key.expected} ({key.help})")


def _parsed(name: str, key: Key, text: str) -> Any:
    """The value that a word of the command line stands for."""
    try:
        if key.optional and text.lower() in ("none", "null"):
            return None
        if key.kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if key.kind is tuple:
            return tuple(int(part) for part in text.strip("()[]").split(",") if part.strip())
        if key.kind is str and not text:
            _refuse(name, key, text)
        return key.kind(text)
    except (ValueError, KeyError):
        _refuse(name, key, text)


def _checked(name: str, key: Key, value: Any) -> Any:
    """`value` in the type of its key (a list becomes a tuple, an int a float), or a UserError."""
    if value is None and key.optional:
        return None
    if key.kind is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if key.kind is tuple and isinstance(value, list):
        value = tuple(value)
    numbers = value if key.kind is tuple and isinstance(value, tuple) else ()
    if type(value) is not key.kind or any(type(number) is not int for number in numbers):
        _refuse(name, key, value)
    if key.choices and value not in key.choices:
        _refuse(name, key, value)
    if key.kind in (int, float):
        numbers = (value,)
    for number in numbers:
        too_low = (key.low is not None and number < key.low) or (key.above is not None and number <= key.above)
        if number != number or too_low or (key.high is not None and number > key.high):
            _refuse(name, key, value)
    if name == "data.image_size":
        if len(value) not in (1, 2):
            _refuse(name, key, value)
        value = (value[0], value[-1])
    return value


def validated(config: Config) -> Config:
    """`config` itself if its keys fit together.

    Raises:
      UserError: naming the keys that do not, and what would.
    """
    _check_model(config.model)
    _check_chain(config.diffusion)
    _check_training_and_sampling(config)
    _check_labels(config)
    _check_data(config.data, levels=len(config.model.level_widths))
    return config


def _check_model(model: ModelConfig) -> None:
    widths = model.level_widths
    if not widths:
        raise UserError("model.multipliers is empty: expected a width for each level, for example 1,2,2")
    normed = (model.channels, *widths)
    for width in normed:
        if width % model.groups:
            fits = [g for g in range(1, width + 1) if all(w % g == 0 for w in normed) and min(normed) // g >= 4]
            raise UserError(
                f"model.groups={model.groups} does not divide a width of {width} channels; "
                f"model.groups={max(fits, default=1)} would"
            )
    if model.middle == "attention" and model.middle_groups and widths[-1] % model.middle_groups:
        raise UserError(f"model.middle_groups={model.middle_groups} does not divide the last level's {widths[-1]}")
    if model.channels % 2:
        raise UserError(f"model.channels={model.channels}: expected an even number (the embedding pairs sin and cos)")
    attending = set(model.attention_levels) | set(model.up_attention_levels or ())
    for level in attending:
        if level >= len(widths):
            raise UserError(f"model.attention_levels has {level}, but the last level is {len(widths) - 1}")
    if model.middle == "attention":
        attending.add(len(widths) - 1)
    name = "heads" if model.head_channels is None else "head_channels"
    divisor = getattr(model, name)
    if any(widths[level] % divisor for level in attending):
        shown = [widths[level] for level in sorted(attending)]
        remedy = "model.heads=1" if name == "heads" else "model.head_channels=none"
        raise UserError(f"model.{name}={divisor} does not divide the widths {shown} of the attentions; {remedy} would")


def _check_chain(diffusion: DiffusionConfig) -> None:
    if diffusion.beta_start > diffusion.beta_end and diffusion.schedule in ("linear", "quadratic"):
        raise UserError(
            f"diffusion.beta_start={diffusion.beta_start} is above diffusion.beta_end={diffusion.beta_end}: "
            "noise must grow along the chain"
        )
    end = schedules.alpha_bars(
        schedules.betas(diffusion.schedule, diffusion.timesteps, diffusion.beta_start, diffusion.beta_end)
    )[-1]
    if end < _SMALLEST_ALPHA_BAR:
        raise UserError(
            f"the chain ends at alpha_bar={end:.1g}, which float32 cannot undo: expected at least "
            f"{_SMALLEST_ALPHA_BAR:g}; lower diffusion.beta_end={diffusion.beta_end:g} or "
            f"diffusion.timesteps={diffusion.timesteps}"
        )


def _check_training_and_sampling(config: Config) -> None:
    diffusion, train = config.diffusion, config.train
    if config.sample.steps is not None and config.sample.steps > diffusion.timesteps:
        raise UserError(
            f"sample.steps={config.sample.steps} is more than diffusion.timesteps={diffusion.timesteps}: "
            f"expected 1 to {diffusion.timesteps}"
        )
    if diffusion.learned_variance and train.objective == "simple":
        raise UserError(
            f"diffusion.variance={diffusion.variance} is not taught by train.objective=simple; expected hybrid or vlb"
        )
    if train.objective == "hybrid" and not diffusion.learned_variance:
        raise UserError("train.objective=hybrid needs diffusion.variance=learned_range (or learned)")
    if train.min_snr_gamma is not None and train.objective != "simple":
        raise UserError(f"train.min_snr_gamma weighs train.objective=simple, not {train.objective}")
    if train.decay_steps and train.decay_steps <= train.warmup_steps:
        raise UserError(
            f"train.decay_steps={train.decay_steps} counts from step 0 and must exceed "
            f"train.warmup_steps={train.warmup_steps}"
        )


def _check_labels(config: Config) -> None:
    model, guidance = config.model, config.sample.guidance
    if model.null_class and not model.classes:
        raise UserError("model.null_class=true needs classes: set model.classes to the number of labels of the data")
    if config.train.label_dropout > 0 and not model.null_class:
        raise UserError(
            f"train.label_dropout={config.train.label_dropout:g} replaces labels by the null class: "
            "expected model.null_class=true"
        )
    if guidance != 1.0 and not model.classes:
        raise UserError(f"guidance {guidance:g}: this run knows no classes; expected 1 (train one with model.classes)")
    if guidance != 1.0 and not model.null_class:
        raise UserError(
            f"guidance {guidance:g}: this run has no null class to guide away from; expected 1 "
            "(train one with model.null_class=true and train.label_dropout=0.1)"
        )


def _check_data(data: DataConfig, levels: int) -> None:
    if data.name == "folder":
        if data.path is None:
            raise UserError("data.name=folder needs the folder: --set=data.path=DIR")
        if data.image_size is None:
            raise UserError("data.name=folder needs a size to bring the images to: --set=data.image_size=32")
    if data.name in ("digits", "folder") and data.channels not in (None, 1, 3, 4):
        raise UserError(f"data.channels={data.channels}: expected 1 (grey), 3 (RGB) or 4 (RGBA)")
    usual = DataConfig.max_megapixels, DataConfig.truncated
    if data.decoder == 1 and (data.max_megapixels, data.truncated) != usual:
        raise UserError("data.max_megapixels and data.truncated are of data.decoder=2; this run reads pictures by 1")
    factor = 2 ** (levels - 1)
    if data.image_size is not None and any(side % factor for side in data.image_size):
        nearest = ",".join(str(max(factor, round(side / factor) * factor)) for side in data.image_size)
        raise UserError(
            f"data.image_size={','.join(map(str, data.image_size))}: {levels} levels need sides "
            f"divisible by {factor}, for example {nearest}"
        )


def warnings(config: Config) -> list[str]:
    """What is legal but rarely meant, a line each."""
    found = []
    channels, groups = config.model.channels, config.model.groups
    if channels // groups == 1:
        found.append(
            f"model.groups={groups} leaves one channel a group, and the normalisation then erases the time "
            f"embedding; model.groups={max(1, channels // 4)} keeps it"
        )
    if config.model.null_class and config.train.label_dropout == 0:
        found.append(
            "model.null_class=true with train.label_dropout=0: the null class, and so guidance, is not trained"
        )
    if 0 < config.train.decay_steps < config.train.steps:
        found.append(
            f"the learning rate is 0 from step train.decay_steps={config.train.decay_steps} on, "
            f"before train.steps={config.train.steps}"
        )
    return found


def to_json(config: Config) -> str:
    """The text of `config.json`."""
    return json.dumps({"format_version": FORMAT_VERSION, **dataclasses.asdict(config)}, indent=2) + "\n"


def from_json(text: str, where: str = "config.json") -> Config:
    """The inverse of `to_json`.

    Raises:
      UserError: for text that is no config, is of a newer format, or holds an unknown or wrong key.
    """
    try:
        loaded = json.loads(text)
        version = loaded.pop("format_version")
        values = {f"{section}.{name}": value for section, keys_ in loaded.items() for name, value in keys_.items()}
        sections = [field.name for field in dataclasses.fields(Config)]
        unknown = [section for section in loaded if section not in sections]
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        raise UserError(f"{where} is not a run's configuration (expected JSON with a format_version)") from None
    if type(version) is not int or version < 1:
        raise UserError(f"{where}: format_version={version!r} is not a version; expected 1 to {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{where} has format_version {version}; this program reads up to {FORMAT_VERSION}: use a newer one"
        )
    if unknown:
        raise UserError(f"{where}: unknown section {unknown[0]!r}; expected {', '.join(sections)}")
    if values.get("data.name", "digits") is not None:  # (an imported run has decoded nothing yet)
        values.setdefault("data.decoder", 1)  # the rules before they were told apart
    try:
        return validated(with_values(Config(), values))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def read(run_dir: str | os.PathLike) -> Config:
    """The configuration of the run in `run_dir`.

    Raises:
      UserError: where there is no run, or its config cannot be read.
    """
    path = Path(run_dir) / "config.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise UserError(f"cannot read {path}: it is a link that leads nowhere") from None
        raise UserError(
            f"no run in {run_dir} (it has no config.json); "
            f"train one with: python main.py --mode=train --run_dir={run_dir}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    config = from_json(text, str(path))
    if config.data.image_size is None or config.data.channels is None:
        raise UserError(f"{path}: data.image_size or data.channels is missing; expected those of the run's images")
    return config


def continued(saved: Config, wanted: Config, begun: bool = True) -> Config:
    """The configuration with which the run of `saved` goes on when `wanted` is asked for.

    Args:
      begun: whether it has a checkpoint; without one all but its data may still change.

    Raises:
      UserError: naming the keys that would make it a different run.
    """
    fixed, values = [], {}
    for key in changed(saved, wanted):
        old, new = get(saved, key), get(wanted, key)
        if new is None and key in ("data.image_size", "data.channels", "data.decoder"):
            continue  # they were resolved when it began
        if new == "auto" and key == "train.jit":
            continue  # it was resolved from the devices
        imported = saved.data.name is None and key not in ("data.image_size", "data.channels")
        section = key.partition(".")[0]
        if key in CHANGEABLE or (imported and section in ("data", "train")) or (not begun and section != "data"):
            values[key] = new  # an imported run begins its training
        else:
            fixed.append(f"{key} is {_shown(old)}, not {_shown(new)}")
    if fixed:
        raise UserError(
            "this run was started with another configuration: "
            + "; ".join(fixed[:4])
            + ("; ..." if len(fixed) > 4 else "")
            + "\nGo on with its own values, or start a new run with another --run_dir."
        )
    return validated(with_values(saved, values))


SAMPLING_KEYS = frozenset(f"sample.{field.name}" for field in dataclasses.fields(SampleConfig))
# What may change where a run is measured on data.
MEASURING_KEYS = SAMPLING_KEYS | frozenset(
    f"data.{name}"
    for name in (
        "name",
        "path",
        "data_dir",
        "split",
        "memory_gb",
        "cache_dir",
        "on_bad_file",
        "decoder",
        "max_megapixels",
        "truncated",
    )
)


def of_data(settings: Iterable[str]) -> Config:
    """The defaults with `--set` of data.* keys, where there is no run.

    Raises:
      UserError: for another key, or a value that is out of range.
    """
    config = with_settings(Config(), settings)
    for key in changed(Config(), config):
        if not key.startswith("data."):
            raise UserError(f"--set={key}: there is no run; expected data.* keys only")
    return validated(config)


def used(
    saved: Config, settings: Iterable[str], flags: dict[str, Any], allowed: frozenset[str] = SAMPLING_KEYS
) -> Config:
    """The configuration with which a trained run is used: `--set` of the `allowed` keys, and the sampling flags.

    Args:
      flags: value by key of `SampleConfig`; None: not given.

    Raises:
      UserError: for another key, or a value that does not fit the run.
    """
    wanted = with_settings(saved, settings)
    for key in changed(saved, wanted):
        if key not in allowed:
            known = ", ".join(sorted(allowed)) if allowed != SAMPLING_KEYS else "sample.* keys only"
            raise UserError(f"--set={key} cannot change a trained run; this mode takes {known}")
    given = {f"sample.{name}": value for name, value in flags.items() if value is not None}
    return validated(with_values(wanted, given))


def portable(config: Config) -> Config:
    """`config` without the paths of this machine, for files that leave it."""
    name = None if config.data.name == "folder" else config.data.name
    paths = {f"data.{key}": getattr(DataConfig(), key) for key in ("path", "data_dir", "cache_dir")}
    return with_values(config, paths | {"data.name": name})


def label(config: Config, word: str | None, names: Sequence[str] = ()) -> int | None:
    """The label that a word asks for: a number or a name, `none` (-1), or `all` or nothing (None).

    Args:
      names: of the labels, by label. A word that is a number is the number, whatever the names are.

    Raises:
      UserError: where the run does not know it.
    """
    if word in (None, "all"):
        if word and not config.model.classes:
            raise UserError("--label=all: this run knows no classes; leave --label out")
        return None
    if word in names and word != "none" and not word.isdecimal():
        value = names.index(word)
    else:
        if word != "none" and not word.removeprefix("-").isdecimal():
            known = f"; this run knows {closest(word, names)}" if names and config.model.classes else ""
            raise UserError(f"--label={word}: expected a number, a name, all or none{known}")
        value = -1 if word == "none" else int(word)
    check_label(config, value)
    return value


def check_label(config: Config, value: int) -> None:
    """Whether a run knows the label `value`, -1 being no label.

    Raises:
      UserError: where it does not.
    """
    classes = config.model.classes
    if not classes:
        raise UserError(f"label {value}: this run knows no classes (train one with a preset such as digits_cond)")
    if value == -1 and not config.model.null_class:
        raise UserError(f"label none: this run has no null class; expected 0 to {classes - 1}")
    if not -1 <= value < classes:
        raise UserError(f"label {value}: expected 0 to {classes - 1}" + (", or none" * config.model.null_class))


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
