"""What is known of each sampler without TensorFlow: the configuration, the flags and the export's plans read it here.

A row and the sampler's own file are all that a new sampler needs, and a key of `SampleConfig` for each new setting.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class SamplerFacts:
    """A sampler.

    Attributes:
      file, cls: where it stands in `samplers`. about: in a few words.
      settings: keys of `SampleConfig` that its class takes, beside the chain and the clipping.
      noise: when its steps draw noise: always, never, or where the setting of this name is above 0.
      jumps: whether it wants a network that says where the path of a noisy image ends, and not the mean of all images
        that it may have been.
    """

    file: str
    cls: str
    about: str
    settings: tuple[str, ...] = ()
    noise: str = "always"
    jumps: bool = False

    @property
    def takes_eta(self) -> bool:
        """Whether `eta` means anything to it."""
        return "eta" in self.settings

    def deterministic(self, sample: object) -> bool:
        """Whether x_T alone says what image is drawn, with the settings that are attributes of `sample`."""
        if self.noise in ("always", "never"):
            return self.noise == "never"
        return getattr(sample, self.noise) == 0


_CHURN = ("churn", "churn_min", "churn_max", "churn_noise")

SAMPLERS: dict[str, SamplerFacts] = {
    "ddpm": SamplerFacts("ancestral", "Ancestral", "ancestral steps"),
    "ddim": SamplerFacts("ddim", "DDIM", "DDIM", ("eta",), noise="eta"),
    "dpmpp": SamplerFacts("dpm_solver", "DPMSolverPP", "DPM-Solver++", ("order", "third_order", "eta"), noise="eta"),
    "heun": SamplerFacts("heun", "Heun", "Heun's method on the ODE, two calls a step", _CHURN, noise="churn"),
    "consistency": SamplerFacts("consistency", "Consistency", "new noise after each of a few steps", jumps=True),
    "langevin": SamplerFacts("langevin", "Langevin", "ancestral steps with Langevin corrections", ("snr",)),
    "annealed_langevin": SamplerFacts(
        "annealed_langevin",
        "AnnealedLangevin",
        "Langevin steps at each level, of which ten are usual",
        ("langevin_steps", "langevin_size", "langevin_denoise"),
    ),
}
