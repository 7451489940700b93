"""Sampling plans: `ddim-50` says with which sampler a run draws, and in how many steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tf_ddpm.config.parsing import with_values
from tf_ddpm.config.rules import validated
from tf_ddpm.config.schema import Config, SampleConfig
from tf_ddpm.diffusion.sampler_facts import SAMPLERS
from tf_ddpm.errors import UserError, required

_DEFAULT = ("ddim-50", "dpmpp-20", "ddpm-1000")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a run samples; `sample.steps` is always a number."""

    name: str
    sample: SampleConfig

    @property
    def deterministic(self) -> bool:
        """Whether a latent says all about the image."""
        return SAMPLERS[self.sample.sampler].deterministic(self.sample)

    @property
    def steps(self) -> int:
        """Of its chain."""
        return required(self.sample.steps, "sample.steps")

    @property
    def facts(self) -> dict[str, str | int | float]:
        """How it samples, in the words of `SampleConfig`."""
        facts: dict[str, str | int | float] = {"sampler": self.sample.sampler, "steps": self.steps}
        return facts | ({"eta": self.sample.eta} if SAMPLERS[self.sample.sampler].takes_eta else {})


@dataclasses.dataclass(frozen=True)
class StagedPlan:
    """How the runs of a pipeline sample, one after the other.

    Attributes:
      name: of one plan for all stages its own, otherwise those of all of them.
    """

    name: str
    stages: tuple[Plan, ...]

    @property
    def facts(self) -> list[dict[str, str | int | float]]:
        """How each stage samples."""
        return [plan.facts for plan in self.stages]


def parse(words: str | None, config: Config) -> tuple[Plan, ...]:
    """The plans of `--plans`, the first of which is served by default.

    Args:
      words: `sampler-steps` separated by commas; None: 50 steps of DDIM, 20 of DPM-Solver++ and 1,000 ancestral ones,
        none longer than the run's chain; of a student its own. Everything else about the sampling is the run's own.

    Raises:
      UserError: for a plan that is no sampler and number, does not fit the run, or is listed twice.
    """
    timesteps = config.diffusion.timesteps
    if words is None and config.distill.student:
        words = own(config)
    if words is None:
        cut = [(name, min(int(steps), timesteps)) for name, _, steps in (word.partition("-") for word in _DEFAULT)]
        words = ",".join(f"{name}-{steps}" for name, steps in dict.fromkeys(cut))
    plans = tuple(_plan(word.strip(), config, words) for word in words.split(","))
    _check_names([plan.name for plan in plans], words)
    return plans


def parse_staged(words: str | None, configs: Sequence[Config]) -> tuple[StagedPlan, ...]:
    """The plans of a pipeline of runs with these configurations.

    Args:
      words: as of `parse`; each is one plan for all stages, or has one for each: `ddim-50+dpmpp-10`. None: each
        stage samples as its run does.

    Raises:
      UserError: as `parse`, and for a plan with another number of stages.
    """
    words = "+".join(map(own, configs)) if words is None else words
    staged = []
    for word in words.split(","):
        parts = [part.strip() for part in word.split("+")]
        if len(parts) not in (1, len(configs)):
            raise UserError(
                f"plans={words}: {word.strip()!r} is of {len(parts)} stages; expected one plan for all, or "
                f"{len(configs)}, for example {'+'.join(['ddim-50'] * len(configs))}"
            )
        each = parts * len(configs) if len(parts) == 1 else parts
        stages = tuple(_plan(part, config, words) for part, config in zip(each, configs, strict=True))
        names = [plan.name for plan in stages]
        staged.append(StagedPlan(names[0] if len(set(names)) == 1 else "_".join(names), stages))
    _check_names([plan.name for plan in staged], words)
    return tuple(staged)


def _plan(word: str, config: Config, words: str) -> Plan:
    sampler, dash, steps = word.partition("-")
    if not dash or not steps.isdecimal():
        raise UserError(f"plans={words}: {word!r} is no plan; expected sampler-steps, for example ddim-50")
    changed = with_values(config, {"sample.sampler": sampler} | in_steps(config.sample, int(steps)))
    return Plan(f"{sampler}_{int(steps)}", validated(changed).sample)


def in_steps(sample: SampleConfig, steps: int) -> dict[str, int | tuple[float, ...]]:
    """Values by key that make it draw in so many steps: levels that were chosen for another number do not stay."""
    return {"sample.steps": steps} | ({} if len(sample.sigmas) == steps else {"sample.sigmas": ()})


def _check_names(names: list[str], words: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"plans={words}: {name.replace('_', '-')} is listed twice")


def own(config: Config) -> str:
    """The run's own way of sampling as a plan."""
    return f"{config.sample.sampler}-{config.sample.steps or config.diffusion.timesteps}"


def of_latents(plans: tuple[Plan, ...], config: Config) -> Plan:
    """The plan that `decode` and `encode` use: the first deterministic one, else 50 steps of DDIM."""
    for plan in plans:
        if plan.deterministic:
            return plan
    steps = min(50, config.diffusion.timesteps)
    grid = {"spacing": "trailing", "sigmas": ()} if config.sample.spacing == "sigmas" else {}
    values = {"sampler": "ddim", "eta": 0.0, "steps": steps} | grid
    return Plan(
        f"ddim_{steps}", with_values(config, {f"sample.{name}": value for name, value in values.items()}).sample
    )
