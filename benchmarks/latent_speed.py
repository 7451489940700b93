"""Seconds an image: a run that diffuses latents beside a network of the same widths that diffuses pixels, in turns.

python -m benchmarks.latent_speed --run_dir=runs/flowers128_latent --num_images=16

The network of pixels has random weights: how long it takes does not depend on them. It has attention only where its
feature maps are as small as those of the run that have it; attention to 128x128 pixels would take gigabytes an image.
Both draw with the run's settings (but for the clipping of x_0, which latents do without). The run's time includes
decoding.
"""

from __future__ import annotations

import json
import statistics
import time

import numpy as np
import tensorflow as tf
from absl import app, flags

from tf_ddpm import build
from tf_ddpm import config as config_lib
from tf_ddpm.sampling.run import Run, load_run

FLAGS = flags.FLAGS
flags.DEFINE_string("run_dir", "runs/flowers128_latent", "A run that diffuses latents.")
flags.DEFINE_integer("num_images", 16, "Drawn at once.", lower_bound=1)
flags.DEFINE_integer("repeats", 3, "How often each draws.", lower_bound=1)
flags.DEFINE_integer("steps", None, "Of the sampler; none: as the run has them.")


def of_pixels(run: Run) -> Run:
    """The same network, untrained, for the pixels of the run's images."""
    model, codec = run.config.model, run.config.codec
    halvings = (codec.factor or 1).bit_length() - 1
    levels = tuple(level + halvings for level in model.attention_levels if level + halvings < len(model.level_widths))
    values: dict[str, object] = {"codec.run": None, "codec.factor": None, "codec.channels": None}
    values |= {"model.attention_levels": levels, "model.up_attention_levels": None}
    config = config_lib.validated(config_lib.with_values(run.config, values))
    return Run(config, build.network(config, "float32"), 0)


def main(_: list[str]) -> None:
    """Prints the figures as JSON."""
    settings: dict[str, int] = {} if FLAGS.steps is None else {"steps": FLAGS.steps}
    run = load_run(FLAGS.run_dir, batch_size=FLAGS.num_images, **settings)
    subjects = {"latents": run, "pixels": of_pixels(run)}
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for repeat in range(FLAGS.repeats + 1):
        for name, subject in subjects.items():
            began = time.perf_counter()
            subject.sample(np.arange(FLAGS.num_images))
            if repeat:  # the first time it is traced
                seconds[name].append((time.perf_counter() - began) / FLAGS.num_images)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    states = tf.zeros([FLAGS.num_images, *run.state_shape])
    decode = tf.function(run.codec.decode, autograph=False)
    decode(states)
    began = time.perf_counter()
    decode(states).numpy()
    found = {
        "image_shape": run.image_shape,
        "state_shape": run.state_shape,
        "steps": run.config.sample.steps,
        "parameters": run.network.count_params(),
        "seconds_an_image": {name: round(value, 4) for name, value in medians.items()},
        "pixels_over_latents": round(medians["pixels"] / medians["latents"], 2),
        "seconds_of_decoding": round((time.perf_counter() - began) / FLAGS.num_images, 4),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    app.run(main)
