"""--mode=cache"""

from __future__ import annotations

import time
from pathlib import Path

from tf_ddpm import datasets
from tf_ddpm.commands import flags
from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.config import DataConfig
from tf_ddpm.datasets import picture_cache
from tf_ddpm.errors import UserError
from tf_ddpm.runs import configuration
from tf_ddpm.runtime.paths import home_expanded


def run(_: str) -> None:
    """Shows the decoded pictures and the latents that are kept, after removing some or decoding more pictures."""
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
    place = home_expanded(data.cache_dir, "data.cache_dir")
    kept = picture_cache.kept(place)
    if FLAGS.older_than is not None:
        for one in (one for one in kept if one.days >= FLAGS.older_than):
            picture_cache.remove(one)
            print(f"removed {one.folder.name}, {one.size / 1e9:.2f} GB")
        kept = picture_cache.kept(place)
    print(f"data.cache_dir={place}: {len(kept)} sizes of pictures, {sum(one.size for one in kept) / 1e9:.2f} GB")
    for one in kept:
        print(f"  {one.folder.name}: {one.pictures:,} pictures, {one.size / 1e9:.2f} GB, used {one.days:.1f} days ago")
    _latents(place)


def _copy(data: DataConfig, folder: Path) -> None:
    if data.name in (None, "digits", "folder"):
        raise UserError(
            "--out of --mode=cache is for a copy of a set of TensorFlow Datasets in ArrayRecord files; expected "
            "--set=data.name=NAME as well"
        )
    print(f"wrote {datasets.copy_as_array_record(data, folder)}; train with --set=data.data_dir={folder}")


def _latents(place: Path) -> None:
    """Shows the latents that are kept, after removing old ones."""
    for path in sorted(place.glob("latents-*.npy")):
        found = path.stat()
        days, size = (time.time() - found.st_mtime) / 86_400, f"{found.st_size / 1e9:.2f} GB"
        if FLAGS.older_than is not None and days >= FLAGS.older_than:
            path.unlink(missing_ok=True)
            print(f"removed {path.name}, {size}")
        else:
            print(f"  {path.name}: latents, {size}, used {days:.1f} days ago")
