"""Named configurations of latent diffusion: autoencoders, and the runs that diffuse their latents.

`codec.run` of a preset is where the autoencoder's preset trains by default; --set=codec.run=DIR names another one.
"""

_Values = dict[str, object]  # section.name -> value


# A few thousand photographs of 128x128 pixels, on two cores: parts of images teach an autoencoder without attention
# as much as whole ones.
_AUTOENCODER_CPU: _Values = {
    "data.name": "folder",
    "data.channels": 3,
    "data.holdout": 0.1,
    "data.random_flip": True,
    "autoencoder.kind": "kl",
    "autoencoder.widths": (32, 64, 64),
    "autoencoder.middle_attention": False,
    "autoencoder.decoder": "light",
    "train.precision": "bfloat16",
    "train.batch_size": 16,
    "train.learning_rate": 1e-3,
    "train.checkpoint_every": 500,
    "train.preview_every": 500,
    "train.preview_images": 16,
    "sample.batch_size": 16,
}


# What is diffused of its latents, on two cores.
_LATENT_CPU: _Values = {
    "data.name": "folder",
    "data.channels": 3,
    "data.holdout": 0.1,
    "data.random_flip": True,
    "model.groups": 8,
    "model.dropout": 0.1,
    "diffusion.schedule": "cosine",
    "diffusion.prediction": "v",
    # After the same number of images an FID of 163 instead of 179; more noise than where pixels are drawn, since
    # neighbouring latents have less in common.
    "train.level_sampling": "lognormal",
    "train.level_mean": 0.0,
    "train.precision": "bfloat16",
    "train.batch_size": 32,
    "train.learning_rate": 1e-3,
    "train.checkpoint_every": 600,
    "train.preview_every": 600,
    "train.preview_images": 16,
    "sample.sampler": "dpmpp",
    "sample.steps": 20,
    "sample.clip": "none",
    "sample.batch_size": 16,
}


# Rombach et al. 2022: what their autoencoders share (with an L1 distance between smaller images in place of LPIPS,
# whose network is a download).
_ROMBACH: _Values = {
    "data.image_size": (256, 256),
    "data.channels": 3,
    "data.random_flip": True,
    "autoencoder.blocks": 2,
    "autoencoder.groups": 32,
    "autoencoder.adversarial_channels": 64,
    "train.warmup_steps": 0,
    "train.clip_norm": None,
    "train.checkpoint_every": 10_000,
    "train.preview_every": 10_000,
    "train.preview_images": 16,
    "sample.batch_size": 16,
}


# What their networks that denoise share. (The chain's betas are squares of evenly spaced numbers: `quadratic`.)
_LDM: _Values = {
    "data.image_size": (256, 256),
    "data.channels": 3,
    "data.random_flip": True,
    "model.blocks": 2,
    "model.groups": 32,
    "model.norm_epsilon": 1e-5,
    "model.downsample_padding": "symmetric",
    "model.embedding_order": "cos_sin",
    "model.frequency_shift": 0,
    "diffusion.schedule": "quadratic",
    "diffusion.beta_start": 0.0015,
    "train.clip_norm": None,
    "train.ema_decay": 0.9999,
    "train.ema_warmup": False,
    "train.checkpoint_every": 10_000,
    "train.preview_every": 10_000,
    "train.preview_images": 16,
    "sample.clip": "none",
    "sample.sampler": "ddim",
    "sample.steps": 200,
    "sample.batch_size": 16,
}


LATENT_PRESETS: dict[str, _Values] = {
    # Photographs of flowers, 128x128, as latents of 16x16x8.
    "autoencoder_flowers128": _AUTOENCODER_CPU
    | {
        "data.image_size": (128, 128),
        "autoencoder.widths": (32, 64, 64, 128),
        "autoencoder.latent_channels": 8,
        "train.crop": 64,
        "train.steps": 4500,
        "train.decay_steps": 4500,
    },
    "flowers128_latent": _LATENT_CPU
    | {
        "data.image_size": (128, 128),
        "codec.run": "runs/autoencoder_flowers128",
        "model.channels": 96,
        "model.multipliers": (1, 2, 3),
        "model.attention_levels": (0, 1, 2),
        "model.classes": 5,
        "model.null_class": True,
        "train.label_dropout": 0.1,
        "train.steps": 9800,
        "train.decay_steps": 9800,
        "train.guide_at": (0.0625, 0.125, 0.25),
        "train.checkpoint_every": 1000,
        "train.preview_every": 1000,
    },
    # Emoji, 64x64, as latents of 16x16x4.
    "autoencoder_emoji64": _AUTOENCODER_CPU
    | {
        "data.image_size": (64, 64),
        "data.random_flip": False,
        "train.crop": 32,
        "train.steps": 2400,
        "train.decay_steps": 2400,
    },
    "emoji64_latent": _LATENT_CPU
    | {
        "data.image_size": (64, 64),
        "data.random_flip": False,
        "codec.run": "runs/autoencoder_emoji64",
        "model.channels": 64,
        "model.multipliers": (1, 2),
        "model.attention_levels": (1,),
        "train.steps": 5000,
        "train.decay_steps": 5000,
    },
    # Rombach et al.'s CelebA-HQ: VQ-f4, 55.3 million parameters, and LDM-4, 274 million, 410,000 steps.
    "autoencoder_celebahq256": _ROMBACH
    | {
        "data.name": "celeb_a_hq/256",
        "autoencoder.kind": "vq",
        "autoencoder.widths": (128, 256, 512),
        "autoencoder.latent_channels": 3,
        "autoencoder.codes": 8192,
        "autoencoder.adversarial": 0.75,
        "train.batch_size": 8,
        "train.learning_rate": 3.6e-5,
        "train.steps": 500_000,
    },
    "ldm_celebahq256": _LDM
    | {
        "data.name": "celeb_a_hq/256",
        "codec.run": "runs/autoencoder_celebahq256",
        "model.channels": 224,
        "model.multipliers": (1, 2, 3, 4),
        "model.attention_levels": (1, 2, 3),
        "model.head_channels": 32,
        "diffusion.beta_end": 0.0195,
        "train.batch_size": 48,
        "train.learning_rate": 9.6e-5,
        "train.warmup_steps": 0,
        "train.steps": 410_000,
    },
    # Their LSUN Church: KL-f8, 83.7 million parameters, and LDM-8, 295 million, 500,000 steps. (They minimise an L1
    # distance; this is L2.)
    "autoencoder_churches256": _ROMBACH
    | {
        "data.name": "lsun/church_outdoor",
        "autoencoder.kind": "kl",
        "autoencoder.widths": (128, 256, 512, 512),
        "autoencoder.adversarial": 0.5,
        "autoencoder.adversarial_start": 50_001,
        "train.batch_size": 12,
        "train.learning_rate": 5.4e-5,
        "train.steps": 500_000,
    },
    "ldm_churches256": _LDM
    | {
        "data.name": "lsun/church_outdoor",
        "codec.run": "runs/autoencoder_churches256",
        "model.channels": 192,
        "model.multipliers": (1, 2, 2, 4, 4),
        "model.attention_levels": (0, 1, 2, 3),
        "model.heads": 8,
        "model.injection": "scale_shift",
        "model.resampling": "residual",
        "diffusion.beta_end": 0.0155,
        "train.batch_size": 96,
        "train.learning_rate": 5e-5,
        "train.warmup_steps": 10_000,
        "train.steps": 500_000,
    },
}


_EVEN_LEVELS: _Values = {"train.level_sampling": "uniform", "train.level_mean": -1.2}

# What presets were before they changed, the newest first: see `presets.earlier`.
EARLIER_LATENTS: dict[str, tuple[_Values, ...]] = {
    "autoencoder_flowers128": (
        {
            "autoencoder.widths": (32, 64, 64),
            "autoencoder.latent_channels": 4,
            "train.steps": 5000,
            "train.decay_steps": 5000,
        },
    ),
    "flowers128_latent": (
        _EVEN_LEVELS
        | {
            "model.channels": 32,
            "model.multipliers": (1, 3, 4),
            "model.attention_levels": (2,),
            "train.steps": 8000,
            "train.decay_steps": 8000,
            "train.guide_at": (),
            "train.checkpoint_every": 600,
            "train.preview_every": 600,
        },
    ),
    "emoji64_latent": (_EVEN_LEVELS,),
}
