"""What an export says of itself: model_info.json."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

from export import joining
from export.bundle import MODEL_NAME
from export.signatures import ServingModule
from tf_ddpm import config as config_lib
from tf_ddpm.config.plans import Plan
from tf_ddpm.sampling.run import Run


def model_info(run: Run, module: ServingModule, plans: tuple[Plan, ...], warm: list[str]) -> dict:
    """What `model_info.json` says. `warm`: the signatures that the warm-up asks."""
    limits = module.limits
    return {
        "model_name": MODEL_NAME,
        "signatures": {name: module.inputs[name] for name in sorted(module.endpoints)},
        "default_plan": plans[0].name,
        "plans": {plan.name: plan.facts for plan in plans},
        "image_shape": list(limits.image_shape),
        "labels": limits.classes,
        "label_names": list(run.label_names) if limits.classes else [],
        "limits": {"max_batch": limits.max_batch, "label": None} | {k: list(v) for k, v in limits.ranges().items()},
        "joining": {
            "lanes": {lane.name: dataclasses.asdict(lane) for lane in module.lanes.values()},
            "lane": {name: module.lanes[name].name for name in sorted(module.endpoints)},
            "batch_sizes": joining.allowed_batch_sizes(limits.max_batch),
        },
        "cold": sorted(set(module.endpoints) - set(warm)),
        "precision": run.config.sample.precision,
        "weights": run.config.sample.weights,
        "checkpoint_step": run.checkpoint_step,
        "parameters": run.network.count_params(),
        "git_commit": _git_commit(),
        "config": json.loads(config_lib.to_json(config_lib.portable(run.config))),
    }


def _git_commit() -> str | None:
    """The commit of this program, where it is a checkout."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
