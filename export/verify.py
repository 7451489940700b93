"""Run as a script in a process of its own, with TensorFlow alone: python verify.py VERSION_DIR INPUTS.npz OUT.npy

Loads the SavedModel and writes the images of `serving_default` for the named INPUTS. Neither this project nor Keras
can be imported, so that what works here works in TF Serving too.
"""

import sys


def main(version_dir: str, inputs: str, out: str) -> None:
    """Writes uint8 [B, H, W, C] as .npy."""
    for name in ("tf_ddpm", "export", "keras"):
        sys.modules[name] = None  # importing it raises ImportError
    import numpy as np
    import tensorflow as tf

    loaded = tf.saved_model.load(version_dir)
    with np.load(inputs, allow_pickle=False) as file:
        tensors = {name: tf.constant(file[name]) for name in file.files}
    answer = loaded.signatures["serving_default"](**tensors)
    assert answer["seed"].numpy().tolist() == tensors["seed"].numpy().tolist()
    np.save(out, answer["image"].numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
