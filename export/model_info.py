"""What an export says of itself: model_info.json."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export import joining
from export.bundle import MODEL_NAME
from export.endpoints import Endpoints
from tf_ddpm import config as config_lib
from tf_ddpm.config.plans import Plan, StagedPlan
from tf_ddpm.errors import required
from tf_ddpm.sampling.first_stage import FirstStage
from tf_ddpm.sampling.run import Run


def of_run(run: Run, module: Endpoints, plans: tuple[Plan, ...], warm: list[str]) -> dict:
    """What `model_info.json` says of a run. `warm`: the signatures that the warm-up asks."""
    return _common(module, plans, warm, run.label_names) | {
        "precision": run.config.sample.precision,
        "weights": run.config.sample.weights,
        "checkpoint_step": run.checkpoint_step,
        "parameters": run.network.count_params(),
        "git_commit": _git_commit(),
        "config": _config(run),
        **_guide(run),
    }


def of_first_stage(found: FirstStage, module: Endpoints, warm: list[str]) -> dict:
    """What `model_info.json` says of an autoencoder."""
    return _common(module, (), warm, ()) | {
        "checkpoint_step": found.checkpoint_step,
        "parameters": found.network.count_params(),
        "git_commit": _git_commit(),
        "config": json.loads(config_lib.to_json(config_lib.portable(found.config))),
        "latents": dataclasses.asdict(found.scale),
    }


def of_cascade(
    runs: Sequence[Run],
    rounded: bool,
    module: Endpoints,
    plans: tuple[StagedPlan, ...],
    warm: list[str],
    label_names: Sequence[str],
) -> dict:
    """What `model_info.json` says of a pipeline, or of a run that enlarges."""
    stages = [
        {
            "precision": run.config.sample.precision,
            "weights": run.config.sample.weights,
            "augmentation": run.config.sample.augmentation,
            "image_shape": list(run.image_shape),
            "checkpoint_step": run.checkpoint_step,
            "parameters": run.network.count_params(),
            "config": _config(run),
            **_guide(run),
        }
        for run in runs
    ]
    enlarging = dataclasses.asdict(required(module.limits.enlarging, "enlarging"))
    return _common(module, plans, warm, label_names) | {
        "null_class": module.limits.null_class,
        "enlarging": enlarging,
        "rounded_between_stages": rounded,
        "checkpoint_step": runs[-1].checkpoint_step,
        "parameters": sum(run.network.count_params() for run in runs),
        "git_commit": _git_commit(),
        "stages": stages,
    }


def _common(
    module: Endpoints, plans: Sequence[Plan | StagedPlan], warm: list[str], label_names: Sequence[str]
) -> dict[str, Any]:
    limits = module.limits
    state = {} if limits.state_shape is None else {"state_shape": list(limits.state_shape)}
    return {
        "model_name": MODEL_NAME,
        "signatures": {name: module.inputs[name] for name in sorted(module.endpoints)},
        "default_plan": plans[0].name if plans else module.default,
        "plans": {plan.name: plan.facts for plan in plans},
        "image_shape": list(limits.image_shape),
        "labels": limits.classes,
        "label_names": list(label_names) if limits.classes else [],
        "limits": {"max_batch": limits.max_batch, "label": None} | {k: list(v) for k, v in limits.ranges().items()},
        "joining": {
            "lanes": {lane.name: dataclasses.asdict(lane) for lane in module.lanes.values()},
            "lane": {name: module.lanes[name].name for name in sorted(module.endpoints)},
            "batch_sizes": joining.allowed_batch_sizes(limits.max_batch),
        },
        "cold": sorted(set(module.endpoints) - set(warm)),
        "left_out": module.left_out,
        **state,
    }


def _guide(run: Run) -> dict[str, Any]:
    """What guides a run, if anything does."""
    return {} if run.guide is None else {"guided": True, "guide": run.guide.facts()}


def _config(run: Run) -> dict:
    return json.loads(config_lib.to_json(config_lib.portable(run.config)))


def _git_commit() -> str | None:
    """The commit of this program, where it is a checkout."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
