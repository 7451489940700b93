"""What a run's configuration holds: frozen dataclasses, whose fields carry their help text and their range."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tf_ddpm.config.autoencoder import AutoencoderConfig, CodecConfig
from tf_ddpm.config.distillation import DistillConfig
from tf_ddpm.config.fields import key
from tf_ddpm.config.sampling import SampleConfig
from tf_ddpm.config.training import TrainConfig
from tf_ddpm.diffusion import schedules
from tf_ddpm.errors import required

FORMAT_VERSION = 1
DECODER = 3  # the newest rules by which picture files become pixels; 1: as up to November 2026 (`first_decoder`)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The U-Net (Ho et al. 2020, appendix B)."""

    channels: int = key(32, "width of the first convolution, and size of the sinusoidal embedding", low=2, high=4096)
    multipliers: tuple[int, ...] = key((1, 2), "width of each level, in units of channels", low=1, high=64)
    widths: tuple[int, ...] | None = key(
        None, "width of each level, where multipliers cannot say it", low=1, high=65536
    )
    blocks: int = key(1, "residual blocks per level", low=1, high=64)
    attention_levels: tuple[int, ...] = key((1,), "levels with self-attention, 0 the finest", low=0, high=16)
    up_attention_levels: tuple[int, ...] | None = key(
        None, "levels with self-attention on the way up; none: as on the way down", low=0, high=16
    )
    middle: str = key(
        "attention", "layers between the way down and the way up", choices=("attention", "residual", "none")
    )
    heads: int = key(1, "attention heads", low=1, high=1024)
    head_channels: int | None = key(None, "width of an attention head, instead of heads", low=1, high=4096)
    groups: int = key(8, "groups of each GroupNorm", low=1, high=4096)
    middle_groups: int | None = key(
        None, "groups of the middle attention's GroupNorm; none: as groups; 0: it has no GroupNorm", low=0, high=4096
    )
    norm_epsilon: float = key(1e-6, "epsilon of each GroupNorm", above=0.0, high=1.0)
    dropout: float = key(0.0, "dropout rate inside residual blocks", low=0.0, high=0.95)
    injection: str = key(
        "add", "how the time enters a residual block: added, or as scale and shift", choices=("add", "scale_shift")
    )
    resampling: str = key(
        "conv",
        "between levels: a strided convolution and a convolution, or residual blocks that halve and double",
        choices=("conv", "residual"),
    )
    downsample_padding: str = key("same", "padding of the strided convolutions", choices=("same", "symmetric"))
    embedding_order: str = key("sin_cos", "order of the sinusoids", choices=("sin_cos", "cos_sin"))
    frequency_shift: int = key(1, "1: the last frequency is 1/10,000; 0: just above", low=0, high=1)
    time_width: int | None = key(None, "width of the time embedding; none: 4 channels", low=1, high=65536)
    classes: int = key(0, "number of classes, as many as the data has; 0: unconditional", low=0, high=10**6)
    null_class: bool = key(False, "an extra class that stands for no class; guidance needs it")
    condition: str = key(
        "none", "low_res: the network enlarges images, whose smaller ones it is shown", choices=("none", "low_res")
    )
    factor: int = key(4, "how much a network of condition=low_res enlarges: 2 or 4 times", low=2, high=4)

    @property
    def enlarges(self) -> bool:
        """Whether the network is shown a smaller image, which it enlarges."""
        return self.condition == "low_res"

    @property
    def phase(self) -> int:
        """What the sides of its images are multiples of."""
        return math.lcm(self.factor if self.enlarges else 1, 2 ** (len(self.level_widths) - 1))

    @property
    def level_widths(self) -> tuple[int, ...]:
        """The width of each level, the finest first."""
        return self.widths or tuple(self.channels * multiplier for multiplier in self.multipliers)


@dataclasses.dataclass(frozen=True)
class DiffusionConfig:
    """The chain: q(x_t | x_{t-1}) and what the network predicts about it."""

    timesteps: int = key(1000, "length T of the chain", low=1, high=100_000)
    schedule: str = key("linear", "beta schedule", choices=("linear", "cosine", "quadratic", "constant", "ve"))
    beta_start: float = key(1e-4, "first beta (linear, quadratic)", low=1e-8, high=0.999)
    beta_end: float = key(0.02, "last beta (linear, quadratic), every beta (constant)", low=1e-8, high=0.999)
    prediction: str = key("eps", "what the network outputs", choices=("eps", "x_0", "v", "edm"))
    variance: str = key(
        "fixed_large", "reverse variance", choices=("fixed_small", "fixed_large", "learned", "learned_range")
    )
    sigma_min: float = key(0.01, "first sigma/alpha (ve)", low=1e-6, high=1e6, later=True)
    sigma_max: float = key(50.0, "last sigma/alpha (ve)", low=1e-6, high=1e6, later=True)
    sigma_data: float = key(
        1.0, "standard deviation of the images, for prediction=edm", above=0.0, high=1000.0, later=True
    )

    @property
    def betas(self) -> np.ndarray:
        """beta_t of each step, float64 [T]."""
        ends = self.beta_start, self.beta_end, self.sigma_min, self.sigma_max
        return schedules.betas(self.schedule, self.timesteps, *ends)

    @property
    def learned_variance(self) -> bool:
        """Whether the network outputs the variance as well."""
        return self.variance in ("learned", "learned_range")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images. `none` for image_size or channels means: as the set has them."""

    name: str | None = key(
        "digits",
        "digits, folder, or a TensorFlow Datasets name such as mnist or cifar10; none: not known",
        freezes="data",
        measures=True,
    )
    path: str | None = key(None, "the folder of images, for name=folder", freezes="never", measures=True)
    data_dir: str | None = key(
        None,
        "where TensorFlow Datasets keeps its sets (default: TFDS_DATA_DIR or its own)",
        freezes="never",
        measures=True,
    )
    split: str = key(
        "train",
        "split of a TensorFlow Datasets set, or of a folder with subfolders train, validation, test",
        freezes="data",
        measures=True,
    )
    image_size: tuple[int, int] | None = key(
        None, "side, or height,width in pixels", low=1, high=4096, freezes="data", resolves=True
    )
    channels: int | None = key(None, "1 grey, 3 RGB, 4 RGBA", low=1, high=4096, freezes="data", resolves=True)
    max_megapixels: float = key(
        200.0,
        "larger pictures are skipped, for name=folder",
        above=0.0,
        high=2000.0,
        freezes="data",
        measures=True,
    )
    truncated: str = key(
        "skip",
        "picture files that end too early, for name=folder: skip them, or read what is there",
        choices=("skip", "read"),
        freezes="data",
        measures=True,
    )
    decoder: int | None = key(
        None,
        "rules by which picture files become pixels; none: the newest, which the run then keeps",
        low=1,
        high=DECODER,
        freezes="data",
        resolves=True,
        measures=True,
    )
    on_bad_file: str = key(
        "warn",
        "an unreadable file, for name=folder, is skipped with a warning or ends the run",
        choices=("warn", "fail"),
        freezes="never",
        measures=True,
    )
    random_flip: bool = key(False, "mirror half of the training images left to right", freezes="data")
    holdout: float = key(
        0.0,
        "share of the pictures that split=train leaves to split=holdout, for name=folder",
        low=0.0,
        high=0.9,
        freezes="data",
        measures=True,
    )
    memory_gb: float = key(
        4.0,
        "sets of TensorFlow Datasets larger than this go to a file in cache_dir, where pictures of folders are anyway",
        low=0.0,
        high=1e6,
        freezes="never",
        measures=True,
    )
    cache_dir: str = key(
        "~/.cache/tf_ddpm", "where decoded images and features of real ones are kept", freezes="never", measures=True
    )

    @property
    def image_channels(self) -> int:
        """The channels of a run's images, which are known by the time it is built."""
        return required(self.channels, "data.channels")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of a run's images, known by then as well."""
        return (*required(self.image_size, "data.image_size"), self.image_channels)


@dataclasses.dataclass(frozen=True)
class Config:
    """All that a run needs; saved as `config.json` in its directory."""

    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()  # noqa: RUF009
    sample: SampleConfig = SampleConfig()  # noqa: RUF009
    codec: CodecConfig = CodecConfig()  # noqa: RUF009 (it is frozen)
    autoencoder: AutoencoderConfig = AutoencoderConfig()  # noqa: RUF009
    distill: DistillConfig = DistillConfig()  # noqa: RUF009

    @property
    def takes_guidance(self) -> bool:
        """Whether the null class can guide the run.

        Guidance exaggerates a mean of images. Where a path ends is none, nor is what a guided teacher has taught.
        """
        return self.model.null_class and not (self.distill.jumps or self.distill.guided)

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what is diffused: of the images, or of their latents."""
        height, width, _ = self.data.image_shape
        factor = 1 if self.codec.run is None else required(self.codec.factor, "codec.factor")
        return height // factor, width // factor, self.state_channels

    @property
    def state_channels(self) -> int:
        """The channels of `state_shape`."""
        if self.codec.run is None:
            return self.data.image_channels
        return required(self.codec.channels, "codec.channels")
