"""What is legal in a configuration, but rarely meant."""

from __future__ import annotations

import dataclasses

from tf_ddpm.config.schema import Config, SampleConfig
from tf_ddpm.diffusion.sampler_facts import SAMPLERS

_OF_KARRAS = ("sigma_min", "sigma_max", "rho")
_OF_GUIDANCE = ("guide", "guidance_min", "guidance_max")


def idle(config: Config) -> dict[str, str]:
    """The keys of sampling with values of their own that change nothing, and what they belong to."""
    sample, usual, found = config.sample, SampleConfig(), {}
    for name in (field.name for field in dataclasses.fields(sample)):
        samplers = [word for word, facts in SAMPLERS.items() if name in facts.settings]
        if getattr(sample, name) == getattr(usual, name):
            continue
        if samplers and sample.sampler not in samplers:
            found[f"sample.{name}"] = f"sample.sampler={' or '.join(samplers)}"
        elif name in _OF_KARRAS and sample.spacing != "karras":
            found[f"sample.{name}"] = "sample.spacing=karras"
        elif name.startswith("churn_") and sample.churn == 0:
            found[f"sample.{name}"] = "sample.churn"
        elif name in _OF_GUIDANCE and sample.guidance == 1.0:
            found[f"sample.{name}"] = "sample.guidance, for example 2"
    if config.autoencoder.trained and sample.weights != usual.weights:
        found["sample.weights"] = "networks that denoise; the scale of latents is that of the average"
    if sample.churn > 0 and sample.churn_min >= sample.churn_max:
        found["sample.churn"] = "a sample.churn_min below sample.churn_max"
    return found


def _weighed_twice(config: Config) -> list[str]:
    """Lognormal levels with what was made for even ones (Karras et al. 2022, section 5)."""
    train, found = config.train, list[str]()
    if train.level_sampling != "lognormal" or config.autoencoder.trained:
        return found
    if train.min_snr_gamma is not None:
        found.append(
            f"train.min_snr_gamma={train.min_snr_gamma:g} with train.level_sampling=lognormal: both weigh the levels; "
            "expected train.min_snr_gamma=none, or train.level_sampling=uniform"
        )
    if config.diffusion.prediction == "eps":
        found.append(
            "diffusion.prediction=eps with train.level_sampling=lognormal: the loss of eps hardly counts large noise, "
            "of which the lognormal draws little; expected v, or train.level_sampling=uniform"
        )
    return found


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
    if config.autoencoder.trained and config.train.remat:
        found.append("train.remat=true has no effect: it is of networks that denoise")
    attends = config.model.attention_levels or config.model.middle == "attention"
    without = "model.attention_levels=none with model.middle=residual"
    if config.autoencoder.trained:
        own = config.autoencoder
        attends = own.kind != "tiny" and (own.attention_levels or own.middle_attention)
        without = "autoencoder.attention_levels=none with autoencoder.middle_attention=false"
    if config.train.crop is not None and attends:
        found.append(
            f"train.crop={config.train.crop}: attention learns from parts of images and then sees whole ones; "
            f"{without} has none"
        )
    found += [f"{key} has no effect: it is of {known}" for key, known in idle(config).items()]
    found += _weighed_twice(config)
    if config.autoencoder.trained and config.train.averages:
        found.append("train.averages has no effect: it is of networks that denoise")
    if config.train.averages_every and not config.train.averages:
        found.append("train.averages_every has no effect: it is of train.averages")
    if 0 < config.train.decay_steps < config.train.steps:
        found.append(
            f"the learning rate is 0 from step train.decay_steps={config.train.decay_steps} on, "
            f"before train.steps={config.train.steps}"
        )
    return found
