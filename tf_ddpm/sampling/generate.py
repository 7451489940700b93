"""A run directory and seeds -> images on disk."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from tf_ddpm.codecs.latents import Latents
from tf_ddpm.errors import UserError
from tf_ddpm.runtime import atomic_files, cluster
from tf_ddpm.runtime.progress import Progress
from tf_ddpm.sampling import image_files, sample_files, small_images
from tf_ddpm.sampling.run import Run
from tf_ddpm.sampling.sample_files import Parts
from tf_ddpm.sampling.source import RunSource, Source

_FRAMES = 30  # of the animation
_SHOWN = 64  # images in the grid
_COMPARED = 24  # of them where each stands beside two others
_ANIMATED = 16  # images in the animation


def generate(
    run: Run | Source,
    out_dir: str | os.PathLike,
    num_images: int,
    seed: int,
    label: int | None = None,
    file_format: str = "png",
    **settings,
) -> Path:
    """Draws images with the seeds seed, seed+1, ... and writes them into `out_dir`.

    Files: `000000.png`, ..., above 10,000 of them in folders of as many; or `samples.npz`; `grid.png` of the first 64
    (whole rows of classes); `progress.gif` of the first 16, the predicted image along the chain; `manifest.json`. They
    are written aside and moved into place together; files of an earlier generation in the same folder, which its
    manifest names, are removed. A generation that was killed goes on where it was. Of a run that enlarges, the grid
    has each image as the run was shown it, as it was drawn, and as it really is, side by side.

    Args:
      run: or another source, which has its settings already.
      label: the class of all images, -1 for no class; None: every class in turn.
      file_format: png, npz (`sample_files.Parts`) or both.
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
        first = source.runs[0].greatest(0)
        for _ in source.batches(seeds[first:], labels[first:], 0 if first else _FRAMES):
            pass
        return out_dir
    manifest = {
        "seeds": {"first": seed, "count": num_images},
        **({"labels": labels.tolist(), "label_names": list(source.label_names)} if classes else {}),
        **source.facts(),
        "image_shape": source.image_shape,
    }
    columns = image_files.class_columns(classes) if label is None else None
    try:
        return out_dir / _written(source, out_dir, seeds, labels, columns, manifest, file_format)
    except BlockingIOError:
        raise UserError(
            f"another process is drawing the same images into {out_dir}; wait for it, or stop it"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write samples into {out_dir}: {error.strerror or error}") from None


def _written(
    source: Source,
    out_dir: Path,
    seeds: np.ndarray,
    labels: np.ndarray,
    columns: int | None,
    manifest: dict[str, Any],
    file_format: str,
) -> str:
    """Draws what is not there yet, moves all into place, and gives the name of the grid."""
    out_dir.mkdir(parents=True, exist_ok=True)
    sample_files.check_free(out_dir)
    with atomic_files.resumed_directory(out_dir, _work(source, manifest, file_format)) as folder:
        parts = Parts(folder, len(seeds), file_format)
        source.runs[0].greatest(parts.done)  # where all workers begin
        if parts.names is None:
            _draw(source, seeds, labels, columns, parts)
            parts.finish(manifest, labels if source.classes else None)
        return next(name for name in sample_files.publish(parts, out_dir) if name.startswith("grid."))


def _work(source: Source, manifest: dict[str, Any], file_format: str) -> str:
    """A name for all that the images depend on."""
    found = hashlib.sha256(json.dumps([manifest, file_format, source.batch_size], default=str).encode())
    for run in source.runs:
        if isinstance(run.codec, Latents):
            found.update(repr((run.codec.shift, run.codec.scale)).encode())
        for weight in run.all_weights:
            found.update(np.asarray(weight).tobytes())
    return found.hexdigest()[:16]


def _draw(source: Source, seeds: np.ndarray, labels: np.ndarray, columns: int | None, parts: Parts) -> None:
    """Draws what is not there yet, and the grid and the animation."""
    first = parts.done
    if first:
        print(f"going on behind {first} images that are there", flush=True)
    with Progress(len(seeds), "drawing", first) as bar:
        for images, frames in source.batches(seeds[first:], labels[first:], 0 if first else _FRAMES):
            if frames is not None:  # with the first images, so that those that go on need not draw them again
                _animate(frames, source.image_shape[-1], parts.folder)
            parts.add(images)
            bar.reach(parts.done)
    image_files.save_image(sheet(source, seeds, parts.first(_SHOWN), columns), parts.folder / "grid")


def _animate(frames: np.ndarray, channels: int, folder: Path) -> None:
    if channels not in image_files.PNG_CHANNELS:
        print(f"PNG has no form for {channels} channels: the images are saved as .npy, without animation")
        return
    # The last frame is the image itself.
    moments = [image_files.grid(frame) for frame in np.swapaxes(frames[:_ANIMATED], 0, 1)]
    image_files.save_gif(moments, folder / "progress.gif")


def sheet(source: Source, seeds: np.ndarray, drawn: np.ndarray, columns: int | None) -> np.ndarray:
    """The first of the images `drawn` for `seeds` in one, whole rows of classes; enlarged ones as `generate` says."""
    small = source.small
    if small is None:
        return image_files.grid(drawn[: _SHOWN // (columns or 1) * (columns or 1)], columns)
    first = seeds[: min(len(drawn), _COMPARED)]
    shown = small_images.enlarged(small.low_res(first), source.runs[0].config.model.factor)
    return image_files.grid(image_files.side_by_side(shown, drawn[: len(first)], small.real(first)))
