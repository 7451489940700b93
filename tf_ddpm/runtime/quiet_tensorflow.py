"""Imports TensorFlow without the lines that its libraries write whatever the log level."""

import os
import tempfile

from tf_ddpm.runtime import paths


def import_tensorflow() -> None:
    """`import tensorflow`, with stderr held back meanwhile; shown if it fails, or if TF_CPP_MIN_LOG_LEVEL is set."""
    if not paths.has_home():  # Keras would make a folder named ~ here, and Matplotlib complain
        for name in ("KERAS_HOME", "MPLCONFIGDIR"):
            os.environ.setdefault(name, os.path.join(tempfile.gettempdir(), f"tf_ddpm-{name.lower()}-{os.getuid()}"))
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
