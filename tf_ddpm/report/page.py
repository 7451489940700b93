"""A run directory -> report.html: one file that any browser shows without a network."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import tensorflow as tf
from PIL import Image

from tf_ddpm import config as config_lib
from tf_ddpm.config import Config
from tf_ddpm.diffusion.sampler_facts import SAMPLERS
from tf_ddpm.errors import UserError
from tf_ddpm.report import charts
from tf_ddpm.runtime import atomic_files
from tf_ddpm.sampling import generate, image_files
from tf_ddpm.sampling.first_stage import FirstStage
from tf_ddpm.sampling.run import Run
from tf_ddpm.sampling.source import RunSource

_SAMPLES, _ANIMATED, _FRAMES = 64, 16, 30
_PREVIEWS = 24  # of those that training has drawn, evenly spread
_MOST_POINTS = 1500  # of a chart
# What they log.
_OF_AUTOENCODERS = ("l1", "multiscale_l1", "kl", "commitment", "latent_size", "judged_real", "judged_fake")


def write_report(run: Run, run_dir: str | os.PathLike, seed: int = 0) -> Path:
    """Gathers what there is of a run, draws samples, and writes `report.html` into `run_dir`.

    Returns:
      The path of the page.

    Raises:
      UserError: where a file of the run cannot be read, or the page cannot be written.
    """
    found = _gathered(Path(run_dir))  # all of it before the long work
    samples, frames = _drawn(run, seed)
    words = {
        "facts": _facts(run),
        "samples": _url(samples),
        "drawn_with": _drawn_with(run, _SAMPLES),
        "frames": [_url(image_files.grid(frame)) for frame in np.swapaxes(frames, 0, 1)],
        "configuration": _configuration(run.config),
    }
    return _written(Path(run_dir), words | found)


def write_first_stage_report(found: FirstStage, run_dir: str | os.PathLike, real: np.ndarray) -> Path:
    """`write_report` of an autoencoder's run.

    Args:
      real: pictures uint8 [N, H, W, C], which are shown beside what comes back of them.
    """
    gathered, codec = _gathered(Path(run_dir)), found.codec
    again = codec.decode(codec.encode(tf.constant(real))).numpy()
    config, (height, width, channels) = found.config, found.config.data.image_shape
    latent = " × ".join(map(str, codec.state_shape(config.data.image_shape)))
    facts = {
        "data": f"{config.data.name or 'imported'}, {height} × {width} × {channels}",
        "weights": f"of step {found.checkpoint_step:,}, averaged",
        "parameters": f"{found.network.count_params():,}",
        "autoencoder": config.autoencoder.kind,
        "latent": latent,
    }
    words = {
        "facts": facts,
        "samples": _url(image_files.grid(image_files.side_by_side(real, again))),
        "drawn_with": f"{len(real)} pictures, each beside what comes back of it",
        "frames": [],
        "configuration": _configuration(config),
    }
    return _written(Path(run_dir), words | gathered)


def _gathered(run_dir: Path) -> dict[str, Any]:
    """What the run directory says of itself."""
    metrics = _metrics(run_dir)
    return {
        "charts": [*_training_charts(run_dir), *_bound_charts(metrics)],
        "previews": _previews(run_dir),
        "metrics": _metric_rows(metrics),
        "serving": _serving(run_dir),
    }


def _written(run_dir: Path, words: dict[str, Any]) -> Path:
    path = run_dir / "report.html"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("page.html").render(name=run_dir.resolve().name, script=charts.script(), **words)
    try:
        atomic_files.write_text(path, page)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    return path


def _facts(run: Run) -> dict[str, str]:
    config = run.config
    height, width, channels = run.image_shape
    return {
        "data": f"{config.data.name or 'imported'}, {height} × {width} × {channels}",
        "weights": f"of step {run.checkpoint_step:,}, {_average(config)}",
        **({} if run.guide is None else {"guide": f"of step {run.guide.checkpoint_step:,}"}),
        "parameters": f"{run.network.count_params():,}",
        **({} if run.first_stage is None else {"latent": " × ".join(map(str, run.state_shape))}),
        "chain": f"{config.diffusion.timesteps:,} steps, {config.diffusion.schedule}",
        "predicts": config.diffusion.prediction,
    }


def _average(config: Config) -> str:
    """Which average of the weights is drawn with."""
    sample, train = config.sample, config.train
    if sample.weights == "raw":
        return "not averaged"
    if sample.ema is not None:
        return f"averaged with a width of {sample.ema:g}"
    return f"averaged with a decay of {train.ema_decay:g}"


def _drawn(run: Run, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A sheet of samples [H, W, C], and the predicted images of the first along the chain [n, frames, H, W, C]."""
    settings = dataclasses.replace(run.config.sample, batch_size=min(_ANIMATED, run.config.sample.batch_size))
    seeds = np.arange(seed, seed + _SAMPLES)
    source = RunSource(run, settings)
    batches = list(source.batches(seeds, source.labels(seeds, None), _FRAMES))
    frames = next(frames for _, frames in batches if frames is not None)
    columns = image_files.class_columns(source.classes)
    return generate.sheet(source, seeds, np.concatenate([images for images, _ in batches]), columns), frames


def _drawn_with(run: Run, count: int) -> str:
    sample = run.config.sample
    steps = sample.steps or run.config.diffusion.timesteps
    guidance = f", guidance {sample.guidance:g}" if run.config.model.classes or run.guide is not None else ""
    eta = f", eta {sample.eta:g}" if SAMPLERS[sample.sampler].takes_eta else ""
    return f"{count} images, {sample.sampler} in {steps} steps{eta}, clip {sample.clip}{guidance}"


def _training_charts(run_dir: Path) -> list[str]:
    rows = _log(run_dir / "metrics.jsonl")
    if not rows:
        return []
    rows = rows[:: -(-len(rows) // _MOST_POINTS)]
    steps = [row["step"] for row in rows]
    column = lambda name: [row.get(name) for row in rows]  # noqa: E731
    quarters = [name for name in (f"loss_quarter_{i}" for i in range(1, 5)) if any(name in row for row in rows)]
    shown = [
        charts.lines(steps, {"loss": column("loss")}, "Loss", "step", "y"),
        charts.lines(steps, {"images/s": column("images_per_second")}, "Images a second", "step"),
    ]
    if quarters:
        by_quarter = {f"{i}. quarter": column(name) for i, name in enumerate(quarters, 1)}
        shown.append(charts.lines(steps, by_quarter, "Loss by quarter of the chain (1.: least noise)", "step", "y"))
    shown.append(charts.lines(steps, {"norm": column("gradient_norm")}, "Gradient's norm", "step", "y"))
    for name in _OF_AUTOENCODERS:
        if any(name in row for row in rows):
            shown.append(charts.lines(steps, {name: column(name)}, name.replace("_", " "), "step"))
    if any("ema_distance" in row for row in rows):
        distance = {"distance": column("ema_distance")}
        shown.append(charts.lines(steps, distance, "Averaged weights to raw ones, relative", "step", "y"))
    return shown


def _bound_charts(metrics: dict) -> list[str]:
    try:
        terms = metrics["bits_per_dim"]["terms"]
        by_t = [terms["L_0"], *terms["L_t_minus_1"]]
    except (KeyError, TypeError):
        return []
    t = list(range(1, len(by_t) + 1))
    title = f"Bits/dim by t: {metrics['bits_per_dim']['value']:.3f} in all"
    return [charts.lines(t, {"L": by_t}, title, "t", "xy")]


def _log(path: Path) -> list[dict]:
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except FileNotFoundError:  # an imported run
        return []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):  # a line cut short when the run was killed
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]


def _metrics(run_dir: Path) -> dict:
    path = run_dir / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(metric["value"], int | float) for metric in metrics.values()):
            return metrics
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    raise UserError(f"{path} cannot be read as metrics; move it away first")


def _metric_rows(metrics: dict) -> list[dict]:
    words = {"bits_per_dim": "bits/dim", "fid": "FID", "kid": "KID"}
    return [
        {
            "name": words.get(name, name.replace("_", " ")),
            "value": f"{metric['value']:.4g}",
            "receipt": json.dumps(metric.get("receipt", {}), indent=1),
        }
        for name, metric in metrics.items()
    ]


def _previews(run_dir: Path) -> list[dict]:
    paths = sorted((run_dir / "previews").glob("step_*.png"))
    some: Iterable[int] = np.unique(np.linspace(0, len(paths) - 1, _PREVIEWS).round().astype(int)) if paths else []
    try:
        return [{"step": int(paths[i].stem[5:]), "url": _png_url(paths[i].read_bytes())} for i in some]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the previews in {run_dir}: {str(error)[:100]}") from None


def _serving(run_dir: Path) -> dict | None:
    """What the newest export says of itself."""
    found = list((run_dir / "serving" / "ddpm").glob("*/assets.extra/model_info.json"))
    found = [path for path in found if path.parts[-3].isdecimal()]
    if not found:
        return None
    newest = max(found, key=lambda path: int(path.parts[-3]))
    try:
        info = json.loads(newest.read_text(encoding="utf-8"))
        return {"version": newest.parts[-3], "signatures": info["signatures"], "step": info["checkpoint_step"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {newest}: {str(error)[:100]}") from None


def _configuration(own: Config) -> list[dict]:
    """Every key, and whether it is not the default."""
    config, default = config_lib.portable(own), config_lib.Config()
    return [
        {"key": key, "value": str(config_lib.get(config, key)), "changed": key in config_lib.changed(default, config)}
        for key in list(config_lib.keys())
    ]


def _url(image: np.ndarray) -> str:
    """uint8 [H, W, C] as an address that holds the picture itself."""
    channels = image.shape[-1]
    image = image if channels in image_files.PNG_CHANNELS else image[..., :1]
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, format="PNG", optimize=True)
    return _png_url(file.getvalue())


def _png_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
