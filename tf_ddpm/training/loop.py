"""run(config, run_dir): data -> update -> log -> checkpoint -> preview."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import tensorflow as tf

from tf_ddpm import build, datasets
from tf_ddpm import config as config_lib
from tf_ddpm.codecs.codec import Codec
from tf_ddpm.codecs.latents import Latents
from tf_ddpm.config import Config
from tf_ddpm.datasets.batches import batch_dataset
from tf_ddpm.errors import UserError
from tf_ddpm.networks import averaging
from tf_ddpm.runs import averages, checkpoints, directory, guides, latents, probes
from tf_ddpm.runtime import cluster, devices, interruption
from tf_ddpm.runtime.collectives import agree, all_gather
from tf_ddpm.runtime.paths import printable
from tf_ddpm.runtime.preemption import Preemption
from tf_ddpm.sampling import first_stage, teacher
from tf_ddpm.training import autoencoding, beginning, distilling, encoded
from tf_ddpm.training.optimizers import make_optimizer
from tf_ddpm.training.previews import Preview
from tf_ddpm.training.reconstructions import Reconstructions
from tf_ddpm.training.run_log import NullLog, RunLog
from tf_ddpm.training.state import TrainState
from tf_ddpm.training.update import make_update, make_updates

_NEEDS_LESS = (
    "The same batch in parts (train.accumulate=2) needs less, as a U-Net does with train.remat=true; the run goes on "
    "with either from its last checkpoint. So does a smaller train.batch_size or network, in another run directory."
)

_SHOWN = 30  # labels


def run(config: Config, run_dir: str | os.PathLike, strategy: tf.distribute.Strategy | None = None) -> TrainState:
    """Trains until `config.train.steps`, from the latest checkpoint of `run_dir` if there is one.

    Of several workers (`cluster.place`) each calls this; the chief alone writes.

    Args:
      strategy: default `devices.strategy()`: all GPUs, or the CPU.

    Returns:
      The final state.

    Raises:
      UserError: for a configuration that does not fit the run, the data, the devices or their memory, a run that
        another process trains, or a loss that is not finite.
      Interrupted: after a signal, with the state saved.
    """
    run_dir = Path(run_dir)
    strategy = strategy or devices.strategy()  # first: what is wrong with one worker then ends the others as well
    devices.check(strategy)
    with contextlib.ExitStack() as holds:
        new = not run_dir.is_dir()
        if not new and cluster.this_worker().is_chief:
            holds.enter_context(directory.locked(run_dir))
        holds.enter_context(devices.report_lost_workers())
        holds.enter_context(devices.within_memory(_NEEDS_LESS))
        return _run(config, run_dir, strategy, holds if new else None)


def _run(
    config: Config, run_dir: Path, strategy: tf.distribute.Strategy, holds: contextlib.ExitStack | None
) -> TrainState:
    """`run`; `holds` takes the lock of a new run's directory, before its images are decoded."""
    here = cluster.this_worker()
    config, images = beginning.prepare(config, run_dir, strategy.num_replicas_in_sync, holds)
    train, classes = config.train, config.model.classes
    if train.deterministic:
        tf.config.experimental.enable_op_determinism()
    if here.count > 1:
        images = images or datasets.load(config.data, classes)
        agree(strategy, configuration=_without_paths(config), images=images.fingerprint())
    with strategy.scope():
        tf.keras.utils.set_random_seed(train.seed)
        codec = first_stage.codec_of(config, run_dir)  # in the scope, so that each device has its own
        taught_by = teacher.open_teacher(config, run_dir, train.jit != "off") if config.distill.student else None
        state = _state(config)
    share = lambda updates: averaging.initial_share(updates, train.ema_decay, train.ema_warmup)  # noqa: E731
    staying = guides.kept(run_dir, train)
    keeper = checkpoints.CheckpointManager(
        run_dir, state, train.keep, train.keep_every, here.is_chief, share, staying, train.keep_parts == "average"
    )
    keeper.restore()
    step = state.updates
    if taught_by is not None and not step:
        state.take_from(taught_by.network, taught_by.network)
    if here.count > 1:
        autoencoder = first_stage.digest(codec) if isinstance(codec, Latents) else None
        agree(strategy, step_in_the_run_directory=step, autoencoder=autoencoder)
    if step >= train.steps:
        kept = latents.read(run_dir) if config.autoencoder.trained else None
        if config.autoencoder.trained and here.is_chief and (kept is None or kept.checkpoint_step != step):
            latents.write(run_dir, autoencoding.scale(config, state, images or datasets.load(config.data), step))
        print(f"already at step {step} of {train.steps}: nothing to do; a larger train.steps takes it further")
        return state
    images = images or datasets.load(config.data, classes)
    if here.is_chief:
        directory.write(run_dir, config, images, step)
        guides.write(run_dir, train, staying, step)
        if config.codec.run is not None:
            first_stage.copy_into(run_dir, config.codec.run)
        if taught_by is not None:
            teacher.copy_into(run_dir, taught_by)
        where = f"{strategy.num_replicas_in_sync} device(s)" + (f" of {here.count} workers" if here.count > 1 else "")
        print(f"training {run_dir} from step {step} to {train.steps} on {len(images)} images, {where}", flush=True)
        if images.place is not None:
            print(f"decoded pictures are kept in {images.place}; --mode=cache shows and removes them", flush=True)
        if classes:
            named = ", ".join(f"{i} {name}" for i, name in enumerate(images.label_names[:_SHOWN]))
            print(printable(f"labels: {named}{', ...' if len(images.label_names) > _SHOWN else ''}"), flush=True)
    _Training(config, run_dir, strategy, state, keeper, images, codec, taught_by).run()
    if here.count > 1:
        all_gather(strategy, step)  # no worker leaves while the chief still writes
    if here.is_chief:
        print(f"finished at step {state.updates}: {run_dir / 'previews'} shows what it learned")
    return state


def _state(config: Config) -> TrainState:
    make, count = lambda: build.trained_network(config), len(config.train.averages)
    if config.distill.student:
        return distilling.make_state(config, make)
    optimizer = make_optimizer(config.train)
    if config.autoencoder.trained:
        further = autoencoding.further_metrics(config.autoencoder)
        return TrainState(make, optimizer, further=further, power_averages=count)
    return TrainState(make, optimizer, build.level_sampler(config), power_averages=count)


def _without_paths(config: Config) -> Config:
    paths = {"data.path": None, "data.data_dir": None, "data.cache_dir": "-"}
    if config.codec.run is not None:
        paths["codec.run"] = "-"
    if config.distill.student:
        paths["distill.teacher"] = "-"
    return config_lib.with_values(config, paths)


class _Training:
    """The loop, and what it needs."""

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        strategy: tf.distribute.Strategy,
        state: TrainState,
        keeper: checkpoints.CheckpointManager,
        images: datasets.ImageSet,
        codec: Codec,
        taught_by: teacher.Teacher | None = None,
    ):
        self._config, self._run_dir, self._strategy = config, run_dir, strategy
        self._state, self._keeper, self._images = state, keeper, images
        self._chief = cluster.this_worker().is_chief
        self._place = directory.DirectoryGuard(run_dir) if self._chief else None
        self._codec, self._encoded = codec, None
        if isinstance(codec, Latents) and config.codec.cached:
            self._encoded = encoded.latents(codec, images, config.data)
        self._lesson = self._student = None
        if taught_by is not None:
            self._lesson = distilling.Lesson(config, state, taught_by)
            self._student = distilling.Student(config, state, images, run_dir, codec)
        self._preview = None
        if self._chief:
            folder = run_dir / "previews"
            trains_autoencoder = config.autoencoder.trained
            self._preview = (
                Reconstructions(config, state, images, folder)
                if trains_autoencoder
                else Preview(config, state, images, folder, codec)
            )

    def run(self) -> None:
        """Updates, logs, saves and draws until the last step, or until a signal."""
        try:
            self._loop()
            if self._chief:
                directory.list_bad(self._run_dir, self._images)
        except tf.errors.OpError as error:
            raise self._images.failure or error from None
        except OSError as error:
            place = error.filename or self._run_dir
            raise UserError(
                f"cannot write into {place}: {error.strerror or error}; the last good checkpoint is "
                f"{self._keeper.latest or 'none (none was written yet)'}"
            ) from None
        finally:
            self._images.stop()
            self._keeper.latest  # noqa: B018 (waits for what is being written)

    def _loop(self) -> None:
        train, step = self._config.train, self._state.updates
        updates = self._make_updates()
        log = RunLog(self._run_dir, step, train.steps) if self._chief else NullLog()
        with contextlib.closing(log), interruption.Signals() as signals:
            preemption = Preemption(self._strategy, signals)
            with contextlib.closing(preemption):
                batches = iter(self._batches(step))
                while True:
                    if self._student is not None:
                        self._student.before(step)
                    count = self._count_until_due(step)
                    metrics, waited = updates(batches, tf.constant(count))
                    if self._encoded is None:
                        self._images.fill()  # not before: nothing keeps the first update waiting
                    step += count
                    # Asked once: a signal may come at any moment.
                    last, stopped_by = step == train.steps, preemption.stop_after_step(metrics["loss"])
                    log.update(step, waited)
                    self._report(log, step, last, stopped_by)
                    if last:
                        return self._keeper.finish()
                    if stopped_by:
                        self._leave(step, stopped_by)

    def _count_until_due(self, step: int) -> int:
        """How many updates the next call makes: none of them but the last has something to report."""
        train = self._config.train
        periods = (train.log_every, train.checkpoint_every, train.preview_every, train.averages_period)
        due = [every - step % every for every in periods]
        due += [kept - step for kept in train.guide_steps if kept > step]
        due += self._student.until_due(step) if self._student is not None else []
        return min(train.steps_per_call, train.steps - step, *due)

    def _make_updates(self):
        update = make_update(self._state, self._config, self._strategy, codec=self._codec, lesson=self._lesson)
        return make_updates(update, timed=devices.have_clock())

    def _batches(self, step: int) -> tf.distribute.DistributedDataset:
        train = self._config.train

        def of_process(context: tf.distribute.InputContext) -> tf.data.Dataset:
            shards = context.num_replicas_in_sync
            each = shards // context.num_input_pipelines
            own = range(context.input_pipeline_id * each, (context.input_pipeline_id + 1) * each)
            flip = self._config.data.random_flip
            return batch_dataset(self._images, train.batch_size, train.seed, step, flip, shards, own, self._encoded)

        return self._strategy.distribute_datasets_from_function(of_process)

    def _report(self, log: RunLog | NullLog, step: int, last: bool, stopped_by: int) -> None:
        """What is due after `step`: metrics, a preview, a checkpoint."""
        train, state = self._config.train, self._state
        saves = step % train.checkpoint_every == 0 or step in train.guide_steps or last or stopped_by
        if self._place:
            self._place.check()
        self._keeper.check()
        if step % train.log_every == 0 or last:
            self._stop_if_not_finite()
            # A line of the last step alone takes nothing from the next one, should the run be taken further.
            metrics = state.take_means(reset=step % train.log_every == 0)
            metrics["ema_distance"] = float(state.ema_distance())
            if train.max_bad_steps:
                metrics["skipped_updates"] = state.skipped_updates
            log.scalars(step, train.batch_size, metrics)
        log.pause()
        if saves:
            self._stop_if_not_finite()
        if self._chief and self._student is not None and self._student.probes(step, last):
            saves |= self._probe(log, self._student, step)
        if self._chief and train.keeps_averages(step):
            self._stop_if_not_finite()
            vectors = [tf.convert_to_tensor(average).numpy() for average in state.power_averages]
            averages.write(self._run_dir, step, dict(zip(train.averages, vectors, strict=True)))
        # All that belongs to this step is written before the checkpoint from which a killed run resumes.
        if self._preview and (step % train.preview_every == 0 or last):
            sheet, drift = self._preview.draw(step)
            log.image(step, "preview", sheet, {"preview_colour_drift": drift})
        if last and self._chief and self._config.autoencoder.trained:
            latents.write(self._run_dir, autoencoding.scale(self._config, state, self._images, step))
        if saves:
            self._keeper.save(step)
        log.resume()

    def _probe(self, log: RunLog | NullLog, student: distilling.Student, step: int) -> bool:
        """Measures what a student draws now, and says whether that is the best so far: its checkpoint is kept."""
        self._stop_if_not_finite()
        value = student.probe()
        best = probes.write(self._run_dir, step, value)
        if best:
            self._keeper.best = step
        log.note(step, "probe", value, "the best so far" if best else "")
        return best

    def _stop_if_not_finite(self) -> None:
        bad_step, most = self._state.first_bad_update, self._config.train.max_bad_steps
        if bad_step is not None:
            how_often = f" (the {most} before it were skipped)" if most else ""
            raise UserError(
                f"the loss or its gradient was not finite at step {bad_step}{how_often}; the last good checkpoint is "
                f"{self._keeper.latest or 'none (none was written yet)'}\n"
                "In a new run, a smaller train.learning_rate, a longer warm-up or train.precision=float32 may "
                "help, and train.max_bad_steps lets single ones pass."
            )

    def _leave(self, step: int, stopped_by: int) -> None:
        self._keeper.finish()
        if self._chief:
            directory.list_bad(self._run_dir, self._images)
        if cluster.this_worker().count > 1:
            all_gather(self._strategy, step)  # the chief has saved
        text = f"stopped at step {step} of {self._config.train.steps}, saved in {self._keeper.latest}; "
        raise interruption.Interrupted(text + "rerun the command to resume", stopped_by)
