"""--mode=eval"""

import os

from tf_ddpm.commands import flags
from tf_ddpm.commands.flags import FLAGS
from tf_ddpm.commands.opening import tell, wanted_config, wanted_label, wanted_label_of, wanted_pipeline
from tf_ddpm.config import Config
from tf_ddpm.errors import UserError
from tf_ddpm.runs import configuration
from tf_ddpm.runtime import cluster, quiet_tensorflow


def _own_split(config: Config) -> str:
    """With what a run is compared: what it was trained on; an autoencoder with what it has not seen, if any."""
    held_out = config.autoencoder.trained and config.data.holdout and config.data.split == "train"
    return "holdout" if held_out else config.data.split


def run(run_dir: str) -> None:
    """Measures a run, or a folder of images, into metrics.json."""
    pipeline = wanted_pipeline()
    alone = FLAGS.images is not None and FLAGS.run_dir is None  # a folder of images, and no run
    data = flags.settings()
    named = any(word.startswith("data.name=") for word in data)
    if alone and not named and FLAGS.reference in (None, "train", "test"):
        raise UserError(
            "--images needs a reference: --reference=DIR, --reference=FILE.npz (mu, sigma) or --set=data.name=NAME"
        )
    if pipeline is not None:
        config, run_dir = pipeline.stages[-1].config, str(pipeline.directory)
    else:
        config = configuration.data_config(data) if alone else wanted_config(run_dir, measures=True)
    label = None if alone else wanted_label_of(pipeline) if pipeline else wanted_label(run_dir, config)
    quiet_tensorflow.import_tensorflow()
    from tf_ddpm.evaluation import evaluate, sweep
    from tf_ddpm.figures import sweeps
    from tf_ddpm.runtime import devices

    request = evaluate.EvaluationRequest(
        flags.metrics(),
        FLAGS.num_images,
        FLAGS.seed,
        label,
        FLAGS.images,
        FLAGS.reference or _own_split(config),
        FLAGS.inception,
        FLAGS.allow_few,
        FLAGS.rounding != "float",
    )
    out = flags.out() or os.path.join("" if FLAGS.images else run_dir, "metrics.json")
    with devices.report_lost_workers():
        if FLAGS.sweep is None:
            tell(f"wrote {evaluate.evaluate(request, config, None if alone else run_dir, out, pipeline)}")
            return
        path = sweep.sweep(request, config, run_dir, FLAGS.sweep, pipeline)
        if cluster.this_worker().is_chief:
            tell(f"wrote {sweeps.draw(path)}")
