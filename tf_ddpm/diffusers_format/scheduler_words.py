"""The chain and the sampler in the words of `diffusers` (its schedulers), both ways. Imports no TensorFlow.

An option that this project cannot honour is refused by its name, whichever way it goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tf_ddpm.config import Config
from tf_ddpm.diffusers_format.refusals import refuse, refuse_others, translated
from tf_ddpm.errors import UserError

_SAMPLERS = {
    "DDPMScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "DPMSolverMultistepScheduler": "dpmpp",
    "LCMScheduler": "consistency",
}
_SCHEDULES = {"linear": "linear", "scaled_linear": "quadratic", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
_VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "learned_range": "learned_range",
}


_SCHEDULER_DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "variance_type": "fixed_small",
    "clip_sample": True,
    "thresholding": False,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "solver_order": 2,
    "algorithm_type": "dpmsolver++",
}


_SCHEDULER_FIXED = {
    "trained_betas": (None,),
    "clip_sample_range": (1, None),
    "dynamic_thresholding_ratio": (0.995,),
    "steps_offset": (0,),
    "rescale_betas_zero_snr": (False,),
    "set_alpha_to_one": (True,),
    "solver_type": ("midpoint",),
    "lower_order_final": (True,),
    "euler_at_final": (False,),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "use_flow_sigmas": (False, None),
    "use_dynamic_shifting": (False,),
    "final_sigmas_type": ("zero",),
    "timestep_values": (None,),
}


# They change nothing where the options above have their values.
_SCHEDULER_IGNORED = {
    "flow_shift",
    "time_shift_type",
    "lambda_min_clipped",
    "tensor_format",
    "original_inference_steps",
}
_NO_SKIP = 1e10  # an LCMScheduler's timestep_scaling, with which the clean image is the network's and nothing else
_ETAS = {"dpmsolver++": 0.0, "sde-dpmsolver++": 1.0}
# Of our spacings that diffusers has no word for, what the folder says instead.
_NEAREST_SPACING = {"quadratic": "leading", "karras": "trailing", "sigmas": "trailing"}
_UNBOUNDED = 1e6  # largest value of dynamic thresholding that stands for none


def chain_words(scheduler: dict[str, Any], learned: bool) -> dict[str, Any]:
    """Keys of `diffusion`, `sample` and `train` from the config of a scheduler.

    Args:
      learned: whether the network has the variance among its outputs.

    Raises:
      UserError: naming the option that cannot be honoured.
    """
    name = scheduler.get("_class_name", "DDPMScheduler")
    sampler = translated("scheduler", "_class_name", {"_class_name": name}, _SAMPLERS)
    scaling = scheduler.get("timestep_scaling", 10.0)
    if sampler == "consistency" and (not isinstance(scaling, int | float) or scaling < _NO_SKIP):
        refuse(name, "timestep_scaling", scaling, f"expected {_NO_SKIP:g}, as in what a student here is written to")
    scheduler = {key: value for key, value in scheduler.items() if key != "timestep_scaling"}
    if "timesteps" in scheduler:  # the oldest releases' word for it
        scheduler = {"num_train_timesteps": scheduler["timesteps"]} | scheduler
        scheduler.pop("timesteps")
    refuse_others(name, scheduler, _SCHEDULER_DEFAULTS, _SCHEDULER_FIXED, _SCHEDULER_IGNORED)
    solver = sampler == "dpmpp"
    own = {"timestep_spacing": "linspace"} if solver else {}
    given = {key: value for key, value in scheduler.items() if value is not None}
    if solver:  # it keeps the words of the scheduler that it was made from, and clips nothing
        given |= {"clip_sample": False}
    scheduler = _SCHEDULER_DEFAULTS | own | given
    variance = translated(name, "variance_type", scheduler, _VARIANCES)
    if (variance == "learned_range") != learned:
        # DDIM and the solvers take no notice of a fixed variance, but do not drop a learned one either.
        refuse(name, "variance_type", scheduler["variance_type"], "it does not fit the network's out_channels")
    clip = "static" if scheduler["clip_sample"] else "none"
    if scheduler["thresholding"]:
        largest = scheduler["sample_max_value"]
        if largest not in (1.0, _UNBOUNDED):
            refuse(name, "sample_max_value", largest, f"expected 1 or {_UNBOUNDED:g} (no bound)")
        clip = "static" if largest == 1.0 else "dynamic"
    eta = translated(name, "algorithm_type", scheduler, _ETAS)
    if eta and scheduler["solver_order"] > 2:
        refuse(name, "solver_order", scheduler["solver_order"], "expected 1 or 2 with sde-dpmsolver++")
    return {
        "diffusion.timesteps": scheduler["num_train_timesteps"],
        "diffusion.schedule": translated(name, "beta_schedule", scheduler, _SCHEDULES),
        "diffusion.beta_start": scheduler["beta_start"],
        "diffusion.beta_end": scheduler["beta_end"],
        "diffusion.prediction": translated(name, "prediction_type", scheduler, _PREDICTIONS),
        "diffusion.variance": variance,
        "train.objective": "hybrid" if learned else "simple",  # what would go on teaching it
        "sample.sampler": sampler,
        "sample.spacing": scheduler["timestep_spacing"],
        "sample.order": scheduler["solver_order"],
        "sample.eta": eta,
        "sample.clip": clip,
    }


def scheduler_class(config: Config) -> str:
    """Which scheduler draws as the run does."""
    if config.distill.jumps:
        return "LCMScheduler"
    # diffusers' LDMPipeline asks for one that takes eta.
    return "DDIMScheduler" if config.distill.student or config.codec.run is not None else "DDPMScheduler"


def scheduler_config(config: Config) -> dict[str, Any]:
    """The config of the scheduler that is the run's chain.

    Raises:
      UserError: naming the key that diffusers has no word for.
    """
    diffusion, sample = config.diffusion, config.sample
    if diffusion.variance == "learned":
        raise UserError("diffusers reads variance_type=learned as the variance, not as its logarithm: no word for it")
    if diffusion.prediction not in _PREDICTIONS.values():
        raise UserError(f"diffusion.prediction={diffusion.prediction}: diffusers' DDPMScheduler has no word for it")
    backwards = {ours: theirs for theirs, ours in _SCHEDULES.items()}
    if diffusion.schedule != "constant" and diffusion.schedule not in backwards:
        raise UserError(f"diffusion.schedule={diffusion.schedule}: diffusers' DDPMScheduler has no word for it")
    constant, name = diffusion.schedule == "constant", scheduler_class(config)
    # (Of one step, so that DDPMPipeline, which spaces its steps by itself, refuses more: it cannot visit the levels.)
    jumps = {"original_inference_steps": 1, "timestep_scaling": _NO_SKIP} if config.distill.jumps else {}
    return jumps | {
        "_class_name": name,
        "num_train_timesteps": diffusion.timesteps,
        "beta_schedule": "linear" if constant else backwards[diffusion.schedule],
        "beta_start": diffusion.beta_end if constant else diffusion.beta_start,
        "beta_end": diffusion.beta_end,
        "prediction_type": {ours: theirs for theirs, ours in _PREDICTIONS.items()}[diffusion.prediction],
        "variance_type": diffusion.variance,
        "clip_sample": sample.clip == "static",
        "thresholding": sample.clip == "dynamic",
        "sample_max_value": _UNBOUNDED if sample.clip == "dynamic" else 1.0,
        "timestep_spacing": _NEAREST_SPACING.get(sample.spacing, sample.spacing),
    }


def check_levels(config: Config, timesteps: Sequence[int]) -> None:
    """Whether diffusers can visit the run's levels.

    Args:
      timesteps: of the run's sampler.

    Raises:
      UserError: for a student that visits timestep 0, where an LCMScheduler returns what it was given, or levels
        between timesteps, or one whose steps differ in length, which a DDIMScheduler makes from t to t - T // S.
    """
    own, count = config.distill.own_steps, config.diffusion.timesteps
    if own is not None and count % own:
        raise UserError(
            f"distill.steps={own} does not divide diffusion.timesteps={count}: diffusers' DDIMScheduler makes steps "
            "of one length alone"
        )
    if config.distill.jumps and config.sample.spacing == "karras":
        raise UserError(
            "sample.spacing=karras visits levels between timesteps, which diffusers' LCMScheduler does not know; "
            "expected sample.spacing=sigmas"
        )
    if config.distill.jumps and 0 in timesteps:
        raise UserError("sample.sigmas: diffusers' LCMScheduler makes no step at timestep 0; expected larger levels")


def spacing_note(config: Config, timesteps: Sequence[int]) -> str | None:
    """What to tell the scheduler so that it draws as the run does, None where the folder says it.

    Args:
      timesteps: of the run's sampler, ascending.
    """
    sample, name = config.sample, scheduler_class(config)
    if config.distill.jumps:
        given = [int(step) for step in reversed(timesteps)]
        count = config.diffusion.timesteps
        return f"the student's levels: scheduler.set_timesteps(timesteps={given}, original_inference_steps={count})"
    if config.distill.student and sample.clip == "static":
        return f"{name} keeps the noise of what it clips: scheduler.step(..., use_clipped_model_output=True)"
    if sample.spacing not in _NEAREST_SPACING:
        return None
    nearest = _NEAREST_SPACING[sample.spacing]
    return f"sample.spacing={sample.spacing}: diffusers' {name} has no word for it, so the folder says {nearest}"
