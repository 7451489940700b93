"""Images against real ones in the features of the FID network: FID, KID, precision and recall, memorisation."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_ddpm import config as config_lib
from tf_ddpm import datasets
from tf_ddpm.datasets.lazy_images import LazyImages
from tf_ddpm.errors import UserError, required
from tf_ddpm.evaluation import feature_metrics, inception, provenance
from tf_ddpm.evaluation.feature_metrics import Moments
from tf_ddpm.evaluation.inception import Inception
from tf_ddpm.runtime import memory
from tf_ddpm.runtime.chunks import CHUNK, Reached, in_chunks, once
from tf_ddpm.runtime.collectives import agree, all_have, over_replicas
from tf_ddpm.runtime.digests import digest
from tf_ddpm.runtime.paths import home_expanded, touch
from tf_ddpm.sampling import image_files
from tf_ddpm.sampling.source import Source, gathered

METRICS = ("fid", "kid", "pr", "memorisation")
_VERSION = 1  # of how the metrics are computed
_K = 3  # of precision and recall
_BATCH = 50  # images that the network sees at once
_NEAR = 0.01  # of real images are as near to another as this quantile


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """A set of images and their features.

    Attributes:
      images: [N, H, W, C], uint8, or float32 from 0 to 255, perhaps not all in memory; None where statistics alone are
        known.
      features: float32 [N, 2048], or None. moments: of the features. about: its part of a receipt.
      place: the folder that keeps what is computed of these very features, None where they are drawn anew.
    """

    images: np.ndarray | LazyImages | None
    features: np.ndarray | None
    moments: Moments
    about: dict
    place: Path | None = None
    _nearest: dict = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    def pixels(self) -> np.ndarray | LazyImages:
        """The images of a set of more than statistics."""
        if self.images is None:
            raise TypeError("what the images are is not known")
        return self.images

    @property
    def size(self) -> float:
        """Bytes that the images take in memory; 0 where statistics alone are known."""
        return 0.0 if self.images is None else float(np.prod(self.images.shape)) * self.images.dtype.itemsize

    @property
    def rows(self) -> np.ndarray:
        """The features of such a set, a row each."""
        return required(self.features, "what the features are")

    @functools.cached_property
    def apart(self) -> np.ndarray:
        """How far each image's nearest ones in its own set are, [N, 4], itself the first; looked for once."""
        return self._once("apart.npz", lambda: feature_metrics.neighbours(self.rows, self.rows, _K + 1)[1])

    @functools.cached_property
    def likeness(self) -> float:
        """The mean of KID's kernel over all pairs of two images of the set; computed once."""
        return float(self._once("likeness.npz", lambda: np.array(feature_metrics.kernel_within(self.rows))))

    def _once(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        return compute() if self.place is None else once(self.place / name, compute)

    def nearest(self, real: FeatureSet) -> tuple[np.ndarray, np.ndarray]:
        """(index, distance) of the one of `real` that is nearest to each image, [N] each; looked for once."""
        if id(real) not in self._nearest:
            found = feature_metrics.neighbours(self.rows, real.rows, 1)
            self._nearest[id(real)] = found[0][:, 0], found[1][:, 0]
        return self._nearest[id(real)]


class FeatureNetwork:
    """The FID network over all devices of a strategy."""

    def __init__(self, path: str | None, strategy: tf.distribute.Strategy):
        with strategy.scope():
            self._network: Inception = inception.load(path)
        self.sha256 = self._network.sha256
        self._call, self._strategy = over_replicas(strategy, self._network), strategy

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """[N, H, W, 1 or 3], 0 to 255 -> float32 [N, 2048]."""
        # Always three channels: the devices' trace leaves sizes open, and could not tell grey from RGB.
        rgb = lambda part: part if part.shape[-1] == 3 else np.repeat(part, 3, axis=-1)  # noqa: E731
        parts = [self._call(rgb(images[start : start + _BATCH])) for start in range(0, len(images), _BATCH)]
        return np.concatenate(parts)

    def agree(self, images: str) -> None:
        """Whether all workers have these images.

        Raises:
          UserError: where they do not.
        """
        agree(self._strategy, images=images)

    def all_have(self, found: bool) -> bool:
        """Whether every worker has `found` something; all ask together."""
        return all_have(self._strategy, found)


def array_features(
    images: np.ndarray | LazyImages, network: FeatureNetwork, cache_dir: str, about: dict, what: str
) -> FeatureSet:
    """Images that are there already, or in files; their features are kept in `cache_dir`, by what the images hold.

    Pictures that could not be decoded, in whose place there is another one, are left out.

    Raises:
      UserError: for images that the network does not take.
    """
    _check(images.shape)
    # Twice: the chunks, and what they are put together to.
    size = 2.0 * len(images) * 4 * inception.FEATURES
    memory.check(size, f"the features of {len(images)} reference images", "measure against a split of fewer")
    decoded_by = images.decoded_by if isinstance(images, LazyImages) else {}
    if isinstance(images, LazyImages):
        key, about = images.digest(), about | {"sha256_of": "the files, and how they are decoded"} | decoded_by
    else:
        key = digest(images)
    network.agree(key)
    made_by = digest(key, network.sha256, CHUNK, _VERSION, provenance.versions(), *decoded_by.values())
    folder = home_expanded(cache_dir, "data.cache_dir") / "features" / made_by[:32]

    def features_of(start: int, stop: int, reached: Reached) -> dict[str, np.ndarray]:
        parts = []
        for first in range(start, stop, _BATCH):  # large images are never held as many as a chunk has
            parts.append(network(np.asarray(images[first : min(first + _BATCH, stop)])))
            if isinstance(images, LazyImages):
                images.check_unchanged()
            reached(first + len(parts[-1]) - start)
        return {"features": np.concatenate(parts)}

    rows, _ = in_chunks(folder, len(images), features_of, what, network.all_have)
    touch(folder)
    features = rows["features"]
    replaced = _replaced(images, folder)
    if len(replaced) and isinstance(images, LazyImages):
        own = np.setdiff1d(np.arange(len(images)), replaced)
        images, features, about = images.chosen(own), features[own], about | {"left_out": len(replaced)}
        folder = folder / f"without-{digest(replaced)[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
    return FeatureSet(
        images, features, feature_metrics.moments(features), about | {"images": len(images), "sha256": key}, folder
    )


def _replaced(images: np.ndarray | LazyImages, folder: Path) -> np.ndarray:
    """The rows in whose place there is another picture, which are copies of others."""
    if not isinstance(images, LazyImages):
        return np.empty(0, np.int64)

    def find() -> np.ndarray:
        images.read_all()  # which is done, unless their features were kept by an earlier version
        return images.replaced

    return once(folder / "replaced.npz", find)


def source_features(
    source: Source, network: FeatureNetwork, folder: Path, count: int, seed: int, label: int | None, rounded: bool
) -> FeatureSet:
    """`count` images of `source` with the seeds `seed`, `seed` + 1, ..., kept in `folder` chunk by chunk."""
    _check((count, *source.image_shape))
    of_one = np.prod(source.image_shape) * (1 if rounded else 4) + 4 * inception.FEATURES
    # Twice: the chunks, and what they are put together to.
    memory.check(2.0 * count * of_one, f"measuring {count} images", "measure fewer: --num_images")
    about = {
        **provenance.describe_source(source),
        "first_seed": seed,
        "label": _label_words(source, label),
        "rounding": "uint8" if rounded else "float",
    }
    weights = provenance.weights_digest(*source.runs) if source.runs else about["autoencoder_sha256"]
    key = digest(about, weights, network.sha256, CHUNK, _VERSION, provenance.versions())

    def draw(start: int, stop: int, reached: Reached) -> dict[str, np.ndarray]:
        seeds = np.arange(seed + start, seed + stop)
        images = gathered(source.batches(seeds, source.labels(seeds, label), rounded=rounded), reached)
        return {"images": images, "features": network(images)}

    rows, seconds = in_chunks(folder / key[:32], count, draw, "drawing", network.all_have)
    about |= {"images": count, "weights_sha256": weights, "seconds": round(seconds, 1)}
    return FeatureSet(rows["images"], rows["features"], feature_metrics.moments(rows["features"]), about)


def _label_words(source: Source, label: int | None) -> int | str | None:
    if label is not None or not source.classes:
        return label
    return "in turn" if source.small is None else "of the pictures"


def load_statistics(path: str) -> FeatureSet:
    """The mean and covariance in an .npz file with `mu` and `sigma`.

    Raises:
      UserError: where it is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = (np.asarray(file[name], np.float64) for name in ("mu", "sigma"))
    except OSError as error:
        raise UserError(f"reference={path}: {error.strerror or error}") from None
    except Exception as error:  # whatever a foreign file makes its readers raise
        raise UserError(f"reference={path}: expected arrays mu and sigma in it: {str(error)[:100]}") from None
    if mean.shape != (inception.FEATURES,) or covariance.shape != (inception.FEATURES,) * 2:
        raise UserError(f"reference={path}: expected mu [{inception.FEATURES}] and sigma of its square")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"reference={path}: mu and sigma hold numbers that are not finite")
    about = {"statistics": os.path.basename(path), "sha256": digest(mean, covariance), "images": None}
    return FeatureSet(None, None, Moments(mean, covariance), about)


def folder_features(path: str, network: FeatureNetwork, cache_dir: str) -> FeatureSet:
    """Every image of a folder, all of one size."""
    images = datasets.load_pictures(path).whole()
    about = {"folder": os.path.basename(os.path.abspath(path)), "decoder": config_lib.DECODER}
    return array_features(images, network, cache_dir, about, "features")


def check_counts(metrics: tuple[str, ...], generated: int, real: int | None, allow_few: bool) -> None:
    """Whether so many images are enough for what is asked.

    Args:
      real: None: statistics alone are known.

    Raises:
      UserError: naming what is wrong.
    """
    fewest = min(generated, generated if real is None else real)
    if "fid" in metrics and fewest < inception.FEATURES and not allow_few:
        raise UserError(
            f"a FID of {fewest} images: below {inception.FEATURES}, the number of features, their covariance is "
            f"singular and the figure mostly says how few they are; take more, or set allow_few"
        )
    if fewest <= _K:
        raise UserError(f"{fewest} images are too few to measure; expected more than {_K}")
    if real is None and set(metrics) & {"kid", "pr", "memorisation"}:
        raise UserError("a reference of statistics (.npz) is enough for fid only")


def check_shapes(metrics: tuple[str, ...], generated: tuple[int, ...], real: FeatureSet) -> None:
    """Whether images of the shape [H, W, C] can be compared with the real ones.

    Raises:
      UserError: where memorisation, which looks at pixels, is asked of images of two shapes.
    """
    known = None if real.images is None else real.images.shape[1:]
    if "memorisation" in metrics and known not in (None, generated):
        raise UserError(f"memorisation compares pixels: images of {generated} against a reference of {known}")


def measure(
    metrics: tuple[str, ...], generated: FeatureSet, real: FeatureSet, inception_sha256: str
) -> dict[str, dict]:
    """`fid`, `kid`, `precision`, `recall` and `memorisation`, those of `metrics`, each with `value` and `receipt`."""
    receipt = {
        "metric_version": _VERSION,
        "generated": generated.about,
        "reference": real.about,
        "inception_sha256": inception_sha256,
        "resize": "bilinear to 299x299, TensorFlow 1 (no half-pixel centres, no antialiasing)",
        "versions": provenance.versions(),
    }
    found = {}
    if "fid" in metrics:
        found["fid"] = feature_metrics.frechet_distance(generated.moments, real.moments)
    if "kid" in metrics:
        found["kid"] = feature_metrics.kernel_distance(generated.rows, real.rows, (generated.likeness, real.likeness))
    if "pr" in metrics:
        found["precision"], found["recall"] = feature_metrics.precision_and_recall(
            real.rows, generated.rows, _K, real.apart[:, _K]
        )
    if "memorisation" in metrics:
        found["memorisation"] = _near_share(generated.nearest(real)[1], real.apart[:, 1])
    described = {name: {"value": value, "receipt": receipt} for name, value in found.items()}
    if "memorisation" in metrics:
        flat = [np.asarray(pictures.pixels).reshape(len(pictures.pixels), -1) for pictures in (generated, real)]
        described["memorisation"] |= {"space": "features", "in_pixels": memorised_share(*flat), "expected": _NEAR}
    return described


def memorised_share(generated: np.ndarray, real: np.ndarray) -> float:
    """The share of generated rows that are as near to a real one as the nearest 1 % of real rows are to another.

    About 0.01 is what fresh real images would give; much more means copies.
    """
    return _near_share(feature_metrics.neighbours(generated, real, 1)[1][:, 0], feature_metrics.radii(real, 1))


def _near_share(distances: np.ndarray, apart: np.ndarray) -> float:
    return float(np.mean(distances <= np.quantile(apart, _NEAR)))


def save_closest_pairs(generated: FeatureSet, real: FeatureSet, path: Path, count: int = 16) -> Path:
    """A picture of the generated images nearest to a real one (in features), each beside it, the nearest first."""
    indices, distances = generated.nearest(real)
    nearest = np.argsort(distances, kind="stable")[:count]
    drawn = np.round(generated.pixels[nearest]).astype(np.uint8)
    pairs = np.stack([drawn, real.pixels[indices[nearest]]], axis=1)
    return image_files.save_image(image_files.grid(pairs.reshape(-1, *pairs.shape[2:]), columns=8), path)


def _check(shape: tuple[int, ...]) -> None:
    if shape[-1] not in (1, 3):
        raise UserError(f"images of {shape[-1]} channels: the FID network takes grey (1) and RGB (3)")
