"""What training changes: network, average, optimizer, step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf

from tf_ddpm.diffusion.level_sampling import LevelSampler
from tf_ddpm.training.optimizers import Optimizer

METRICS = ("loss", "gradient_norm")
QUARTERS = 4  # of the chain, whose losses are told apart


class TrainState(tf.Module):
    """All that a checkpoint holds, made inside the scope of the strategy that will update it.

    All weights side by side make one vector, and so do their averages: an update changes them in a few large
    operations, and copies the weights into the network. (A network of 144 small weights is so updated in 60 % of the
    time, and its update traced in a third.)

    Args:
      make_network: called here, and when `ema_network` is first asked for.
      optimizer: not yet built.
      level_sampler: what draws the levels of an update, and may learn from its losses; None: it has no levels.
      further: names of what is logged beside `METRICS`. largest: those of them that are logged as the largest value,
        and not as the mean; none is negative.
      power_averages: how many further averages there are, of power functions.
      distills: whether it keeps the network with which a stage of distillation began.

    Attributes:
      network: whose weights are those of the last update.
      weights, average: the same and their exponential moving average, float32 [N].
      power_averages: see `averaging`, float32 [N] each.
    """

    def __init__(
        self,
        make_network: Callable[[], keras.Model],
        optimizer: Optimizer,
        level_sampler: LevelSampler | None = None,
        further: tuple[str, ...] = (),
        largest: tuple[str, ...] = (),
        power_averages: int = 0,
        distills: bool = False,
    ):
        super().__init__()
        self._strategy = tf.distribute.get_strategy()
        self.level_sampler = level_sampler
        self.network = make_network()
        self._make_network, self._ema_network = make_network, None
        weights = flattened(network_variables(self.network))
        self.weights, self.average = (
            tf.Variable(weights, trainable=False, name=name) for name in ("weights", "average")
        )
        self.power_averages = [
            tf.Variable(weights, trainable=False, name=f"power_average_{i}") for i in range(power_averages)
        ]
        self.previous = tf.Variable(weights, trainable=False, name="previous") if distills else None
        self.previous_network = make_network() if distills else None
        self.refresh_network()
        self.optimizer = optimizer
        self.optimizer.build(len(weights))
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.initial_share = tf.Variable(1.0, trainable=False, name="initial_share")  # of the average
        # Kept in the graph, read when logging: updates that were not finite, the last ones in a row and all of them;
        # and the first one too many, -1 if none.
        self.bad_in_row, self.skipped, self.bad_step = (
            tf.Variable(value, dtype=tf.int64, trainable=False, name=name)
            for name, value in (("bad_in_row", 0), ("skipped", 0), ("bad_step", -1))
        )
        # Sums of the metrics since they were last logged, and of how many updates: a run may stop in between.
        self.further, self._largest = further, largest
        self.sums = {name: tf.Variable(0.0, trainable=False, name=name) for name in (*METRICS, *further)}
        self.quarter_losses, self.quarter_counts = (
            tf.Variable(tf.zeros([QUARTERS]), trainable=False, name=name)
            for name in ("quarter_losses", "quarter_counts")
        )
        self.summed = tf.Variable(0, dtype=tf.int64, trainable=False, name="summed")

    @property
    def learns_levels(self) -> bool:
        """Whether losses decide which levels are drawn."""
        return self.level_sampler is not None and self.level_sampler.learns

    def add_metrics(self, norm: tf.Tensor, totals: tf.Tensor) -> tf.Tensor:
        """Adds those of an update, in its graph.

        Args:
          norm: of the gradient.
          totals: the loss, what `further` names, and of a network that denoises the summed losses of each quarter of
            the chain and how many they are.
        """
        quarters = QUARTERS if self.level_sampler is not None else 0
        sizes = [1, *(1 for _ in self.further), quarters, quarters]
        loss, *others, losses, counts = tf.split(totals, sizes)
        for name, value in zip((*METRICS, *self.further), (loss, norm, *others), strict=True):
            total, value = self.sums[name], tf.reshape(value, [])
            total.assign(tf.maximum(total, value) if name in self._largest else total + value)
        if quarters:
            self.quarter_losses.assign_add(losses)
            self.quarter_counts.assign_add(counts)
        return self.summed.assign_add(1)

    def take_from(self, network: keras.Model, ema_network: keras.Model) -> None:
        """Sets the weights and their average to those of two networks, `self.network` itself perhaps."""
        self.weights.assign(flattened(network_variables(network)))
        self.average.assign(flattened(network_variables(ema_network)))
        if self.previous is not None and not self.updates:
            self.previous.assign(self.weights)
        self.refresh_network()

    def begin_stage(self) -> None:
        """The network becomes the next stage's teacher, and its optimizer and its average begin anew."""
        assert self.previous is not None
        self.previous.assign(self.weights)
        self.average.assign(self.weights)
        for slot in self.optimizer.slots:
            slot.assign(tf.zeros_like(slot))
        self.optimizer.updates.assign(0)
        self.initial_share.assign(1.0)
        self.refresh_network()

    def refresh_network(self) -> None:
        """Copies the `weights` into `network`, after something other than an update has changed them."""
        self._copy_into(self.network, self.weights)
        if self.previous is not None:
            self._copy_into(self.previous_network, self.previous)

    @property
    def ema_network(self) -> keras.Model:
        """The network of the average, which is brought up to date here: ask anew after an update."""
        # (Made once: TensorFlow does not give back all that a network takes.)
        if self._ema_network is None:
            with tf.device("CPU:0"):
                self._ema_network = self._make_network()
        unflatten_into(self.average, network_variables(self._ema_network))
        return self._ema_network

    @contextlib.contextmanager
    def averaged(self) -> Iterator[keras.Model]:
        """`network`, which has the weights of the average until the context ends."""
        self._copy_into(self.network, self.average)
        try:
            yield self.network
        finally:
            self.refresh_network()

    def _copy_into(self, network: keras.Model, vector: tf.Variable) -> None:
        self._strategy.extended.update(vector, unflatten_into, args=(network_variables(network),))

    @property
    def updates(self) -> int:
        """How many updates have been made."""
        return int(tf.convert_to_tensor(self.step))

    @property
    def first_bad_update(self) -> int | None:
        """The first update that was not finite and beyond what `train.max_bad_steps` allows."""
        bad = int(tf.convert_to_tensor(self.bad_step))
        return None if bad < 0 else bad

    @property
    def skipped_updates(self) -> int:
        """How many updates were not finite, and skipped."""
        return int(tf.convert_to_tensor(self.skipped))

    def take_means(self, reset: bool = True) -> dict[str, float]:
        """The mean of every metric since the last reset (of some the largest), without updates that were skipped."""
        count = int(tf.convert_to_tensor(self.summed))
        parts = {name: 1 if name in self._largest else max(count, 1) for name in self.sums}
        means = {name: float(tf.convert_to_tensor(self.sums[name])) / part for name, part in parts.items()}
        losses, counts = (tf.convert_to_tensor(part).numpy() for part in (self.quarter_losses, self.quarter_counts))
        quarters = {f"loss_quarter_{i + 1}": float(losses[i] / counts[i]) for i in range(QUARTERS) if counts[i]}
        if reset:
            for variable in (*self.sums.values(), self.quarter_losses, self.quarter_counts, self.summed):
                variable.assign(tf.zeros_like(variable))
        return (means if count else dict.fromkeys(means, float("nan"))) | quarters

    @tf.function(autograph=False)
    def ema_distance(self) -> tf.Tensor:
        """|average - weights| / |weights| over the whole network, float32."""
        weights = tf.convert_to_tensor(self.weights)
        return tf.norm(self.average - weights) / tf.norm(weights)

    def checkpoint(self, saved: set[str] | None = None) -> tf.train.Checkpoint:
        """What is saved.

        Args:
          saved: the parts of the checkpoint that is to be read: what earlier versions did not save is left out.
        """
        parts = {
            "network": self.network,
            "ema_network": self.ema_network,
            "optimizer": self.optimizer,
            "step": self.step,
        }
        later = {
            "sums": self.sums,
            "summed": self.summed,
            "bad_in_row": self.bad_in_row,
            "skipped": self.skipped,
            "initial_share": self.initial_share,
        }
        if self.previous is not None:
            parts["previous"] = self.previous
        if self.power_averages:
            parts["power_averages"] = self.power_averages
        if self.level_sampler is not None:
            later |= {"quarter_losses": self.quarter_losses, "quarter_counts": self.quarter_counts}
        parts |= {name: part for name, part in later.items() if saved is None or name in saved}
        return tf.train.Checkpoint(**parts, **({"timesteps": self.level_sampler} if self.learns_levels else {}))


def flattened(tensors: Sequence) -> tf.Tensor:
    """All numbers of some tensors as one vector."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def unflatten_into(vector: tf.Tensor | tf.Variable, variables: Sequence[tf.Variable]) -> None:
    """The inverse of `flattened`.

    A variable whose place in the vector begins and ends at a multiple of 64 bytes takes no copy, but a share in the
    vector's memory (until one of the two changes), and in a network whose widths are multiples of 16 nearly all do.
    """
    vector, first = tf.convert_to_tensor(vector), 0
    for variable in variables:
        size = variable.shape.num_elements()
        variable.assign(tf.reshape(tf.slice(vector, [first], [size]), variable.shape))
        first += size


def network_variables(network: keras.Model) -> list[tf.Variable]:
    """The weights of a network as TensorFlow's own variables."""
    return [weight.value for weight in network.weights]
