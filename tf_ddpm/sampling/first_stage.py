"""The autoencoder of latent diffusion as a run on disk: opened, copied into the run that diffuses its latents."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_ddpm import build
from tf_ddpm import config as config_lib
from tf_ddpm.codecs.codec import Codec
from tf_ddpm.codecs.latents import Latents
from tf_ddpm.codecs.pixels import Pixels
from tf_ddpm.config import Config, LatentScale
from tf_ddpm.errors import NotTrainedError, UserError
from tf_ddpm.networks.autoencoder import Autoencoder
from tf_ddpm.runs import checkpoints, configuration, latents
from tf_ddpm.runtime import atomic_files
from tf_ddpm.runtime.paths import home_expanded

FOLDER = "autoencoder"  # of a run that diffuses latents: its own copy
_PIXELS = 32 * 128**2  # at once
_VERSION = 1  # of how latents are computed


@dataclasses.dataclass(frozen=True)
class FirstStage:
    """A trained autoencoder with its configuration, its step, and the scale of its latents."""

    config: Config
    network: Autoencoder
    checkpoint_step: int
    scale: LatentScale

    @property
    def codec(self) -> Latents:
        """From images to its latents, and back."""
        return Latents(self.network, self.scale.shift, self.scale.scale)

    @property
    def sha256(self) -> str:
        """Of all that its latents depend on."""
        return digest(self.codec)


def digest(codec: Latents) -> str:
    """sha256 of the autoencoder's weights and wiring, and of the scale of its latents."""
    network = codec.first_stage
    said = [_VERSION, config_lib.said("autoencoder", network.autoencoder), codec.shift, codec.scale]
    found = hashlib.sha256(json.dumps(said).encode())
    for weight in network.weights:
        found.update(np.asarray(weight).tobytes())
    return found.hexdigest()


def open_first_stage(run_dir: str | os.PathLike, config: Config | None = None, step: int | None = None) -> FirstStage:
    """The autoencoder of the run in `run_dir`, float32, with the average of its weights, of which its scale is.

    Args:
      config: with which it is used; None: its own. step: of which checkpoint; None: the latest.

    Raises:
      UserError: where it is no trained autoencoder's run, or it cannot be read.
    """
    config = config or configuration.read(run_dir)
    if not config.autoencoder.trained:
        raise UserError(f"{run_dir} is no autoencoder's run (autoencoder.kind=none)")
    network = build.autoencoder(config, "float32")
    step, _ = checkpoints.restore_network(network, run_dir, step)
    scale = latents.read(Path(run_dir))
    if scale is None:
        raise UserError(
            f"{run_dir} has no {latents.FILE}, which the end of its training writes; it is at step {step} of "
            f"{config.train.steps}: resume it (a smaller train.steps ends it sooner)"
        )
    if scale.checkpoint_step != step:
        raise UserError(
            f"{Path(run_dir) / latents.FILE} is of step {scale.checkpoint_step}, and the weights are of step {step}: "
            "train the run to its end (a smaller train.steps ends it sooner)"
        )
    if len(scale.shift) != config.autoencoder.state_channels:
        raise UserError(f"{Path(run_dir) / latents.FILE} is of latents of {len(scale.shift)} channels")
    return FirstStage(config, network, step, scale)


def describe(config: Config) -> Config:
    """`config` of a run that diffuses latents, with what the autoencoder that it names says of them.

    Raises:
      UserError: where that is no autoencoder's run, or takes other images.
    """
    named = config.codec.run
    if named is None:
        return config
    named = os.path.abspath(home_expanded(named, "codec.run"))
    try:
        known = configuration.read(named)
    except NotTrainedError:
        raise UserError(
            f"codec.run={named}: there is no run; train an autoencoder first (presets autoencoder_...)"
        ) from None
    if not known.autoencoder.trained:
        raise UserError(f"codec.run={named} is no autoencoder's run (autoencoder.kind=none)")
    channels = known.data.image_channels
    if config.data.channels not in (None, channels):
        raise UserError(
            f"codec.run={named} takes images of {channels} channels; got data.channels={config.data.channels}"
        )
    values = {
        "codec.run": named,
        "codec.factor": known.autoencoder.factor,
        "codec.channels": known.autoencoder.state_channels,
        "data.channels": channels,
        "codec.sha256": open_first_stage(named).sha256,
    }
    return config_lib.validated(config_lib.with_values(config, values))


def copy_into(run_dir: Path, named: str) -> None:
    """Keeps the autoencoder of the run `named` in `run_dir`, which then needs no other run; whole, or not at all.

    Raises:
      UserError: where it cannot be read or written.
    """
    target = run_dir / FOLDER
    if target.exists():
        return
    found = open_first_stage(named)
    try:
        with atomic_files.staging_directory(run_dir) as folder:
            aside = folder / FOLDER
            aside.mkdir()
            write(aside, found)
            os.replace(aside, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from None


def write(folder: Path, found: FirstStage) -> None:
    """Writes a run directory with its weights alone, as an import is.

    Raises:
      OSError, UserError: where the disk does not take it.
    """
    (folder / "config.json").write_text(config_lib.to_json(config_lib.portable(found.config)), encoding="utf-8")
    latents.write(folder, dataclasses.replace(found.scale, checkpoint_step=0))
    checkpoints.save_imported(found.network, folder)


def codec_of(config: Config, run_dir: str | os.PathLike) -> Codec:
    """What stands between images and what the run in `run_dir` diffuses.

    Raises:
      UserError: where its autoencoder cannot be read.
    """
    found = of_run(config, run_dir)
    return Pixels() if found is None else found.codec


def of_run(config: Config, run_dir: str | os.PathLike) -> FirstStage | None:
    """The autoencoder of the run in `run_dir`; None: it diffuses pixels.

    Raises:
      UserError: where it cannot be read, or is not the one whose latents the run began to diffuse.
    """
    if config.codec.run is None:
        return None
    place = own_folder(config, run_dir)
    found = open_first_stage(place)
    if config.codec.sha256 not in (None, found.sha256):
        raise UserError(
            f"{place} is not the autoencoder whose latents this run diffuses (its weights or their scale have "
            "changed); put that one back, or take another run directory"
        )
    return found


def own_folder(config: Config, run_dir: str | os.PathLike) -> Path:
    """Where the autoencoder of a run is: its copy, or, before there is one, where the run says."""
    copy = Path(run_dir) / FOLDER
    return copy if copy.exists() or config.codec.run is None else Path(config.codec.run)


def rows_at_once(image_shape: tuple[int, int, int]) -> int:
    """How many images are encoded together: fewer of large ones."""
    height, width, _ = image_shape
    return max(1, _PIXELS // (height * width))


def estimate(network: Autoencoder, parts: Iterable[np.ndarray], step: int) -> LatentScale:
    """The scale of the latents of images that come in `parts` uint8 [b, H, W, C].

    Of `kl` the mean and the standard deviation of each channel. Of the others one number, and no shift: what lies
    nearest to a code, and what a bounded decoder sees, then keeps its place, and other programs have a word for it.
    """
    encode = tf.function(lambda part: network.encode(Pixels().encode(part)), autograph=False)
    images = count = 0
    total = squares = np.zeros(1)
    for part in parts:
        images += len(part)
        found = encode(tf.constant(part)).numpy().astype(np.float64)
        found = found.reshape(-1, found.shape[-1])
        count, total, squares = count + len(found), total + found.sum(axis=0), squares + np.square(found).sum(axis=0)
    mean = total / count
    if network.autoencoder.kind != "kl":
        mean, squares = np.zeros_like(mean), np.full_like(squares, squares.mean())
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
    return LatentScale(tuple(map(float, mean)), tuple(float(1.0 / s) for s in std), images, step)
