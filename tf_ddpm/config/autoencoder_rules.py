"""What must fit together in the configuration of an autoencoder, and of a run that diffuses latents."""

from __future__ import annotations

import dataclasses

from tf_ddpm.config.autoencoder import AutoencoderConfig
from tf_ddpm.config.schema import Config
from tf_ddpm.errors import UserError

# Keys of networks that denoise, which say nothing about an autoencoder.
_OF_DENOISERS = (
    "objective",
    "level_sampling",
    "level_mean",
    "level_std",
    "nearest_noise",
    "label_dropout",
    "min_snr_gamma",
    "augmentation",
    "clean_share",
    "blur",
)
_OF_NORMALISED = ("groups", "norm_epsilon", "attention_levels", "middle_attention", "decoder")
_OF_KINDS = {
    "kl": (*_OF_NORMALISED, "quant_conv", "post_quant_conv", "kl_weight"),
    "vq": (*_OF_NORMALISED, "codes", "code_channels", "commitment"),
    "tiny": (),
}
_OF_SOME = {name for names in _OF_KINDS.values() for name in names}


def check(config: Config) -> None:
    """Whether the keys fit together.

    Raises:
      UserError: naming the key that does not fit, and what would.
    """
    if config.autoencoder.trained:
        _check_alone(config)
        _check_autoencoder(config.autoencoder)
        _check_crop(config)
    else:
        given = _changed(config, "autoencoder")
        if given:
            raise UserError(f"autoencoder.{given[0]} is of autoencoders: autoencoder.kind=kl, vq or tiny")
    codec = config.codec
    if codec.run is None and (codec.factor, codec.channels) != (None, None):
        raise UserError("codec.factor and codec.channels are of runs that diffuse latents: codec.run=AUTOENCODER_RUN")
    if codec.run is not None:
        _check_latents(config)


def _changed(config: Config, section: str) -> list[str]:
    here, usual = getattr(config, section), getattr(Config(), section)
    return [
        field.name for field in dataclasses.fields(here) if getattr(here, field.name) != getattr(usual, field.name)
    ]


def of_denoisers(config: Config) -> list[str]:
    """The keys with a value of their own that say nothing about an autoencoder."""
    sections = {section: _changed(config, section) for section in ("model", "diffusion", "codec")}
    sections["train"] = [name for name in _changed(config, "train") if name in _OF_DENOISERS]
    sections["sample"] = [name for name in _changed(config, "sample") if name not in ("batch_size", "weights")]
    return [f"{section}.{name}" for section, names in sections.items() for name in names]


def _check_alone(config: Config) -> None:
    """An autoencoder diffuses nothing."""
    if config.sample.precision != "float32":
        raise UserError(f"sample.precision={config.sample.precision}: an autoencoder encodes and decodes in float32")
    given = of_denoisers(config)
    if given and given[0].startswith("sample."):
        raise UserError(f"{given[0]}: this run is an autoencoder, which draws no images")
    if given:
        raise UserError(f"{given[0]} is of networks that denoise; this run trains an autoencoder")


def _check_autoencoder(autoencoder: AutoencoderConfig) -> None:
    kind, widths = autoencoder.kind, autoencoder.widths
    if not widths:
        raise UserError("autoencoder.widths is empty: expected a width for each level, for example 32,64,64")
    for name in dataclasses.fields(autoencoder):
        usual = getattr(AutoencoderConfig(), name.name)
        if name.name in _OF_SOME and name.name not in _OF_KINDS[kind] and getattr(autoencoder, name.name) != usual:
            kinds = " or ".join(other for other, names in _OF_KINDS.items() if name.name in names)
            raise UserError(f"autoencoder.{name.name} is for autoencoder.kind={kinds}, not {kind}")
    if kind == "tiny":
        return
    for width in widths:
        if width % autoencoder.groups:
            fits = max(g for g in range(1, min(widths) + 1) if all(w % g == 0 for w in widths))
            raise UserError(
                f"autoencoder.groups={autoencoder.groups} does not divide a width of {width} channels; "
                f"autoencoder.groups={fits} would"
            )
    for level in autoencoder.attention_levels:
        if level >= len(widths):
            raise UserError(f"autoencoder.attention_levels has {level}, but the last level is {len(widths) - 1}")


def _check_crop(config: Config) -> None:
    crop, factor = config.train.crop, config.autoencoder.factor
    if crop is not None and crop % factor:
        nearest = max(factor, round(crop / factor) * factor)
        raise UserError(
            f"train.crop={crop}: an autoencoder of {len(config.autoencoder.widths)} levels needs sides divisible by "
            f"{factor}, for example {nearest}"
        )
    if crop is not None and config.data.image_size is not None and crop > min(config.data.image_size):
        raise UserError(f"train.crop={crop} is larger than data.image_size: expected at most its smaller side")


def _check_latents(config: Config) -> None:
    """A run that diffuses latents."""
    if config.model.enlarges:
        raise UserError("model.condition=low_res enlarges pixels; it does not go with codec.run")
    if config.sample.clip != "none":
        raise UserError(
            f"sample.clip={config.sample.clip}: latents have no range to be kept in; expected sample.clip=none"
        )
    if config.data.image_size and config.codec.factor:
        sides = config.data.image_size
        if any(side % config.codec.factor for side in sides):
            raise UserError(
                f"data.image_size={','.join(map(str, sides))}: the autoencoder needs sides divisible by "
                f"{config.codec.factor}"
            )
