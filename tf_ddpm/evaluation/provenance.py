"""What a figure's receipt says of the run and the program that it was got with."""

from __future__ import annotations

import hashlib

import keras
import numpy as np
import tensorflow as tf

from tf_ddpm import config as config_lib
from tf_ddpm.runtime.digests import digest
from tf_ddpm.sampling.run import Run
from tf_ddpm.sampling.source import Source


def versions() -> dict[str, str]:
    """The libraries whose arithmetic the figure is."""
    return {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}


def describe_run(run: Run) -> dict:
    """Which weights, of which configuration."""
    config = run.config
    return {
        "checkpoint_step": run.checkpoint_step,
        "config_sha256": hashlib.sha256(config_lib.to_json(config_lib.portable(config)).encode()).hexdigest(),
        **({} if run.first_stage is None else {"autoencoder_sha256": run.first_stage.sha256}),
        "prediction": config.diffusion.prediction,
        "variance": config.diffusion.variance,
        "timesteps": config.diffusion.timesteps,
    }


def describe_source(source: Source) -> dict:
    """Which weights drew the images, and how."""
    facts = source.facts()
    if not source.runs:
        return facts
    if len(source.runs) == 1:
        return describe_run(source.runs[0]) | facts
    stages = [describe_run(run) | stage for run, stage in zip(source.runs, facts["stages"], strict=True)]
    return facts | {"stages": stages}


def weights_digest(*runs: Run) -> str:
    """sha256 of the weights of their networks; what `facts` say of a guide has its own."""
    return digest(*(np.asarray(part) for run in runs for part in run.network.get_weights()))
