"""run(config, run_dir): data -> update -> log -> checkpoint -> preview."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_ddpm import build, checkpoints, datasets, image_files, interruption, sampling
from tf_ddpm import config as config_lib
from tf_ddpm.config import Config
from tf_ddpm.datasets.batches import batch_dataset
from tf_ddpm.errors import UserError
from tf_ddpm.run_log import RunLog
from tf_ddpm.train_state import TrainState, make_update

_PREVIEW_STEPS = 25


def run(config: Config, run_dir: str | os.PathLike, strategy: tf.distribute.Strategy | None = None) -> TrainState:
    """Trains until `config.train.steps`, from the latest checkpoint of `run_dir` if there is one.

    Args:
      strategy: default `build.strategy()`: all GPUs, or the CPU.

    Returns:
      The final state.

    Raises:
      UserError: for a configuration that does not fit the run, the data or the devices, a run that another process
        trains, or a loss that is not finite.
      Interrupted: after a signal, with the state saved.
    """
    run_dir = Path(run_dir)
    with contextlib.ExitStack() as holds:
        new = not run_dir.is_dir()
        if not new:
            holds.enter_context(interruption.held(run_dir))
        return _run(config, run_dir, strategy, holds if new else None)


def _run(
    config: Config, run_dir: Path, strategy: tf.distribute.Strategy | None, holds: contextlib.ExitStack | None
) -> TrainState:
    """`run`; `holds` takes the hold of a new run's directory, once there is something to write into it."""
    config, images = _prepare(config, run_dir)
    strategy = strategy or build.strategy()
    train, replicas = config.train, strategy.num_replicas_in_sync
    if train.batch_size % replicas:
        raise UserError(
            f"train.batch_size={train.batch_size} cannot be shared equally by {replicas} devices; "
            f"train.batch_size={-(-train.batch_size // replicas) * replicas} can"
        )
    with strategy.scope():
        tf.keras.utils.set_random_seed(train.seed)
        state = TrainState(
            lambda: build.network(config, train.precision), build.optimizer(train), build.timesteps(config)
        )
    keeper = checkpoints.Keeper(run_dir, state, train.keep, train.keep_every)
    keeper.restore()
    step = state.updates
    if step >= train.steps:
        print(f"already at step {step} of {train.steps}: nothing to do (raise it with --set=train.steps=N)")
        return state
    images = images or datasets.load(config.data)
    datasets.check_labels(images, config.model.classes)
    if holds is not None:
        _make_directory(run_dir, holds)
    _write_config(config, run_dir)
    print(f"training {run_dir} from step {step} to {train.steps} on {len(images)} images, {replicas} device(s)")
    _train(config, run_dir, strategy, state, keeper, images)
    print(f"finished at step {state.updates}: {run_dir / 'previews'} shows what it learned")
    return state


def _prepare(config: Config, run_dir: Path) -> tuple[Config, datasets.ImageSet | None]:
    """The resolved configuration, and the images if they were needed to resolve it."""
    config = config_lib.validated(config)
    for warning in config_lib.warnings(config):
        print(f"warning: {warning}", file=sys.stderr)
    if os.path.exists(run_dir / "config.json"):
        return config_lib.continued(config_lib.read(run_dir), config), None
    images = datasets.load(config.data)
    height, width, channels = images.image_shape
    values = {"data.image_size": (height, width), "data.channels": channels}
    return config_lib.validated(config_lib.with_values(config, values)), images


def _make_directory(run_dir: Path, holds: contextlib.ExitStack) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the run directory {run_dir}: {error.strerror}") from None
    holds.enter_context(interruption.held(run_dir))
    if (run_dir / "config.json").exists():
        raise UserError(f"another process has just trained in {run_dir}; the same command goes on with its run")


def _write_config(config: Config, run_dir: Path) -> None:
    try:
        aside = run_dir / ".config.json"
        aside.write_text(config_lib.to_json(config), encoding="utf-8")
        os.replace(aside, run_dir / "config.json")
    except OSError as error:
        raise UserError(f"cannot write the run directory {run_dir}: {error.strerror}") from None


def _train(
    config: Config,
    run_dir: Path,
    strategy: tf.distribute.Strategy,
    state: TrainState,
    keeper: checkpoints.Keeper,
    images: datasets.ImageSet,
) -> None:
    train, step = config.train, state.updates
    process = build.process(config.diffusion)
    update = make_update(
        state,
        process,
        build.objective(train),
        strategy,
        batch_size=train.batch_size,
        clip_norm=train.clip_norm,
        ema_decay=train.ema_decay,
        ema_warmup=train.ema_warmup,
        label_dropout=train.label_dropout,
    )
    batches = strategy.distribute_datasets_from_function(
        lambda context: batch_dataset(
            images, train.batch_size, train.seed, step, config.data.random_flip, context.num_replicas_in_sync
        )
    )
    preview = _previewer(config, state, run_dir)
    log = RunLog(run_dir, step, train.steps)
    with contextlib.closing(log), interruption.Signals() as signals:
        for batch in batches:
            update(batch)
            step += 1
            last, stopped_by = step == train.steps, signals.seen  # read once: a signal may come at any moment
            log.update(step)
            if step % train.log_every == 0 or last:
                _stop_if_not_finite(state, keeper)
                log.scalars(step, train.batch_size, state.take_means())
            log.pause()
            if step % train.checkpoint_every == 0 or last or stopped_by:
                _stop_if_not_finite(state, keeper)
                keeper.save(step)
            if step % train.preview_every == 0 or last:
                log.image(step, "preview", preview(step))
            log.resume()
            if last:
                break
            if stopped_by:
                text = f"stopped at step {step} of {train.steps}, saved in {keeper.latest}; the same command goes on"
                raise interruption.Interrupted(text, stopped_by)


def _stop_if_not_finite(state: TrainState, keeper: checkpoints.Keeper) -> None:
    bad_step = state.first_bad_update
    if bad_step is not None:
        raise UserError(
            f"the loss or its gradient was not finite at step {bad_step}; the last good checkpoint is "
            f"{keeper.latest or 'none (none was written yet)'}\n"
            "In a new --run_dir, a smaller train.learning_rate, a longer warm-up or train.precision=float32 may help."
        )


def _previewer(config: Config, state: TrainState, run_dir: Path):
    """step -> a grid uint8 of the same seeds each time, drawn by the EMA network in a few steps, also on disk."""
    settings = config_lib.with_values(
        config,
        {"sample.sampler": "ddim", "sample.eta": 0.0, "sample.steps": min(_PREVIEW_STEPS, config.diffusion.timesteps)},
    ).sample
    shape = (*config.data.image_size, config.data.channels)
    sample = sampling.compiled(build.sampler(settings, build.process(config.diffusion)), state.ema_network, shape)
    seeds = tf.range(config.train.preview_images, dtype=tf.int64)
    batches = [seeds[i : i + settings.batch_size] for i in range(0, len(seeds), settings.batch_size)]
    classes = config.model.classes

    def preview(step: int) -> np.ndarray:
        parts = []
        for part in batches:
            label = tf.cast(part % max(classes, 1), tf.int32)
            parts.append(sample(part, label, tf.ones_like(label, tf.float32))[0].numpy())
        sheet = image_files.grid(np.concatenate(parts), columns=image_files.class_columns(classes))
        (run_dir / "previews").mkdir(exist_ok=True)
        image_files.save_image(sheet, run_dir / "previews" / f"step_{step:07d}")
        return sheet if sheet.shape[-1] in (1, 3, 4) else sheet[..., :1]

    return preview
