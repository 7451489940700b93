"""The worse network that guides a run: an earlier checkpoint of it, or another run (Karras et al. 2024)."""

from __future__ import annotations

import hashlib
import os
from typing import Any, NamedTuple

from tf_ddpm import build
from tf_ddpm import config as config_lib
from tf_ddpm.config import Config
from tf_ddpm.diffusion import schedules
from tf_ddpm.errors import NotTrainedError, UserError
from tf_ddpm.networks.unet import UNet
from tf_ddpm.runs import checkpoint_files, checkpoints, configuration, kept_labels, probes
from tf_ddpm.runtime.digests import digest
from tf_ddpm.runtime.paths import home_expanded
from tf_ddpm.sampling import first_stage as first_stages
from tf_ddpm.sampling import rebuilding

_USUAL = (0.02, 80.0)  # sigma / alpha between which an image takes shape (Karras et al. 2022, table 1: 0.002 to 80)


class OpenGuide(NamedTuple):
    """A guide, and where it comes from.

    Attributes:
      config: of its run. checkpoint_step: its own. sha256: of its weights.
    """

    config: Config
    network: UNet
    checkpoint_step: int
    sha256: str

    def facts(self) -> dict[str, Any]:
        """What a receipt says of it."""
        text = config_lib.to_json(config_lib.portable(self.config))
        return {
            "checkpoint_step": self.checkpoint_step,
            "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "weights_sha256": self.sha256,
        }

    @property
    def guide(self) -> build.Guide:
        """What the equations need of it."""
        return build.Guide(self.network, self.config.diffusion)


def open_guide(
    config: Config, run_dir: str | os.PathLike, own_step: int, fits: bool = False, xla: bool = False
) -> OpenGuide | None:
    """The guide that `config.sample.guide` names for the run in `run_dir`; None: it names none.

    Args:
      own_step: of the checkpoint that it guides.
      fits: whether it is known to be of latents of the same autoencoder. xla: as of `build.network`.

    Raises:
      UserError: where there is no such checkpoint or run, or it is not of the same images.
    """
    word, sample = config.sample.guide, config.sample
    if word is None:
        return None
    if word.isdecimal():
        folder, own, step = run_dir, config, int(word)
        kept = checkpoint_files.steps(folder)
        if step not in kept:
            raise UserError(
                f"guide={word}: {run_dir} has no checkpoint of that step; it has {', '.join(map(str, kept))} "
                "(train.guide_at and train.keep_every keep earlier ones)"
            )
        if step >= own_step:
            raise UserError(f"guide={word}: it guides this run's step {own_step}; expected an earlier one")
        check(config, own, word)
    else:
        folder, step = os.path.abspath(home_expanded(word, "guide")), None
        try:
            own = configuration.read(folder)
        except NotTrainedError as error:
            raise UserError(f"guide={word}: {error}; expected a step of this run, or a run's directory") from None
        check(config, own, word)
        ours, theirs = kept_labels.label_names(run_dir), kept_labels.label_names(folder)
        if own.model.classes and ours and theirs and ours != theirs:
            raise UserError(f"guide={word}: its labels have other names than this run's; expected the same data")
        if not fits and config.codec.run is not None and _first_stage(config, run_dir) != _first_stage(own, folder):
            raise UserError(f"guide={word}: it diffuses latents of another autoencoder than this run")
        step = probes.best(folder)
    network = build.network(own, "float32", xla)
    step, share = checkpoints.restore_network(network, folder, step, sample.weights)
    if sample.weights == "ema":
        rebuilding.warn_of_stale_average(own.train, step, share, f"guide={word}: ")
    if sample.precision != "float32":
        network = build.recast(network, sample.precision)
    return OpenGuide(own, network, step, digest(*network.get_weights()))


def check(config: Config, guide: Config, word: str) -> None:
    """Whether a run with the configuration `guide` can guide one with `config`.

    Raises:
      UserError: naming what does not fit.
    """
    if guide.autoencoder.trained:
        raise UserError(f"guide={word} is the run of an autoencoder; expected one that draws images")
    if config.distill.jumps or guide.distill.jumps:
        whose = "this run" if config.distill.jumps else "it"
        raise UserError(
            f"guide={word}: {whose} is a consistency student, which says where a path ends and not the mean that "
            "guidance exaggerates"
        )
    if guide.distill.own_steps is not None:
        raise UserError(
            f"guide={word}: it is a progressive student, which knows the levels of its own {guide.distill.own_steps} "
            "steps alone; expected a network that knows all"
        )
    if guide.distill.guided:
        raise UserError(
            f"guide={word}: it is a student that draws with its teacher's guidance, {guide.distill.guidance:g}, and "
            "no worse network; expected an earlier checkpoint, or a run with less training"
        )
    if config.distill.guided:
        guidance = config.distill.guidance
        raise UserError(f"guide={word}: this run is a student that draws with its teacher's guidance, {guidance:g}")
    check_levels(config, guide)
    ours, theirs = (
        (part.data.image_shape, part.codec.run is not None, part.model.enlarges, part.model.factor)
        for part in (config, guide)
    )
    if ours != theirs:
        shape = "x".join(map(str, guide.data.image_shape))
        wanted = "x".join(map(str, config.data.image_shape))
        raise UserError(f"guide={word} draws images of {shape}, or in another way; expected a run like this, {wanted}")
    classes = guide.model.classes
    if classes and (classes != config.model.classes or guide.model.null_class < config.model.null_class):
        raise UserError(
            f"guide={word} knows other labels than this run; expected {config.model.classes} classes"
            + (" and the null class" if config.model.null_class else "")
        )


def check_levels(config: Config, guide: Config) -> None:
    """Whether the guide knows the levels at which it is asked; those beyond the usual ones hardly matter.

    Raises:
      UserError: where it does not.
    """
    (low, high), (least, largest) = (
        schedules.relative_sigmas(part.diffusion.betas)[[0, -1]] for part in (config, guide)
    )
    # (Beyond its noisiest level the image that follows from a predicted eps is off by sigma times its error.)
    most = float("inf") if guide.diffusion.prediction == "eps" else _USUAL[1]
    low, high = max(low, config.sample.guidance_min, _USUAL[0]), min(high, config.sample.guidance_max, most)
    if least > low * 1.01 or largest < high / 1.01:
        raise UserError(
            f"guide={config.sample.guide}: its chain goes from sigma/alpha {least:.3g} to {largest:.3g}, and is asked "
            f"from {low:.3g} to {high:.3g}; expected another guide, or --guidance_interval={least:.3g},{largest:.3g}"
        )


def _first_stage(config: Config, run_dir: str | os.PathLike) -> str | None:
    found = first_stages.of_run(config, run_dir)
    return None if found is None else found.sha256
