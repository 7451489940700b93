"""Quality and time by sampler and steps.  python -m benchmarks.sampler_table --run_dir=runs/fashion_mnist --out=F.json

The distance is the Fréchet distance between samples and the real training images in the features of a small
classifier, trained here on the same images: cheap, at home in the data, and of use for comparing samplers of one run,
not for comparing with other papers' FID. Its spread is the standard deviation over bootstrap samples of the drawn
images. Rows already in --out are kept, so a long table can be made in parts.
"""

import json
import statistics
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import tf_ddpm
from tf_ddpm import datasets
from tf_ddpm.codecs.pixels import Pixels
from tf_ddpm.evaluation import provenance
from tf_ddpm.evaluation.feature_metrics import frechet_distance, moments
from tf_ddpm.runtime.chunks import Reached, in_chunks
from tf_ddpm.runtime.digests import digest
from tf_ddpm.sampling.run import Run
from tf_ddpm.sampling.source import facts_of

FLAGS = flags.FLAGS
flags.DEFINE_string("run_dir", "runs/fashion_mnist", "The run to measure.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps its sets, if not where the run says.")
flags.DEFINE_list(
    "cells",
    ["ddim:10", "ddim:20", "ddim:50", "dpmpp:10", "dpmpp:20", "dpmpp:50", "ddpm:100", "ddpm:1000"],
    "sampler:steps, ...; further settings behind it: dpmpp:20:eta=1:spacing=trailing.",
)
flags.DEFINE_integer("num_images", 2000, "Samples of each cell.")
flags.DEFINE_integer("timed_images", 64, "How many images the time is taken on, in one batch; 0: leave the time out.")
flags.DEFINE_string("precision", "float32", "Arithmetic of the network while sampling.")
flags.DEFINE_string("out", "sampler_table.json", "Where the rows go.")

_BOOTSTRAPS = 50
_EPOCHS = 3
_BATCH = 100


def classifier(images: datasets.ImageSet) -> tuple[keras.Model, keras.Model]:
    """A small convolutional classifier of the images, and its features (64)."""
    keras.utils.set_random_seed(0)
    picture = keras.Input(images.image_shape)
    h = picture
    for width in (32, 64, 64):
        h = keras.layers.Conv2D(width, 3, strides=2, padding="same", activation="relu")(h)
    features = keras.layers.Dense(64, activation="relu")(keras.layers.Flatten()(h))
    logits = keras.layers.Dense(len(images.label_names))(keras.layers.Dropout(0.3)(features))
    model = keras.Model(picture, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    model.fit(unit(images.images), images.labels, batch_size=128, epochs=_EPOCHS, verbose=0)
    return model, keras.Model(picture, features)


def unit(images: np.ndarray) -> np.ndarray:
    """float32 [-1, 1]."""
    return Pixels().encode(tf.constant(images)).numpy()


def seconds_per_image(run: Run, settings: dict) -> float:
    """The median of three batches, after one that compiles."""
    taken = []
    for _ in range(4):
        began = time.perf_counter()
        run.sample(range(FLAGS.timed_images), batch_size=FLAGS.timed_images, **settings)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:]) / FLAGS.timed_images


def drawn(run: Run, settings: dict, folder: Path) -> np.ndarray:
    """The samples of a cell, kept in parts: a thousand steps take long."""

    def draw(start: int, stop: int, _: Reached) -> dict[str, np.ndarray]:
        return {"images": run.sample(range(1000 + start, 1000 + stop), batch_size=_BATCH, **settings)}

    weights = digest(*run.network.get_weights())
    made_by = digest(weights, facts_of(run, run.settings(**settings)), provenance.versions())
    rows, _ = in_chunks(folder / made_by[:32], FLAGS.num_images, draw, "drawing")
    return rows["images"]


def settings_of(cell: str) -> dict:
    """What a cell says of the sampling."""
    sampler, steps, *further = cell.split(":")
    settings = {"sampler": sampler, "steps": int(steps)}
    for word in further:
        key, value = word.split("=")
        settings[key] = value if value.isalpha() else json.loads(value)
    return settings


def main(_: list[str]) -> None:
    """Prints a Markdown table."""
    run = tf_ddpm.load_run(FLAGS.run_dir, precision=FLAGS.precision)
    data = run.config.data
    changed = {"data_dir": FLAGS.data_dir or data.data_dir}
    train, test = (datasets.load(type(data)(**{**vars(data), **changed, "split": s})) for s in ("train", "test"))
    model, features = classifier(train)
    accuracy = model.evaluate(unit(test.images), test.labels, verbose=0)[1]
    of = lambda images: features.predict(unit(images), batch_size=500, verbose=0)  # noqa: E731
    real = moments(of(train.images))
    rng = np.random.default_rng(0)

    def distance(drawn: np.ndarray) -> tuple[float, float]:
        spread = [
            frechet_distance(moments(drawn[rng.integers(0, len(drawn), len(drawn))]), real) for _ in range(_BOOTSTRAPS)
        ]
        return frechet_distance(moments(drawn), real), float(np.std(spread))

    out = Path(FLAGS.out)
    rows = json.loads(out.read_text()) if out.exists() else {}
    floor = distance(of(test.images[rng.permutation(len(test))[: FLAGS.num_images]]))
    rows["real test images"] = {"distance": floor[0], "spread": floor[1], "classifier_accuracy": accuracy}
    for cell in FLAGS.cells:
        settings = settings_of(cell)
        row = rows.setdefault(cell, {})
        if "distance" not in row:
            row["distance"], row["spread"] = distance(of(drawn(run, settings, out.with_suffix(".samples"))))
        if FLAGS.timed_images and "seconds_per_image" not in row:
            row["seconds_per_image"] = seconds_per_image(run, settings)
        out.write_text(json.dumps(rows, indent=1) + "\n")
        print(cell, rows[cell], flush=True)
    print(f"\nclassifier: {accuracy:.3f} of the test images right; checkpoint step {run.checkpoint_step}\n")
    print("| sampler | steps | Fréchet distance | s/image |\n| --- | --- | --- | --- |")
    for cell, row in rows.items():
        name, steps, further = [*cell.split(":", 2), "", ""][:3]
        name = f"{name} {further.replace(':', ' ')}".strip()
        seconds = f"{row['seconds_per_image']:.4f}" if "seconds_per_image" in row else ""
        print(f"| {name} | {steps} | {row['distance']:.2f} ± {row['spread']:.2f} | {seconds} |")


if __name__ == "__main__":
    app.run(main)
