"""Autoencoders in the words of `diffusers` (AutoencoderKL, VQModel, AutoencoderTiny), both ways. No TensorFlow.

An option that this project cannot honour is refused by its name, whichever way it goes.
"""

from __future__ import annotations

from typing import Any

from tf_ddpm.config import Config, LatentScale
from tf_ddpm.diffusers_format.refusals import refuse, refuse_others, translated
from tf_ddpm.errors import UserError

KINDS = {"AutoencoderKL": "kl", "VQModel": "vq", "AutoencoderTiny": "tiny"}
_ADDED = 0.18215  # the scaling factor that diffusers takes where a file names none, and writes when it saves again
_DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
_UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}

# What diffusers takes where a config is silent.
_SHARED = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": _ADDED,
    "mid_block_add_attention": True,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "kl": _SHARED
    | {
        "latent_channels": 4,
        "shift_factor": None,
        "latents_mean": None,
        "latents_std": None,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
    },
    # A VQModel that says nothing of a scale has none: the class's own came later than the best-known model, which was
    # trained without, and with it draws wrong images (huggingface/diffusers, issue 6725).
    "vq": _SHARED | {"latent_channels": 3, "num_vq_embeddings": 256, "vq_embed_dim": None, "scaling_factor": 1.0},
    "tiny": {
        "in_channels": 3,
        "out_channels": 3,
        "encoder_block_out_channels": [64, 64, 64, 64],
        "decoder_block_out_channels": [64, 64, 64, 64],
        "latent_channels": 4,
        "num_encoder_blocks": [1, 3, 3, 3],
        "num_decoder_blocks": [3, 3, 3, 1],
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
    },
}
_FIXED: dict[str, dict[str, tuple]] = {
    "kl": {"act_fn": ("silu", "swish")},
    "vq": {"act_fn": ("silu", "swish"), "norm_type": ("group",), "lookup_from_codebook": (False,)},
    "tiny": {"act_fn": ("relu",), "upsample_fn": ("nearest",), "upsampling_scaling_factor": (2,)},
}
# How they compute, or what they do to latents that are stored as bytes.
_IGNORED = {"force_upcast", "latent_magnitude", "latent_shift", "block_out_channels_tiny"}


def autoencoder_words(given: dict[str, Any]) -> tuple[dict[str, Any], LatentScale]:
    """Keys of `autoencoder` and `data` from the config of an autoencoder, and the scale of its latents.

    Raises:
      UserError: naming the option that cannot be honoured.
    """
    name = given.get("_class_name", "AutoencoderKL")
    kind = translated("autoencoder", "_class_name", {"_class_name": name}, KINDS)
    ignored = _IGNORED | ({"block_out_channels"} if kind == "tiny" else set())
    refuse_others(name, given, _DEFAULTS[kind], _FIXED[kind], ignored)
    config = _DEFAULTS[kind] | given
    for key in ("in_channels", "out_channels", "latent_channels", "vq_embed_dim"):
        value = config.get(key)
        if (type(value) is not int or value < 1) and (key, value) != ("vq_embed_dim", None):
            refuse(name, key, value, "expected a whole number above 0")
    if config["out_channels"] != config["in_channels"]:
        refuse(name, "out_channels", config["out_channels"], "expected in_channels")
    words = _tiny_words(name, config) if kind == "tiny" else _block_words(name, kind, config)
    words |= {
        "autoencoder.kind": kind,
        "autoencoder.latent_channels": config["latent_channels"],
        "data.channels": config["in_channels"],
    }
    length = config.get("vq_embed_dim") or config["latent_channels"]
    return words, _scale(name, config, length)


def scale_notes(given: dict[str, Any]) -> list[str]:
    """What a person should know of the scale that the config of an autoencoder names, a line each."""
    if given.get("_class_name") != "VQModel" or given.get("scaling_factor") != _ADDED:
        return []
    return [
        f"the VQModel names scaling_factor={_ADDED}, which diffusers adds where it saves a model again that had none; "
        "with it a model that was trained without, such as CompVis/ldm-celebahq-256, draws wrong images: import that "
        "with --scaling_factor=1"
    ]


def _block_words(name: str, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    widths = _numbers(name, config, "block_out_channels")
    attention = _attending(name, config, "down_block_types", _DOWN, len(widths))
    if attention != _attending(name, config, "up_block_types", _UP, len(widths))[::-1]:
        refuse(name, "up_block_types", config["up_block_types"], "expected attention where down_block_types have it")
    size = config["sample_size"] or 2 ** (len(widths) - 1) * 8  # where it says none, it takes any
    words = {
        "autoencoder.widths": widths,
        "autoencoder.blocks": config["layers_per_block"],
        "autoencoder.attention_levels": tuple(level for level, attends in enumerate(attention) if attends),
        "autoencoder.middle_attention": config["mid_block_add_attention"],
        "autoencoder.groups": config["norm_num_groups"],
        "autoencoder.norm_epsilon": 1e-6,
        "data.image_size": [size, size] if isinstance(size, int) else size,
    }
    if kind == "kl":
        return words | {
            "autoencoder.quant_conv": config["use_quant_conv"],
            "autoencoder.post_quant_conv": config["use_post_quant_conv"],
        }
    return words | {
        "autoencoder.codes": config["num_vq_embeddings"],
        "autoencoder.code_channels": config["vq_embed_dim"],
    }


def _tiny_words(name: str, config: dict[str, Any]) -> dict[str, Any]:
    widths = _numbers(name, config, "encoder_block_out_channels")
    if _numbers(name, config, "decoder_block_out_channels")[::-1] != widths or len(set(widths)) > 1:
        refuse(name, "decoder_block_out_channels", config["decoder_block_out_channels"], "expected one width for all")
    blocks = _numbers(name, config, "num_encoder_blocks")
    each = blocks[-1]
    wanted = (1, *[each] * (len(widths) - 1))
    for key, expected in (("num_encoder_blocks", wanted), ("num_decoder_blocks", wanted[::-1])):
        if _numbers(name, config, key) != expected:
            refuse(name, key, config[key], "expected one block at full size and as many at each level below")
    return {
        "autoencoder.widths": widths,
        "autoencoder.blocks": each,
        "data.image_size": [2 ** (len(widths) - 1) * 8] * 2,  # it says none, and takes any
    }


def _numbers(name: str, config: dict[str, Any], key: str) -> tuple[int, ...]:
    value = config[key]
    if not isinstance(value, list | tuple) or not value or any(type(n) is not int or n < 1 for n in value):
        refuse(name, key, value, "expected a list of whole numbers above 0")
    return tuple(value)


def _attending(name: str, config: dict[str, Any], key: str, words: dict[str, bool], count: int) -> list[bool]:
    blocks = config[key]
    if not isinstance(blocks, list | tuple) or len(blocks) != count:
        refuse(name, key, blocks, f"expected {count}, one for each of block_out_channels")
    return [translated(name, key, {key: block}, words) for block in blocks]


def _scale(name: str, config: dict[str, Any], channels: int) -> LatentScale:
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if (mean is None) != (std is None):
        refuse(name, "latents_mean", mean, "expected latents_std as well, or neither")
    for key, value in (("latents_mean", mean), ("latents_std", std)):
        right = isinstance(value, list | tuple) and len(value) == channels and all(_is_number(n) for n in value)
        if value is not None and not right:
            refuse(name, key, value, f"expected {channels} numbers")
    factor, shift = config["scaling_factor"], config.get("shift_factor") or 0.0
    if not _is_number(factor) or factor <= 0:
        refuse(name, "scaling_factor", factor, "expected a number above 0")
    if not _is_number(shift):
        refuse(name, "shift_factor", shift, "expected a number, or none")
    if mean is None or std is None:
        return LatentScale((float(shift),) * channels, (float(factor),) * channels)
    if any(n <= 0 for n in std):
        refuse(name, "latents_std", std, "expected numbers above 0")
    if shift != 0:
        refuse(name, "shift_factor", shift, "expected none beside latents_mean")
    return LatentScale(tuple(float(n) for n in mean), tuple(factor / n for n in std))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < float("inf")


def autoencoder_config(config: Config, scale: LatentScale) -> dict[str, Any]:
    """The config of the autoencoder of a run in diffusers' words.

    Raises:
      UserError: naming the key that diffusers has no word for.
    """
    own, (height, width, channels) = config.autoencoder, config.data.image_shape
    name = {ours: theirs for theirs, ours in KINDS.items()}[own.kind]
    if own.kind == "tiny":
        if len(set(own.widths)) > 1:
            raise UserError("diffusers has no word for an AutoencoderTiny of several widths")
        counts = [1, *[own.blocks] * (len(own.widths) - 1)]
        words: dict[str, Any] = {
            "encoder_block_out_channels": list(own.widths),
            "decoder_block_out_channels": list(own.widths),
            "num_encoder_blocks": counts,
            "num_decoder_blocks": counts[::-1],
            "act_fn": "relu",
        }
    else:
        words = _words_of_blocks(config)
    factors = _words_of_scale(scale, name)
    return {
        "_class_name": name,
        "in_channels": channels,
        "out_channels": channels,
        "latent_channels": own.latent_channels,
        **({} if own.kind == "tiny" else {"sample_size": height if height == width else [height, width]}),
        **words,
        **factors,
    }


def _words_of_blocks(config: Config) -> dict[str, Any]:
    own = config.autoencoder
    if own.decoder == "light":
        raise UserError("diffusers has no word for autoencoder.decoder=light with an encoder that is not")
    if own.norm_epsilon != 1e-6:
        raise UserError(f"diffusers has no word for autoencoder.norm_epsilon={own.norm_epsilon:g}; its own is 1e-06")
    levels = range(len(own.widths))
    down, up = ({attends: block for block, attends in words.items()} for words in (_DOWN, _UP))
    words = {
        "block_out_channels": list(own.widths),
        "layers_per_block": own.blocks,
        "down_block_types": [down[level in own.attention_levels] for level in levels],
        "up_block_types": [up[level in own.attention_levels] for level in reversed(levels)],
        "mid_block_add_attention": own.middle_attention,
        "norm_num_groups": own.groups,
        "act_fn": "silu",
    }
    if own.kind == "kl":
        return words | {"use_quant_conv": own.quant_conv, "use_post_quant_conv": own.post_quant_conv}
    return words | {"num_vq_embeddings": own.codes, "vq_embed_dim": own.code_channels}


def _words_of_scale(scale: LatentScale, name: str) -> dict[str, Any]:
    if len(set(scale.shift)) == len(set(scale.scale)) == 1:
        if name == "VQModel":
            if scale.shift[0] != 0:
                raise UserError("diffusers has no word for the mean of a VQModel's latents")
            return {"scaling_factor": scale.scale[0]}
        return {"scaling_factor": scale.scale[0], "shift_factor": scale.shift[0]}
    if name != "AutoencoderKL":
        raise UserError(f"diffusers has no word for the scale of each channel of an {name}'s latents")
    return {"scaling_factor": 1.0, "latents_mean": list(scale.shift), "latents_std": [1.0 / s for s in scale.scale]}
