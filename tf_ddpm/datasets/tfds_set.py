"""Any image set of TensorFlow Datasets, by its name."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import requests
import tensorflow_datasets as tfds
from absl import logging

from tf_ddpm import config as config_lib
from tf_ddpm.config import DataConfig
from tf_ddpm.datasets import array_records, pictures
from tf_ddpm.datasets.image_set import ImageSet, check_names, collect
from tf_ddpm.errors import UserError, required
from tf_ddpm.runtime import paths
from tf_ddpm.runtime.progress import Progress

_PROBE_SECONDS = 3
_LARGE = 20.0  # GB of decoded images


def load(
    data: DataConfig, classes: int | None = None, fit: Callable[[tuple[int, int, int]], object] | None = None
) -> ImageSet:
    """The split `data.split` of the set `data.name`, downloaded first where it must be and can be.

    Args:
      classes, fit: see `datasets.load`.

    Raises:
      UserError: for an unknown set or split, a set without images or with other labels than a network of so many
        `classes` wants, or a download that cannot happen.
    """
    builder = _builder(data)
    features = (
        dict(builder.info.features.items()) if isinstance(builder.info.features, tfds.features.FeaturesDict) else {}
    )
    feature = features.get("image")
    if not isinstance(feature, tfds.features.Image) or feature.np_dtype != np.uint8:
        raise UserError(f"data.name={data.name}: the set has no feature 'image' of bytes; expected a set of images")
    height, width, native_channels = feature.shape
    size, channels = data.image_size or (height, width), data.channels or native_channels or 3
    if None in size:
        raise UserError(f"data.name={data.name}: its images have many sizes; choose one: data.image_size=64")
    if channels not in (1, 3, 4, native_channels):
        raise UserError(f"data.channels={channels}: expected none (as the set has them), 1, 3 or 4")
    label_feature = features.get("label")
    label_names = tuple(label_feature.names) if isinstance(label_feature, tfds.features.ClassLabel) else ()
    check_names(label_names, classes or 0)
    shape = (*size, channels)
    if fit is not None:
        fit(shape)
    if not builder.is_prepared():
        builder = _prepared(builder, data, shape)
    if data.split not in builder.info.splits:
        splits = ", ".join(builder.info.splits)
        raise UserError(f"data.split={data.split}: {data.name} has the splits {splits}")
    where = hashlib.sha256(str(builder.data_path).encode()).hexdigest()[:8]
    key = f"{builder.info.full_name.replace('/', '-')}-{where}-{_built(builder, data.split)}-{data.split}"
    if builder.info.file_format == array_records.FORMAT:
        return array_records.load(builder, data, shape, label_names, key)
    return _in_order(builder, data, shape, label_names, key)


def copy(data: DataConfig, folder: Path) -> Path:
    """Copies the prepared set `data.name` into ArrayRecord files below `folder`: see `array_records.copy`."""
    builder = _builder(data)
    if not builder.is_prepared():
        raise UserError(f"data.name={data.name}: {_missing(data)}; nothing to copy")
    return array_records.copy(builder, folder)


def _in_order(
    builder: tfds.core.DatasetBuilder,
    data: DataConfig,
    shape: tuple[int, int, int],
    label_names: tuple[str, ...],
    key: str,
) -> ImageSet:
    """The images of a set in TFRecord files, which are read one after the other."""
    size_gb = _size_gb(builder, data.split, shape)
    if size_gb > _LARGE and not _in_file(data, key):
        print(
            f"{data.name} is read one image after the other, and {size_gb:.0f} GB of decoded images are kept in "
            f"data.cache_dir={data.cache_dir}; a copy in ArrayRecord files needs neither, and gives the same batches: "
            f"{array_records.command(builder, required(data.name, 'data.name'))}",
            file=sys.stderr,
        )
    count, (height, width, channels) = builder.info.splits[data.split].num_examples, shape
    key += f"-{height}x{width}x{channels}"
    key += "" if data.decoder == 1 else f"-d{data.decoder or config_lib.DECODER}"
    rows = _decoded(builder, data, (height, width), channels, bool(label_names), count)
    return collect(rows, count, shape, label_names, data, key)


def _built(builder: tfds.core.DatasetBuilder, split: str) -> str:
    """Tells a set from what was there before it was built anew."""
    known, changed = builder.info.splits[split], 0
    with contextlib.suppress(OSError):  # of a set that is in no folder of this machine
        changed = os.stat(builder.data_path / "dataset_info.json").st_mtime_ns
    about = known.shard_lengths, known.num_bytes, changed
    return hashlib.sha256(repr(about).encode()).hexdigest()[:8]


def _size_gb(builder: tfds.core.DatasetBuilder, split: str, shape: tuple[int, int, int]) -> float:
    """GB of the decoded images; 0 where TFDS does not know yet how many there are."""
    known = builder.info.splits
    return float(known[split].num_examples) * shape[0] * shape[1] * shape[2] / 1e9 if split in known else 0.0


def _in_file(data: DataConfig, key: str) -> bool:
    """Whether decoded images of the split are kept already."""
    return any(paths.home_expanded(data.cache_dir, "data.cache_dir").glob(f"{key}-*"))


def _builder(data: DataConfig, file_format: str | None = None) -> tfds.core.DatasetBuilder:
    if data.data_dir is None and "TFDS_DATA_DIR" not in os.environ and not paths.has_home():
        raise UserError(
            f"data.name={data.name}: no home directory to keep it in; set data.data_dir (or TFDS_DATA_DIR)"
        )
    logging.set_verbosity(logging.ERROR)  # TFDS warns of folders that it has not made yet
    if required(data.name, "data.name").startswith("huggingface:"):  # of which TFDS asks the hub for its whole list
        raise UserError(
            f"data.name={data.name}: sets of the Hugging Face hub are not read; expected a set of TensorFlow "
            "Datasets, or its pictures in a folder: data.name=folder, data.path=DIR"
        )
    try:
        return tfds.builder(data.name, data_dir=data.data_dir, file_format=file_format)
    except Exception as error:  # TFDS has no one exception for a name that it does not understand
        name = required(data.name, "data.name").partition("/")[0].partition(":")[0]
        known = tfds.list_builders(with_community_datasets=False)
        if name in known:
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise UserError(f"data.name={data.name}: {reason}") from None
        near = config_lib.closest(name, ["digits", "folder", *known])
        near = near if len(near) < 200 else "digits, folder, mnist, fashion_mnist, cifar10"
        raise UserError(
            f"data.name={data.name}: no such set in TensorFlow Datasets; did you mean: {near}? "
            "(a folder of your own images: data.name=folder, data.path=DIR)"
        ) from None


def _missing(data: DataConfig) -> str:
    return f"{data.name} is not in {data.data_dir or tfds.core.constants.DATA_DIR}"


def _prepared(
    builder: tfds.core.DatasetBuilder, data: DataConfig, shape: tuple[int, int, int]
) -> tfds.core.DatasetBuilder:
    """Downloads and prepares the set, a large one in ArrayRecord files, of which no decoded copy is needed.

    A host that does not answer is found out within seconds.
    """
    where = _missing(data)
    remedy = "set data.data_dir (or TFDS_DATA_DIR) to a folder that holds it prepared"
    urls = [url for url in (builder.url_infos or {}) if url.startswith("http")]
    if urls and not _answers(urls[0]):
        raise UserError(f"{where} and cannot be downloaded (no answer from {urls[0].split('/')[2]}): {remedy}")
    size_gb = _size_gb(builder, data.split, shape)
    if size_gb > _LARGE:
        print(f"{data.name} is prepared in ArrayRecord files: decoded it takes {size_gb:.0f} GB", file=sys.stderr)
        builder = _builder(data, array_records.FORMAT.value)
    try:
        builder.download_and_prepare()
    except Exception as error:  # TFDS raises whatever its downloaders and parsers do
        raise UserError(f"{where} and preparing it failed ({' '.join(str(error).split())[:200]}): {remedy}") from error
    return builder


def _answers(url: str) -> bool:
    """Whether the host of `url` answers at all, within seconds; name resolution included."""

    answers = []

    def probe() -> None:
        with contextlib.suppress(requests.RequestException):
            requests.head(url, timeout=_PROBE_SECONDS).close()
            answers.append(True)

    # A daemon thread, which the end of the process does not wait for.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS + 1)
    return bool(answers)


def _decoded(
    builder: tfds.core.DatasetBuilder,
    data: DataConfig,
    size: tuple[int, int],
    channels: int,
    labelled: bool,
    count: int,
) -> Iterator[tuple[np.ndarray, int]]:
    """(image, label) of each example, in the set's own order."""
    examples = builder.as_dataset(
        split=data.split, shuffle_files=False, read_config=tfds.ReadConfig(interleave_cycle_length=1)
    )
    wanted = examples.map(lambda row: (row["image"], row["label"] if labelled else -1))
    with Progress(count, f"reading {builder.name}") as bar:
        for image, label in wanted.prefetch(64).as_numpy_iterator():
            bar.update()
            yield pictures.array_to_array(image, size, channels, data.decoder), label
