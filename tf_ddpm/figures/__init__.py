"""What the papers show as pictures, drawn from a run."""

_CHAIN = ("sampling_steps", "spacing", "guidance", "guide", "guidance_interval", "precision", "weights", "ema", "seed")
_DRAWN = ("sampler", "eta", "clip", *_CHAIN)
_MEASURED = ("num_images", "precision", "weights", "ema", "seed")

# The flags that each figure takes notice of: most have a sampler of their own.
FIGURES: dict[str, tuple[str, ...]] = {
    "schedules": (),
    "forward": ("seed",),
    "samples": ("num_images", *_DRAWN),
    "progressive": _DRAWN,
    "interpolation": _CHAIN,
    "shared_prefix": ("clip", *_CHAIN),
    "coding": _MEASURED,
    "inpainting": ("clip", *_CHAIN),
    "variation": ("clip", *_CHAIN),
    "bound": _MEASURED,
    "sweep": (),
    "guidance": tuple(flag for flag in _DRAWN if flag != "guidance"),
    "cascade": ("augmentation", *_DRAWN),
    "steps": ("clip", "precision", "weights", "seed"),
    "reconstruction": ("num_images", "seed"),
    "latent": ("num_images", "seed"),
}
