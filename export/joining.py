"""Requests that wait at the same moment are drawn as one batch, inside the graph and after each has been checked.

TensorFlow Serving's own batching joins requests before the graph sees them: a bad row fails its neighbours, and a
request without rows ends the server. `tf.raw_ops.BatchFunction` is the same scheduler as an operation. It stands
behind the checks, and the graph brings its own limits along, so that versions with different ones stand in one folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import tensorflow as tf

Tensors = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Lane:
    """Threads that draw batches, and what waits for them; each signature has a queue of its own in its lane.

    Args:
      threads: batches that are drawn at the same time.
      calls: the most calls of the network that a row of this lane takes; None: any number.
      waiting: full batches of a signature that may wait; a request beyond them is answered UNAVAILABLE.
      wait_microseconds: how long a free thread waits for more rows after the first.
    """

    name: str
    threads: int
    calls: int | None
    waiting: int
    wait_microseconds: int = 0


# The threads of all lanes bound the memory. A long chain never takes a thread from the short ones.
LANES = (Lane("call", 1, 1, 64), Lane("short", 2, 100, 64), Lane("long", 1, None, 16))

_WAIT = 0.02  # of the time that a lane's shortest chain takes for one row
_LONGEST_WAIT = 0.05  # seconds


def lanes(calls: Iterable[int], seconds: float) -> dict[int, Lane]:
    """Calls of the network for a row of a signature -> the lane in which it is drawn.

    A lane waits for more rows in proportion to what a row costs anyway, so that a caller who is alone notices nothing.

    Args:
      calls: of all signatures. seconds: of a call of the network for one row.
    """
    found: dict[int, Lane] = {}
    waits: dict[str, int] = {}
    for number in sorted(set(calls)):
        lane = next(lane for lane in LANES if lane.calls is None or number <= lane.calls)
        wait = min(_WAIT * number * seconds, _LONGEST_WAIT)
        microseconds = waits.setdefault(lane.name, 0 if number == 1 else round(1e6 * wait))
        found[number] = dataclasses.replace(lane, wait_microseconds=microseconds)
    return found


def allowed_batch_sizes(max_batch: int) -> list[int]:
    """The sizes to which batches are padded: powers of two up to `max_batch`, and `max_batch` itself."""
    sizes = [2**n for n in range(max_batch.bit_length()) if 2**n < max_batch]
    return [*sizes, max_batch]


FREE = Lane("free", 1, None, 16)  # of requests whose images have sizes of their own, one after the other


def joined(
    compute: Callable[[Tensors], Tensors],
    specs: Sequence[tf.TensorSpec],
    lane: Lane,
    model: str,
    queue: str,
    rows: int,
) -> Callable[[Tensors], Tensors]:
    """`compute` of the rows of all requests that wait in `queue`, up to `rows` of them; each gets its own back.

    Args:
      compute: of named inputs [B, ...]; each row of its outputs [B, ...] depends on the same row of the inputs alone.
      specs: the inputs, in the order in which they are queued.
      model: a name that no other model in the process has: those of one name share the threads of a lane.

    On a GPU the queue stands on the CPU and `compute` on the device; that is untested.
    """
    names = [spec.name for spec in specs]

    @tf.function(input_signature=list(specs), autograph=False)
    def batch(*values: tf.Tensor) -> Tensors:
        return compute(dict(zip(names, values, strict=True)))

    body = batch.get_concrete_function()

    def join(inputs: Tensors) -> Tensors:
        outputs = tf.raw_ops.BatchFunction(
            in_tensors=[inputs[name] for name in names],
            captured_tensors=body.captured_inputs,
            f=body,
            Tout=[output.dtype for output in body.outputs],
            num_batch_threads=lane.threads,
            max_batch_size=rows,
            allowed_batch_sizes=allowed_batch_sizes(rows),
            batch_timeout_micros=lane.wait_microseconds,
            max_enqueued_batches=lane.waiting,
            shared_name=f"{model}/{lane.name}",
            batching_queue=queue,
            enable_large_batch_splitting=False,
        )
        outputs = tf.nest.pack_sequence_as(body.structured_outputs, outputs)
        return {name: tf.ensure_shape(output, body.output_shapes[name]) for name, output in outputs.items()}

    return join


def apart(
    compute: Callable[[Tensors], Tensors],
    specs: Sequence[tf.TensorSpec],
    lane: Lane,
    model: str,
    queue: str,
    outputs: dict[str, tf.TensorSpec],
) -> Callable[[Tensors], Tensors]:
    """`compute` of one request after the other, as many at once as the lane has threads.

    To the scheduler a request is a single row: what it holds, packed. So rows of other sizes are never put together,
    and a request that fails fails alone.

    Args:
      outputs: what `compute` gives. Everything else: see `joined`.
    """
    packed = [tf.TensorSpec([1], tf.string, name=spec.name) for spec in specs]

    def of_packed(inputs: Tensors) -> Tensors:
        unpacked = {str(spec.name): _unpacked(inputs[str(spec.name)], spec) for spec in specs}
        return {name: tf.io.serialize_tensor(value)[tf.newaxis] for name, value in compute(unpacked).items()}

    draw = joined(of_packed, packed, lane, model, queue, rows=1)

    def join(inputs: Tensors) -> Tensors:
        answers = draw({name: tf.io.serialize_tensor(value)[tf.newaxis] for name, value in inputs.items()})
        return {name: _unpacked(answers[name], spec) for name, spec in outputs.items()}

    return join


def _unpacked(value: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    return tf.ensure_shape(tf.io.parse_tensor(value[0], spec.dtype), spec.shape)
