"""A signal to one of several workers: all of them stop after the same step."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading

import tensorflow as tf

from tf_ddpm.runtime.interruption import Signals

# TensorFlow asks the machine's metadata server whether it runs on Google's cloud, and there leaves CPUs out.
_METADATA_SERVER = "GCE_METADATA_IP"
_NOWHERE = "127.0.0.1:9"


def _expect_lost_peers() -> None:
    """Lets TensorFlow's thread that listens to the cluster end without a traceback where the cluster is gone."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        listens = args.thread is not None and "TerminationWatcher" in args.thread.name
        if not (listens and isinstance(args.exc_value, tf.errors.OpError)):
            before(args)

    threading.excepthook = hook


class Preemption:
    """When to stop: `stop_after_step` gives the number of the signal that any worker of the cluster has received.

    TensorFlow's `PreemptionCheckpointHandler` does the agreeing, over the cluster's coordination service: the worker
    that is told to stop names a step that no other has reached yet. What is saved, and where, is left to the caller.

    Args:
      strategy: of one process: its own signals alone count.
    """

    def __init__(self, strategy: tf.distribute.Strategy, signals: Signals):
        self._signals, self._agreed, self._handler = signals, False, None
        resolver = strategy.cluster_resolver
        if resolver is None or not resolver.cluster_spec().jobs:
            return
        tf.get_logger().setLevel("ERROR")  # it warns of a function of its own
        _expect_lost_peers()
        self._folder = tempfile.mkdtemp(prefix="tf_ddpm-")
        before = os.environ.get(_METADATA_SERVER)
        os.environ[_METADATA_SERVER] = _NOWHERE
        try:
            self._handler = tf.distribute.experimental.PreemptionCheckpointHandler(
                resolver,
                tf.train.Checkpoint(),
                os.path.join(self._folder, "checkpoint"),  # a worker but the chief makes a folder beside it
                tf.distribute.experimental.TerminationConfig(
                    termination_watcher_fn=lambda: bool(signals.seen),
                    exit_fn=lambda: None,
                    grace_period=0,
                    save_fn=self._note,
                ),
            )
        finally:
            del os.environ[_METADATA_SERVER]
            if before is not None:
                os.environ[_METADATA_SERVER] = before

    def stop_after_step(self, result: tf.Tensor) -> int:
        """0, or the signal for which all workers stop after this step; every worker asks once a step.

        Args:
          result: something that the step has computed: workers may not run ahead of each other.
        """
        if self._handler is None:
            return self._signals.seen
        self._handler.run(result.numpy)
        return (self._signals.seen or signal.SIGTERM) if self._agreed else 0

    def _note(self) -> None:
        self._agreed = True

    def close(self) -> None:
        """Removes the folder that TensorFlow asked for."""
        if self._handler is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
