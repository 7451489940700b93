"""Run as a script in a process of its own, with TensorFlow alone: python verify.py VERSION_DIR SEEDS OUT.npy

Loads the SavedModel and writes the images of the comma-separated SEEDS. Neither this project nor Keras can be
imported, so that what works here works in TF Serving too.
"""

import sys


def main(version_dir: str, seeds: str, out: str) -> None:
    """Writes uint8 [B, H, W, C] as .npy."""
    for name in ("tf_ddpm", "export", "keras"):
        sys.modules[name] = None  # importing it raises ImportError
    import numpy as np
    import tensorflow as tf

    loaded = tf.saved_model.load(version_dir)
    seed = tf.constant([int(word) for word in seeds.split(",")], tf.int64)
    answer = loaded.signatures["serving_default"](seed=seed)
    assert answer["seed"].numpy().tolist() == seed.numpy().tolist()
    np.save(out, answer["image"].numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
