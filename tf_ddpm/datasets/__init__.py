"""One door to data: `load` gives an `ImageSet`, `batches` makes training batches of it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from tf_ddpm.config import DataConfig
from tf_ddpm.datasets.image_set import ImageSet, check_names
from tf_ddpm.errors import UserError, required
from tf_ddpm.runtime.paths import home_expanded


def check(data: DataConfig) -> None:
    """What can be said of `data` at once, before TensorFlow is imported.

    Raises:
      UserError: where no data is named, or there is no such split or folder.
    """
    if data.name is None:
        raise UserError("this run does not know its data; name some: data.name=cifar10 (or digits, folder, ...)")
    if data.split == "holdout" and not data.holdout:
        raise UserError(
            "data.split=holdout: nothing is held out; expected data.holdout=0.1 as well, for data.name=folder"
        )
    if data.split != "train" and (data.name == "digits" or (data.name == "folder" and data.decoder == 1)):
        raise UserError(f"data.split={data.split}: data.name={data.name} has no splits; expected train")
    if data.name == "folder":
        root = home_expanded(required(data.path, "data.path"), "data.path")
        if not root.is_dir():
            raise UserError(f"data.path={data.path}: no such folder")
        if data.decoder != 1:
            from tf_ddpm.datasets import finding

            finding.of_split(root, finding.with_held_out(data.split))


def load(
    data: DataConfig, classes: int | None = None, fit: Callable[[tuple[int, int, int]], object] | None = None
) -> ImageSet:
    """The images of `data.name`, at `data.image_size` and with `data.channels`.

    Args:
      classes: of a network that is trained on them: labels that do not fit are told before anything is decoded.
      fit: refuses a shape [H, W, C] that does not suit, as soon as the set says which its images have.

    Raises:
      UserError: where the set does not exist, cannot be downloaded, holds no image, or has other labels.
    """
    check(data)
    if data.name == "digits":
        from tf_ddpm.datasets import digits

        images = digits.load(data)
    elif data.name == "folder":
        from tf_ddpm.datasets import folder

        images = folder.load(data, classes)
    else:
        from tf_ddpm.datasets import tfds_set

        images = tfds_set.load(data, classes, fit)
    if len(images) == 0:
        raise UserError(f"data.name={data.name}: the set is empty")
    if classes is not None:
        check_labels(images, classes)
    return images


def unseen(data: DataConfig) -> DataConfig:
    """`data` as measured on: what is held out of training, if anything is."""
    return dataclasses.replace(data, split="holdout") if data.holdout and data.split == "train" else data


def load_pictures(path: str) -> ImageSet:
    """The images of a folder at their own size: see `folder.load_pictures`."""
    from tf_ddpm.datasets import folder

    return folder.load_pictures(path)


def copy_as_array_record(data: DataConfig, folder: Path) -> Path:
    """Copies a prepared set of TensorFlow Datasets: see `array_records.copy`."""
    from tf_ddpm.datasets import tfds_set

    return tfds_set.copy(data, folder)


def check_labels(images: ImageSet, classes: int) -> None:
    """Whether a network of so many classes (0: none) can be trained on, or asked about, these images.

    Raises:
      UserError: where the set has another number of labels.
    """
    check_names(images.label_names, classes)
    if classes and images.labels.min() < 0:
        raise UserError(f"model.classes={classes}: some images of this split have no label; expected model.classes=0")
