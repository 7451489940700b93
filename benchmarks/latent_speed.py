"""Seconds an image: a run that diffuses latents beside a network that diffuses pixels, in turns.

python -m benchmarks.latent_speed --run_dir=runs/flowers128_latent --num_images=16
python -m benchmarks.latent_speed --run_dir=runs/flowers128_latent --pixels=runs/pixels128

Without --pixels the other network has the run's widths at the same sizes of feature maps, above them levels of a third
of the first width up to the image, and attention where the run's has it. Its weights are random: they do not decide
how long it takes. Both draw with the run's sampler. The run's time includes decoding.
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
flags.DEFINE_string("pixels", None, "A run that diffuses pixels; none: an untrained network is made.")
flags.DEFINE_integer("num_images", 16, "Drawn at once.", lower_bound=1)
flags.DEFINE_integer("repeats", 3, "How often each draws.", lower_bound=1)
flags.DEFINE_integer("steps", None, "Of the sampler; none: as the run has them.")


def of_pixels(run: Run) -> Run:
    """An untrained network for the pixels of the run's images: that of its latents with more levels above."""
    model, codec = run.config.model, run.config.codec
    more = (codec.factor or 1).bit_length() - 1
    above = max(1, model.level_widths[0] // 3 // model.groups) * model.groups
    moved = lambda levels: None if levels is None else tuple(level + more for level in levels)  # noqa: E731
    values: dict[str, object] = {"codec.run": None, "codec.factor": None, "codec.channels": None, "codec.sha256": None}
    values |= {
        "model.channels": above,
        "model.widths": (above,) * more + model.level_widths,
        "model.attention_levels": moved(model.attention_levels),
        "model.up_attention_levels": moved(model.up_attention_levels),
    }
    config = config_lib.validated(config_lib.with_values(run.config, values))
    return Run(config, build.network(config, "float32"), 0)


def main(_: list[str]) -> None:
    """Prints the figures as JSON."""
    settings: dict[str, int] = {} if FLAGS.steps is None else {"steps": FLAGS.steps}
    run = load_run(FLAGS.run_dir, batch_size=FLAGS.num_images, **settings)
    own = run.config.sample
    same = {"batch_size": own.batch_size, "sampler": own.sampler, "steps": own.steps, "spacing": own.spacing}
    pixels = of_pixels(run) if FLAGS.pixels is None else load_run(FLAGS.pixels, **same)
    if pixels.image_shape != run.image_shape:
        raise app.UsageError(f"--pixels draws images of {pixels.image_shape}, --run_dir of {run.image_shape}")
    subjects = {"latents": run, "pixels": pixels}
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
        "parameters": {name: subject.network.count_params() for name, subject in subjects.items()},
        "seconds_an_image": {name: round(value, 4) for name, value in medians.items()},
        "pixels_over_latents": round(medians["pixels"] / medians["latents"], 2),
        "seconds_of_decoding": round((time.perf_counter() - began) / FLAGS.num_images, 4),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    app.run(main)
