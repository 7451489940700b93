"""The keys of students: runs that learn from another run to draw in a few steps."""

from __future__ import annotations

import dataclasses

from tf_ddpm.config.fields import key

NO_WAY_BACK = "a consistency student says where a path ends: no way leads from an image back to its noise"


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """How a student learns. Its network begins as its teacher's."""

    method: str = key(
        "none",
        "what the run is: none, a network that learns from data; consistency or progressive, a student of another run",
        choices=("none", "consistency", "progressive"),
    )
    teacher: str | None = key(None, "the run that teaches, of which the student takes a copy", freezes="data")
    teacher_sha256: str | None = key(None, "of the copy", freezes="data", resolves=True)
    steps: int = key(2, "steps in which the student is to draw", low=1, high=1024)
    convert: int = key(
        0, "first updates, in which the network learns to predict v from a teacher that predicts eps or x_0", low=0,
        high=10**9,
    )  # fmt: skip
    target: str = key(
        "data",
        "where the path of a noisy image leads, for method=consistency: to the image that it was made of (data), or "
        "where the teacher says, as new students have it",
        choices=("data", "teacher"),
    )
    solver: str = key(
        "ddim", "step along that path, for target=teacher: ddim, or heun with two calls", choices=("ddim", "heun")
    )
    gap: float = key(
        256.0,
        "q: the lower level of a pair is r = sigma (1 - n / q), with n from 5 down to 1; 8 of new students with "
        "target=teacher",
        above=1.0,
        high=1e6,
    )
    stages: int = key(
        1, "stages of as many updates each, in which q grows geometrically up to distill.gap", low=1, high=64
    )
    huber: float = key(
        5.4e-4, "root mean square of a pixel below which the loss is quadratic, for method=consistency", above=0.0,
        high=10.0,
    )  # fmt: skip
    teacher_steps: int = key(64, "steps of the teacher's grid, for method=progressive", low=2, high=100_000)
    factor: int = key(2, "of the teacher's steps that the student makes in one, stage by stage", low=2, high=1024)
    guidance: float = key(1.0, "the teacher's guidance, which the student learns with it", low=0.0, high=100.0)
    guide: str | None = key(
        None, "the worse network that guides the teacher: a step of its run, or another run", freezes="data"
    )
    guidance_min: float = key(0.0, "sigma/alpha above which the teacher is guided", low=0.0, high=1e6)
    guidance_max: float = key(1e6, "largest sigma/alpha at which the teacher is guided", above=0.0, high=1e6)
    probe_every: int = key(
        0, "updates between probes, by the best of which the run draws; 0: none", low=0, high=10**9, freezes="never"
    )
    probe_images: int = key(256, "images of a probe", low=16, high=100_000, freezes="never")

    @property
    def student(self) -> bool:
        """Whether the run learns from another one."""
        return self.method != "none"

    @property
    def jumps(self) -> bool:
        """Whether the network says where a path ends, and not the mean of all images that a noisy one may have been.

        Bounds, inversion and all samplers but `consistency` rest on that mean.
        """
        return self.method == "consistency"

    @property
    def own_steps(self) -> int | None:
        """Steps of the one grid whose levels the network knows, made by DDIM; None: it knows all levels."""
        return self.steps if self.method == "progressive" else None

    @property
    def guided(self) -> bool:
        """Whether the teacher is guided."""
        return self.guidance != 1.0

    @property
    def staged(self) -> bool:
        """Whether the length of its training decides when what is learned."""
        return self.student and (self.method == "progressive" or self.stages > 1)

    @property
    def halvings(self) -> int:
        """Stages of method=progressive: how often the steps are divided by the factor."""
        count, steps = 0, self.teacher_steps
        while steps > self.steps:
            count, steps = count + 1, steps // self.factor
        return count
