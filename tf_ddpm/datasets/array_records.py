"""Sets of TensorFlow Datasets in ArrayRecord files, of which each record is read when it is asked for."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import file_adapters

from tf_ddpm.config import DECODER, DataConfig
from tf_ddpm.datasets import pictures
from tf_ddpm.datasets.image_set import ImageSet
from tf_ddpm.datasets.lazy_images import LazyImages
from tf_ddpm.errors import UserError
from tf_ddpm.runtime import atomic_files, paths
from tf_ddpm.runtime.chunks import once
from tf_ddpm.runtime.control_group import cores
from tf_ddpm.runtime.progress import Progress

FORMAT = file_adapters.FileFormat.ARRAY_RECORD
_PART = 20_000  # labels that are kept together until all are read
_TOGETHER = 500  # records that a thread reads


def load(
    builder: tfds.core.DatasetBuilder,
    data: DataConfig,
    shape: tuple[int, int, int],
    label_names: tuple[str, ...],
    key: str,
) -> ImageSet:
    """The images of such a set; nothing is kept but its labels.

    Args:
      shape: (height, width, channels) of each. key: names the set, as it was built, and its split.
    """
    encoded, feature = _encoded(builder, data.split), builder.info.features["image"]
    labels = _labels(builder, data, key) if label_names else np.full(len(encoded), -1, np.int32)

    def decode(index: int) -> np.ndarray:
        # (As for TFRecord files. TFDS itself would take OpenCV or Pillow here, and other pixels.)
        pixels = feature.decode_example(encoded[index]["image"]).numpy()
        return pictures.array_to_array(pixels, shape[:2], shape[-1], data.decoder)

    content = lambda index: encoded[index]["image"]  # noqa: E731
    rules = f"d{data.decoder or DECODER}-tf"
    images = LazyImages(decode, (len(encoded), *shape), labels, keeps=False, content=content, rules=rules)
    return ImageSet(images, labels, label_names)


def _encoded(builder: tfds.core.DatasetBuilder, split: str) -> tfds.core.data_sources.BaseDataSource:
    """The examples, with the bytes of their images."""
    return builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})


def _labels(builder: tfds.core.DatasetBuilder, data: DataConfig, key: str) -> np.ndarray:
    """All labels int32 [N]: read once, and kept in `data.cache_dir`; a reading that was killed goes on."""
    path = paths.home_expanded(data.cache_dir, "data.cache_dir") / f"labels-{key}.npy"
    count = len(_encoded(builder, data.split))
    with contextlib.suppress(OSError, ValueError, EOFError):
        kept = np.load(path, allow_pickle=False)
        if kept.shape == (count,) and kept.dtype == np.int32:
            paths.touch(path)
            return kept
    parts = path.with_suffix("")
    with contextlib.suppress(OSError):  # they are read again another time
        parts.mkdir(parents=True, exist_ok=True)
    found = _read_labels(builder, data.split, count, parts)
    with contextlib.suppress(OSError):
        with atomic_files.atomic_write(path) as beside, beside.open("wb") as file:
            np.save(file, found)
        shutil.rmtree(parts)
    return found


def _read_labels(builder: tfds.core.DatasetBuilder, split: str, count: int, parts: Path) -> np.ndarray:
    """All labels, each part of them from `parts` where it is there."""
    source, found = _encoded(builder, split), []
    with Progress(count, f"reading labels of {builder.name}") as bar, ThreadPoolExecutor(cores()) as pool:

        def of_some(rows: range) -> list[int]:
            labels = [one["label"] for one in source.__getitems__(list(rows))]
            bar.update(len(rows))
            return labels

        def of_part(rows: range) -> np.ndarray:
            some = [rows[start : start + _TOGETHER] for start in range(0, len(rows), _TOGETHER)]
            return np.concatenate([np.array(one, np.int32) for one in pool.map(of_some, some)])

        for start in range(0, count, _PART):
            rows = range(start, min(start + _PART, count))
            found.append(once(parts / f"{start:09d}.npz", functools.partial(of_part, rows)))
    return np.concatenate(found)


def command(builder: tfds.core.DatasetBuilder, name: str) -> str:
    """The command that copies a prepared set into ArrayRecord files, in a folder of its own."""
    data_dir = Path(builder.data_dir_root)
    words = [f"--set=data.name={name}", f"--set=data.data_dir={data_dir}", f"--out={data_dir / FORMAT.value}"]
    return shlex.join(["python", "-m", "tf_ddpm", "--mode=cache", *words])


def copy(builder: tfds.core.DatasetBuilder, data_dir: Path) -> Path:
    """Copies a prepared set into ArrayRecord files below `data_dir`: the same records, in their order.

    Returns:
      The folder of the copy.

    Raises:
      UserError: where there is one already, or it cannot be written.
    """
    source, target = Path(builder.data_path), data_dir / builder.info.full_name
    if target.exists():
        raise UserError(f"{target} is there already; train on it with --set=data.data_dir={data_dir}")
    try:
        with atomic_files.staging_directory(target.parent) as parent:
            aside = parent / "whole"
            aside.mkdir()
            for file in source.glob("*.txt"):  # names of labels
                shutil.copy2(file, aside)
            shutil.copy2(source / "features.json", aside)
            _copy_records(builder, aside)
            info = json.loads((source / "dataset_info.json").read_text(encoding="utf-8"))
            info["fileFormat"] = FORMAT.value
            (aside / "dataset_info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")
            os.replace(aside, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from None
    return target


def _copy_records(builder: tfds.core.DatasetBuilder, folder: Path) -> None:
    reader = file_adapters.ADAPTER_FOR_FORMAT[builder.info.file_format]
    writer = file_adapters.ADAPTER_FOR_FORMAT[FORMAT]
    with Progress(sum(split.num_examples for split in builder.info.splits.values()), f"copying {builder.name}") as bar:

        def records(path: Path) -> Iterator[tuple[int, bytes]]:
            for number, record in enumerate(reader.make_tf_data(path).as_numpy_iterator()):
                bar.update()
                yield number, record

        for split in builder.info.splits.values():
            names = split.filename_template.replace(data_dir=folder, filetype_suffix=FORMAT.file_suffix)
            targets = names.sharded_filepaths(num_shards=split.num_shards)
            for path, target in zip(split.filepaths, targets, strict=True):
                writer.write_examples(target, records(path))
