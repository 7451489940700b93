"""Runs of seconds, and several devices in one process."""

import tensorflow as tf

from tf_ddpm import config as config_lib
from tf_ddpm.config import presets

TINY = {
    "model.channels": 8,
    "model.groups": 2,
    # Less to trace; test_unet.py has the levels, the attention and the middle.
    "model.multipliers": (1,),
    "model.attention_levels": (),
    "model.middle": "none",
    "diffusion.timesteps": 20,
    "diffusion.schedule": "cosine",
    "train.steps": 8,
    "train.batch_size": 16,
    "train.warmup_steps": 2,
    "train.log_every": 2,
    "train.checkpoint_every": 4,
    "train.preview_every": 8,
    "train.jit": "off",  # XLA compiles longer than a tiny run trains; test_train_state.py compares
}

# For tests that look at levels, attentions or their weights.
TWO_LEVELS = {"model__multipliers": (1, 2), "model__attention_levels": (1,)}


def make_tiny_config(**changes):
    """Keys are written with __ for the dot."""
    values = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    return config_lib.validated(config_lib.with_values(config_lib.Config(), values))


DENOISERS = [name for name in presets.PRESETS if not presets.preset(name).autoencoder.trained]


def denoiser_preset(name, **values):
    """A preset of a network that denoises, of whose autoencoder all is known."""
    config = presets.preset(name)
    latents = {} if config.codec.run is None else {"codec.factor": 4, "codec.channels": config.data.channels}
    return config_lib.with_values(config, latents | {key.replace("__", "."): value for key, value in values.items()})


def make_tiny_autoencoder(**changes):
    """The same for an autoencoder's run, which has no network that denoises."""
    own = {"autoencoder.kind": "kl", "autoencoder.widths": (8, 16), "autoencoder.groups": 4}
    values = {key: value for key, value in TINY.items() if key.startswith("train.")} | own
    values |= {"autoencoder.latent_channels": 3, "train.preview_images": 4}
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    return config_lib.validated(config_lib.with_values(config_lib.Config(), values))


def make_tiny_latent(folder, **changes):
    """The same for a run that diffuses the latents of the autoencoder's run in `folder`/autoencoder."""
    values = {
        "codec__run": str(folder / "autoencoder"),
        "sample__clip": "none",
        "sample__sampler": "ddim",
        "sample__steps": 3,
        "data__cache_dir": str(folder / "cache"),
        "data__random_flip": True,
        "train__preview_images": 4,
    }
    return make_tiny_config(**values | changes)


def mirrored(devices):
    """A MirroredStrategy of logical CPUs, as often as wanted in one process.

    With its default reduction TensorFlow numbers the collective operations of every strategy from 100 on, and
    those of two strategies over the same devices collide.
    """
    names = [f"/cpu:{i}" for i in range(devices)]
    return tf.distribute.MirroredStrategy(names, cross_device_ops=tf.distribute.ReductionToOneDevice())
