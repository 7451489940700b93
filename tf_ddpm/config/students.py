"""The configuration of a new student: its teacher's, and how a student of its method learns and draws by default."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tf_ddpm.config.distillation import DistillConfig
from tf_ddpm.config.parsing import with_settings, with_values
from tf_ddpm.config.rules import validated
from tf_ddpm.config.schema import Config, SampleConfig
from tf_ddpm.config.training import TrainConfig
from tf_ddpm.errors import UserError

METHODS = ("consistency", "progressive")
_SHARE = 0.2  # of the teacher's learning rate
_LEVELS_STD = 2.0  # Geng et al. 2024
# How a consistency student learns, by what its pairs follow. On the teacher's path they may be far apart, and the
# student may learn faster (docs/STUDENTS.md). For pairs under the same noise Geng et al. 2024 have a mean of -1.1, for
# images of standard deviation 0.5; 0.7 are usual here.
_PAIRS: dict[str, dict[str, object]] = {
    "teacher": {"distill.solver": "heun", "distill.gap": 8.0, "train.level_mean": 0.5},
    "data": {"distill.gap": DistillConfig.gap, "train.level_mean": -0.75},
}
_SHARES = {"teacher": 0.5, "data": _SHARE}
# Updates in the time of one of the teacher's, for pairs under the same noise: it calls the network forth and back, and
# they once more. Two more calls make a default student take about half as long again as its teacher.
_FOUR_UNITS = 0.75


def student_of(own: Config, teacher: str, method: str | None, settings: Sequence[str]) -> Config:
    """The configuration of a new student.

    Args:
      own: the teacher's. teacher: its run directory. settings: `section.key=value`, each applied last.

    Raises:
      UserError: for an unknown method, or settings that do not fit.
    """
    if method not in METHODS:
        raise UserError(f"method={method or ''}: expected one of {', '.join(METHODS)}")
    if own.diffusion.learned_variance:
        raise UserError(
            f"teacher={teacher} learns its variance (diffusion.variance={own.diffusion.variance}), which a student "
            "does without; expected a run of fixed_small or fixed_large"
        )
    values: dict[str, object] = _learning(own, method) | _drawing(own, method) | {"distill.teacher": teacher}
    if method == "consistency":
        values["distill.target"] = "data" if own.distill.student else "teacher"
    own = dataclasses.replace(own, distill=DistillConfig())  # of a teacher that is a student itself
    named = {setting.partition("=")[0].strip() for setting in settings}
    config = with_settings(with_values(own, values), settings)
    if method == "consistency":
        config = with_settings(with_values(config, _pairs(own, config.distill.target)), settings)
    return validated(with_values(config, _unnamed(own, config, named)))


def _unnamed(own: Config, config: Config, named: set[str]) -> dict[str, object]:
    """What follows from the length and the kind of the training, unless it was `named`."""
    values, method = dict[str, object](), config.distill.method
    if "train.decay_steps" not in named:
        values["train.decay_steps"] = config.train.steps
    if "train.warmup_steps" not in named:
        values["train.warmup_steps"] = min(100, config.train.steps // 10)
    if "sample.steps" not in named:
        values["sample.steps"] = config.distill.steps
    if own.diffusion.prediction in ("eps", "x_0") and "distill.convert" not in named:
        share = 4 if method == "consistency" else 1 + config.distill.halvings
        values["distill.convert"] = config.train.steps // share
    each = max(1, config.train.steps // 5)
    for name in ("checkpoint_every", "preview_every"):
        if f"train.{name}" not in named:
            values[f"train.{name}"] = each
    if "distill.probe_every" not in named and method == "consistency":
        values["distill.probe_every"] = max(1, config.train.steps // 10)
    return values


def _learning(own: Config, method: str) -> dict[str, object]:
    usual, train = TrainConfig(), own.train
    steps = max(10, round(train.steps * _FOUR_UNITS))
    begun_anew = (
        "objective",
        "min_snr_gamma",
        "nearest_noise",
        "averages",
        "averages_every",
        "guide_at",
        "keep_every",
        "ema_decay",  # (a slow average would long be the teacher, which draws badly in a few steps)
        "ema_warmup",
    )
    values: dict[str, object] = {f"train.{name}": getattr(usual, name) for name in begun_anew}
    values |= {
        "distill.method": method,
        **_steps(own, method),
        "train.steps": steps,
        "train.learning_rate": train.learning_rate * _SHARE,
        "train.precision": "float32",
        "train.level_sampling": "uniform",
        "train.level_mean": usual.level_mean,
        "train.level_std": usual.level_std,
    }
    if method == "consistency":
        values |= {"train.level_sampling": "lognormal", "train.level_std": _LEVELS_STD}
    if own.diffusion.prediction in ("eps", "x_0"):
        values["diffusion.prediction"] = "v"
    return values


def _steps(own: Config, method: str) -> dict[str, int]:
    """Steps of the student and, where that is a student of progressive distillation itself, of its teacher."""
    grid = own.distill.own_steps
    if method == "consistency":
        return {"distill.steps": 2}
    if grid is None or grid == 1:  # (one step cannot be divided: `sampling.teacher` says so)
        return {"distill.steps": 4}
    return {"distill.teacher_steps": grid, "distill.steps": grid // 2}


def _pairs(own: Config, target: str) -> dict[str, object]:
    rate = own.train.learning_rate * _SHARES[target]
    return _PAIRS[target] | {"train.learning_rate": rate, "train.precision": own.train.precision}


def _drawing(own: Config, method: str) -> dict[str, object]:
    usual = SampleConfig()
    kept = ("clip", "batch_size")
    names = [name for name in SampleConfig.__dataclass_fields__ if name not in kept]
    values: dict[str, object] = {f"sample.{name}": getattr(usual, name) for name in names}
    sampler, spacing = ("consistency", "sigmas") if method == "consistency" else ("ddim", "trailing")
    return values | {"sample.sampler": sampler, "sample.spacing": spacing}
