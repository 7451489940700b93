"""What must fit together in the configuration of a student, and what a student takes from its teacher."""

from __future__ import annotations

import dataclasses

from tf_ddpm.config.distillation import DistillConfig
from tf_ddpm.config.schema import Config
from tf_ddpm.config.training import TrainConfig
from tf_ddpm.diffusion.sampler_facts import SAMPLERS
from tf_ddpm.errors import UserError

_OF_METHODS = {
    "consistency": ("target", "solver", "gap", "stages", "huber"),
    "progressive": ("teacher_steps", "factor"),
}
_OF_DATA = ("objective", "min_snr_gamma", "nearest_noise", "averages", "guide_at")  # keys of `train`
_BOUNDED = ("v", "edm")  # predictions that are the image itself where there is no noise, and finite where there is all


def check(config: Config) -> None:
    """Whether the keys fit together.

    Raises:
      UserError: naming the key that does not fit, and what would.
    """
    distill, sampler = config.distill, config.sample.sampler
    if SAMPLERS[sampler].jumps != distill.jumps:
        fit = ", ".join(name for name, facts in SAMPLERS.items() if facts.jumps == distill.jumps)
        kind = "a consistency student" if distill.jumps else "no consistency student"
        raise UserError(f"sampler={sampler}: this run is {kind}; expected {fit}")
    if not distill.student:
        given = _changed(distill, DistillConfig())
        if given:
            raise UserError(f"distill.{given[0]} is of students: --mode=distill --teacher=RUN")
        return
    if distill.teacher is None:
        raise UserError(f"distill.method={distill.method} needs the run that teaches: distill.teacher=RUN")
    for method, names in _OF_METHODS.items():
        given = [name for name in _changed(distill, DistillConfig()) if name in names]
        if given and method != distill.method:
            raise UserError(f"distill.{given[0]} is of distill.method={method}, not {distill.method}")
    given = [name for name in _OF_DATA if getattr(config.train, name) != getattr(TrainConfig, name)]
    if given:
        raise UserError(f"train.{given[0]} is of networks that learn from data alone; this run is a student")
    if config.autoencoder.trained:
        raise UserError("distill.method: this run trains an autoencoder, which has no teacher")
    if config.model.enlarges:
        raise UserError("distill.method: a run that enlarges images (model.condition=low_res) has no students")
    if config.diffusion.learned_variance:
        raise UserError(
            f"diffusion.variance={config.diffusion.variance}: a student draws without a learned variance; its teacher "
            "must be a run of fixed_small or fixed_large"
        )
    if config.diffusion.prediction not in _BOUNDED:
        raise UserError(
            f"diffusion.prediction={config.diffusion.prediction}: a student predicts {' or '.join(_BOUNDED)}"
        )
    _check_stages(config)
    _check_teaching(distill)
    if distill.method == "progressive":
        _check_progressive(config)
        _check_own_steps(config)


def _changed(here: DistillConfig, usual: DistillConfig) -> list[str]:
    names = [field.name for field in dataclasses.fields(here)]
    return [name for name in names if getattr(here, name) != getattr(usual, name)]


def _check_stages(config: Config) -> None:
    distill, train = config.distill, config.train
    stages = distill.stages
    if distill.method == "progressive":
        stages = distill.halvings
        if stages < 1 or distill.steps * distill.factor**stages != distill.teacher_steps:
            fits = [distill.steps * distill.factor**count for count in (1, 2, 3, 4)]
            raise UserError(
                f"distill.teacher_steps={distill.teacher_steps} is not distill.steps={distill.steps} times a power of "
                f"distill.factor={distill.factor}; {', '.join(map(str, fits))} are"
            )
        if distill.teacher_steps > config.diffusion.timesteps:
            raise UserError(
                f"distill.teacher_steps={distill.teacher_steps} is more than "
                f"diffusion.timesteps={config.diffusion.timesteps}"
            )
    if distill.convert + stages > train.steps:
        raise UserError(
            f"train.steps={train.steps} is too few for distill.convert={distill.convert} and {stages} stage(s)"
        )


def _check_progressive(config: Config) -> None:
    """Its optimizer begins anew with each stage, and its levels are those of its grids."""
    distill, train = config.distill, config.train
    length = (train.steps - distill.convert) // distill.halvings
    if train.warmup_steps >= length or (distill.convert > 0 and train.warmup_steps >= distill.convert):
        raise UserError(f"train.warmup_steps={train.warmup_steps}: a stage has {length} updates; expected fewer")
    if distill.convert > length:
        raise UserError(f"distill.convert={distill.convert}: expected no more than a stage has, {length}")
    if train.decay_steps not in (0, train.steps):
        raise UserError(
            f"train.decay_steps={train.decay_steps}: the learning rate decays in each stage; expected 0 (it does not) "
            f"or train.steps={train.steps} (it does)"
        )
    for name in ("level_sampling", "level_mean", "level_std"):
        if getattr(train, name) != getattr(TrainConfig, name):
            raise UserError(f"train.{name}: the levels of distill.method=progressive are those of its grids")


def _check_own_steps(config: Config) -> None:
    """Between the levels of its grid, and by other ways from one to the next, its network draws no images."""
    sample, own = config.sample, config.distill.own_steps
    wanted = {"sampler": "ddim", "eta": 0.0, "spacing": "trailing", "steps": own}
    for name, value in wanted.items():
        found = getattr(sample, name)
        if found != value:
            shown = config.diffusion.timesteps if found is None else found
            raise UserError(
                f"sample.{name}={shown}: this student learned to draw in {own} steps of ddim, trailing; expected "
                f"{value}"
            )


def _check_teaching(distill: DistillConfig) -> None:
    if distill.guide is not None and not distill.guided:
        raise UserError("distill.guide has no effect with distill.guidance=1; expected more, for example 2")
    usual = DistillConfig()
    interval = (distill.guidance_min, distill.guidance_max)
    if interval != (usual.guidance_min, usual.guidance_max) and not distill.guided:
        raise UserError("distill.guidance_min and guidance_max have no effect with distill.guidance=1")
    if distill.guidance_min >= distill.guidance_max:
        raise UserError(
            f"distill.guidance_min={distill.guidance_min:g} is not below distill.guidance_max={distill.guidance_max:g}"
        )
    if distill.method == "consistency" and distill.target == "data":
        if distill.guided:
            raise UserError(
                f"distill.guidance={distill.guidance:g}: with distill.target=data the teacher is not asked; expected "
                "distill.target=teacher"
            )
        if distill.solver != DistillConfig.solver:
            raise UserError(f"distill.solver={distill.solver} is of distill.target=teacher")
