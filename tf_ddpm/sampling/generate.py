"""A run directory and seeds -> images on disk."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tf_ddpm.config import SampleConfig
from tf_ddpm.errors import UserError
from tf_ddpm.runtime import atomic_files, cluster, own_files
from tf_ddpm.sampling import image_files
from tf_ddpm.sampling.run import Run

_FRAMES = 30  # of the animation
_SHOWN = 64  # images in the grid
_ANIMATED = 16  # images in the animation
_OURS = re.compile(r"(\d{6,}|grid)\.(png|npy)|progress\.gif")


def generate(
    run: Run, out_dir: str | os.PathLike, num_images: int, seed: int, label: int | None = None, **settings
) -> Path:
    """Draws images with the seeds seed, seed+1, ... and writes them into `out_dir`.

    Files: `000000.png`, ...; `grid.png` of the first 64 (whole rows of classes); `progress.gif` of the first 16, the
    predicted image along the chain; `manifest.json`. They are written aside and moved into place together; files of
    an earlier generation in the same folder, which its manifest names, are removed.

    Args:
      label: the class of all images, -1 for no class; None: every class in turn.
      settings: changes to the run's `config.SampleConfig`; None leaves a setting as it is.

    Returns:
      The path of the grid.

    Raises:
      UserError: for a label or setting out of range, or a folder that cannot be written or holds files of these names
        that no earlier generation wrote.
    """
    sample, out_dir = run.settings(**settings), Path(out_dir)
    if not cluster.this_worker().is_chief:  # this worker draws its share, and the chief writes
        for _ in run.batches(*_seeds_and_labels(run, num_images, seed, label), sample, _FRAMES):
            pass
        return out_dir
    seeds, labels = _seeds_and_labels(run, num_images, seed, label)
    classes = run.config.model.classes
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        earlier = _earlier_files(out_dir)
        _check_free(out_dir, [name for name in os.listdir(out_dir) if _OURS.fullmatch(name)], earlier)
        with atomic_files.staging_directory(out_dir) as folder:
            aside = folder / "samples"
            aside.mkdir()
            _write(run, sample, seeds, labels, image_files.class_columns(classes) if label is None else None, aside)
            manifest = {
                "made_by": own_files.MADE_BY,
                "files": sorted(os.listdir(aside)),
                "seeds": {"first": seed, "count": num_images},
                **({"labels": labels.tolist(), "label_names": list(run.label_names)} if classes else {}),
                **dataclasses.asdict(sample),
                "steps": sample.steps or run.config.diffusion.timesteps,
                "checkpoint_step": run.checkpoint_step,
                "image_shape": run.image_shape,
            }
            (aside / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            _publish(aside, out_dir, manifest["files"])
    except OSError as error:
        raise UserError(f"cannot write samples into {out_dir}: {error.strerror or error}") from None
    return next(out_dir / name for name in manifest["files"] if name.startswith("grid."))


def _seeds_and_labels(run: Run, count: int, seed: int, label: int | None) -> tuple[np.ndarray, np.ndarray]:
    seeds = np.arange(seed, seed + count, dtype=np.int64)
    return seeds, run.labels(seeds, label)


def _write(
    run: Run, sample: SampleConfig, seeds: np.ndarray, labels: np.ndarray, columns: int | None, folder: Path
) -> None:
    """Writes all but the manifest."""
    count = 0
    shown: list[np.ndarray] = []
    frames: list[np.ndarray] = []
    bar = tqdm(total=len(seeds), unit="image", disable=True if len(seeds) <= sample.batch_size else None)
    for images, batch_frames in run.batches(seeds, labels, sample, _FRAMES):
        frames += [] if batch_frames is None else [batch_frames]
        shown += [images] if count < _SHOWN else []
        for image in images:
            image_files.save_image(image, folder / f"{count:06d}")
            count += 1
        bar.update(len(images))
    bar.close()
    first = np.concatenate(shown)[: _SHOWN // (columns or 1) * (columns or 1)]  # full rows of classes
    image_files.save_image(image_files.grid(first, columns), folder / "grid")
    channels = run.image_shape[-1]
    if channels not in image_files.PNG_CHANNELS:
        print(f"PNG has no form for {channels} channels: the images are saved as .npy, without animation")
        return
    # The last frame is the image itself.
    moments = [image_files.grid(frame) for frame in np.swapaxes(frames[0][:_ANIMATED], 0, 1)]
    image_files.save_gif(moments, folder / "progress.gif")


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
