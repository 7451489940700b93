"""One update: the same on one device and on many, and what it is made of."""

import functools
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.support.fresh import fresh_state
from tests.support.gaussian import denoiser_of
from tests.support.tiny import make_tiny_config, mirrored
from tf_ddpm import build, randomness
from tf_ddpm import config as config_lib
from tf_ddpm.codecs.pixels import Pixels
from tf_ddpm.datasets.batches import batch_dataset
from tf_ddpm.datasets.image_set import ImageSet
from tf_ddpm.diffusion import objectives
from tf_ddpm.training import optimizers
from tf_ddpm.training.state import METRICS
from tf_ddpm.training.update import make_update, make_updates

_RNG = np.random.default_rng(0)
IMAGES = ImageSet(
    _RNG.integers(0, 256, (40, 8, 8, 1), np.uint8), _RNG.integers(0, 3, 40).astype(np.int32), ("a", "b", "c")
)


def trained_by_hand(config, devices, objective=None, clip_norm=None, strategy=None):
    """A fresh state, its update and its batches."""
    strategy = strategy or mirrored(devices)
    with strategy.scope():
        tf.keras.utils.set_random_seed(0)
        state = fresh_state(config)
    settings = config.train
    if clip_norm:
        config = config_lib.with_values(config, {"train.clip_norm": clip_norm})
    update = make_update(state, config, strategy, objective)
    batches = strategy.distribute_datasets_from_function(
        lambda context: batch_dataset(
            IMAGES, settings.batch_size, settings.seed, 0, True, context.num_replicas_in_sync
        )
    )
    return state, update, iter(batches)


def train(config, devices, updates, clip_norm=None, strategy=None, poison_at=None, prepare=None):
    """The state after some updates on so many logical devices, and the metrics of each."""
    state, update, batches = trained_by_hand(config, devices, None, clip_norm, strategy)
    if prepare:
        prepare(state)
    metrics = []
    for n in range(updates):
        if n == poison_at:
            state.network.conv_out.bias.assign([np.nan])
        metrics.append({k: float(v) for k, v in update(next(batches)).items()})
        metrics[-1]["output_kernel"] = state.network.conv_out.kernel.numpy()
    return state, metrics


def config_for(tiny_config, **changes):
    return tiny_config(
        model__multipliers=(1,),
        model__attention_levels=(),
        model__dropout=0.3,
        data__image_size=(8, 8),
        data__channels=1,
        train__batch_size=8,
        train__warmup_steps=0,
        **changes,
    )


@pytest.fixture(scope="module")
def sgd():
    """devices -> the state after four clipped SGD updates, trained once."""

    def default(devices):  # one strategy in a process may use the default reduction: see `mirrored`
        return tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]) if devices == 2 else None

    config = config_for(make_tiny_config, train__optimizer="sgd", train__learning_rate=0.5)
    return functools.cache(lambda devices, updates=4: train(config, devices, updates, 0.1, default(devices)))


@pytest.mark.parametrize("devices", [2, 4])
def test_sgd_on_many_devices_gives_the_weights_of_one(sgd, devices):
    # The clipping bound is far below the gradient's norm, and dropout is on.
    one, one_metrics = sgd(1)
    many, many_metrics = sgd(devices)
    for a, b in zip(one_metrics, many_metrics, strict=True):
        assert a["gradient_norm"] > 0.2
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-4)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=2e-4)
    moved = 0.0
    fresh, _ = sgd(1, 0)
    for start, a, b in zip(fresh.network.weights, one.network.weights, many.network.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-6)
        moved = max(moved, np.abs(a.numpy() - start.numpy()).max())
    assert moved > 1e-3
    for a, b in zip(one.ema_network.weights, many.ema_network.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-6)


@pytest.mark.parametrize(
    ("changes", "devices"),
    [({"accumulate": 4}, 1), ({"accumulate": 2}, 2), ({"remat": True}, 1), ({"remat": True, "jit": "norms"}, 2)],
)
def test_ways_to_save_memory_give_the_same_weights(sgd, tiny_config, changes, devices):
    changes = {f"train__{name}": value for name, value in changes.items()}
    config = config_for(tiny_config, train__optimizer="sgd", train__learning_rate=0.5, **changes)
    plain, plain_metrics = sgd(1)
    saving, metrics = train(config, devices, 4, 0.1)
    for a, b in zip(plain_metrics, metrics, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-4)
    for a, b in zip(plain.network.weights, saving.network.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-6)


@pytest.mark.parametrize(("jit", "devices"), [("norms", 1), ("norms", 2), ("step", 1), ("step", 2)])
def test_what_xla_compiles_gives_the_weights_of_what_it_does_not(sgd, tiny_config, jit, devices):
    config = config_for(tiny_config, train__optimizer="sgd", train__learning_rate=0.5, train__jit=jit)
    plain, plain_metrics = sgd(1)
    compiled, metrics = train(config, devices, 4, 0.1)
    for a, b in zip(plain_metrics, metrics, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-4)
    for a, b in zip(plain.network.weights, compiled.network.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-6)


def test_importance_sampled_labelled_updates_on_many_devices_are_those_of_one(tiny_config):
    changes = {
        "diffusion__timesteps": 3,
        "train__timestep_sampling": "importance",
        "train__optimizer": "sgd",
        "train__learning_rate": 0.5,
        "model__classes": 3,
        "model__null_class": True,
        "train__label_dropout": 0.3,
    }
    config = config_for(tiny_config, **changes)
    one, one_metrics = train(config, 1, 7)
    many, many_metrics = train(config, 4, 7)
    assert one.level_sampler.counts.numpy().min() >= 10  # the last draws were not uniform
    np.testing.assert_array_equal(one.level_sampler.counts.numpy(), many.level_sampler.counts.numpy())
    np.testing.assert_allclose(one.level_sampler.history.numpy(), many.level_sampler.history.numpy(), rtol=1e-4)
    for a, b in zip(one_metrics, many_metrics, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-4)
    for a, b in zip(one.network.weights, many.network.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=5e-6)


def test_adam_on_many_devices_gives_the_outputs_of_one(tiny_config):
    config = config_for(tiny_config)
    one, _ = train(config, 1, 5)
    many, _ = train(config, 4, 5)
    x, t = tf.random.stateless_normal([4, 8, 8, 1], [0, 1]), tf.constant([0, 5, 10, 19])
    np.testing.assert_allclose(one.network(x, t), many.network(x, t), atol=1e-3)
    assert np.abs(one.network(x, t)).max() > 0.01


def test_loss_and_clipped_step_are_those_of_algorithm_1(tiny_config):
    config = config_for(tiny_config, train__optimizer="sgd", train__learning_rate=0.5)
    clip_norm = 0.1
    before, _ = train(config, 1, 0)
    after, (metrics,) = train(config, 1, 1, clip_norm=clip_norm)
    batch = next(iter(batch_dataset(IMAGES, 8, config.train.seed, 0, True)))
    x_0, address = Pixels().encode(batch["image"]), batch["address"]
    chain = build.chain(config.diffusion)
    t = randomness.row_integers(address, randomness.TIMESTEPS, 8, len(chain))
    eps = randomness.row_normal(address, randomness.NOISE, 8, [8, 8, 1])
    assert len(set(t.numpy())) > 3
    denoiser = denoiser_of(lambda x, level: before.network(x, level.time, address=address))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(objectives.simple_loss(denoiser, x_0, chain.levels.at(t, x_0), eps))
    gradients = tape.gradient(loss, before.network.trainable_variables)
    norm = np.sqrt(sum(np.sum(g.numpy().astype(np.float64) ** 2) for g in gradients))
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    for g, a, b in zip(gradients, before.network.trainable_variables, after.network.trainable_variables, strict=True):
        np.testing.assert_allclose(b.numpy(), a.numpy() - 0.5 * g.numpy() * clip_norm / norm, atol=1e-6)


def test_a_clipped_step_has_the_bounds_length_even_if_a_table_of_labels_leads_it(tiny_config):
    changes = {"model__classes": 3, "train__optimizer": "sgd", "train__learning_rate": 1.0}
    config = config_for(tiny_config, **changes)
    before, _ = train(config, 1, 0)

    def amplified(state):  # the blocks' outputs are 0 at first, and with them the gradient of the labels
        network = state.network
        rng = np.random.default_rng(0)
        for weight in network.weights:
            if weight.path.endswith(("conv_2/kernel", "conv_out/kernel", "time/kernel")):
                weight.assign(rng.normal(0, 1.0, weight.shape))
        network.label_embedding.table.assign(0.01 * network.label_embedding.table)  # where swish is steep
        state.take_from(network, network)

    amplified(before)
    after, (metrics,) = train(config, 1, 1, clip_norm=0.05, prepare=amplified)
    pairs = zip(before.network.weights, after.network.weights, strict=True)
    moves = [np.sum((b.numpy().astype(np.float64) - a.numpy()) ** 2) for a, b in pairs]
    assert metrics["gradient_norm"] > 0.1
    assert np.sqrt(sum(moves)) == pytest.approx(0.05, rel=1e-4)


def test_a_gradient_below_the_bound_is_not_scaled(tiny_config):
    config = config_for(tiny_config, train__optimizer="sgd", train__learning_rate=0.01)
    loose, _ = train(config, 1, 1, clip_norm=1e3)
    looser, _ = train(config, 1, 1, clip_norm=1e6)
    for a, b in zip(loose.network.weights, looser.network.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize(("warmup", "decay"), [(True, 0.9), (False, 0.75)])
def test_ema_is_the_average_with_or_without_its_warm_up(tiny_config, warmup, decay):
    config = config_for(tiny_config, train__ema_decay=decay, train__ema_warmup=warmup)
    expected = train(config, 1, 0)[0].network.conv_out.kernel.numpy()
    state, metrics = train(config, 1, 3)
    for n, metric in enumerate(metrics):
        share = min(decay, (1 + n) / (10 + n)) if warmup else decay
        expected = share * expected + (1 - share) * metric["output_kernel"]
    average = state.ema_network.conv_out.kernel.numpy()
    np.testing.assert_allclose(average, expected, rtol=1e-4, atol=1e-7)
    assert not np.allclose(average, metrics[-1]["output_kernel"], rtol=1e-3, atol=1e-7)


def test_the_network_has_the_average_only_within_the_context(tiny_config):
    state, _ = train(config_for(tiny_config, train__ema_decay=0.5), 1, 3)
    own, average = ([weight.numpy() for weight in network.weights] for network in (state.network, state.ema_network))
    assert any(not np.array_equal(a, b) for a, b in zip(own, average, strict=True))
    with pytest.raises(ZeroDivisionError), state.averaged() as network:
        assert network is state.network
        for weight, expected in zip(network.weights, average, strict=True):
            np.testing.assert_array_equal(weight.numpy(), expected)
        raise ZeroDivisionError
    for weight, expected in zip(state.network.weights, own, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected)


def pause(value):
    """The value, a tenth of a second later."""

    def after(value):
        time.sleep(0.1)
        return value

    return tf.py_function(after, [value], value.dtype)


def test_the_wait_for_batches_within_a_call_is_theirs_and_not_the_updates():
    """Sleeps are never shorter than asked for: both bounds hold on a machine however slow."""
    count, options = 5, tf.data.Options()
    options.experimental_optimization.inject_prefetch = False  # one batch would be made while an update is
    ready = tf.data.Dataset.from_tensors({"image": 0.0}).repeat().with_options(options)
    late = ready.map(lambda batch: {"image": tf.ensure_shape(pause(batch["image"]), [])})

    def quick(batch):
        return dict.fromkeys(METRICS, batch["image"])

    def long(batch):
        return quick({"image": tf.ensure_shape(pause(batch["image"]), [])})

    _, waited = make_updates(quick)(iter(late), tf.constant(count))
    assert float(waited) >= 0.1 * count
    began = time.monotonic()
    _, waited = make_updates(long)(iter(ready), tf.constant(count))
    assert float(waited) <= time.monotonic() - began - 0.1 * count


def test_a_loss_that_is_not_finite_is_remembered_by_its_first_step(tiny_config):
    state, metrics = train(config_for(tiny_config), 1, 5, poison_at=2)
    assert [bool(np.isfinite(metric["loss"])) for metric in metrics] == [True, True, False, False, False]
    assert state.first_bad_update == 3


@pytest.mark.parametrize("devices", [1, 2])
def test_single_updates_that_are_not_finite_change_nothing_and_are_counted(tiny_config, devices):
    """With max_bad_steps=2: updates 2, 4 and 5 do not count, the third in a row would be one too many."""
    config = config_for(tiny_config, train__max_bad_steps=2, train__timestep_sampling="importance")
    poison = tf.Variable(0.0)

    def objective(*arguments):
        return objectives.simple_loss(*arguments) + poison

    state, update, batches = trained_by_hand(config, devices, objective)

    def changing():
        variables = (
            *state.network.weights,
            *state.ema_network.weights,
            *state.optimizer.slots,
            state.optimizer.updates,
        )
        return [variable.numpy() for variable in (*variables, state.level_sampler.history)]

    losses = []
    for n, value in enumerate((0.0, np.nan, 0.0, np.inf, np.nan, 0.0), 1):
        poison.assign(value)
        before = changing()
        losses.append(float(update(next(batches))["loss"]))
        same = all(np.array_equal(a, b) for a, b in zip(before, changing(), strict=True))
        assert same == (value != 0.0) and state.updates == n and np.isfinite(losses[-1]) != same
    assert state.first_bad_update is None and state.skipped_updates == 3
    means = state.take_means()
    assert means["loss"] == pytest.approx(np.mean([losses[0], losses[2], losses[5]]), rel=1e-6)
    poison.assign(np.nan)
    for _ in range(3):
        update(next(batches))
    assert state.first_bad_update == 9 and state.skipped_updates == 6
    assert np.isnan(state.take_means()["loss"])


def test_the_losses_of_the_quarters_of_the_chain_make_up_the_loss(tiny_config):
    """Each quarter's mean is that of its own t, weighed by how many they are."""
    config = config_for(tiny_config)
    of_t = lambda denoiser, x_0, level, eps: level.time + 0.0 * tf.reduce_sum(denoiser(x_0, level).x_0)  # noqa: E731
    state, update, batches = trained_by_hand(config, 2, of_t)
    for _ in range(4):
        update(next(batches))
    counts = state.quarter_counts.numpy()
    assert counts.sum() == 4 * config.train.batch_size and counts.min() > 0
    means = state.take_means()
    quarters = [means[f"loss_quarter_{i}"] for i in range(1, 5)]
    assert np.average(quarters, weights=counts) == pytest.approx(means["loss"], rel=1e-6)
    for i, mean in enumerate(quarters):  # of 20 steps
        assert 5 * i <= mean <= 5 * i + 4
    assert not any(name.startswith("loss_quarter") for name in state.take_means())


def test_the_distance_of_the_average_is_relative_to_the_weights(tiny_config):
    state, _ = train(config_for(tiny_config), 1, 0)
    assert float(state.ema_distance()) == 0.0
    state.average.assign(1.25 * state.weights)
    assert float(state.ema_distance()) == pytest.approx(0.25, rel=1e-5)


def test_learning_rate_rises_then_stays_or_decays(tiny_config):
    constant = optimizers.warmup_cosine(2e-4, 10, 0)
    assert float(constant(0)) == pytest.approx(2e-5) and float(constant(4)) == pytest.approx(1e-4)
    assert float(constant(9)) == float(constant(10**6)) == pytest.approx(2e-4)
    decaying = optimizers.warmup_cosine(2e-4, 10, 110)
    assert float(decaying(60)) == pytest.approx(1e-4) and float(decaying(110)) == pytest.approx(0, abs=1e-12)
    assert float(decaying(10**6)) == pytest.approx(0, abs=1e-12)
