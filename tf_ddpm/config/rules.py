"""What must fit together in a configuration."""

from __future__ import annotations

import itertools
import math

import numpy as np

from tf_ddpm.config import autoencoder_rules, distillation_rules
from tf_ddpm.config.schema import Config, DataConfig, DiffusionConfig, ModelConfig, SampleConfig
from tf_ddpm.config.training import TrainConfig
from tf_ddpm.diffusion import schedules
from tf_ddpm.errors import UserError, required

_LEAST_TOP = 5.0  # sigma / alpha at which an image is noise, nearly
_LEAST_SHARE = 0.01  # of lognormal levels within the chain
_SMALLEST_ALPHA_BAR = 1e-14  # 1 / sqrt(alpha_bar) multiplies the rounding of the predicted eps


def validated(config: Config) -> Config:
    """`config` itself if its keys fit together.

    Raises:
      UserError: naming the keys that do not, and what would.
    """
    _check_model(config.model)
    _check_chain(config.diffusion)
    _check_training_and_sampling(config)
    _check_labels(config)
    _check_enlarging(config)
    autoencoder_rules.check(config)
    distillation_rules.check(config)
    _check_data(config)
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
    if diffusion.schedule == "ve" and diffusion.sigma_min >= diffusion.sigma_max:
        raise UserError(
            f"diffusion.sigma_min={diffusion.sigma_min:g} is not below diffusion.sigma_max={diffusion.sigma_max:g}: "
            "noise must grow along the chain"
        )
    for name in ("sigma_min", "sigma_max"):
        if getattr(diffusion, name) != getattr(DiffusionConfig, name) and diffusion.schedule != "ve":
            raise UserError(f"diffusion.{name} is of diffusion.schedule=ve")
    if not (diffusion.betas > 0.0).all():  # too near each other to be told apart
        raise UserError(
            f"diffusion.sigma_min={diffusion.sigma_min:g}, diffusion.sigma_max={diffusion.sigma_max:g}: expected them "
            f"further apart over diffusion.timesteps={diffusion.timesteps}, or a larger sigma_min"
        )
    end = schedules.alpha_bars(diffusion.betas)[-1]
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
    _check_levels(config)
    _check_averages(config)
    if train.decay_steps and train.decay_steps <= train.warmup_steps:
        raise UserError(
            f"train.decay_steps={train.decay_steps} counts from step 0 and must exceed "
            f"train.warmup_steps={train.warmup_steps}"
        )


def _check_averages(config: Config) -> None:
    averages = config.train.averages
    if len(set(averages)) < len(averages):
        raise UserError(f"train.averages={','.join(f'{width:g}' for width in averages)}: expected each width once")
    if config.sample.ema is not None and config.sample.weights != "ema":
        raise UserError(f"ema={config.sample.ema:g} is a width of weights=ema, not of {config.sample.weights}")


def _check_levels(config: Config) -> None:
    """Which noise is drawn in training, and which levels a karras grid may visit."""
    diffusion, train, sample = config.diffusion, config.train, config.sample
    if diffusion.sigma_data != DiffusionConfig.sigma_data and diffusion.prediction != "edm":
        raise UserError("diffusion.sigma_data is of diffusion.prediction=edm")
    if train.level_sampling == "lognormal" and train.objective != "simple":
        raise UserError(
            f"train.level_sampling=lognormal weighs train.objective=simple; {train.objective} is a bound, and expects "
            "uniform or importance"
        )
    if train.level_sampling == "lognormal":
        _check_lognormal(diffusion, train)
    for name in ("level_mean", "level_std"):
        if getattr(train, name) != getattr(TrainConfig, name) and train.level_sampling != "lognormal":
            raise UserError(f"train.{name} is of train.level_sampling=lognormal")
    if train.nearest_noise > 1 and train.objective != "simple":
        raise UserError(
            f"train.nearest_noise={train.nearest_noise}: train.objective={train.objective} is a bound, which holds "
            "for noise drawn at random; expected 1"
        )
    if sample.sigmas and sample.spacing != "sigmas":
        raise UserError("sample.sigmas is of sample.spacing=sigmas")
    if sample.spacing == "sigmas" and (sample.sigmas or sample.steps is not None):
        _check_sigmas(sample, diffusion)
    if diffusion.schedule == "ve" and sample.sampler != "annealed_langevin":  # which forgets where it began
        _check_top(f"diffusion.sigma_max={diffusion.sigma_max:g}", diffusion.sigma_max)
    if sample.spacing != "karras":
        return
    sigmas = schedules.relative_sigmas(diffusion.betas)
    least, most = sigmas[[0, -1]]
    for name in ("sigma_min", "sigma_max"):
        value = getattr(sample, name)
        if value is not None and not 0.999999 * least <= value <= 1.000001 * most:
            raise UserError(f"sample.{name}={value:g}: this chain's levels go from {least:.4g} to {most:.4g}")
    lowest, highest = schedules.karras_ends(sigmas, sample.sigma_min, sample.sigma_max)
    if lowest >= highest and len(sigmas) > 1:
        raise UserError(f"sample.sigma_min={lowest:g} is not below sample.sigma_max={highest:g}")
    _check_top(f"sample.sigma_max={highest:g}", highest, most)


def _check_top(said: str, sigma: float, most: float = math.inf) -> None:
    """Whether images may begin there: they do as noise alone, which they are at the noisiest levels.

    Args:
      most: the noisiest of the chain, with which a shorter one may begin whatever it is.
    """
    if sigma < min(_LEAST_TOP, 0.99 * most):
        other = ", or sample.sampler=annealed_langevin" if most == math.inf else ""
        raise UserError(f"{said}: no level at which an image is noise alone; expected {_LEAST_TOP:g} at least{other}")


def _check_lognormal(diffusion: DiffusionConfig, train: TrainConfig) -> None:
    ends = np.log(schedules.relative_sigmas(diffusion.betas)[[0, -1]])
    below = [0.5 * math.erfc((train.level_mean - end) / train.level_std / math.sqrt(2.0)) for end in ends]
    if diffusion.timesteps > 1 and below[1] - below[0] < _LEAST_SHARE:
        raise UserError(
            f"train.level_mean={train.level_mean:g}, train.level_std={train.level_std:g}: hardly a level of this "
            f"chain, whose log(sigma/alpha) goes from {ends[0]:.2f} to {ends[1]:.2f}; expected a mean within"
        )


def _check_sigmas(sample: SampleConfig, diffusion: DiffusionConfig) -> None:
    """The levels that `spacing=sigmas` visits."""
    sigmas = sample.sigmas or tuple(schedules.few_step_sigmas(required(sample.steps, "sample.steps")))
    given = ",".join(f"{sigma:.4g}" for sigma in sigmas)
    if any(later >= earlier for earlier, later in itertools.pairwise(sigmas)):
        raise UserError(f"sample.sigmas={given}: expected each smaller than the one before")
    if len(sigmas) != (sample.steps or diffusion.timesteps):
        raise UserError(
            f"sample.sigmas={given}: expected {sample.steps or diffusion.timesteps} of them, one for each step"
        )
    table = schedules.relative_sigmas(diffusion.betas)
    try:
        schedules.nearest_timesteps(table, np.array(sigmas))
    except ValueError as error:
        raise UserError(f"sample.sigmas={given}: {error}") from None
    _check_top(f"sample.sigmas={given}", sigmas[0], table[-1])


def _check_labels(config: Config) -> None:
    model, guidance = config.model, config.sample.guidance
    if model.null_class and not model.classes:
        raise UserError("model.null_class=true needs classes: set model.classes to the number of labels of the data")
    if config.train.label_dropout > 0 and not model.null_class:
        raise UserError(
            f"train.label_dropout={config.train.label_dropout:g} replaces labels by the null class: "
            "expected model.null_class=true"
        )
    sample = config.sample
    if sample.guidance_min >= sample.guidance_max:
        raise UserError(
            f"guidance_interval={sample.guidance_min:g},{sample.guidance_max:g}: expected the lower end first"
        )
    if sample.guide is not None:
        if model.enlarges:
            raise UserError("guide: this run enlarges images; expected one that draws from noise alone")
        return  # a worse network guides, and no null class is asked for
    if guidance != 1.0 and not model.classes:
        raise UserError(
            f"guidance {guidance:g}: this run is unconditional; expected 1 (train one with model.classes), or a worse "
            "network that guides, for example an earlier checkpoint: --guide=STEP"
        )
    if guidance != 1.0 and not model.null_class:
        raise UserError(
            f"guidance {guidance:g}: this run has no null class to guide away from; expected 1 "
            "(train one with model.null_class=true and train.label_dropout=0.1)"
        )
    if guidance != 1.0 and not config.takes_guidance:
        distill = config.distill
        why = "says where a path ends, and not the mean that guidance exaggerates"
        if distill.guided:
            why = f"draws with its teacher's, distill.guidance={distill.guidance:g}"
        raise UserError(f"guidance {guidance:g}: this run is a student that {why}; expected 1")


_OF_ENLARGING = {"model": ("factor",), "train": ("crop", "blur", "augmentation", "clean_share")}


def _check_enlarging(config: Config) -> None:
    """The keys of a network that enlarges images."""
    model, train, sample = config.model, config.train, config.sample
    if not model.enlarges:
        known = ("train.crop",) if config.autoencoder.trained else ()
        for key, section in ((key, part) for part, keys in _OF_ENLARGING.items() for key in keys):
            other = getattr(getattr(config, section), key) != getattr(getattr(Config(), section), key)
            if other and f"{section}.{key}" not in known:
                raise UserError(f"{section}.{key} is of networks that enlarge: model.condition=low_res")
        if sample.augmentation:
            raise UserError(f"augmentation {sample.augmentation}: this run enlarges no images; expected 0")
        return
    if model.factor == 3:
        raise UserError("model.factor=3: expected 2 or 4")
    step = model.phase
    if train.blur > 0 and config.data.image_size is not None and min(config.data.image_size) < 2 * model.factor:
        raise UserError(f"train.blur={train.blur:g} needs smaller images of at least 2x2 pixels; expected 0")
    sides = {"data.image_size": config.data.image_size or (), "train.crop": (train.crop,) if train.crop else ()}
    for key, found in sides.items():
        if any(side % step for side in found):
            shown = ",".join(map(str, found))
            nearest = ",".join(str(max(step, round(side / step) * step)) for side in found)
            raise UserError(
                f"{key}={shown}: a network of {len(model.level_widths)} levels that enlarges {model.factor} times "
                f"needs sides divisible by {step}, for example {nearest}"
            )
    if train.crop is not None and config.data.image_size is not None and train.crop > min(config.data.image_size):
        raise UserError(f"train.crop={train.crop} is larger than data.image_size: expected at most its smaller side")
    if sample.augmentation > train.augmentation:
        raise UserError(
            f"augmentation {sample.augmentation}: this run was trained with up to {train.augmentation}; "
            f"expected 0 to {train.augmentation}"
        )


def _check_data(config: Config) -> None:
    data = config.data
    if data.holdout and data.name not in ("folder", None):  # (a copy that leaves its machine names no folder)
        raise UserError(f"data.holdout is for data.name=folder; data.name={data.name} has splits of its own")
    if data.name == "folder":
        if data.path is None:
            raise UserError("data.name=folder needs the folder: data.path=DIR")
        if data.image_size is None:
            raise UserError("data.name=folder needs a size to bring the images to, for example data.image_size=32")
    if data.name in ("digits", "folder") and data.channels not in (None, 1, 3, 4):
        raise UserError(f"data.channels={data.channels}: expected 1 (grey), 3 (RGB) or 4 (RGBA)")
    usual = DataConfig.max_megapixels, DataConfig.truncated
    if data.decoder == 1 and (data.max_megapixels, data.truncated) != usual:
        raise UserError("data.max_megapixels and data.truncated are of data.decoder=2; this run reads pictures by 1")
    levels = len(config.model.level_widths)
    factor, wanting = 2 ** (levels - 1), f"{levels} levels need"
    if config.autoencoder.trained:
        factor = config.autoencoder.factor
        wanting = f"an autoencoder of {len(config.autoencoder.widths)} levels needs"
    elif config.codec.factor:
        factor, wanting = factor * config.codec.factor, f"{levels} levels on latents need"
    if data.image_size is not None and any(side % factor for side in data.image_size):
        nearest = ",".join(str(max(factor, round(side / factor) * factor)) for side in data.image_size)
        raise UserError(
            f"data.image_size={','.join(map(str, data.image_size))}: {wanting} sides "
            f"divisible by {factor}, for example {nearest}"
        )
