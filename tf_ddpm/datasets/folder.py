"""A folder of the user's own images; the names of its subfolders are the labels."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tf_ddpm.config import DataConfig
from tf_ddpm.datasets import finding, held_out, lazy_folder, pictures
from tf_ddpm.datasets import heads as lazy_heads
from tf_ddpm.datasets.image_set import ImageSet, check_names, collect
from tf_ddpm.datasets.pictures import Reader, Rules
from tf_ddpm.errors import UserError, required
from tf_ddpm.runtime import memory, own_files
from tf_ddpm.runtime.control_group import cores
from tf_ddpm.runtime.paths import home_expanded, printable
from tf_ddpm.runtime.progress import Progress

_SHOWN = 5  # bad files named in full
_LAZY = 3  # the first decoder whose pictures are decoded when they are asked for


def load(data: DataConfig, classes: int | None = None) -> ImageSet:
    """Every image below `data.path` that Pillow reads; `data.on_bad_file` says what others do: a warning, or the end.

    The label of a file is the subfolder it lies in, as a path from `data.path` (files beside the subfolders
    have the label "."), or from the folder of the split, where the subfolders are splits. Labels are in natural order:
    2 before 10. Hidden files and what systems or this program left there are passed over, links are followed once.

    Args:
      classes: of a network that is trained on them: labels that do not fit are told before anything is decoded.

    Raises:
      UserError: where there is no image in it, a file that is none and may not be passed over, or other labels.
    """
    rules = Rules.of(data)
    root = home_expanded(required(data.path, "data.path"), "data.path")
    if rules.decoder > 1:
        _, other = finding.split_folders(root)
        if other is not None:
            print(
                f"warning: train and test folders are taken as labels, for {printable(other)} is no split",
                file=sys.stderr,
            )
        root = finding.of_split(root, finding.with_held_out(data.split))
    files, reader = _labelled(root, data, rules), Reader(rules)
    if data.on_bad_file == "fail" and files.unreachable:
        _refuse(files.unreachable[0])
    if rules.decoder >= _LAZY:
        return _not_decoded_yet(data, root, reader, files, classes)
    return _decoded_at_once(data, reader, files)


def _decoded_at_once(data: DataConfig, reader: Reader, all_files: _Files) -> ImageSet:
    """All pictures, without what decoding finds out, by the rules of decoders 1 and 2."""
    found, labels, label_names, unreachable, ours = all_files
    if data.holdout and found:
        more = list(unreachable)
        part = _of_part(list(range(len(found))), held_out.find(found, data.holdout, more), data)
        found, labels, unreachable = [found[i] for i in part], [labels[i] for i in part], tuple(more)
    files = [file for file, _, _ in found]
    size, channels = required(data.image_size, "data.image_size"), data.channels or 3
    rules, strict = reader.rules, data.on_bad_file == "fail"
    if strict and unreachable:
        _refuse(unreachable[0])
    bad: list[str] = []
    rows = _decoded(reader, files, labels, size, channels, bad, strict)
    key = _key(found, data, rules, label_names)
    images = collect(rows, len(files), (*size, channels), label_names, data, key, bad)
    images = images if data.holdout else _with_used_labels(images)
    images = dataclasses.replace(images, bad=(*unreachable, *images.bad))
    if not len(images):
        raise UserError(f"data.path={data.path}: {_why_none(images, ours + len(files))}")
    lost = len(images.bad) or (len(files) - len(images)) * (rules.decoder == 1)
    if strict and lost:  # decoded earlier, when they were passed over
        _refuse(f"{lost} of the {len(files)} files in {data.path} are no images")
    _tell(images, reader)
    return images


class _Files(NamedTuple):
    """Files with their labels, what could not be looked at, and how many pictures of this program were passed over."""

    found: list[finding.Found]
    labels: list[int]
    label_names: tuple[str, ...]
    unreachable: tuple[str, ...]
    ours: int


def _not_decoded_yet(data: DataConfig, root: Path, reader: Reader, files: _Files, classes: int | None) -> ImageSet:
    """The pictures that the heads of the files promise. What decoding finds out is another picture's place."""
    reader.set_limits()
    heads = lazy_heads.read(files.found, root, reader)
    problems = [head.problem for head in heads if head.problem]
    strict = data.on_bad_file == "fail"
    if strict and problems:
        _refuse(problems[0])
    chosen = [i for i, head in enumerate(heads) if head.problem is None]
    cache = lazy_folder.open_cache(data) if chosen else ""
    unreachable = list(files.unreachable)
    if data.holdout and chosen:
        found, keys = [files.found[i] for i in chosen], [heads[i].key for i in chosen]
        held = held_out.find(found, data.holdout, unreachable, keys, None if isinstance(cache, str) else cache)
        chosen = _of_part(chosen, held, data)
    if strict and unreachable:
        _refuse(unreachable[0])
    labels, names, bad = np.array(files.labels, np.int32)[chosen], files.label_names, (*unreachable, *problems)
    if not chosen:
        empty = ImageSet(np.zeros((0, 1, 1, 1), np.uint8), labels, names, bad)
        raise UserError(f"data.path={data.path}: {_why_none(empty, files.ours + len(heads) - len(problems))}")
    found, heads = [files.found[i] for i in chosen], [heads[i] for i in chosen]
    lazy = lazy_folder.images(data, reader, found, heads, labels, cache)
    images = ImageSet(lazy, labels, names, bad, hashlib.sha256(b"".join(head.content for head in heads)).hexdigest())
    images = images if data.holdout else _with_used_labels(images)
    if classes is not None:
        check_names(images.label_names, classes)
    refused = [head.refusal for head in heads if head.refusal is not None]
    if strict:
        if refused:
            _refuse(refused[0])
        lazy.read_all()
        if lazy.bad:
            _refuse(lazy.bad[0])
    for line in refused[:_SHOWN]:
        print(f"warning: {printable(line)}; another picture takes its place", file=sys.stderr)
    _tell(images, reader)
    return images


def _labelled(root: Path, data: DataConfig, rules: Rules) -> _Files:
    """The files below `root`, what is held out and what is not.

    Of what is held out and what is not the labels are the same, though one of them may lack some.
    """
    unreachable: list[str] = []
    with Progress(1, "looking for files"):
        found, ours = finding.files(root, unreachable, first_rules=rules.decoder == 1)
    relative = functools.cache(lambda folder: os.path.relpath(folder, root))
    below = [relative(os.path.dirname(str(file)) or ".") for file, _, _ in found]
    naming = lambda i: not data.holdout or finding.is_named_so(found[i][0])  # noqa: E731
    folders = {name for i, name in enumerate(below) if naming(i)}
    label_names = tuple(sorted(folders, key=finding.natural if rules.decoder > 1 else None))
    number = {name: i for i, name in enumerate(label_names)}
    known = [one for one, name in zip(found, below, strict=True) if name in number]
    labels = [number[name] for name in below if name in number]
    return _Files(known, labels, label_names, tuple(unreachable), ours)


def _of_part(those: list[int], held: list[bool | None], data: DataConfig) -> list[int]:
    """Of `those` the ones that are trained on, or the ones that are held out, as `data` says.

    Raises:
      UserError: where there is none.
    """
    part = [i for i, out in zip(those, held, strict=True) if out is (data.split == "holdout")]
    if not part:
        raise UserError(f"data.split={data.split}: none of {len(those)} files falls into it; change data.holdout")
    return part


def _why_none(images: ImageSet, seen: int) -> str:
    if images.bad:
        return f"none of its {len(images.bad)} files is an image that Pillow reads"
    if seen:
        return f"its {seen} pictures were made by this program, which are never trained on"
    return "the folder is empty; expected images, for example PNG or JPEG"


def _key(found: list[finding.Found], data: DataConfig, rules: Rules, label_names: tuple[str, ...]) -> str:
    """Names what is decoded, and how; of a part of a folder, the names of labels do not follow from its files."""
    named = (found, label_names) if data.holdout else found
    digest = hashlib.sha256(repr(named).encode("utf-8", "surrogateescape"))
    (height, width), channels = required(data.image_size, "data.image_size"), data.channels or 3
    key = f"folder-{digest.hexdigest()[:16]}-{height}x{width}x{channels}"
    if rules.decoder == 1:
        return key
    key += f"-d{rules.decoder}-{rules.max_megapixels:g}-{rules.truncated}"
    telephones = any(file.suffix.lower() in (".heic", ".heif") for file, _, _ in found)
    return f"{key}-heif" if telephones and pictures.has_heif() else key


def _tell(images: ImageSet, reader: Reader) -> None:
    if images.bad:
        more = f"\n  and {len(images.bad) - _SHOWN} more" if len(images.bad) > _SHOWN else ""
        print(
            f"warning: {len(images.bad)} of {len(images.bad) + len(images)} files passed over:\n  "
            + "\n  ".join(map(printable, images.bad[:_SHOWN]))
            + more,
            file=sys.stderr,
        )
    for ignored, words in ((False, "colours converted to sRGB"), (True, "colour profiles ignored")):
        notes = [(name, count) for name, count in reader.notes.most_common() if ("ignored" in name) == ignored]
        if notes:
            named = ", ".join(f"{name}: {count}" for name, count in notes[:_SHOWN])
            print(f"{words} in {sum(count for _, count in notes)} images ({named})", file=sys.stderr)


def _refuse(reason: str) -> None:
    raise UserError(f"{reason}\nRemove it, or pass over such files with data.on_bad_file=warn.")


def load_pictures(path: str) -> ImageSet:
    """Every image below `path` at its own size, which all must have; files that are no images are passed over.

    Of a folder that this program has written, the numbered images alone: no grid and no animation.

    Raises:
      UserError: where there is no folder, no image, or images of several sizes.
    """
    root = home_expanded(path, "folder")
    if not root.is_dir():
        raise UserError(f"{path}: no such folder")
    bad: list[str] = []
    if (own_files.manifest(root) or {}).get("complete") is False:
        raise UserError(f"{path}: its samples are not whole: drawing them was stopped; draw them again")
    files = [file for file, _, _ in finding.files(root, bad, samples=True)[0]]
    if not files and (root / "samples.npz").exists():
        raise UserError(f"{path} has its images in samples.npz; expected pictures: --mode=sample --format=both")
    reader = Reader(Rules(), marked=True)
    rows, first = [], None
    for file, image in _images(reader, files, None, None, bad):
        if first is None:
            first = file, image.shape[1::-1]
            # (Twice: for an array of all, beside the pictures that it is made of.)
            memory.check(2.0 * len(files) * image.nbytes, f"holding {len(files)} images", "measure fewer at once")
        if image.shape[1::-1] != first[1]:
            (one, size), two = first, image.shape[1::-1]
            raise UserError(f"{path}: images of several sizes: {one.name} is {size}, {file.name} {two}; expected one")
        rows.append(image)
    for line in bad[:_SHOWN]:
        print(f"warning: passed over {printable(line)}", file=sys.stderr)
    if not rows:
        raise UserError(f"{path}: no image in it that Pillow reads")
    channels = max(image.shape[-1] for image in rows)
    images = np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in rows])
    return ImageSet(images, np.zeros(len(images), np.int32), ())


def _with_used_labels(images: ImageSet) -> ImageSet:
    """Without the labels of which no image is left."""
    used, labels = np.unique(images.labels, return_inverse=True)
    names = tuple(images.label_names[i] for i in used)
    return dataclasses.replace(images, labels=labels.astype(np.int32), label_names=names)


def _decoded(
    reader: Reader,
    files: list[Path],
    labels: list[int],
    size: tuple[int, int],
    channels: int,
    bad: list[str],
    strict: bool,
) -> Iterator[tuple[np.ndarray, int]]:
    """(image, label) of each readable file, in order; the others are added to `bad`, with the reason.

    Raises:
      UserError: for the first of the others, if `strict`.
    """
    label_of = dict(zip(files, labels, strict=True))
    for file, image in _images(reader, files, size, channels, bad, strict):
        yield image, label_of[file]


def _images(
    reader: Reader,
    files: list[Path],
    size: tuple[int, int] | None,
    channels: int | None,
    bad: list[str],
    strict: bool = False,
) -> Iterator[tuple[Path, np.ndarray]]:
    with reader.open(), ThreadPoolExecutor(cores()) as pool, Progress(len(files), "reading images") as bar:
        chunk = 1024  # so that the pool never runs far ahead of what is gathered
        for start in range(0, len(files), chunk):
            part = files[start : start + chunk]
            results = pool.map(lambda file: reader.read(file, size, channels), part)
            for file, result in zip(part, results, strict=True):
                bar.update()
                if isinstance(result, str):
                    if strict:
                        _refuse(result)
                    bad.append(result)
                elif result is not None:
                    yield file, result
