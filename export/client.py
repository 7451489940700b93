"""Images from a server:  python -m export.client --url=http://localhost:8501 --num_images=16 --out=grid.png

--url=http://HOST:8501 asks over REST, --url=grpc://HOST:8500 over gRPC; both ask the signature `png`.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image
from tqdm import tqdm

from export import protocols
from tf_ddpm.errors import UserError
from tf_ddpm.runtime import atomic_files, interruption, streams
from tf_ddpm.sampling import image_files

FLAGS = flags.FLAGS
_MODES = ("L", "LA", "RGB", "RGBA")  # of 8-bit PNGs with the channels that a run may have


def _images(server: protocols.Server, pngs: list[bytes], rows: int) -> list[np.ndarray]:
    if len(pngs) != rows:
        raise server.strange(f"expected {rows} of them, got {len(pngs)}")
    images = []
    for png in pngs:
        try:
            with warnings.catch_warnings(action="error"), Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
                image, mode = np.asarray(picture), picture.mode
        except Exception:  # damaged bytes make Pillow raise many kinds of them
            raise server.strange("expected PNGs, got other or damaged bytes") from None
        if mode not in _MODES:
            raise server.strange(f"expected PNGs of the modes {', '.join(_MODES)}, got {mode}")
        images.append(image if image.ndim == 3 else image[..., None])
    return images


def _check(seeds: range, label: int | None, guidance: float | None, model: str) -> None:
    if not seeds or min(seeds[0], seeds[-1]) < -(2**63) or max(seeds[0], seeds[-1]) >= 2**63:
        ends = f"{seeds[0]} to {seeds[-1]}" if seeds else "none"
        raise UserError(f"--seed, --num_images: expected seeds from -2**63 to 2**63-1, got {ends}")
    if label is not None and not -(2**31) <= label < 2**31:
        raise UserError(f"--label={label}: expected a class of the run, from 0 on, or -1 for none")
    if guidance is not None and not abs(guidance) <= float(np.finfo(np.float32).max):
        raise UserError(f"--guidance={guidance}: expected a finite number")
    if not re.fullmatch(r"[^\s/:?#%]+", model):
        raise UserError(f"--model={protocols.plain(model)}: expected the name of a model")


def _label(text: str | None, info: str | None) -> int | None:
    """The class that --label names: a number, or a name that model_info.json holds.

    Raises:
      UserError: for a name without the file, for a bad file, for a name that it does not hold.
    """
    if text is None or re.fullmatch(r"-?\d+", text):
        return None if text is None else int(text)
    if info is None:
        raise UserError(
            f"--label={text}: a server knows classes by number; for a name give "
            "--model_info=.../<version>/assets.extra/model_info.json as well"
        )
    try:
        names = json.loads(Path(info).read_text(encoding="utf-8"))["label_names"]
    except (OSError, ValueError, KeyError, TypeError):
        names = None
    if not (isinstance(names, list) and names):
        raise UserError(f"--model_info={info}: expected the model_info.json of an export with classes")
    if text not in names:
        raise UserError(f"--label={text}: expected one of {', '.join(map(str, names))}")
    return names.index(text)


def fetch(
    url: str,
    seeds: range,
    label: int | None = None,
    guidance: float | None = None,
    model: str = "ddpm",
    batch: int = 16,
) -> np.ndarray:
    """The images uint8 [N, H, W, C] of the seeds, `batch` of them in a request.

    Raises:
      UserError: for what cannot be asked, and where the server does not answer with these images.
    """
    server = protocols.server_of(url)
    _check(seeds, label, guidance, model)
    starts = range(0, len(seeds), batch)
    quiet = None if len(starts) > 1 else True  # None: where stderr is no terminal
    images: list[np.ndarray] = []
    with (
        protocols.connect(server, model, min(batch, len(seeds))) as ask,
        tqdm(starts, unit="request", leave=False, disable=quiet) as progress,
    ):
        for start in progress:
            part = list(seeds[start : start + batch])
            inputs: protocols.Inputs = {"seed": part}
            if label is not None:
                inputs["label"] = [label] * len(part)
            if guidance is not None:
                inputs["guidance"] = [guidance] * len(part)
            images += _images(server, ask(inputs), len(part))
            sizes = sorted({image.shape for image in images})
            if len(sizes) > 1:
                raise server.strange(f"expected one size, got {' and '.join(map(str, sizes))}")
    return np.stack(images)


def _target(out: str) -> Path:
    """Where the grid goes: found out before anything is drawn, and nothing is left there."""
    path = Path(out)
    if not path.name or out.endswith("/") or path.is_dir():
        raise UserError(f"--out={out}: expected a file, got a folder")
    if path.suffix not in ("", ".png"):
        raise UserError(f"--out={out}: the grid is a PNG; expected a name that ends in .png")
    target = path.with_suffix(".png")
    if target.is_dir():
        raise UserError(f"--out={out}: {target} is a folder")
    if not target.parent.is_dir():
        raise UserError(f"--out={out}: the folder {target.parent} does not exist")
    with tempfile.NamedTemporaryFile(prefix=".partial-", suffix=f"-{target.name}", dir=target.parent):
        return target


def main(arguments: list[str]) -> int:
    """Writes the grid; 1 and one line on stderr where it cannot."""
    logging.getLogger("grpc").setLevel(logging.CRITICAL)  # it would show tracebacks of what is said in one line
    with streams.unfailing():
        try:
            if len(arguments) > 1:
                raise UserError(f"unexpected argument {arguments[1]!r}: flags look like --name=value")
            with interruption.exit_on_signal(atomic_files.remove_unfinished, "interrupted"):
                target = _target(FLAGS.out)
                seeds = range(FLAGS.seed, FLAGS.seed + FLAGS.num_images)
                label = _label(FLAGS.label, FLAGS.model_info)
                images = fetch(FLAGS.url, seeds, label, FLAGS.guidance, FLAGS.model, FLAGS.batch)
                print(f"wrote {image_files.save_image(image_files.grid(images), target)}")
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except OSError as error:  # of the grid's file
            print(f"error: --out={FLAGS.out}: cannot be written: {error.strerror or error}", file=sys.stderr)
            return 1
        except interruption.Interrupted as error:
            print(error, file=sys.stderr)
            return error.exit_code
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("url", "http://localhost:8501", "The server: http://HOST:8501 or grpc://HOST:8500.")
    flags.DEFINE_string("model", "ddpm", "The model's name there.")
    flags.DEFINE_integer("num_images", 16, "How many images.", lower_bound=1, upper_bound=2**31 - 1)
    flags.DEFINE_integer("seed", 0, "Seed of the first.")
    flags.DEFINE_string("label", None, "Class of all of them, for a run with classes: its number or name; -1: none.")
    flags.DEFINE_string("model_info", None, "model_info.json of the version, for --label=NAME.")
    flags.DEFINE_float("guidance", None, "Weight of the class, or of the network beside its guide.")
    flags.DEFINE_integer("batch", 16, "Images in a request.", lower_bound=1, upper_bound=2**31 - 1)
    flags.DEFINE_string("out", "grid.png", "Where the grid goes: a PNG.")
    app.run(main)
