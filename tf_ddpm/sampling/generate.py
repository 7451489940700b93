"""A run directory and seeds -> images on disk."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tf_ddpm.errors import UserError
from tf_ddpm.runtime import atomic_files, cluster, own_files
from tf_ddpm.sampling import image_files, small_images
from tf_ddpm.sampling.run import Run
from tf_ddpm.sampling.source import RunSource, Source

_FRAMES = 30  # of the animation
_SHOWN = 64  # images in the grid
_COMPARED = 24  # of them where each stands beside two others
_ANIMATED = 16  # images in the animation
_OURS = re.compile(r"(\d{6,}|grid)\.(png|npy)|progress\.gif")


def generate(
    run: Run | Source, out_dir: str | os.PathLike, num_images: int, seed: int, label: int | None = None, **settings
) -> Path:
    """Draws images with the seeds seed, seed+1, ... and writes them into `out_dir`.

    Files: `000000.png`, ...; `grid.png` of the first 64 (whole rows of classes); `progress.gif` of the first 16, the
    predicted image along the chain; `manifest.json`. They are written aside and moved into place together; files of
    an earlier generation in the same folder, which its manifest names, are removed. Of a run that enlarges, the grid
    has each image as the run was shown it, as it was drawn, and as it really is, side by side.

    Args:
      run: or another source, which has its settings already.
      label: the class of all images, -1 for no class; None: every class in turn.
      settings: changes to the run's `config.SampleConfig`; None leaves a setting as it is.

    Returns:
      The path of the grid.

    Raises:
      UserError: for a label or setting out of range, or a folder that cannot be written or holds files of these names
        that no earlier generation wrote.
    """
    source = RunSource(run, run.settings(**settings)) if isinstance(run, Run) else run
    out_dir, seeds = Path(out_dir), np.arange(seed, seed + num_images, dtype=np.int64)
    labels, classes = source.labels(seeds, label), source.classes
    if not cluster.this_worker().is_chief:  # this worker draws its share, and the chief writes
        for _ in source.batches(seeds, labels, _FRAMES):
            pass
        return out_dir
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        earlier = _earlier_files(out_dir)
        _check_free(out_dir, [name for name in os.listdir(out_dir) if _OURS.fullmatch(name)], earlier)
        with atomic_files.staging_directory(out_dir) as folder:
            aside = folder / "samples"
            aside.mkdir()
            _write(source, seeds, labels, image_files.class_columns(classes) if label is None else None, aside)
            manifest = {
                "made_by": own_files.MADE_BY,
                "files": sorted(os.listdir(aside)),
                "seeds": {"first": seed, "count": num_images},
                **({"labels": labels.tolist(), "label_names": list(source.label_names)} if classes else {}),
                **source.facts(),
                "image_shape": source.image_shape,
            }
            (aside / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            _publish(aside, out_dir, manifest["files"])
    except OSError as error:
        raise UserError(f"cannot write samples into {out_dir}: {error.strerror or error}") from None
    return next(out_dir / name for name in manifest["files"] if name.startswith("grid."))


def _write(source: Source, seeds: np.ndarray, labels: np.ndarray, columns: int | None, folder: Path) -> None:
    """Writes all but the manifest."""
    count = 0
    shown: list[np.ndarray] = []
    frames: list[np.ndarray] = []
    bar = tqdm(total=len(seeds), unit="image", disable=True if len(seeds) <= source.batch_size else None)
    for images, batch_frames in source.batches(seeds, labels, _FRAMES):
        frames += [] if batch_frames is None else [batch_frames]
        shown += [images] if count < _SHOWN else []
        for image in images:
            image_files.save_image(image, folder / f"{count:06d}")
            count += 1
        bar.update(len(images))
    bar.close()
    image_files.save_image(sheet(source, seeds, np.concatenate(shown), columns), folder / "grid")
    channels = source.image_shape[-1]
    if channels not in image_files.PNG_CHANNELS:
        print(f"PNG has no form for {channels} channels: the images are saved as .npy, without animation")
        return
    # The last frame is the image itself.
    moments = [image_files.grid(frame) for frame in np.swapaxes(frames[0][:_ANIMATED], 0, 1)]
    image_files.save_gif(moments, folder / "progress.gif")


def sheet(source: Source, seeds: np.ndarray, drawn: np.ndarray, columns: int | None) -> np.ndarray:
    """The first of the images `drawn` for `seeds` in one, whole rows of classes; enlarged ones as `generate` says."""
    small = source.small
    if small is None:
        return image_files.grid(drawn[: _SHOWN // (columns or 1) * (columns or 1)], columns)
    first = seeds[: min(len(drawn), _COMPARED)]
    shown = small_images.enlarged(small.low_res(first), source.runs[0].config.model.factor)
    return image_files.grid(image_files.side_by_side(shown, drawn[: len(first)], small.real(first)))


def _earlier_files(out_dir: Path) -> list[str]:
    """The files of an earlier generation in `out_dir`, as its manifest names them."""
    if (out_dir / "manifest.json").exists() and own_files.manifest(out_dir) is None:
        raise UserError(f"{out_dir / 'manifest.json'} is not of an earlier generation; choose another folder")
    return [name for name in own_files.manifest_files(out_dir) if _OURS.fullmatch(name)]


def _publish(aside: Path, out_dir: Path, names: list[str]) -> None:
    """Moves a generation into place; should this process end meanwhile, the manifest says whose the files are."""
    earlier = _earlier_files(out_dir)
    _check_free(out_dir, names, earlier)  # again: something may have come meanwhile
    half = {"made_by": own_files.MADE_BY, "complete": False, "files": sorted({*earlier, *names})}
    atomic_files.write_text(out_dir / "manifest.json", json.dumps(half) + "\n")
    for name in earlier:
        (out_dir / name).unlink(missing_ok=True)
    for name in names:
        os.replace(aside / name, out_dir / name)
    os.replace(aside / "manifest.json", out_dir / "manifest.json")


def _check_free(out_dir: Path, names: list[str], earlier: list[str]) -> None:
    """Whether none of the files `names` is there but those of an earlier generation."""
    foreign = sorted(name for name in names if name not in earlier and os.path.lexists(out_dir / name))
    if foreign:
        more = f" and {len(foreign) - 1} more" if foreign[1:] else ""
        raise UserError(
            f"{out_dir / foreign[0]}{more}: not of an earlier generation, and not overwritten; choose another folder"
        )
