"""The figures by name, and what each needs of a run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tf_ddpm import datasets
from tf_ddpm.datasets.image_set import ImageSet
from tf_ddpm.diffusion import schedules
from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import likelihood
from tf_ddpm.figures import autoencoders, cascade, experiments, few_steps, lossy_coding, plots, sweeps
from tf_ddpm.sampling import image_files
from tf_ddpm.sampling.first_stage import FirstStage
from tf_ddpm.sampling.run import Run

_ROWS = 6  # of a sheet of images
_MEASURED = 16  # images whose bound is taken
_REPEATS = 4  # of each step of RePaint
_WEIGHTS = (0.0, 1.0, 2.0, 4.0)  # of guidance


@dataclasses.dataclass(frozen=True)
class FigureContext:
    """What a figure is drawn of.

    Attributes:
      run_dir: of the run; its sweep is read there. num_images: of samples drawn or of images measured; None: a few.
      seed: of the first image.
    """

    run: Run
    run_dir: Path
    num_images: int | None = None
    seed: int = 0

    @functools.cached_property
    def images(self) -> ImageSet:
        """The run's real images."""
        return datasets.load(self.run.config.data)

    def some(self, count: int) -> ImageSet:
        """`count` real images, or all where there are fewer, drawn by the seed."""
        return likelihood.chosen_images(self.run, count, self.seed, self.images)

    @functools.cached_property
    def bits(self) -> dict:
        """Bits/dim of some real images, every term apart, of the whole chain."""
        images = self.some(self.num_images or _MEASURED)
        return likelihood.bits_per_dim(self.run, images, self.run_dir / "evaluation", self.seed)

    def cuts(self, count: int) -> list[int]:
        """`count` steps of the chain in use, evenly spread, the noisiest first."""
        last = len(experiments.own_chain(self.run)) - 1
        return sorted({round(share * last) for share in np.linspace(0.05, 1.0, count)}, reverse=True)


def _timesteps(subject: FigureContext, cuts: list[int]) -> list[str]:
    known = experiments.own_chain(subject.run).timesteps
    return [f"t = {known[cut] + 1:g}" for cut in cuts]  # as the papers count


def _schedules(subject: FigureContext) -> Figure:
    diffusion = subject.run.config.diffusion
    figure, axes = plots.panels(3)
    time = np.arange(1, diffusion.timesteps + 1)
    for name in ("linear", "cosine", "quadratic", "constant", "ve"):
        betas = dataclasses.replace(diffusion, schedule=name).betas
        alpha_bar = schedules.alpha_bars(betas)
        width = 2.5 if name == diffusion.schedule else 1.0
        for axis, values in zip(axes, (betas, alpha_bar, np.log(alpha_bar) - np.log1p(-alpha_bar)), strict=True):
            axis.plot(time, values, label=name, lw=width)
    for axis, word in zip(
        axes, (r"$\beta_t$", r"$\bar\alpha_t$", r"log SNR, $\log \bar\alpha_t / (1 - \bar\alpha_t)$"), strict=True
    ):
        axis.set(xlabel="t", title=word)
    axes[0].set(yscale="log")
    axes[1].legend(frameon=False, fontsize=8, title="bold: this run's", title_fontsize=8)
    figure.tight_layout()
    return figure


def _forward(subject: FigureContext) -> Figure:
    chain = subject.run.chain
    timesteps = [round(share * (len(chain) - 1)) for share in (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)]
    real = subject.some(_ROWS).images[:]
    drawn = experiments.noised(subject.run, real, timesteps, subject.seed)
    words = [r"$x_0$", *(f"t = {t + 1}" for t in timesteps)]
    return plots.sheet(np.concatenate([real[:, None], drawn], axis=1), columns=words)


def _samples(subject: FigureContext) -> Figure:
    run, count = subject.run, subject.num_images or 64
    columns = image_files.class_columns(run.config.model.classes) or round(count**0.5)
    rows = -(-count // columns)
    drawn = run.sample(range(subject.seed, subject.seed + count))
    blank = np.zeros([rows * columns - count, *drawn.shape[1:]], np.uint8)
    return plots.sheet(np.concatenate([drawn, blank]).reshape(rows, columns, *drawn.shape[1:]))


def _progressive(subject: FigureContext) -> Figure:
    drawn = experiments.progressive(subject.run, _ROWS, 10, subject.seed)
    return plots.sheet(drawn, columns=_reverse_words(subject, drawn.shape[1]))


def _reverse_words(subject: FigureContext, moments: int) -> list[str]:
    known = experiments.own_chain(subject.run).timesteps[::-1]
    at = np.unique(np.round(np.linspace(0, len(known) - 1, moments)).astype(int))
    return [f"t = {known[i] + 1:g}" for i in at]


def _shared_prefix(subject: FigureContext) -> Figure:
    cuts = subject.cuts(_ROWS)
    drawn = experiments.sharing(subject.run, cuts, 8, subject.seed)
    return plots.sheet(drawn, rows=_timesteps(subject, cuts), title=r"each row shares $x_t$")


def _interpolation(subject: FigureContext) -> Figure:
    real = subject.some(2 * _ROWS)
    pairs = len(real) // 2
    if not pairs:
        raise UserError("an interpolation needs two images; the run's data has one")
    images = real.images[: 2 * pairs]
    ways = experiments.interpolations(subject.run, images, real.labels[: 2 * pairs : 2], 8)
    ends = images.reshape(pairs, 2, *images.shape[1:])
    drawn = np.concatenate([ends[:, :1], ways, ends[:, 1:]], axis=1)
    return plots.sheet(drawn, columns=["image", *(f"{share:.2f}" for share in np.linspace(0, 1, 8)), "image"])


def _inpainting(subject: FigureContext) -> Figure:
    run, real = subject.run, subject.some(_ROWS)
    height, width = run.image_shape[:2]
    pixels = real.images[:]
    columns = [pixels]
    words = ["image"]
    for word, keep in (("lower half", _lower(height, width)), ("middle", _middle(height, width))):
        grey = np.where(keep[..., None] == 1, pixels, 128).astype(np.uint8)
        filled = [
            experiments.inpainted(run, pixels, real.labels, keep, _REPEATS, subject.seed + i * _ROWS) for i in range(2)
        ]
        columns += [grey, *filled]
        words += [word, "filled in", "again"]
    return plots.sheet(np.stack(columns, axis=1), columns=words)


def _lower(height: int, width: int) -> np.ndarray:
    keep = np.ones([height, width])
    keep[height // 2 :] = 0
    return keep


def _middle(height: int, width: int) -> np.ndarray:
    keep = np.ones([height, width])
    keep[height // 4 : -(height // 4), width // 4 : -(width // 4)] = 0
    return keep


def _variation(subject: FigureContext) -> Figure:
    cuts, real = subject.cuts(8)[::-1], subject.some(_ROWS)
    pixels = real.images[:]
    drawn = experiments.variations(subject.run, pixels, real.labels, cuts, subject.seed)
    drawn = np.concatenate([pixels[:, None], drawn], axis=1)
    return plots.sheet(drawn, columns=[r"$x_0$", *_timesteps(subject, cuts)])


def _sweep(subject: FigureContext) -> Figure:
    path = subject.run_dir / "sweep_sampling_steps.json"
    try:
        return sweeps.figure(path)
    except FileNotFoundError:
        raise UserError(f"there is no {path} yet: measure a sweep over sampling_steps first") from None


def _guidance(subject: FigureContext) -> Figure:
    config = subject.run.config
    if not config.takes_guidance and subject.run.guide is None:
        raise UserError(
            "guidance compares a class with none, or a network with a worse one: it needs a run with classes and the "
            "null class (and no student that draws with its teacher's guidance), or --guide=STEP_OR_RUN"
        )
    drawn = experiments.guided(subject.run, _WEIGHTS, min(config.model.classes or 10, 16), subject.seed)
    words = [str(label) for label in range(drawn.shape[1])] if config.model.classes else []
    return plots.sheet(drawn, rows=[f"guidance {weight:g}" for weight in _WEIGHTS], columns=words)


FIGURES: dict[str, Callable[[FigureContext], Figure]] = {
    "schedules": _schedules,
    "forward": _forward,
    "samples": _samples,
    "progressive": _progressive,
    "interpolation": _interpolation,
    "shared_prefix": _shared_prefix,
    "coding": lambda subject: lossy_coding.coding(subject.bits),
    "inpainting": _inpainting,
    "variation": _variation,
    "bound": lambda subject: lossy_coding.bound(subject.bits),
    "sweep": _sweep,
    "guidance": _guidance,
    "cascade": lambda subject: cascade.figure(subject.run, _ROWS, subject.seed),
    "steps": lambda subject: few_steps.figure(subject.run, subject.run_dir, subject.seed),
}
# Figures of what a run draws from noise alone.
_FROM_NOISE = (
    "samples",
    "progressive",
    "interpolation",
    "shared_prefix",
    "inpainting",
    "variation",
    "guidance",
)


_OF_BOUNDS = ("coding", "bound")


def _check(name: str, subject: FigureContext) -> None:
    if name in _FROM_NOISE and subject.run.low_res_shape is not None:
        raise UserError(f"{name} is of a run that draws from noise alone; this one enlarges images, as cascade shows")
    distill = subject.run.config.distill
    if distill.student and name in _OF_BOUNDS:
        raise UserError(f"{name} has no meaning for a student, which says where its own few steps lead")
    if distill.jumps and name == "interpolation":
        raise UserError(f"{name} has no meaning for a consistency student, which says where a path ends")


def draw(name: str, subject: FigureContext, path: Path | None = None) -> list[Path]:
    """Draws the figure of that name, or `all` of them, as PNG.

    Args:
      path: of the picture; None: `<run_dir>/figures/<name>.png`.

    Returns:
      The pictures' paths.

    Raises:
      UserError: where the run lacks what a figure shows (of all: it is passed over, and said), or a picture cannot be
        written.
    """

    def drawn(each: str) -> Callable[[], Figure]:
        def make() -> Figure:
            _check(each, subject)
            return FIGURES[each](subject)

        return make

    return _saved(name, {each: drawn(each) for each in FIGURES}, subject.run_dir, path)


def draw_first_stage(
    name: str, found: FirstStage, run_dir: Path, count: int | None, seed: int, path: Path | None = None
) -> list[Path]:
    """`draw` of an autoencoder's run.

    Args:
      count: of pictures; None: a few.
    """
    wrong = [known for known in (name,) if known not in ("all", *autoencoders.FIGURES)]
    if wrong:
        raise UserError(
            f"{name} is of a run that draws images; this one is an autoencoder: {', '.join(autoencoders.FIGURES)}"
        )
    data = datasets.unseen(found.config.data)

    def drawn(each: str) -> Callable[[], Figure]:
        return lambda: autoencoders.FIGURES[each](found, data, count or _ROWS, seed)

    return _saved(name, {each: drawn(each) for each in autoencoders.FIGURES}, run_dir, path)


def _of_first_stage(name: str) -> Callable[[FigureContext], Figure]:
    def figure(subject: FigureContext) -> Figure:
        run = subject.run
        if run.first_stage is None:
            raise UserError(f"{name} is of a run that diffuses latents (codec.run), or of an autoencoder's run")
        data = datasets.unseen(run.config.data)
        return autoencoders.FIGURES[name](run.first_stage, data, subject.num_images or _ROWS, subject.seed)

    return figure


FIGURES |= {name: _of_first_stage(name) for name in autoencoders.FIGURES}


def _saved(name: str, figures: dict[str, Callable[[], Figure]], run_dir: Path, path: Path | None) -> list[Path]:
    """See `draw`."""
    paths = []
    for each in figures if name == "all" else [name]:
        target = path or run_dir / "figures" / f"{each}.png"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {target}: {error.strerror or error}") from None
        try:
            figure = figures[each]()
        except UserError as error:
            if name != "all":
                raise
            print(f"{each}: {error}", flush=True)
            continue
        try:
            paths.append(plots.save(figure, target))
        except OSError as error:
            raise UserError(f"cannot write {target}: {error.strerror or error}") from None
        print(f"wrote {paths[-1]}", flush=True)
    if not paths:
        raise UserError(f"{run_dir}: no figure can be drawn of this run")
    return paths
