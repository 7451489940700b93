"""Run as a script in a process of its own, with TensorFlow alone: python verify.py VERSION_DIR INPUTS.npz OUTPUTS.npz

Loads the SavedModel and asks signatures: INPUTS holds `signature/input` arrays, OUTPUTS `signature/output` arrays.
Neither this project nor Keras can be imported, so that what works here works in TF Serving too.
"""

import sys


def main(version_dir: str, inputs: str, outputs: str) -> None:
    """Writes the answer of every signature that INPUTS names."""
    for name in ("tf_ddpm", "export", "keras"):
        sys.modules[name] = None  # importing it raises ImportError
    import numpy as np
    import tensorflow as tf

    loaded = tf.saved_model.load(version_dir)
    requests: dict = {}
    with np.load(inputs, allow_pickle=False) as file:
        for key in file.files:
            signature, _, name = key.partition("/")
            requests.setdefault(signature, {})[name] = tf.constant(file[key])
    answers = {}
    for signature, tensors in requests.items():
        for name, value in loaded.signatures[signature](**tensors).items():
            answers[f"{signature}/{name}"] = value.numpy()
    np.savez(outputs, **answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
