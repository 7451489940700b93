"""Run as a script in a process of its own, with TensorFlow alone:

    python verify.py VERSION_DIR INPUTS.npz OUTPUTS.npz SIGNATURE[,SIGNATURE]

Loads the SavedModel and asks signatures: INPUTS holds `signature/input` arrays, OUTPUTS `signature/output` arrays, and
`memory`: the most bytes that the process held with the requests as they are, what each more row of a SIGNATURE
adds at most to what it holds then, and 1, or 0 where the system does not tell that apart from what loading takes.
Neither this project nor Keras can be imported, so that what works here works in TF Serving too.
"""

import contextlib
import resource
import sys

_MORE_ROWS = 8


def main(version_dir: str, inputs: str, outputs: str, measured: str) -> None:
    """Writes the answer of every signature that INPUTS names."""
    for name in ("tf_ddpm", "export", "keras"):
        sys.modules[name] = None  # type: ignore[assignment]  # importing it raises ImportError
    import numpy as np
    import tensorflow as tf

    loaded = tf.saved_model.load(version_dir)
    requests: dict = {}
    with np.load(inputs, allow_pickle=False) as file:
        for key in file.files:
            signature, _, name = key.partition("/")
            requests.setdefault(signature, {})[name] = file[key]

    def ask(signature: str, arrays: dict) -> dict:
        tensors = {name: tf.constant(array) for name, array in arrays.items()}
        return {
            f"{signature}/{name}": value.numpy() for name, value in loaded.signatures[signature](**tensors).items()
        }

    def more_of(name: str, rows: int) -> None:
        ask(name, {key: np.resize(array, (rows, *array.shape[1:])) for key, array in requests[name].items()})

    answers: dict = {}
    empty = _peak()
    for signature, arrays in requests.items():
        answers |= ask(signature, arrays)
    held = _peak()
    names = measured.split(",")
    rows = len(next(iter(requests[names[0]].values())))
    each_more, told = (held - empty) / rows, False  # where no more rows are allowed
    for more in (_MORE_ROWS, _MORE_ROWS // 2):
        try:
            told = _forget_peak()  # that of loading would hide what rows take
            for name in names:
                more_of(name, rows)
            before = _peak()
            for name in names:
                more_of(name, more)
        except tf.errors.InvalidArgumentError:  # fewer rows are allowed
            continue
        each_more = max(_peak() - before, 0.0) / (more - rows)
        break
    answers["memory"] = np.array([held, each_more, float(told)])
    np.savez(outputs, **answers)


def _peak() -> float:
    """The most bytes that this process held."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024.0
    # (On Linux it would be that of the process which started this one, if that is larger.)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _forget_peak() -> bool:
    """Has the peak begin anew with what the process holds now; False where the system cannot do that."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
            file.write("5")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
