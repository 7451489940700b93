"""Images or a run -> metrics.json: each figure with a receipt of how it was got."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_ddpm import datasets
from tf_ddpm.config import DECODER, Config
from tf_ddpm.errors import UserError, required
from tf_ddpm.evaluation import enlarging, feature_metrics, image_metrics, likelihood, quality, reconstruction
from tf_ddpm.evaluation.quality import FeatureNetwork, FeatureSet
from tf_ddpm.evaluation.reconstruction import ReconstructionSource
from tf_ddpm.runs.pipelines import PipelineConfig
from tf_ddpm.runtime import atomic_files, cluster, devices, memory
from tf_ddpm.runtime.collectives import agree
from tf_ddpm.runtime.progress import Progress
from tf_ddpm.sampling.first_stage import open_first_stage
from tf_ddpm.sampling.pipeline import open_pipeline
from tf_ddpm.sampling.run import open_run
from tf_ddpm.sampling.source import RunSource, Source, gathered

_ENLARGED = 512  # images that are compared with the real ones
_SPLITS = ("train", "test", "holdout")


@dataclasses.dataclass(frozen=True)
class EvaluationRequest:
    """What to measure.

    Attributes:
      metrics: some of bpd, fid, kid, pr, memorisation, enlarging, reconstruction.
      num_images: how many to draw, and to take bits/dim of; None: 50,000 (for `enlarging` alone 512) and 64.
      seed: of the first image. label: class of all images drawn; None: in turn, or of the pictures that are enlarged.
      images: a folder to measure instead of a run. reference: train, test, holdout, a folder or an .npz file.
      inception: the weights of the FID network; None: as TF_DDPM_INCEPTION says.
      allow_few: whether a FID of fewer images than features is given. rounded: images as uint8, as they are saved.
    """

    metrics: tuple[str, ...] = ("bpd",)
    num_images: int | None = None
    seed: int = 0
    label: int | None = None
    images: str | None = None
    reference: str = "train"
    inception: str | None = None
    allow_few: bool = False
    rounded: bool = True


def evaluate(
    wanted: EvaluationRequest,
    config: Config,
    run_dir: str | None,
    metrics_file: str | os.PathLike,
    pipeline: PipelineConfig | None = None,
) -> Path:
    """Measures and writes the figures into `metrics_file`, beside those already there.

    Args:
      config: of the run, or of the data alone where `wanted.images` are measured without one.
      run_dir: None where there is no run.
      pipeline: measured instead of a run; `config` is that of its last stage then, and `run_dir` its own.

    Returns:
      The path of the file.

    Raises:
      UserError: where something cannot be read, does not fit, is too little, or the file cannot be written.
    """
    path = Path(metrics_file)
    _earlier(path)
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    strategy = devices.strategy()
    source = _opened(wanted, config, run_dir, pipeline, strategy)
    _check_kind(wanted, source)
    if isinstance(source, ReconstructionSource) and wanted.num_images is None:
        wanted = dataclasses.replace(wanted, num_images=len(source.pictures))
    found: dict[str, dict] = {}
    lines: list[str] = []
    of_features = tuple(name for name in wanted.metrics if name in quality.METRICS)
    if of_features:  # what is missing is found before anything long is begun
        if source is not None:
            count = _count(wanted)
            quality.check_counts(of_features, count, count, wanted.allow_few)
        network = FeatureNetwork(wanted.inception, strategy)
        real = reference(wanted, config, network)
        of_features = _with_memorisation(of_features, wanted, config, real)
        of_folder = _folder(wanted, config, network, real) if source is None else None
        shape = of_folder.pixels.shape[1:] if of_folder is not None else required(source, "the run").image_shape
        quality.check_shapes(of_features, shape, real)
    if "bpd" in wanted.metrics:
        found["bits_per_dim"] = _bits(wanted, required(source, "the run"), config, run_dir)
        lines.append(likelihood.table(found["bits_per_dim"]))
        write(path, _earlier(path) | found)
    if of_features:
        generated = of_folder or drawn(wanted, required(source, "the run"), run_dir, network, real)
        found |= quality.measure(of_features, generated, real, network.sha256)
        lines += [f"{name:20s} {found[name]['value']:.6g}" for name in found if name != "bits_per_dim"]
        if "memorisation" in of_features:
            lines.append(f"closest pairs        {_pairs(generated, real, path)}")
    compared = _beside_real(wanted, source, np.asarray(generated.pixels) if of_features else None)
    lines += [f"{name:26s} {figure['value']:.6g}" for name, figure in compared.items()]
    found |= compared
    write(path, _earlier(path) | found)  # read again: another evaluation may have ended in the meantime
    if cluster.this_worker().is_chief:
        print("\n".join(lines))
    return path


def _bits(wanted: EvaluationRequest, source: Source, config: Config, run_dir: str | None) -> dict:
    (trained,) = source.runs
    images = likelihood.chosen_images(trained, wanted.num_images or 64, wanted.seed)
    steps = config.sample.steps if wanted.metrics == ("bpd",) else None
    return likelihood.bits_per_dim(trained, images, _kept_in(run_dir), wanted.seed, steps)


def _kept_in(run_dir: str | None) -> Path:
    """Where what an evaluation of a run has computed is kept, for one that goes on."""
    return Path(required(run_dir, "run_dir")) / "evaluation"


def _check_kind(wanted: EvaluationRequest, source: Source | None) -> None:
    """Whether what is wanted can be measured of this kind of run.

    Raises:
      UserError: where it cannot.
    """
    if enlarging.METRIC in wanted.metrics:
        enlarging.check(required(source, "the run"))
    is_autoencoder = isinstance(source, ReconstructionSource)
    if reconstruction.METRIC in wanted.metrics and not is_autoencoder:
        raise UserError(f"metrics={reconstruction.METRIC} is of an autoencoder's run; this run draws images")
    if "bpd" in wanted.metrics and is_autoencoder:
        raise UserError(
            "metrics=bpd is of a run that draws images; of an autoencoder expected reconstruction, fid or kid"
        )
    if "bpd" in wanted.metrics and isinstance(source, RunSource):
        likelihood.check(source.runs[0])
        if source.runs[0].config.distill.student:
            raise UserError(
                "metrics=bpd: a student says where its own few steps lead, and no bound follows from that; expected "
                "fid, kid, pr or memorisation"
            )


def _with_memorisation(
    names: tuple[str, ...], wanted: EvaluationRequest, config: Config, real: FeatureSet
) -> tuple[str, ...]:
    """What is measured in features. Of a folder's few pictures, memorisation goes with each FID.

    Raises:
      UserError: where it is asked for, and there is no memory for the real pictures.
    """
    own = config.data.name == "folder" and wanted.images is None and wanted.reference == config.data.split
    size = real.size + (0 if real.images is None else feature_metrics.working(math.prod(real.images.shape[1:])))
    if "memorisation" in names:
        remedy = "take memorisation out of the metrics"
        memory.check(size, f"comparing with the pixels of {real.about['images']} pictures", remedy)
        return names
    few = own and not config.autoencoder.trained and "fid" in names and size < memory.available() / 4
    return (*names, "memorisation") if few else names


def _beside_real(wanted: EvaluationRequest, source: Source | None, drawn: np.ndarray | None) -> dict[str, dict]:
    """What compares images with the real ones that they were made of."""
    if isinstance(source, ReconstructionSource) and reconstruction.METRIC in wanted.metrics:
        return reconstruction.measure(source, np.arange(wanted.seed, wanted.seed + _count(wanted)))
    if enlarging.METRIC in wanted.metrics:
        return _enlarged(wanted, required(source, "the run"), drawn)
    return {}


def _enlarged(wanted: EvaluationRequest, source: Source, drawn: np.ndarray | None) -> dict[str, dict]:
    """`enlarging.measure`, of images that were drawn already if there are any."""
    seeds = np.arange(wanted.seed, wanted.seed + (wanted.num_images or _ENLARGED))
    image_metrics.check_room(len(seeds), source.image_shape)
    if drawn is None:
        with Progress(len(seeds), "drawing", quiet=not cluster.this_worker().is_chief) as bar:
            drawn = gathered(source.batches(seeds, source.labels(seeds, wanted.label)), bar.reach)
    return enlarging.measure(source, np.round(drawn[: len(seeds)]).astype(np.uint8), seeds)


def _opened(
    wanted: EvaluationRequest,
    config: Config,
    run_dir: str | None,
    pipeline: PipelineConfig | None,
    strategy: tf.distribute.Strategy,
) -> Source | None:
    """What draws, on which all workers agree; None where a folder is measured."""
    if wanted.images is not None:
        return None
    source: Source
    if config.autoencoder.trained:
        data, own_splits = datasets.unseen(config.data), (*_SPLITS, config.data.split)
        if wanted.reference in own_splits:
            data = dataclasses.replace(data, split=wanted.reference)
        found = open_first_stage(required(run_dir, "run_dir"), config)
        agree(strategy, autoencoder=found.sha256, flags=dataclasses.replace(wanted, inception=None))
        return ReconstructionSource(found, data)
    if pipeline is not None:
        source = open_pipeline(pipeline, strategy)
    else:
        source = RunSource(open_run(required(run_dir, "run_dir"), config, strategy), config.sample)
    for run in source.runs:
        run.agree(dataclasses.replace(wanted, inception=None))
    return source


def reference(wanted: EvaluationRequest, config: Config, network: FeatureNetwork) -> FeatureSet:
    """The real images, or what is known of them.

    Raises:
      UserError: where they are not named or cannot be read.
    """
    if wanted.reference.endswith(".npz"):
        return quality.load_statistics(wanted.reference)
    if wanted.reference not in (*_SPLITS, config.data.split):
        return quality.folder_features(wanted.reference, network, config.data.cache_dir)
    data = dataclasses.replace(config.data, split=wanted.reference, random_flip=False)
    about = {"data": data.name, "split": data.split, "image_size": data.image_size, "channels": data.channels}
    about["decoder"] = data.decoder or DECODER
    return quality.array_features(datasets.load(data).images, network, data.cache_dir, about, "reference")


def drawn(
    wanted: EvaluationRequest, source: Source, run_dir: str | None, network: FeatureNetwork, real: FeatureSet
) -> FeatureSet:
    """The images of the source, kept in `run_dir`/evaluation."""
    count = _count(wanted)
    quality.check_counts(wanted.metrics, count, real.about["images"], wanted.allow_few)
    return quality.source_features(
        source, network, _kept_in(run_dir), count, wanted.seed, wanted.label, wanted.rounded
    )


def _count(wanted: EvaluationRequest) -> int:
    return wanted.num_images or 50_000


def _folder(wanted: EvaluationRequest, config: Config, network: FeatureNetwork, real: FeatureSet) -> FeatureSet:
    generated = quality.folder_features(required(wanted.images, "images"), network, config.data.cache_dir)
    quality.check_counts(wanted.metrics, len(generated.pixels), real.about["images"], wanted.allow_few)
    return generated


def _pairs(generated: FeatureSet, real: FeatureSet, path: Path) -> Path:
    if not cluster.this_worker().is_chief:
        return path
    try:
        return quality.save_closest_pairs(generated, real, path.with_name("closest_pairs.png"))
    except OSError as error:
        raise UserError(f"cannot write the closest pairs beside {path}: {error.strerror}") from None


def write(path: Path, metrics: dict) -> None:
    """Writes the file aside and renames it; of several workers, the chief does.

    Raises:
      UserError: where it cannot be written.
    """
    if not cluster.this_worker().is_chief:
        return
    try:
        atomic_files.write_text(path, json.dumps(metrics, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def _earlier(path: Path) -> dict:
    """What the file holds already."""
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(metrics, dict):
            return metrics
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        pass
    raise UserError(f"{path} cannot be read as metrics; move it away first")
