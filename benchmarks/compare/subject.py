"""What is compared, and where."""

import os
import platform
import time
from pathlib import Path

from tf_ddpm import config as config_lib
from tf_ddpm.config import presets
from tf_ddpm.diffusers_format import unet_words

SHAPES = {"cifar10": ((32, 32), 3), "fashion_mnist": ((28, 28), 1)}


def unet_of(model: str) -> dict:
    """diffusers' words for the network of the preset, as keyword arguments."""
    size, channels = SHAPES[model]
    config = config_lib.with_values(presets.preset(model), {"data.image_size": size, "data.channels": channels})
    unet = {key: value for key, value in unet_words.unet_config(config).items() if not key.startswith("_")}
    return unet | {"sample_size": list(size)}


def machine() -> dict:
    """Where it was measured."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {"cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(), "when": time.strftime("%F")}
