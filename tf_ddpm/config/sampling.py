"""How a trained run draws images."""

from __future__ import annotations

import dataclasses

from tf_ddpm.config.fields import sampling_key
from tf_ddpm.diffusion.sampler_facts import SAMPLERS


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How images are drawn, unless the command line says otherwise."""

    sampler: str = sampling_key("ddpm", "reverse process", choices=tuple(SAMPLERS))
    steps: int | None = sampling_key(None, "steps of the reverse chain; none: all T", low=1, high=100_000)
    eta: float = sampling_key(0.0, "noise of ddim and dpmpp: 0 deterministic, 1 as much as ddpm", low=0.0, high=1.0)
    order: int = sampling_key(2, "order of dpmpp", low=1, high=3)
    third_order: str = sampling_key(
        "diffusers", "second-derivative term of dpmpp order 3", choices=("diffusers", "taylor")
    )
    snr: float = sampling_key(0.16, "signal-to-noise ratio of a langevin correction", above=0.0, high=10.0)
    langevin_steps: int = sampling_key(100, "steps at each level of annealed_langevin", low=1, high=10_000, later=True)
    langevin_size: float = sampling_key(
        0.2, "size of a step of annealed_langevin, in units of sigma^2", above=0.0, high=4.0, later=True
    )
    langevin_denoise: bool = sampling_key(
        True, "whether annealed_langevin ends with the predicted image; false: with the paper's last step", later=True
    )
    spacing: str = sampling_key(
        "trailing",
        "which steps a shorter chain visits; karras: levels between them, by sigma_min, sigma_max and rho; sigmas: "
        "those nearest to sample.sigmas",
        choices=("linspace", "leading", "trailing", "quadratic", "karras", "sigmas"),
    )
    sigmas: tuple[float, ...] = sampling_key(
        (),
        "sigma/alpha of each step, the largest first, for spacing=sigmas; none: of the sampler consistency",
        low=1e-6,
        high=1e6,
        later=True,
    )
    sigma_min: float | None = sampling_key(
        None, "least sigma/alpha of spacing=karras; none: the chain's least", above=0.0, high=1e6, later=True
    )
    sigma_max: float | None = sampling_key(
        None,
        "largest sigma/alpha of spacing=karras; none: 80, or the chain's largest",
        above=0.0,
        high=1e6,
        later=True,
    )
    rho: float = sampling_key(7.0, "exponent of spacing=karras", low=1.0, high=100.0, later=True)
    churn: float = sampling_key(
        0.0, "noise that heun adds over all steps (S_churn); 0: none", low=0.0, high=1e5, later=True
    )
    churn_min: float = sampling_key(0.0, "least sigma/alpha at which heun adds noise", low=0.0, high=1e6, later=True)
    churn_max: float = sampling_key(1e9, "largest sigma/alpha at which heun adds noise", low=0.0, high=1e9, later=True)
    churn_noise: float = sampling_key(
        1.0, "standard deviation of the noise that heun adds", low=0.5, high=2.0, later=True
    )
    guidance: float = sampling_key(
        1.0, "weight of the label: 1 as trained, 0 without it, more to exaggerate it", low=0.0, high=100.0
    )
    guide: str | None = sampling_key(
        None,
        "the worse network that guides instead of the null class: a step of the run's own, or another run",
        later=True,
    )
    guidance_min: float = sampling_key(0.0, "sigma/alpha above which there is guidance", low=0.0, high=1e6, later=True)
    guidance_max: float = sampling_key(
        1e9, "largest sigma/alpha at which there is guidance", above=0.0, high=1e9, later=True
    )
    augmentation: int = sampling_key(
        0, "noise on the smaller image, of which the network is told, for condition=low_res", low=0, high=1000
    )
    clip: str = sampling_key(
        "static", "how the predicted x_0 is kept in range at each step", choices=("none", "static", "dynamic")
    )
    batch_size: int = sampling_key(64, "images drawn at once", low=1, high=10**6)
    ema: float | None = sampling_key(
        None,
        "width sigma_rel of the average of the weights, rebuilt from what train.averages has kept; none: that of "
        "train.ema_decay",
        low=0.01,
        high=0.28,
        later=True,
    )
    weights: str = sampling_key(
        "ema", "the moving average of the weights, or those of the last update", choices=("ema", "raw")
    )
    precision: str = sampling_key("float32", "arithmetic of the network", choices=("float32", "bfloat16"))
