"""Images/s of the pipeline alone against the size of the images, by where they come from.

    python -m benchmarks.scale.sources --sides=32,64,128,256 --out=DIR

A set of synthetic images is prepared in both formats of TensorFlow Datasets, and as a folder of pictures. Batches of
64 are then drawn, with and without mirror images, from memory, from a file of decoded images, from the cache of
decoded pictures and from ArrayRecord files, whose records are decoded each time. Prints a table, and keeps its rows in
DIR: other sides are added to them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import app, flags
from PIL import Image

from benchmarks.scale import rows
from tf_ddpm import datasets
from tf_ddpm.config import DataConfig
from tf_ddpm.datasets.batches import batch_dataset

FLAGS = flags.FLAGS
flags.DEFINE_list("sides", ["32", "64", "128", "256"], "Of the images.")
flags.DEFINE_integer("count", 2048, "Images of each set.", lower_bound=64)
flags.DEFINE_integer("batches", 200, "Of 64 images, drawn in each turn.", lower_bound=1)
flags.DEFINE_string("out", None, "Where sets and figures go.", required=True)

SOURCES = ("memory", "file", "pictures", "array_record")
_TURNS = 3


def synthetic(side: int) -> Iterator[np.ndarray]:
    """Smooth images [side, side, 3], so that their files are as large as those of photographs."""
    rng = np.random.default_rng(0)
    for _ in range(FLAGS.count):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        yield np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


def data_of(source: str, side: int) -> DataConfig:
    """The configuration of a source, whose files are made if they are not there."""
    place = Path(FLAGS.out) / f"{side}px"
    common = {"image_size": (side, side), "channels": 3, "cache_dir": str(Path(FLAGS.out) / "cache")}
    if source == "pictures":
        folder = place / "pictures"
        if not folder.exists():
            folder.mkdir(parents=True)
            for i, image in enumerate(synthetic(side)):
                Image.fromarray(image).save(folder / f"{i:05d}.jpg", quality=85)
        return DataConfig("folder", str(folder), **common)
    file_format = "array_record" if source == "array_record" else "tfrecord"
    if not (place / file_format).exists():
        _prepare(side, place / file_format, file_format)
    memory_gb = 0.0 if source == "file" else 4.0
    return DataConfig("synthetic", data_dir=str(place / file_format), memory_gb=memory_gb, **common)


def _prepare(side: int, folder: Path, file_format: str) -> None:
    examples = lambda: ({"image": image, "label": i % 2} for i, image in enumerate(synthetic(side)))  # noqa: E731
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(side, side, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=2),
        }
    )
    tfds.dataset_builders.store_as_tfds_dataset(
        name="synthetic",
        version="1.0.0",
        features=features,
        split_datasets={
            "train": tf.data.Dataset.from_generator(examples, output_signature=features.get_tensor_spec())
        },
        data_dir=folder,
        file_format=file_format,
        disable_shuffling=True,
    )


def images_a_second(images: datasets.ImageSet, flip: bool) -> int:
    """The median of a few turns."""
    batches, rates = iter(batch_dataset(images, 64, 0, 0, flip)), []
    next(batches)
    for _ in range(_TURNS):
        began = time.perf_counter()
        for _ in range(FLAGS.batches):
            batch = next(batches)
        tf.nest.map_structure(lambda part: part.numpy(), batch)
        rates.append(64 * FLAGS.batches / (time.perf_counter() - began))
    return round(statistics.median(rates))


def main(_: list[str]) -> None:
    """Prints the table."""
    path = Path(FLAGS.out) / "sources.json"
    print("| side | from | images/s | with flips |\n|" + " --- |" * 4)
    for side in map(int, FLAGS.sides):
        for source in SOURCES:
            images = datasets.load(data_of(source, side))
            images.whole()  # decodes what is kept decoded
            row = {"side": side, "source": source}
            row |= {"without": images_a_second(images, False), "with_flips": images_a_second(images, True)}
            rows.keep(path, row, "side", "source")
            print(f"| {side} | {source} | {row['without']:,} | {row['with_flips']:,} |", flush=True)
            images.stop()


if __name__ == "__main__":
    app.run(main)
