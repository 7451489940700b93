"""The only place where words of the configuration become objects."""

from __future__ import annotations

import importlib
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_ddpm.config import Config, DiffusionConfig, SampleConfig
from tf_ddpm.diffusion import guidance as guidance_lib
from tf_ddpm.diffusion import objectives, samplers, schedules
from tf_ddpm.diffusion.chain import Chain
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.level_sampling import ImportanceLevels, LevelSampler, LogNormalLevels, UniformLevels
from tf_ddpm.diffusion.levels import Level, Levels
from tf_ddpm.diffusion.parametrisation import PARAMETRISATIONS, EDMPrediction, Parametrisation
from tf_ddpm.diffusion.sampler_facts import SAMPLERS
from tf_ddpm.networks.autoencoder import AUTOENCODERS, Autoencoder
from tf_ddpm.networks.backbone import Backbone, Condition
from tf_ddpm.networks.unet import UNet


def chain(diffusion: DiffusionConfig) -> Chain:
    """The whole chain of T steps."""
    betas = diffusion.betas
    # c_noise of Karras et al. 2022, table 1.
    time = np.log(schedules.relative_sigmas(betas)) / 4.0 if diffusion.prediction == "edm" else None
    return Chain(betas, variance=diffusion.variance, time=time)


def shorter_chain(sample: SampleConfig, whole: Chain) -> Chain:
    """The chain of `sample.steps` of the steps of the `whole` one."""
    if sample.spacing == "karras":
        ends = schedules.karras_ends(whole.levels.relative_sigma, sample.sigma_min, sample.sigma_max)
        return whole.at_sigmas(schedules.karras_sigmas(*ends, sample.steps or len(whole), sample.rho))
    if sample.steps is None:
        return whole
    if sample.spacing == "sigmas":
        wanted = np.array(sample.sigmas or schedules.few_step_sigmas(sample.steps))
        return whole.respaced(schedules.nearest_timesteps(whole.levels.relative_sigma, wanted))
    return whole.respaced(schedules.strided_timesteps(len(whole), sample.steps, sample.spacing))


_DTYPES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def autoencoder(config: Config, precision: str, judged: bool = False, xla: bool = False) -> Autoencoder:
    """A new autoencoder for the images of `config.data`.

    Args:
      precision: as for `network`. judged, xla: see `Autoencoder`.
    """
    kind = AUTOENCODERS[config.autoencoder.kind]
    return kind(config.autoencoder, config.data.image_channels, judged, xla, dtype=_DTYPES[precision])


def trained_network(config: Config) -> keras.Model:
    """A new network as `config.train` trains it: a U-Net, or an autoencoder."""
    train = config.train
    if config.autoencoder.trained:
        return autoencoder(config, train.precision, config.autoencoder.adversarial > 0, train.jit != "off")
    return network(config, train.precision, train.jit != "off", train.remat)


def network(config: Config, precision: str, xla: bool = False, remat: bool = False) -> UNet:
    """A new U-Net for the images of `config.data` (whose size and channels are known), or for their latents.

    Args:
      precision: `float32`, or `bfloat16` with weights of float32. xla, remat: see `UNet`.
    """
    channels = config.state_channels
    dtype = _DTYPES[precision]
    outputs = channels * (2 if config.diffusion.learned_variance else 1)
    return UNet(config.model, channels, outputs, xla, remat, dtype=dtype)


def recast(network: UNet, precision: str) -> UNet:
    """A copy of `network` whose weights are of the `precision` that it computes in; not for training.

    Normalisation and the last convolution stay float32 in every precision.
    """
    copy = UNet(network.model, network.image_channels, network.out_channels, dtype=precision)
    for weight, original in zip(copy.weights, network.weights, strict=True):
        weight.assign(tf.cast(original.value, weight.dtype))
    return copy


class Guide(NamedTuple):
    """The worse network of autoguidance, which takes no condition that the guided one does not take."""

    network: Backbone
    diffusion: DiffusionConfig


def denoiser(
    diffusion: DiffusionConfig,
    network: Backbone,
    condition: Condition | None = None,
    guidance: tf.Tensor | None = None,
    levels: Levels | None = None,
    address: tf.Tensor | None = None,
    guide: Guide | None = None,
    interval: guidance_lib.Interval = guidance_lib.EVERYWHERE,
) -> Denoiser:
    """The denoiser of a network, put together here and nowhere else.

    Args:
      condition: what the network takes besides image and time.
      guidance: float32 [B], the weight of the condition, or beside a guide that of the network; None: as trained.
      levels: the table of which all levels will be. What depends on the time alone is then computed here and now,
        outside of the loop in which the denoiser will stand.
      address: see `Backbone.forward`.
      guide: of autoguidance. interval: where there is guidance, of both kinds.
    """
    condition = dict(condition or {})
    call = _plain(network, address) if levels is None else _precomputed(network, levels)
    if guidance is None or guide is not None:
        bound = guidance_lib.conditioned(call, condition)
    else:
        null = {name: network.null(name, part) for name, part in condition.items()}
        bound = guidance_lib.guided(call, condition, null, guidance, diffusion.learned_variance, interval)
    plain = Denoiser(bound, parametrisation(diffusion), diffusion.learned_variance)
    if guidance is None or guide is None:
        return plain
    return guidance_lib.Autoguided(plain, _guiding(diffusion, guide, condition, levels), guidance, interval)


def _guiding(diffusion: DiffusionConfig, guide: Guide, condition: Condition, levels: Levels | None) -> Denoiser:
    """The guide's denoiser for the levels of a chain of `diffusion`, each of which it knows by a time of its own."""
    table = chain(diffusion).levels if levels is None else levels
    own = chain(guide.diffusion).levels.of_sigmas(table.relative_sigma)
    known = {name: condition[name] for name in guide.network.conditions}
    if levels is not None:
        call = _precomputed(guide.network, own)
    else:
        plain = _plain(guide.network, None)

        def call(x: tf.Tensor, level: Level, told: guidance_lib.Condition) -> tf.Tensor:
            if level.step is not None:
                time = tf.gather(tf.constant(own.time, tf.float32), level.step)
            else:  # between the steps of the table
                time = own.between(table.position(tf.reshape(level.sigma / level.alpha, [-1])), x).time
            return plain(x, level._replace(time=time), told)

    bound = guidance_lib.conditioned(call, known)
    return Denoiser(bound, parametrisation(guide.diffusion), guide.diffusion.learned_variance)


def parametrisation(diffusion: DiffusionConfig) -> Parametrisation:
    """What an output of the network stands for."""
    if diffusion.prediction == "edm":
        return EDMPrediction(diffusion.sigma_data)
    return PARAMETRISATIONS[diffusion.prediction]


def _plain(network: Backbone, address: tf.Tensor | None) -> guidance_lib.ConditionalNetwork:
    def call(x: tf.Tensor, level: Level, condition: Condition) -> tf.Tensor:
        embedded = network.embed_time(_for_each(level.time, x))
        modulation = network.modulation(embedded, _told(network, condition))
        return network.forward(_shown(network, x, condition), modulation, address)

    return call


def _precomputed(network: Backbone, levels: Levels) -> guidance_lib.ConditionalNetwork:
    """Every step's embedding, and for a network without conditions every block's projection of it."""
    embedded = network.embed_time(tf.constant(levels.time, tf.float32))
    unconditional = None if network.conditions else network.modulation(embedded, {})

    def call(x: tf.Tensor, level: Level, condition: Condition) -> tf.Tensor:
        step, seen = _for_each(level.step, x), _shown(network, x, condition)
        if unconditional is not None:
            return network.forward(seen, tf.gather(unconditional, step))
        return network.forward(seen, network.modulation(tf.gather(embedded, step), _told(network, condition)))

    return call


def _told(network: Backbone, condition: Condition) -> Condition:
    """What the network is told, a number for each image."""
    return {name: part for name, part in condition.items() if name not in network.image_conditions}


def _shown(network: Backbone, x: tf.Tensor, condition: Condition) -> tf.Tensor:
    """What the network sees: x, and behind its channels the images of the condition."""
    images = [tf.cast(condition[name], x.dtype) for name in network.image_conditions]
    return tf.concat([x, *images], axis=-1) if images else x


def _for_each(value: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """[B] of what is one for all images, or one for each already."""
    return tf.fill([tf.shape(x)[0]], value) if value.shape.rank == 0 else value


def objective(config: Config, whole: Chain) -> objectives.Objective:
    """What an update minimises."""
    if config.train.min_snr_gamma is not None:
        return objectives.min_snr_loss(config.train.min_snr_gamma)
    return {
        "simple": lambda: objectives.simple_loss,
        "vlb": lambda: objectives.vlb_loss(whole),
        "hybrid": lambda: objectives.hybrid_loss(whole),
    }[config.train.objective]()


def level_sampler(config: Config) -> LevelSampler:
    """What draws the levels of an update."""
    train, levels = config.train, chain(config.diffusion).levels
    if train.level_sampling == "lognormal":
        return LogNormalLevels(levels, train.level_mean, train.level_std)
    return ImportanceLevels(levels) if train.level_sampling == "importance" else UniformLevels(levels)


def guidance_interval(sample: SampleConfig) -> guidance_lib.Interval:
    """Where there is guidance."""
    everywhere = SampleConfig()
    if (sample.guidance_min, sample.guidance_max) == (everywhere.guidance_min, everywhere.guidance_max):
        return guidance_lib.EVERYWHERE
    return guidance_lib.Interval(sample.guidance_min, sample.guidance_max)


def sampler(sample: SampleConfig, whole: Chain) -> samplers.Sampler:
    """The sampler of `sample` on its chain."""
    facts = SAMPLERS[sample.sampler]
    module = importlib.import_module(f"{samplers.__name__}.{facts.file}")
    settings = {name: getattr(sample, name) for name in facts.settings}
    return getattr(module, facts.cls)(shorter_chain(sample, whole), sample.clip, **settings)
