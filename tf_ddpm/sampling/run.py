"""A trained run, and images from it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tf_ddpm import build
from tf_ddpm import config as config_lib
from tf_ddpm.codecs import resampling
from tf_ddpm.codecs.codec import Codec
from tf_ddpm.codecs.pixels import Pixels
from tf_ddpm.config import Config, SampleConfig, plans
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.levels import Levels
from tf_ddpm.errors import UserError
from tf_ddpm.networks.backbone import Condition
from tf_ddpm.networks.unet import UNet
from tf_ddpm.runs import checkpoints, configuration, kept_labels, probes
from tf_ddpm.runtime import devices
from tf_ddpm.runtime.collectives import agree, all_gather, all_have, over_replicas
from tf_ddpm.runtime.paths import printable
from tf_ddpm.sampling import first_stage as first_stages
from tf_ddpm.sampling import rebuilding
from tf_ddpm.sampling.drawing import check_low_res, compiled_draw, low_res_condition, low_res_shape
from tf_ddpm.sampling.first_stage import FirstStage
from tf_ddpm.sampling.guide import OpenGuide, check_levels, open_guide


class Run:
    """A trained run: its configuration, its EMA network, and images from it.

    Args:
      strategy: whose devices share the images of a batch; the network was made in its scope. None: one device.
      label_names: of the labels of its images, by label; empty: not known.
      first_stage: of a run that diffuses latents; None: it diffuses pixels.
      guide: the worse network that guides it; None: nothing does, or the null class.
    """

    def __init__(
        self,
        config: Config,
        network: UNet,
        checkpoint_step: int,
        strategy: tf.distribute.Strategy | None = None,
        label_names: tuple[str, ...] = (),
        first_stage: FirstStage | None = None,
        guide: OpenGuide | None = None,
    ):
        self.config = config
        self.network = network
        self.checkpoint_step, self.label_names = checkpoint_step, label_names
        self._strategy = strategy if strategy is not None and strategy.num_replicas_in_sync > 1 else None
        self.codec: Codec
        self.chain, self.codec = build.chain(config.diffusion), Pixels()
        self.first_stage, self.guide = first_stage, guide
        if first_stage is not None:
            self.codec = first_stage.codec
        self._denoisers: dict[tuple[tuple[int, ...], int], Callable] = {}
        self._compiled: dict[tuple[SampleConfig, bool, int, bool], Callable] = {}

    def over_devices(self, function: Callable) -> Callable:
        """`function` of arrays [B, ...] that gives [B, ...], its rows shared out over the run's devices."""
        if self._strategy is not None:
            return over_replicas(self._strategy, function)
        return lambda *inputs: tf.nest.map_structure(lambda part: part.numpy(), function(*map(tf.constant, inputs)))

    def agree(self, *wanted: object) -> None:
        """Whether all workers have this checkpoint, configuration and guide, and want the same.

        Raises:
          UserError: where they do not.
        """
        if self._strategy is not None:
            config = config_lib.portable(self.config)
            guide = None if self.guide is None else self.guide.facts()
            step = self.checkpoint_step
            agree(self._strategy, checkpoint_step=step, configuration=config, guide=guide, flags=wanted)

    def all_have(self, found: bool) -> bool:
        """Whether every worker has `found` something; all ask together."""
        return found if self._strategy is None else all_have(self._strategy, found)

    def greatest(self, number: int) -> int:
        """The greatest `number` of all workers, who ask together."""
        return number if self._strategy is None else int(all_gather(self._strategy, number).max())

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.config.data.image_shape

    def bound_denoiser(
        self,
        label: tf.Tensor | None,
        guidance: tf.Tensor | None = None,
        levels: Levels | None = None,
        shown: Condition | None = None,
    ) -> Denoiser:
        """The denoiser of the equations, under a label int32 [B] where the run has classes: see `build.denoiser`.

        Args:
          shown: of a run that enlarges, from `drawing.low_res_condition`.
        """
        condition = ({"label": label} if self.config.model.classes else {}) | dict(shown or {})
        guide, interval = self._guide, build.guidance_interval(self.config.sample)
        return build.denoiser(
            self.config.diffusion, self.network, condition, guidance, levels, guide=guide, interval=interval
        )

    @property
    def _guide(self) -> build.Guide | None:
        return None if self.guide is None else self.guide.guide

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what is diffused."""
        return self.codec.state_shape(self.image_shape)

    @property
    def codec_weights(self) -> list:
        """All that its codec has learned; empty for pixels."""
        return [] if self.first_stage is None else self.first_stage.network.weights

    @property
    def networks(self) -> list[UNet]:
        """Its own, and that of its guide if there is one."""
        return [self.network] if self.guide is None else [self.network, self.guide.network]

    @property
    def all_weights(self) -> list:
        """Of its networks and its codec."""
        return [weight for network in self.networks for weight in network.weights] + list(self.codec_weights)

    @property
    def low_res_shape(self) -> tuple[int, int, int] | None:
        """(height, width, channels) of the images that the run enlarges; None: it draws from noise alone."""
        return low_res_shape(self.config) if self.config.model.enlarges else None

    def shown_of(self, images: tf.Tensor) -> Condition | None:
        """What a run that enlarges is given of real `images` uint8 [B, H, W, C], made smaller, without noise."""
        if not self.config.model.enlarges:
            return None
        factor, rows = self.config.model.factor, tf.shape(images)[0]
        small, clean = resampling.area_mean(tf.cast(images, tf.float32), factor), tf.zeros([rows], tf.int32)
        return low_res_condition(self.codec, factor, small, clean, lambda _: tf.zeros(tf.shape(images)))

    def denoiser(self, x_t: ArrayLike, t: ArrayLike, label: ArrayLike | None = None) -> tf.Tensor:
        """The network's output float32 [B, H, W, C]: eps, unless the run says otherwise.

        Where the variance is learned, C more channels that stand for it follow.

        Args:
          x_t: float32 [B, H, W, C]. t: [B], 0 to T-1, whole or in between.
          label: int [B] for a run with classes, -1 for none of them.
        """
        images, times = tf.convert_to_tensor(x_t, tf.float32), tf.cast(tf.convert_to_tensor(t), tf.float32)
        labels = [] if label is None else [tf.convert_to_tensor(label, tf.int32)]
        shape = tuple(images.shape[1:])
        if (shape, len(labels)) not in self._denoisers:
            # The batch alone is open: the network looks at the rest.
            specs = [
                tf.TensorSpec([None, *shape]),
                tf.TensorSpec([None]),
                *[tf.TensorSpec([None], tf.int32)] * len(labels),
            ]
            self._denoisers[shape, len(labels)] = tf.function(self._output, input_signature=specs)
        return self._denoisers[shape, len(labels)](images, times, *labels)

    def _output(self, x_t: tf.Tensor, t: tf.Tensor, label: tf.Tensor | None = None) -> tf.Tensor:
        """See `denoiser`."""
        if self.config.diffusion.prediction == "edm":  # whose network is told of the level in another way
            level = self.chain.levels.between(t, x_t)
            x_t, t = build.parametrisation(self.config.diffusion).network_input(x_t, level), level.time
        return self.network(x_t, t, label=label)

    def sample(
        self,
        seeds: Sequence[int],
        label: int | str | Sequence[int] | None = None,
        rounded: bool = True,
        low_res: np.ndarray | None = None,
        **settings,
    ) -> np.ndarray:
        """Images uint8 [N, H, W, C], one for each seed.

        Args:
          seeds: whole numbers.
          label: the class of all images, a number or a name, or of each, for a run with classes; -1: no class; None:
            every class in turn, that of a seed being its remainder.
          rounded: False: float32 from 0 to 255, as they are before they are rounded.
          low_res: [N, h, w, C] from 0 to 255, what a run that enlarges is to enlarge (`low_res_shape`).
          settings: any key of `config.SampleConfig` but precision, for example steps=50 or guidance=2.0.

        Raises:
          UserError: for a label or setting that is unknown or out of range, or for no seeds at all.
        """
        row = np.asarray(seeds)
        if row.ndim != 1 or row.size == 0 or row.dtype.kind != "i":
            raise UserError("seeds: expected a row of whole numbers of at most 63 bits, for example range(16)")
        labels = self.labels(row, label)
        batches = self.batches(row, labels, self.settings(**settings), rounded=rounded, low_res=low_res)
        return np.concatenate([images for images, _ in batches])

    def labels(self, seeds: np.ndarray, label: int | str | Sequence[int] | None) -> np.ndarray:
        """The label int32 [N] of each of the `seeds` [N]: see `sample`.

        Raises:
          UserError: for a label that the run does not know, or another number of labels than seeds.
        """
        classes = self.config.model.classes
        if isinstance(label, str):
            label = config_lib.parse_label(self.config, label, self.label_names)
        if label is None:
            return (seeds % max(classes, 1)).astype(np.int32)
        labels = np.asarray(label)
        if labels.dtype.kind != "i" or labels.shape not in ((), seeds.shape):
            raise UserError(f"label: expected one whole number, or as many as there are seeds ({len(seeds)})")
        for value in np.unique(labels):
            config_lib.check_label(self.config, int(value))
        return np.broadcast_to(labels.astype(np.int32), seeds.shape)

    def name_of(self, label: int) -> str:
        """The label in words."""
        if label < 0:
            return "no label"
        name = f" ({printable(self.label_names[label])})" if label < len(self.label_names) else ""
        return f"label {label}{name}"

    def settings(self, **changes) -> SampleConfig:
        """The run's sampling settings with `changes` applied; those that are None are left as they are.

        Raises:
          UserError: for a setting that is unknown or out of range.
        """
        for name in ("precision", "weights", "guide", "ema"):
            if changes.get(name, getattr(self.config.sample, name)) != getattr(self.config.sample, name):
                raise UserError(f"{name}: chosen when the run is loaded: load_run(run_dir, {name}=...)")
        values = {f"sample.{name}": value for name, value in changes.items() if value is not None}
        if changes.get("steps") is not None:
            values = plans.in_steps(self.config.sample, changes["steps"]) | values
        wanted = config_lib.validated(config_lib.with_values(self.config, values))
        idle = config_lib.idle(wanted)
        for key in values:
            if key in idle and config_lib.get(wanted, key) != config_lib.get(self.config, key):
                raise UserError(f"{key.partition('.')[2]} has no effect here: it is of {idle[key]}")
        if self.guide is not None:
            check_levels(wanted, self.guide.config)
        return wanted.sample

    def batches(
        self,
        seeds: np.ndarray,
        labels: np.ndarray,
        settings: SampleConfig,
        num_frames: int = 0,
        rounded: bool = True,
        low_res: np.ndarray | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Batches of at most `settings.batch_size` images, with frames (`draw`) for the first batch.

        Args:
          low_res: see `sample`.

        Raises:
          UserError: for `low_res` that is missing, not wanted, or of another shape.
        """
        check_low_res(low_res, self.low_res_shape, len(seeds))
        for start in range(0, len(seeds), settings.batch_size):
            part = slice(start, start + settings.batch_size)
            label = labels[part].astype(np.int32)
            inputs = [seeds[part].astype(np.int64), label, np.full(label.shape, settings.guidance, np.float32)]
            if low_res is not None:
                inputs += [low_res[part].astype(np.float32), np.full(label.shape, settings.augmentation, np.int32)]
            count = 0 if start else num_frames
            with devices.within_memory("A smaller batch needs less: sample.batch_size=N."):
                images, *frames = self._drawer(settings, count, rounded)(*inputs)
            yield images, frames[0] if count else None

    def _drawer(self, settings: SampleConfig, num_frames: int, rounded: bool) -> Callable[..., tuple]:
        """`compiled_draw` for these settings over all devices, made once."""
        guides = settings.guidance != 1.0
        key = (dataclasses.replace(settings, batch_size=1, guidance=1.0, augmentation=0), guides, num_frames, rounded)
        if key not in self._compiled:
            sampler = build.sampler(settings, self.chain)
            how, interval = (guides, num_frames, rounded), build.guidance_interval(settings)
            draws = compiled_draw(
                sampler, self.network, self.config, *how, codec=self.codec, guide=self._guide, interval=interval
            )
            self._compiled[key] = self.over_devices(draws)
        return self._compiled[key]


def load_run(run_dir: str | os.PathLike, **settings) -> Run:
    """The run in `run_dir`, with its latest EMA weights.

    Args:
      settings: changes to the run's `config.SampleConfig`, for example precision="bfloat16".

    Raises:
      UserError: where there is no run or no checkpoint, or it cannot be read.
    """
    unset = {f"sample.{name}": None for name, value in settings.items() if value is None}
    saved = config_lib.with_values(configuration.read(run_dir), unset)
    return open_run(run_dir, configuration.used(saved, [], settings))


def open_run(
    run_dir: str | os.PathLike,
    config: Config,
    strategy: tf.distribute.Strategy | None = None,
    step: int | None = None,
) -> Run:
    """The run in `run_dir`, used with `config` (its own, or from `configuration.used`).

    Args:
      strategy: as in `Run`. step: of which checkpoint; None: the latest.

    Raises:
      UserError: where there is no such checkpoint, or it cannot be read.
    """
    devices.share_gpus()
    if step is None:
        step = probes.best(run_dir)  # of a student
    if config.autoencoder.trained:
        raise UserError(
            f"{run_dir} is the run of an autoencoder, which draws no images; train a run that diffuses its latents: "
            f"codec.run={run_dir}"
        )
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        first_stage = first_stages.of_run(config, run_dir)
        network = build.network(config, "float32")
        step, share = checkpoints.restore_network(network, run_dir, step, config.sample.weights)
        if config.sample.ema is not None:
            step, share = rebuilding.rebuild(network, run_dir, config.sample.ema, step), 0.0
        guide = open_guide(config, run_dir, step)
        if config.sample.precision != "float32":  # weights cast once, and not in every call
            network = build.recast(network, config.sample.precision)
    if config.sample.weights == "ema":
        rebuilding.warn_of_stale_average(config.train, step, share)
    return Run(config, network, step, strategy, kept_labels.label_names(run_dir), first_stage, guide)
