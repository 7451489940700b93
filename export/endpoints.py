"""What every exported module is: named signatures, checked request by request, then drawn with the rows of others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from export import joining
from export.joining import Lane, Tensors
from export.limits import Limits
from tf_ddpm import config as config_lib
from tf_ddpm.runtime.digests import digest
from tf_ddpm.sampling.run import Run

CLASS = ("label", "guidance")

Compute = Callable[[Tensors], Tensors]


class Queue:
    """What is drawn for the joined rows of a signature.

    Args:
      calls: of the network, for a row. inputs: their names, but for those of a class, which `of_class` adds.
      lane: in which it is drawn; None: the one that its calls say.
      alone: the outputs, where a request is drawn by itself, since its rows may have sizes of their own.
    """

    def __init__(
        self,
        compute: Compute,
        calls: int,
        *inputs: str,
        lane: Lane | None = None,
        alone: dict[str, tf.TensorSpec] | None = None,
        of_class: bool = True,
    ):
        self.compute, self.calls, self.inputs, self.lane, self.alone = compute, calls, inputs, lane, alone
        self.of_class = of_class


class Endpoints(tf.Module):
    """The signatures of an export.

    There is no scalar input, every input and output has the batch as dimension 0, and each row depends on its own
    inputs alone.

    Args:
      limits: what a request may hold. default: the signature that is `serving_default`, and `png` where PNG has a
        form for its images.

    Attributes:
      endpoints: signature -> its function. inputs: signature -> names of its inputs.
      calls: signature -> calls of the network for a row. lanes: signature -> where it is drawn.
      left_out: signature that others have -> why it is not among these.
    """

    def __init__(self, limits: Limits, default: str):
        super().__init__()
        self.limits, self.default = limits, default
        self.endpoints: dict[str, Callable] = {}
        self.inputs: dict[str, list[str]] = {}
        self.calls: dict[str, int] = {}
        self.lanes: dict[str, Lane] = {}
        self.left_out: dict[str, str] = {}

    def _publish(self, queues: dict[str, Queue], seconds: float, png: bool, identity: Iterable[object]) -> None:
        """Makes the signatures of the queues, `serving_default`, and `png` if it is wanted.

        Args:
          seconds: of a call of the network for one row, in proportion to which requests wait for each other.
          identity: what tells this model from others whose queues stand in the same process.
        """
        specs = self.limits.specs()
        self.calls = {name: queue.calls for name, queue in queues.items()}
        lanes = joining.lanes((queue.calls for queue in queues.values() if queue.lane is None), seconds)
        self.lanes = {name: queue.lane or lanes[queue.calls] for name, queue in queues.items()}
        model = _digest([*identity, self.limits.max_batch, self.lanes])
        for name, queue in queues.items():
            names = [*queue.inputs, *(name for name in CLASS if name in specs and queue.of_class)]
            known, lane = [specs[name] for name in names], self.lanes[name]
            if queue.alone is None:
                join = joining.joined(queue.compute, known, lane, model, name, self.limits.max_batch)
            else:
                join = joining.apart(queue.compute, known, lane, model, name, queue.alone)
            self._add(name, names, join)
            if name == self.default and png:
                self._add("png", names, self._png(join))
        tables: list[dict[str, Any]] = [self.inputs, self.calls, self.lanes]
        for table in tables:
            table["serving_default"] = table[self.default]
            if "png" in self.endpoints:
                table["png"] = table[self.default]
        self.endpoints["serving_default"] = self.endpoints[self.default]

    def _add(self, signature: str, names: list[str], compute: Compute) -> None:
        """A signature of the inputs `names`: checked, then computed; a seed is answered beside its image."""
        specs = self.limits.specs()

        @tf.function(input_signature=[specs[name] for name in names], autograph=False)
        def endpoint(*values: tf.Tensor) -> Tensors:
            inputs = self.limits.checked(dict(zip(names, values, strict=True)))
            return compute(inputs) | ({"seed": tf.identity(inputs["seed"])} if "seed" in names else {})

        self.endpoints[signature], self.inputs[signature] = endpoint, names

    def _png(self, join: Compute) -> Compute:
        """The images of a queue, each request's encoded by itself."""
        string = tf.TensorSpec([], tf.string)

        def compute(inputs: Tensors) -> Tensors:
            image = join(inputs)["image"]
            return {"png_bytes": tf.map_fn(tf.io.encode_png, image, fn_output_signature=string)}

        return compute


def of_run(run: Run) -> list[object]:
    """What tells a run from others: its configuration and its weights."""
    first_stage = None if run.first_stage is None else run.first_stage.sha256
    guide = None if run.guide is None else run.guide.sha256
    return [config_lib.to_json(run.config), digest(*run.network.get_weights()), first_stage, guide]


def _digest(parts: list[object]) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
