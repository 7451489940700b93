"""How good are the samples of a `digits` run?  python -m benchmarks.digits_quality [--run_dir=runs/digits]

A support-vector classifier (RBF, calibrated) is trained on 1,200 real digits. Printed: the share of 1,000
samples and of the other 597 real digits of which it is sure (p > 0.8) and the ratio of both; the ratio of its
mean confidence; the share of every class among the samples; for a run with classes the share of samples that it
takes for the class asked for; and distances to the nearest real digit (samples against real digits, root mean
square in grey levels).
"""

import json

import numpy as np
from absl import app, flags
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

import tf_ddpm
from tf_ddpm import config as config_lib
from tf_ddpm import datasets

FLAGS = flags.FLAGS
flags.DEFINE_string("run_dir", "runs/digits", "The run to measure.")
flags.DEFINE_string("sampler", None, "ddpm or ddim; default: the run's own.")
flags.DEFINE_integer("sampling_steps", None, "Steps of the reverse chain; default: the run's own.")
flags.DEFINE_float("guidance", None, "Weight of the class, for a run with classes.")
flags.DEFINE_integer("num_images", 1000, "Samples to draw.")
flags.DEFINE_integer("seed", 0, "Seed of the first sample.")


def nearest(points: np.ndarray, real: np.ndarray, same: bool) -> np.ndarray:
    """Root-mean-square distance of each of `points` [N, D] to the nearest of `real`, itself excluded if `same`."""
    squared = (points**2).sum(1)[:, None] + (real**2).sum(1)[None] - 2 * points @ real.T
    if same:
        np.fill_diagonal(squared, np.inf)
    return np.sqrt(np.maximum(squared.min(1), 0) / points.shape[1])


def measure(samples: np.ndarray, asked: np.ndarray | None, seed: int = 0) -> dict[str, object]:
    """The figures for `samples` uint8 [N, 8, 8, 1], of the classes `asked` [N] for if any."""
    real = datasets.load(config_lib.DataConfig())
    flat = real.images.reshape(len(real), -1).astype(np.float64)
    drawn = samples.reshape(len(samples), -1).astype(np.float64)
    train, test, labels, _ = train_test_split(
        flat, real.labels, train_size=1200, random_state=seed, stratify=real.labels
    )
    classifier = CalibratedClassifierCV(SVC(kernel="rbf", gamma="scale", C=10), ensemble=False).fit(train, labels)
    confidence = {name: classifier.predict_proba(x).max(1) for name, x in (("real", test), ("samples", drawn))}
    sure = {name: (found > 0.8).mean() for name, found in confidence.items()}
    predicted = classifier.predict(drawn)
    classes = np.bincount(predicted, minlength=10) / len(drawn)
    to_real, among_real = nearest(drawn, flat, same=False), nearest(flat, flat, same=True)
    percentiles = (1, 5, 25, 50, 75)
    return {
        "sure_real": round(sure["real"], 4),
        "sure_samples": round(sure["samples"], 4),
        "ratio": round(sure["samples"] / sure["real"], 4),
        "mean_confidence_ratio": round(confidence["samples"].mean() / confidence["real"].mean(), 4),
        **({} if asked is None else {"as_asked": round(float((predicted == asked).mean()), 4)}),
        "class_shares": classes.round(3).tolist(),
        "nearest_percentiles": list(percentiles),
        "nearest_samples": np.percentile(to_real, percentiles).round(2).tolist(),
        "nearest_real": np.percentile(among_real, percentiles).round(2).tolist(),
    }


def main(_: list[str]) -> None:
    """Draws and prints."""
    run = tf_ddpm.load_run(FLAGS.run_dir)
    seeds = np.arange(FLAGS.seed, FLAGS.seed + FLAGS.num_images)
    settings = {"sampler": FLAGS.sampler, "steps": FLAGS.sampling_steps, "guidance": FLAGS.guidance}
    samples = run.sample(seeds, batch_size=250, **settings)
    asked = run.labels(seeds, None) if run.config.model.classes else None
    print(json.dumps({"checkpoint_step": run.checkpoint_step, **measure(samples, asked)}, indent=1))


if __name__ == "__main__":
    app.run(main)
