"""The network in the words of `diffusers` (UNet2DModel), both ways. Imports no TensorFlow.

An option that this project cannot honour is refused by its name, whichever way it goes.
"""

from __future__ import annotations

from typing import Any

from tf_ddpm.config import Config
from tf_ddpm.diffusers_format.refusals import refuse, refuse_others, translated
from tf_ddpm.errors import UserError

# Block -> whether it attends.
_DOWN_ATTENDING, _UP_ATTENDING = "AttnDownBlock2D", "AttnUpBlock2D"
_DOWN = {"DownBlock2D": False, "ResnetDownsampleBlock2D": False, _DOWN_ATTENDING: True}
_UP = {"UpBlock2D": False, "ResnetUpsampleBlock2D": False, _UP_ATTENDING: True}
_RESAMPLES = {  # of those that do not attend
    "DownBlock2D": "conv",
    "UpBlock2D": "conv",
    "ResnetDownsampleBlock2D": "resnet",
    "ResnetUpsampleBlock2D": "resnet",
}


# What diffusers takes where a config is silent.
_UNET_DEFAULTS = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "num_class_embeds": None,
}


_UNET_FIXED = {  # options with one value that we know
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_scale_factor": (1,),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "act_fn": ("silu", "swish"),
    "class_embed_type": (None,),
    "mid_block_type": ("UNetMidBlock2D", None),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "downsample_padding": (0, 1),
    "freq_shift": (0, 1),
}


_UNET_IGNORED = {
    "num_train_timesteps",  # of learned time embeddings alone
    # What diffusers' training script keeps in the config of an average of weights.
    "decay",
    "min_decay",
    "optimization_step",
    "update_after_step",
    "use_ema_warmup",
    "inv_gamma",
    "power",
}


def model_words(unet: dict[str, Any], image_size: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Keys of `model` and `data` from the config of a UNet2DModel.

    Args:
      image_size: where the config says none.

    Raises:
      UserError: naming the option that cannot be honoured.
    """
    refuse_others("UNet2DModel", unet, _UNET_DEFAULTS, _UNET_FIXED, _UNET_IGNORED)
    unet = _UNET_DEFAULTS | unet
    if unet["sample_size"] is None and image_size is not None:
        unet["sample_size"] = list(image_size)
    _check_types(unet)
    widths, channels = tuple(unet["block_out_channels"]), unet["block_out_channels"][0]
    even = all(width % channels == 0 and width <= 64 * channels for width in widths)
    down, up = unet["down_block_types"], unet["up_block_types"]
    last = len(widths) - 1
    if not len(down) == len(up) == len(widths):
        refuse("UNet2DModel", "up_block_types", up, f"expected {len(widths)}, one for each of block_out_channels")
    attention = [_block(_DOWN, "down_block_types", block) for block in down]
    up_attention = [_block(_UP, "up_block_types", block) for block in reversed(up)]
    middle = "none" if unet["mid_block_type"] is None else "attention" if unet["add_attention"] else "residual"
    modulated = unet["resnet_time_scale_shift"] == "scale_shift"
    size = unet["sample_size"]
    if unet["out_channels"] not in (unet["in_channels"], 2 * unet["in_channels"]):
        refuse("UNet2DModel", "out_channels", unet["out_channels"], "expected in_channels, or twice as many")
    return {
        "model.channels": channels,
        "model.multipliers": tuple(width // channels for width in widths) if even else (1,) * (last + 1),
        "model.widths": None if even else widths,
        "model.blocks": unet["layers_per_block"],
        "model.attention_levels": tuple(level for level in range(last + 1) if attention[level]),
        "model.up_attention_levels": (
            None if attention == up_attention else tuple(level for level in range(last + 1) if up_attention[level])
        ),
        "model.middle": middle,
        "model.heads": 1,
        "model.head_channels": unet["attention_head_dim"],
        "model.groups": unet["norm_num_groups"],
        "model.middle_groups": _middle_groups(unet),
        "model.norm_epsilon": unet["norm_eps"],
        "model.dropout": unet["dropout"],
        "model.injection": "scale_shift" if modulated else "add",
        "model.resampling": _resampling(unet),
        "model.downsample_padding": "symmetric" if unet["downsample_padding"] else "same",
        "model.embedding_order": "cos_sin" if unet["flip_sin_to_cos"] else "sin_cos",
        "model.frequency_shift": unet["freq_shift"],
        "model.time_width": unet["time_embedding_dim"],
        "model.classes": unet["num_class_embeds"] or 0,
        "model.null_class": False,
        "data.image_size": [size, size] if isinstance(size, int) else list(size),
        "data.channels": unet["in_channels"],
    }


def unet_config(config: Config) -> dict[str, Any]:
    """The config of the UNet2DModel that is the run's network.

    Raises:
      UserError: naming the key that diffusers has no word for.
    """
    model, (height, width, channels) = config.model, config.state_shape
    widths = model.level_widths
    if model.enlarges:
        raise UserError("diffusers has no pipeline for a run that enlarges images (model.condition=low_res)")
    if widths[0] != model.channels:
        raise UserError(f"diffusers has no word for a first level of {widths[0]} after {model.channels} channels")
    modulated = model.injection == "scale_shift"
    middle_groups = model.groups if model.middle_groups is None else model.middle_groups
    if middle_groups == 0 and not modulated:
        raise UserError("diffusers has no word for model.middle_groups=0 with model.injection=add")
    up_levels = model.attention_levels if model.up_attention_levels is None else model.up_attention_levels
    levels, residual = range(len(widths)), model.resampling == "residual"
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if residual else ("DownBlock2D", "UpBlock2D")
    return {
        "_class_name": "UNet2DModel",
        "sample_size": height if height == width else [height, width],
        "in_channels": channels,
        "out_channels": channels * (2 if config.diffusion.learned_variance else 1),
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "time_embedding_dim": model.time_width,
        "freq_shift": model.frequency_shift,
        "flip_sin_to_cos": model.embedding_order == "cos_sin",
        "down_block_types": [_DOWN_ATTENDING if level in model.attention_levels else plain[0] for level in levels],
        "mid_block_type": None if model.middle == "none" else "UNetMidBlock2D",
        "up_block_types": [_UP_ATTENDING if level in up_levels else plain[1] for level in reversed(levels)],
        "block_out_channels": list(widths),
        "layers_per_block": model.blocks,
        "mid_block_scale_factor": 1,
        "downsample_padding": 1 if model.downsample_padding == "symmetric" else 0,
        "downsample_type": "resnet" if residual else "conv",
        "upsample_type": "resnet" if residual else "conv",
        "dropout": model.dropout,
        "act_fn": "silu",
        "attention_head_dim": _head_dim(config, {*model.attention_levels, *up_levels}),
        "norm_num_groups": model.groups,
        "attn_norm_num_groups": middle_groups or None,
        "norm_eps": model.norm_epsilon,
        "resnet_time_scale_shift": "scale_shift" if modulated else "default",
        "add_attention": model.middle == "attention",
        "class_embed_type": None,
        "num_class_embeds": (model.classes + int(model.null_class)) or None,
    }


def _resampling(unet: dict[str, Any]) -> str:
    """Our word for what leads from a level to the next one, which is the same between all of them.

    Raises:
      UserError: where it is not.
    """
    found = []
    for name, kind in (("down_block_types", "downsample_type"), ("up_block_types", "upsample_type")):
        # (The last block of either way has nothing behind it.)
        found += [unet[kind] if "Attn" in block else _RESAMPLES[block] for block in unet[name][:-1]]
    if len(set(found)) > 1:
        refuse("UNet2DModel", "downsample_type", unet["downsample_type"], "expected the same between all levels")
    return "residual" if "resnet" in found else "conv"


def _head_dim(config: Config, attending: set[int]) -> int | None:
    """attention_head_dim: one width for the heads of every attention, or None where each has one head."""
    model = config.model
    if model.head_channels is not None:
        return model.head_channels
    if model.heads == 1:
        return None
    widths = model.level_widths
    used = {widths[level] for level in attending} | ({widths[-1]} if model.middle == "attention" else set())
    if len(used) > 1:
        raise UserError(f"diffusers has no word for model.heads={model.heads} at levels of {sorted(used)} channels")
    return used.pop() // model.heads if used else None


def _middle_groups(unet: dict[str, Any]) -> int | None:
    """diffusers leaves the middle attention's norm out of networks with scale and shift that do not ask for it."""
    groups = unet["attn_norm_num_groups"]
    if groups is None:
        return 0 if unet["resnet_time_scale_shift"] == "scale_shift" else None
    return None if groups == unet["norm_num_groups"] else groups


def _check_types(unet: dict[str, Any]) -> None:
    """Refuses what could not even be reckoned with; ranges are the configuration's own."""

    def numbers(value: Any) -> bool:
        return isinstance(value, list | tuple) and len(value) > 0 and all(type(n) is int and n > 0 for n in value)

    if not numbers(unet["block_out_channels"]):
        refuse("UNet2DModel", "block_out_channels", unet["block_out_channels"], "expected a list of widths")
    for name in ("down_block_types", "up_block_types"):
        if not isinstance(unet[name], list | tuple):
            refuse("UNet2DModel", name, unet[name], "expected a list of blocks")
    for name in ("in_channels", "out_channels"):
        if not numbers([unet[name]]):
            refuse("UNet2DModel", name, unet[name], "expected a whole number above 0")
    size = unet["sample_size"]
    if size is None:
        refuse("UNet2DModel", "sample_size", size, "it says no size of images; give it: data.image_size=64")
    if not (numbers([size]) or (numbers(size) and len(size) == 2)):
        refuse("UNet2DModel", "sample_size", size, "expected the side of the images, or [height, width]")


def _block(words: dict[str, bool], name: str, block: str) -> bool:
    return translated("UNet2DModel", name, {name: block}, words)
