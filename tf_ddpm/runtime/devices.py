"""The devices, of this process or of all workers, that train and draw."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import tensorflow as tf

from tf_ddpm.errors import UserError
from tf_ddpm.runtime import cluster


def share_gpus() -> list:
    """All GPUs, set to allocate memory as needed rather than all of it.

    Raises:
      UserError: where this process already uses one of them otherwise.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError as error:
            if tf.config.experimental.get_memory_growth(gpu):
                continue  # set before the GPU was first used
            raise UserError(f"cannot share the memory of {gpu.name}: {error}") from None
    return gpus


def strategy() -> tf.distribute.Strategy:
    """A MirroredStrategy over all GPUs, or over the one CPU; under TF_CONFIG, over all GPUs of all its workers.

    Raises:
      UserError: where TF_CONFIG is wrong, or the other workers cannot be reached.
    """
    here = cluster.this_worker()
    gpus = share_gpus()
    if here.count == 1:
        return tf.distribute.MirroredStrategy(None if gpus else ["/cpu:0"])
    print(f"{here}: waiting for the others (Ctrl-C or SIGKILL to give up)", flush=True)
    # TensorFlow waits within C++, and then takes SIGTERM for itself.
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise UserError(f"{here}: the cluster of TF_CONFIG does not come up: {str(error).splitlines()[0]}") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def best_jit() -> str:
    """What XLA should compile of a training step here, as `train.jit` says it.

    On CPUs oneDNN's convolutions are faster than XLA's, whose fusion pays for the normalisations.
    """
    return "step" if tf.config.list_logical_devices("GPU") else "norms"


def have_clock() -> bool:
    """Whether a graph may read the clock: not after this process has been made deterministic."""
    try:
        tf.timestamp()
    except tf.errors.FailedPreconditionError:
        return False
    return True


@contextlib.contextmanager
def within_memory(remedy: str) -> Iterator[None]:
    """Within the context running out of memory is a UserError.

    Args:
      remedy: what needs less.

    Raises:
      UserError: where it does.
    """
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        lines = str(error).strip().splitlines() or ["no more to be had"]
        reason = next((line for line in lines if "OOM" in line or "memory" in line), lines[0])
        raise UserError(f"out of memory: {reason[:200]}\n{remedy}") from None


_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)


def check(strategy: tf.distribute.Strategy) -> None:
    """Whether the strategy spans the workers that TF_CONFIG names.

    Raises:
      UserError: where it does not, and so several processes would write, or none.
    """
    resolver, count = strategy.cluster_resolver, cluster.this_worker().count
    jobs = resolver.cluster_spec().as_dict() if resolver is not None else {}
    spanned = max(1, sum(len(addresses) for addresses in jobs.values()))
    if spanned != count:
        raise UserError(f"the strategy spans {spanned} process(es), and TF_CONFIG names {count}")


@contextlib.contextmanager
def report_lost_workers() -> Iterator[None]:
    """Within the context a lost worker makes the others say so and stop.

    Raises:
      UserError: where another worker is gone.
    """
    try:
        yield
    except tf.errors.OpError as error:
        here = cluster.this_worker()
        if here.count == 1 or not (isinstance(error, _LOST) or "aborted by: " in str(error)):
            raise
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = next((line.partition("aborted by: ")[2] for line in lines if "aborted by: " in line), lines[0])
        raise UserError(
            f"{here} stops, since another one is gone or out of reach ({reason[:150]}).\n"
            "Its own output says why. Start all of them again with the same command; training resumes from the last "
            "checkpoint."
        ) from None
