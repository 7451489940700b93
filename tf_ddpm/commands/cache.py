"""--mode=cache"""

from __future__ import annotations

from pathlib import Path

from tf_ddpm import datasets
from tf_ddpm.commands import flags
from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.config import DataConfig
from tf_ddpm.datasets import cache_folder
from tf_ddpm.errors import UserError
from tf_ddpm.runs import configuration
from tf_ddpm.runtime.paths import home_expanded


def run(_: str) -> None:
    """Shows what is kept in the cache, after removing some or decoding more pictures; or copies a set."""
    settings = flags.settings()
    data = configuration.data_config(settings).data
    out = flags.out()
    if out is not None:
        _copy(data, Path(out))
        return
    if any(word.startswith("data.path=") for word in settings):
        images = datasets.load(data)
        images.decode_all()
        print(f"{len(images)} pictures are decoded")
    _show(home_expanded(data.cache_dir, "data.cache_dir"))


def _show(place: Path) -> None:
    kept = cache_folder.kept(place)
    old = [one for one in kept if FLAGS.older_than is not None and one.days >= FLAGS.older_than]
    for one in old:
        cache_folder.remove(one)
        print(f"removed {one.path.relative_to(place)}, {one.size / 1e9:.2f} GB")
    left = [one for one in kept if one not in old]
    print(f"data.cache_dir={place}: {sum(one.size for one in left) / 1e9:.2f} GB")
    for one in left:
        size = f"{one.size / 1e9:.2f} GB, used {one.days:.1f} days ago"
        print(f"  {one.path.relative_to(place)}: {one.what}, {size}")


def _copy(data: DataConfig, folder: Path) -> None:
    if data.name in (None, "digits", "folder"):
        raise UserError(
            "--out of --mode=cache is for a copy of a set of TensorFlow Datasets in ArrayRecord files; expected "
            "--set=data.name=NAME as well"
        )
    print(f"wrote {datasets.copy_as_array_record(data, folder)}; train with --set=data.data_dir={folder}")
