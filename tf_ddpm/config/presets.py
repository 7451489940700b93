"""Named configurations, each a small delta from the defaults of `schema.py`."""

from tf_ddpm.config.latent_presets import EARLIER_LATENTS, LATENT_PRESETS
from tf_ddpm.config.parsing import closest, with_values
from tf_ddpm.config.schema import Config
from tf_ddpm.errors import UserError

_Values = dict[str, object]  # section.name -> value


def _steps(count: int) -> _Values:
    """So many updates, over which the learning rate decays."""
    return {"train.steps": count, "train.decay_steps": count}


# Ho et al. 2020, appendix B: optimizer, averaging and chain that all of their models share.
_HO: _Values = {
    "model.blocks": 2,
    "model.groups": 32,
    "train.learning_rate": 2e-4,
    "train.warmup_steps": 5000,
    "train.ema_decay": 0.9999,
    "train.ema_warmup": False,
    "train.checkpoint_every": 10_000,
    "train.preview_every": 10_000,
    "data.random_flip": True,
}


# Ho et al. 2020, the 256x256 models: six levels, attention at 16x16, small variance.
_HO_256: _Values = _HO | {
    "model.channels": 128,
    "model.multipliers": (1, 1, 2, 2, 4, 4),
    "model.attention_levels": (4,),
    "diffusion.variance": "fixed_small",
    "data.image_size": (256, 256),
    "data.channels": 3,
    "train.learning_rate": 2e-5,
    "train.batch_size": 64,
    "train.preview_images": 16,
    "sample.batch_size": 16,
}


# Noise levels drawn where they matter (Karras et al. 2022), which of the same images has two thirds of the FID, and
# checkpoints that can guide the run they come from (Karras et al. 2024).
_LEVELS_AND_GUIDES: _Values = {
    "diffusion.prediction": "v",
    "train.level_sampling": "lognormal",
    "train.level_mean": -0.85,
    "train.guide_at": (0.0625, 0.125, 0.25),
}


_SMALL_28: _Values = _LEVELS_AND_GUIDES | {
    "model.channels": 32,
    "model.multipliers": (1, 2, 2),
    "model.attention_levels": (1, 2),
    "model.groups": 8,
    "train.precision": "bfloat16",
    "train.batch_size": 64,  # of the same number of images, twice as many updates learn more
    "train.learning_rate": 2e-3,
    **_steps(9600),
    "train.checkpoint_every": 1200,
    "train.preview_every": 2400,
}


# Less than two minutes of two cores.
_DIGITS: _Values = _LEVELS_AND_GUIDES | {
    **_steps(1800),
    "train.batch_size": 64,
    "train.learning_rate": 2e-3,
    "train.checkpoint_every": 400,
    "train.preview_every": 400,
}


_CIFAR10: _Values = _HO | {
    "model.channels": 128,
    "model.multipliers": (1, 2, 2, 2),
    "model.attention_levels": (1,),
    "model.dropout": 0.1,
    "data.name": "cifar10",
    "data.image_size": (32, 32),
    "data.channels": 3,
    "train.steps": 800_000,
}


# A folder of one's own pictures: --set=data.path=DIR. The average follows within minutes.
_IMAGES: _Values = {
    "data.name": "folder",
    "data.channels": 3,
    "data.random_flip": True,
    "diffusion.schedule": "cosine",
    "diffusion.prediction": "v",  # of eps the colours of a short training are too bright
    "sample.sampler": "dpmpp",
    "sample.steps": 25,
}


# For two cores.
_IMAGES_CPU: _Values = _IMAGES | {
    "model.channels": 32,
    "model.groups": 8,
    "train.batch_size": 32,
    "train.learning_rate": 2e-3,
    "train.checkpoint_every": 500,
    "train.preview_every": 500,
}


# A few thousand photographs, of which a tenth is held out.
_FLOWERS: _Values = _IMAGES_CPU | {
    "data.holdout": 0.1,
    "model.dropout": 0.1,
    "train.precision": "bfloat16",
    "train.learning_rate": 1e-3,
}


# A network without attention, which learns from parts of images and enlarges images of any size.
_ENLARGING: _Values = {
    "model.condition": "low_res",
    "model.factor": 4,
    "model.multipliers": (1, 2, 2),
    "model.attention_levels": (),
    "model.middle": "residual",
    "train.crop": 32,
    "train.preview_images": 16,
    "sample.steps": 10,
}


# What OpenAI's upsamplers share.
_IMAGENET_SR: _Values = _HO | {
    "data.name": "imagenet2012",
    "data.image_size": (256, 256),
    "data.channels": 3,
    "data.random_flip": False,
    "model.condition": "low_res",
    "model.factor": 4,
    "model.classes": 1000,
    "model.channels": 192,
    "model.multipliers": (1, 1, 2, 2, 4, 4),
    "model.norm_epsilon": 1e-5,
    "model.injection": "scale_shift",
    "model.downsample_padding": "symmetric",
    "model.embedding_order": "cos_sin",
    "model.frequency_shift": 0,
    "diffusion.variance": "learned_range",
    "train.objective": "hybrid",
    "train.augmentation": 0,
    "train.learning_rate": 1e-4,
    "train.warmup_steps": 0,
    "train.clip_norm": None,
    "train.batch_size": 256,
    "train.steps": 500_000,
    "train.preview_images": 16,
    "sample.batch_size": 16,
}


# For one GPU. Nobody has trained these yet.
_IMAGES_GPU: _Values = _IMAGES | {
    "model.channels": 128,
    "model.blocks": 2,
    "model.groups": 32,
    "model.dropout": 0.1,
    "train.precision": "bfloat16",
    "train.batch_size": 128,
    "train.learning_rate": 3e-4,
    "train.warmup_steps": 1000,
    "train.ema_decay": 0.9995,
    "train.checkpoint_every": 5000,
    "train.preview_every": 5000,
}


# Ho & Salimans 2022: one network for every class and for none, which guidance compares.
_TEN_CLASSES: _Values = {"model.classes": 10, "model.null_class": True, "train.label_dropout": 0.1}
PRESETS: dict[str, _Values] = {
    # 1,797 real 8x8 digits that come with scikit-learn: no download.
    "digits": _DIGITS,
    # The same, each drawn as one asks: --mode=sample --preset=digits_cond --label=3.
    "digits_cond": _DIGITS | _TEN_CLASSES | {"train.batch_size": 128, **_steps(1300)},
    # 60,000 handwritten digits, 28x28.
    "mnist": _SMALL_28 | {"data.name": "mnist"},
    # 60,000 pieces of clothing, 28x28.
    "fashion_mnist": _SMALL_28 | {"data.name": "fashion_mnist"},
    # Pictures of a folder, 32x32: ten minutes of two cores.
    "images32": _IMAGES_CPU
    | _LEVELS_AND_GUIDES
    | {
        "data.image_size": (32, 32),
        "model.multipliers": (1, 2, 2),
        "model.attention_levels": (2,),
        **_steps(1450),
    },
    # The same, 64x64: hours.
    "images64": _IMAGES_CPU
    | _LEVELS_AND_GUIDES
    | {
        "data.image_size": (64, 64),
        "model.multipliers": (1, 2, 2, 4),
        "model.attention_levels": (3,),
        **_steps(6000),
        "train.preview_images": 16,
    },
    # Emoji, of which some have letters that a mirror would turn round.
    "emoji64": _IMAGES_CPU
    | {
        "data.image_size": (64, 64),
        "data.random_flip": False,
        "data.holdout": 0.1,
        "model.multipliers": (1, 2, 2, 4),
        "model.attention_levels": (3,),
        "train.precision": "bfloat16",
        **_steps(3000),
        "train.preview_images": 16,
    },
    # Photographs of flowers by class, 16x16, and the network that enlarges them (or any) to 64x64: a cascade.
    "flowers16": _FLOWERS
    | {
        "data.image_size": (16, 16),
        "model.channels": 64,
        "model.multipliers": (1, 2),
        "model.attention_levels": (1,),
        "model.blocks": 2,
        "model.classes": 5,
        "model.null_class": True,
        "train.label_dropout": 0.1,
        **_steps(2400),
    },
    "flowers64": _FLOWERS | _ENLARGING | {"data.image_size": (64, 64), **_steps(4800)},
    # The same for one GPU.
    "images32_gpu": _IMAGES_GPU
    | _LEVELS_AND_GUIDES
    | {
        "data.image_size": (32, 32),
        "model.multipliers": (1, 2, 2, 2),
        "model.attention_levels": (1, 2),
        **_steps(60_000),
    },
    "images64_gpu": _IMAGES_GPU
    | _LEVELS_AND_GUIDES
    | {
        "data.image_size": (64, 64),
        "model.multipliers": (1, 2, 3, 4),
        "model.attention_levels": (2, 3),
        **_steps(100_000),
        "train.batch_size": 64,
    },
    # Ho et al.'s CIFAR-10 model, 35.7 million parameters, 800,000 steps.
    "cifar10": _CIFAR10,
    "cifar10_cond": _CIFAR10 | _TEN_CLASSES,
    # Nichol & Dhariwal 2021, the CIFAR-10 model of L_hybrid, 52.5 million parameters, 500,000 steps. (Their code feeds
    # the network t * 1000 / T; ours feeds t, so their checkpoints would need other frequencies.)
    "cifar10_iddpm": _CIFAR10
    | {
        "model.blocks": 3,
        "model.attention_levels": (1, 2),
        "model.heads": 4,
        "model.norm_epsilon": 1e-5,
        "model.injection": "scale_shift",
        "model.downsample_padding": "symmetric",
        "model.embedding_order": "cos_sin",
        "model.frequency_shift": 0,
        "model.dropout": 0.3,
        "diffusion.timesteps": 4000,
        "diffusion.schedule": "cosine",
        "diffusion.variance": "learned_range",
        "train.objective": "hybrid",
        "train.learning_rate": 1e-4,
        "train.warmup_steps": 0,
        "train.clip_norm": None,
        "data.random_flip": False,
        "train.steps": 500_000,
    },
    "fashion_mnist_cond": _SMALL_28 | _TEN_CLASSES | {"data.name": "fashion_mnist"},
    # The upsamplers of ImageNet, by class, trained as theirs on perfect small images; --set=train.augmentation=300
    # prepares one for drawn ones. (Theirs lack the 0.7 million parameters that tell ours of the augmentation.)
    # Dhariwal & Nichol 2021, 64x64 to 256x256 and 128x128 to 512x512, 312 and 309 million parameters.
    "imagenet256_sr": _IMAGENET_SR
    | {"model.resampling": "residual", "model.attention_levels": (3, 4, 5), "model.heads": 4},
    "imagenet512_sr": _IMAGENET_SR
    | {
        "data.image_size": (512, 512),
        "model.resampling": "residual",
        "model.attention_levels": (4, 5),
        "model.head_channels": 64,
    },
    # Nichol & Dhariwal 2021, 64x64 to 256x256, T = 4000, 280 million parameters.
    "imagenet256_sr_iddpm": _IMAGENET_SR
    | {
        "model.attention_levels": (4, 5),
        "model.heads": 4,
        "diffusion.timesteps": 4000,
        "diffusion.beta_start": 1e-4 / 4,
        "diffusion.beta_end": 0.02 / 4,
        "train.learning_rate": 3e-4,
    },
    # Ho et al.'s CelebA-HQ 256x256 model, 113.7 million parameters, 500,000 steps.
    "celebahq256": _HO_256 | {"data.name": "celeb_a_hq/256", "train.steps": 500_000},
    # Ho et al.'s LSUN Church 256x256 model: the same network, 1,200,000 steps.
    "lsun256": _HO_256 | {"data.name": "lsun/church_outdoor", "train.steps": 1_200_000},
    **LATENT_PRESETS,
}


# What presets of today said before, the newest first: a run that began with one goes on with it.
_EVEN_LEVELS: _Values = {"train.level_sampling": "uniform", "train.level_mean": -1.2}
_UNIFORM: _Values = _EVEN_LEVELS | {"diffusion.prediction": "eps"}
_LESS_ATTENTION: _Values = {"model.attention_levels": (2,)}
_OF_SMALL_28 = (_LESS_ATTENTION, _LESS_ATTENTION | _UNIFORM)
_EARLIER: dict[str, tuple[_Values, ...]] = {
    "digits": (_UNIFORM | _steps(1200),),
    "digits_cond": (_UNIFORM | _steps(2000),),
    "mnist": _OF_SMALL_28,
    "fashion_mnist": _OF_SMALL_28,
    "fashion_mnist_cond": _OF_SMALL_28,
    **dict.fromkeys(("images32", "images64", "images32_gpu", "images64_gpu"), (_EVEN_LEVELS,)),
    **EARLIER_LATENTS,
}


def earlier(name: str) -> list[Config]:
    """What the preset of that name was before it changed, the newest first."""
    return [with_values(preset(name), values) for values in _EARLIER.get(name, ())]


def preset(name: str) -> Config:
    """The configuration of that name.

    Raises:
      UserError: for an unknown name, with the closest known ones.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; did you mean: {closest(name, PRESETS)}?")
    return with_values(Config(), PRESETS[name])
