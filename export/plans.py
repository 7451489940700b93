"""Sampling plans: the words `ddim-50,dpmpp-20,ddpm-1000`, each a chain that the served model offers. No TensorFlow."""

from __future__ import annotations

import dataclasses

from tf_ddpm import config as config_lib
from tf_ddpm.config import Config, SampleConfig
from tf_ddpm.diffusion.sampler_facts import SAMPLERS
from tf_ddpm.errors import UserError, required

_DEFAULT = ("ddim-50", "dpmpp-20", "ddpm-1000")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A signature's name and how it samples; `sample.steps` is always a number."""

    name: str
    sample: SampleConfig

    @property
    def deterministic(self) -> bool:
        """Whether a latent says all about the image."""
        return SAMPLERS[self.sample.sampler].deterministic(self.sample.eta)

    @property
    def steps(self) -> int:
        """Of its chain."""
        return required(self.sample.steps, "sample.steps")

    @property
    def facts(self) -> dict[str, str | int | float]:
        """How it samples, in the words of `SampleConfig`."""
        facts: dict[str, str | int | float] = {"sampler": self.sample.sampler, "steps": self.steps}
        return facts | ({"eta": self.sample.eta} if SAMPLERS[self.sample.sampler].takes_eta else {})


def parse(words: str | None, config: Config) -> tuple[Plan, ...]:
    """The plans of `--plans`, the first of which is served by default.

    Args:
      words: `sampler-steps` separated by commas; None: 50 steps of DDIM, 20 of DPM-Solver++ and 1,000 ancestral ones,
        none longer than the run's chain. Everything else about the sampling is the run's own.

    Raises:
      UserError: for a plan that is no sampler and number, does not fit the run, or is listed twice.
    """
    timesteps = config.diffusion.timesteps
    if words is None:
        cut = [(name, min(int(steps), timesteps)) for name, _, steps in (word.partition("-") for word in _DEFAULT)]
        words = ",".join(f"{name}-{steps}" for name, steps in dict.fromkeys(cut))
    plans = []
    for word in words.split(","):
        sampler, dash, steps = word.strip().partition("-")
        if not dash or not steps.isdecimal():
            raise UserError(f"plans={words}: {word.strip()!r} is no plan; expected sampler-steps, for example ddim-50")
        changed = config_lib.with_values(config, {"sample.sampler": sampler, "sample.steps": int(steps)})
        plans.append(Plan(f"{sampler}_{int(steps)}", config_lib.validated(changed).sample))
    names = [plan.name for plan in plans]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"plans={words}: {name.replace('_', '-')} is listed twice")
    return tuple(plans)


def own(config: Config) -> str:
    """The run's own way of sampling as a plan."""
    return f"{config.sample.sampler}-{config.sample.steps or config.diffusion.timesteps}"


def of_latents(plans: tuple[Plan, ...], config: Config) -> Plan:
    """The plan that `decode` and `encode` use: the first deterministic one, else 50 steps of DDIM."""
    for plan in plans:
        if plan.deterministic:
            return plan
    steps = min(50, config.diffusion.timesteps)
    return Plan(f"ddim_{steps}", dataclasses.replace(config.sample, sampler="ddim", eta=0.0, steps=steps))
