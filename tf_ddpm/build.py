"""The only place where words of the configuration become objects."""

from __future__ import annotations

import tensorflow as tf

from tf_ddpm.config import Config, DiffusionConfig, SampleConfig, TrainConfig
from tf_ddpm.diffusion import objectives, samplers, schedules
from tf_ddpm.diffusion.process import DiffusionProcess
from tf_ddpm.diffusion.timestep_sampling import ImportanceTimesteps
from tf_ddpm.networks.unet import UNet


def process(diffusion: DiffusionConfig) -> DiffusionProcess:
    """The whole chain of T steps."""
    betas = schedules.betas(diffusion.schedule, diffusion.timesteps, diffusion.beta_start, diffusion.beta_end)
    return DiffusionProcess(betas, prediction=diffusion.prediction, variance=diffusion.variance)


def network(config: Config, precision: str, xla: bool = False, remat: bool = False) -> UNet:
    """A new U-Net for the images of `config.data` (whose size and channels are known).

    Args:
      precision: `float32`, or `bfloat16` with weights of float32. xla: see `layers.GroupNorm`.
      remat: see `UNet`.
    """
    model = config.model
    return UNet(
        image_channels=config.data.channels,
        channels=model.channels,
        widths=model.level_widths,
        blocks=model.blocks,
        attention_levels=model.attention_levels,
        up_attention_levels=model.up_attention_levels,
        middle=model.middle,
        heads=model.heads,
        head_channels=model.head_channels,
        groups=model.groups,
        middle_groups=model.middle_groups,
        epsilon=model.norm_epsilon,
        dropout=model.dropout,
        injection=model.injection,
        downsample_padding=model.downsample_padding,
        embedding_order=model.embedding_order,
        frequency_shift=model.frequency_shift,
        time_width=model.time_width,
        classes=model.classes,
        null_class=model.null_class,
        out_channels=config.data.channels * (2 if config.diffusion.learned_variance else 1),
        xla=xla,
        remat=remat,
        dtype={"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision],
    )


def recast(network: UNet, precision: str) -> UNet:
    """A copy of `network` whose weights are of the `precision` that it computes in; not for training.

    Normalisation and the last convolution stay float32 in every precision.
    """
    copy = UNet(**network.settings, dtype=precision)
    for weight, original in zip(copy.weights, network.weights, strict=True):
        weight.assign(tf.cast(original.value, weight.dtype))
    return copy


def objective(train: TrainConfig) -> objectives.Objective:
    """What an update minimises."""
    if train.min_snr_gamma is not None:
        return objectives.min_snr_loss(train.min_snr_gamma)
    return {"simple": objectives.simple_loss, "vlb": objectives.vlb_loss, "hybrid": objectives.hybrid_loss}[
        train.objective
    ]


def timesteps(config: Config) -> ImportanceTimesteps | None:
    """What draws the t of an update; None: each is as likely."""
    return ImportanceTimesteps(config.diffusion.timesteps) if config.train.timestep_sampling == "importance" else None


def chain(sample: SampleConfig, whole: DiffusionProcess) -> DiffusionProcess:
    """The chain of `sample.steps` of the steps of the `whole` one."""
    if sample.steps is None:
        return whole
    return whole.respaced(schedules.strided_timesteps(len(whole), sample.steps, sample.spacing))


def sampler(sample: SampleConfig, whole: DiffusionProcess) -> samplers.Sampler:
    """The sampler of `sample` on its `chain`."""
    steps = chain(sample, whole)
    makers = {
        "ddpm": lambda: samplers.Ancestral(steps, sample.clip),
        "ddim": lambda: samplers.DDIM(steps, sample.clip, sample.eta),
        "dpmpp": lambda: samplers.DPMSolverPP(steps, sample.clip, sample.order, sample.third_order, eta=sample.eta),
        "heun": lambda: samplers.Heun(steps, sample.clip),
        "langevin": lambda: samplers.Langevin(steps, sample.clip, sample.snr),
    }
    return makers[sample.sampler]()
