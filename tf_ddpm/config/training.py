"""The keys of a training run."""

from __future__ import annotations

import dataclasses

from tf_ddpm.config.fields import key


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One optimisation run."""

    steps: int = key(3000, "total number of updates", low=1, high=10**9, freezes="never")
    batch_size: int = key(128, "images per update, over all devices", low=1, high=10**6)
    objective: str = key("simple", "what is minimised", choices=("simple", "vlb", "hybrid"))
    level_sampling: str = key(
        "uniform",
        "how the noise level is drawn; importance: by each t's recent losses; lognormal: around train.level_mean",
        choices=("uniform", "importance", "lognormal"),
    )
    level_mean: float = key(
        -1.2, "mean of log(sigma/alpha) of the levels, for level_sampling=lognormal", low=-20.0, high=20.0, later=True
    )
    level_std: float = key(
        1.2, "standard deviation of log(sigma/alpha), for level_sampling=lognormal", above=0.0, high=20.0, later=True
    )
    nearest_noise: int = key(
        1, "noises drawn for each image, of which the nearest to it is taken; 1: any", low=1, high=1024, later=True
    )
    label_dropout: float = key(0.0, "share of the labels replaced by the null class", low=0.0, high=0.95)
    crop: int | None = key(
        None,
        "side of the random part of an image that is trained on, of low_res and autoencoders; none: all of it",
        low=1,
        high=4096,
    )
    augmentation: int = key(
        300, "most noise on the smaller image, for condition=low_res: 0 none, 1000 noise alone", low=0, high=1000
    )
    clean_share: float = key(
        0.1, "share of the smaller images without noise, for condition=low_res", low=0.0, high=1.0
    )
    blur: float = key(0.0, "share of the smaller images that are blurred, for condition=low_res", low=0.0, high=1.0)
    min_snr_gamma: float | None = key(None, "bound of min-SNR weights, for objective=simple", above=0.0, high=1e6)
    optimizer: str = key("adam", "update rule", choices=("adam", "sgd"))
    learning_rate: float = key(1e-3, "after the warm-up", above=0.0, high=100.0)
    warmup_steps: int = key(100, "updates over which the learning rate rises linearly", low=0, high=10**9)
    decay_steps: int = key(
        0, "update at which a cosine decay from the end of the warm-up reaches 0; 0: none", low=0, high=10**9
    )
    clip_norm: float | None = key(
        1.0, "largest norm of the gradient of the global batch; none: not clipped", above=0.0, high=1e9
    )
    ema_decay: float = key(0.999, "decay of the moving average of the weights", low=0.0, high=1.0, freezes="never")
    ema_warmup: bool = key(True, "let the decay rise as (1+n)/(10+n)", freezes="never")
    seed: int = key(0, "weights, order of the data, timesteps, noise, dropout", low=0, high=2**31 - 1)
    precision: str = key("float32", "arithmetic of the network", choices=("float32", "bfloat16"))
    jit: str = key(
        "auto",
        "what XLA compiles: nothing, the normalisations, or the step; auto: step on GPUs, norms elsewhere",
        choices=("auto", "off", "norms", "step"),
        freezes="never",
        resolves=True,
    )
    accumulate: int = key(
        1,
        "parts in which each device computes its share of a batch, to save memory",
        low=1,
        high=10**6,
        freezes="never",
    )
    steps_per_call: int = key(
        1,
        "updates in one call of the graph, which signals wait for: saves small networks the overhead of Python",
        low=1,
        high=1000,
        freezes="never",
    )
    remat: bool = key(
        False, "recompute residual blocks in the backward pass: less memory, 30 % slower", freezes="never"
    )
    log_every: int = key(50, "updates between lines of metrics.jsonl", low=1, high=10**9, freezes="never")
    checkpoint_every: int = key(1000, "updates between checkpoints", low=1, high=10**9, freezes="never")
    preview_every: int = key(1000, "updates between preview grids", low=1, high=10**9, freezes="never")
    preview_images: int = key(64, "images in a preview grid", low=1, high=10_000, freezes="never")
    keep: int = key(3, "how many of the latest checkpoints are kept", low=1, high=10**6, freezes="never")
    max_bad_steps: int = key(
        0,
        "updates in a row that may be skipped because their loss or gradient is not finite; one more ends the run",
        low=0,
        high=10**9,
        freezes="never",
    )
    deterministic: bool = key(False, "use only operations that give the same bits every time; slower")
    keep_every: int = key(
        0, "checkpoints at multiples of this step are kept as well; 0: none", low=0, high=10**9, freezes="never"
    )
    keep_parts: str = key(
        "all",
        "what the checkpoints of keep_every and guide_at hold once they are no longer among the latest: all, or the "
        "average of the weights alone, with which images are drawn and no training resumes",
        choices=("all", "average"),
        freezes="never",
        later=True,
    )
    averages: tuple[float, ...] = key(
        (),
        "widths sigma_rel of averages that are kept on the way, from which one of nearly any width is rebuilt later",
        low=0.01,
        high=0.28,
        later=True,
    )
    averages_every: int = key(
        0,
        "updates between the averages that are kept; 0: a sixteenth of train.steps",
        low=0,
        high=10**9,
        freezes="never",
        later=True,
    )
    guide_at: tuple[float, ...] = key(
        (),
        "shares of train.steps at which a checkpoint is written and kept, to guide with (autoguidance)",
        above=0.0,
        high=1.0,
        freezes="never",
        later=True,
    )

    @property
    def averages_period(self) -> int:
        """Updates between averages that are kept; beyond the last one where there are none."""
        return (self.averages_every or max(1, self.steps // 16)) if self.averages else self.steps + 1

    def keeps_averages(self, step: int) -> bool:
        """Whether the averages of `step` are kept."""
        return bool(self.averages) and (step % self.averages_period == 0 or step == self.steps)

    @property
    def guide_steps(self) -> tuple[int, ...]:
        """The steps of `guide_at`."""
        return tuple(max(1, round(share * self.steps)) for share in self.guide_at)
