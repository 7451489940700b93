"""Whether the exported model answers as the run does, in a fresh process that has TensorFlow alone."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from export import codec_comparison, joining, verify
from tf_ddpm import build
from tf_ddpm.config.plans import Plan
from tf_ddpm.errors import UserError
from tf_ddpm.sampling.run import Run

_SEEDS = (0, 1)
_SOME_GUIDANCE = 2.0
_ROUNDING = {"float32": 1e-4, "bfloat16": 0.1}  # of the largest value, in one call of the network
MARGIN = 1.25  # of memory, for what the CPU library keeps


def compare(run: Run, model: Path, aside: Path, plan: Plan, max_batch: int) -> int:
    """Compares what `model` draws and denoises with the run.

    A chain amplifies rounding, so its images alone do not tell. One call of the network has to agree within the
    rounding of the precision; the images have to agree within one grey level, or as well as the same network agrees
    with itself in another precision. The autoencoder of a run of latents has to agree as well: `codec_comparison`.

    Args:
      aside: a folder for what goes to the other process and back.

    Returns:
      The bytes of memory that a server needs with a full batch on every batch thread.

    Raises:
      UserError: where the model does not load, or answers differently from the run.
    """
    requests, measured = _requests(run, _SEEDS[:max_batch]), ["denoise"]
    codec = None if run.first_stage is None else run.first_stage.codec
    if codec is not None:
        requests |= codec_comparison.requests(codec, run.image_shape, len(_SEEDS[:max_batch]))
        measured += codec_comparison.SIGNATURES
    answers = asked(model, aside, requests, ",".join(measured))
    if codec is not None:
        codec_comparison.check(codec, requests, answers)
    known = requests["denoise"]
    _check_call(run, known["x_t"], known["t"], known.get("label"), answers["denoise/eps"])  # (guidance 1: as trained)
    _check_images(run, plan, answers["serving_default/image"])
    return memory(answers, max_batch)


def memory(answers: dict[str, np.ndarray], max_batch: int) -> int:
    """The bytes that a server needs with a full batch on every batch thread: see `asked`."""
    one_row, each_more, _ = answers["memory"]
    batches = sum(lane.threads for lane in joining.LANES)
    return int(one_row + MARGIN * batches * max_batch * each_more)


def _requests(run: Run, chosen: Sequence[int]) -> dict[str, dict[str, np.ndarray]]:
    """Signature -> inputs."""
    seeds, known = np.array(chosen, np.int64), run.config.model
    classes = {"label": run.labels(seeds, None)} if known.classes else {}
    weight = lambda value: {"guidance": np.full(len(seeds), value, np.float32)} if _guided(run) else {}  # noqa: E731
    x_t = np.random.default_rng(0).normal(size=(len(seeds), *run.state_shape)).astype(np.float32)
    t = np.array([run.config.diffusion.timesteps - 1, 0][: len(seeds)], np.int32)
    return {
        "serving_default": {"seed": seeds, **classes, **weight(_guidance(run))},
        "denoise": {"x_t": x_t, "t": t, **classes, **weight(1.0)},
    }


def _guided(run: Run) -> bool:
    return run.config.takes_guidance or run.guide is not None


def _guidance(run: Run) -> float:
    """With which images are compared: more than 1 where there is guidance, so that what guides is compared too."""
    own = run.config.sample.guidance
    return _SOME_GUIDANCE if _guided(run) and own == 1.0 else own


def asked(
    model: Path, aside: Path, requests: dict[str, dict[str, np.ndarray]], measured: str
) -> dict[str, np.ndarray]:
    """The answers, `signature/output` -> array, and `memory` of the signatures `measured`: see `verify`."""
    inputs, outputs = aside / "inputs.npz", aside / "outputs.npz"
    arrays: dict[str, Any] = {f"{name}/{key}": a for name, request in requests.items() for key, a in request.items()}
    np.savez(inputs, **arrays)
    command = [sys.executable, verify.__file__, str(model), str(inputs), str(outputs), measured]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # this process holds memory of the same GPU
    done = subprocess.run(command, cwd=aside, env=env, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"its process ended with code {done.returncode}"])[-1]
        raise UserError(f"the exported model does not load:\n{last[:300]}")
    with np.load(outputs) as served:
        answers = {name: served[name] for name in served.files}
    if not answers["memory"][2]:
        print(
            "warning: this system does not tell what more rows take (/proc/self/clear_refs): the memory that the "
            "manifest asks for may be too little",
            file=sys.stderr,
        )
    return answers


def _check_call(run: Run, x_t: np.ndarray, t: np.ndarray, label: np.ndarray | None, served: np.ndarray) -> None:
    """Whether one call of the network agrees."""
    level = run.chain.levels.at(tf.constant(t), tf.constant(x_t))
    live = run.bound_denoiser(label).eps(tf.constant(x_t), level).numpy()
    largest = max(float(np.abs(live).max()), 1e-6)  # of a network that is not trained yet it is 0
    error = float(np.abs(served - live).max()) / largest
    if error > _ROUNDING[run.config.sample.precision]:
        raise UserError(
            f"the exported model denoises differently from the run: {error:.2g} of the largest value apart"
        )


def _check_images(run: Run, plan: Plan, served: np.ndarray) -> None:
    settings = {**dataclasses.asdict(plan.sample), "guidance": _guidance(run)}
    other = other_precision(run)
    recast = lambda: build.recast(run.network, other)  # noqa: E731
    own = run.first_stage, run.guide
    elsewhere = lambda: Run(run.config, recast(), run.checkpoint_step, None, (), *own)  # noqa: E731
    seeds = _SEEDS[: len(served)]
    check_images(served, run.sample(seeds, **settings), lambda: elsewhere().sample(seeds, **settings), other)


def other_precision(run: Run) -> str:
    """What `check_images` compares with."""
    return "float32" if run.config.sample.precision == "bfloat16" else "bfloat16"


def check_images(served: np.ndarray, live: np.ndarray, elsewhere: Callable[[], np.ndarray], other: str) -> None:
    """Whether served images are those of the run, within what the precision alone changes in them.

    Args:
      elsewhere: draws them in the `other` precision, if that is needed.

    Raises:
      UserError: where they are not.
    """
    if np.abs(served.astype(int) - live).max() <= 1:
        return
    root_mean_square = lambda one: float(np.sqrt(np.mean(np.square(one.astype(float) - live))))  # noqa: E731
    apart, spread = root_mean_square(served), root_mean_square(elsewhere())
    if apart > 2.0 * spread:
        raise UserError(
            f"the exported model draws other images than the run: {apart:.1f} grey levels apart (root mean square), "
            f"where the run's own in {other} are {spread:.1f}"
        )
