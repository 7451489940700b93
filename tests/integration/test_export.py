"""The SavedModel, as a process with TensorFlow alone sees it."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import tf_ddpm
from export import comparison, joining, saved_model, warmup
from tf_ddpm import build
from tf_ddpm import config as config_lib
from tf_ddpm.config import plans
from tf_ddpm.errors import UserError
from tf_ddpm.sampling.run import Run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(run_dir):
    return tf_ddpm.load_run(run_dir)


@pytest.fixture(scope="module")
def version(run, tmp_path_factory):
    return saved_model.export_run(run, tmp_path_factory.mktemp("serving") / "ddpm")


@pytest.fixture(scope="module")
def signatures(version):
    return tf.saved_model.load(str(version)).signatures


@pytest.fixture
def uncompared(monkeypatch):
    """For tests of what lies in the folder: the model is not loaded in a process of its own."""
    monkeypatch.setattr(comparison, "compare", lambda *_: 2**30)


def close(a, b):
    return np.abs(a.astype(int) - b.astype(int)).max() <= 1


def test_versions_count_up_and_nothing_else_is_left(run, version, uncompared):
    assert version.name == "1"
    assert saved_model.export_run(run, version.parent, plans.parse("ddim-2", run.config)).name == "2"
    files = ["docker-compose.yml", "kubernetes.yml", "models.config", "monitoring.config", "play.html"]
    assert sorted(path.name for path in version.parent.iterdir()) == ["1", "2", *files]


def test_old_versions_are_pruned_and_never_the_newest(run, tmp_path, uncompared):
    for name in ("3", "20", "100", "not-a-version"):
        (tmp_path / name).mkdir()
    quick = plans.parse("ddim-2", run.config)
    assert saved_model.export_run(run, tmp_path, quick, keep_versions=2).name == "101"
    kept = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert kept == ["100", "101", "not-a-version"]


def test_a_seed_gives_the_same_image_in_any_batch(run, signatures):
    def ask(seeds):
        return signatures["serving_default"](seed=tf.constant(seeds, tf.int64))

    alone, five = ask([7]), ask([3, 1, 7, 2, 9])
    sixteen = ask([*range(100, 115), 7])
    assert alone["image"].dtype == tf.uint8 and five["image"].shape == (5, 8, 8, 1)
    np.testing.assert_array_equal(five["seed"], [3, 1, 7, 2, 9])
    assert close(alone["image"][0].numpy(), five["image"][2].numpy())
    assert close(alone["image"][0].numpy(), sixteen["image"][15].numpy())
    assert close(alone["image"].numpy(), run.sample([7], sampler="ddim", steps=20))
    assert len(np.unique(sixteen["image"].numpy().reshape(16, -1), axis=0)) == 16
    np.testing.assert_array_equal(alone["image"], ask([7])["image"])


def test_a_process_with_tensorflow_alone_draws_the_runs_images(run, version, tmp_path):
    script = (
        "import sys, numpy as np, tensorflow as tf\n"
        "for name in ('tf_ddpm', 'keras'): sys.modules[name] = None\n"
        f"f = tf.saved_model.load({str(version)!r}).signatures['serving_default']\n"
        f"np.save({str(tmp_path / 'out.npy')!r}, f(seed=tf.constant([7, 8], tf.int64))['image'].numpy())\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=env, capture_output=True)
    assert close(np.load(tmp_path / "out.npy"), run.sample([7, 8], sampler="ddim", steps=20))


def test_denoise_gives_noise_and_image_that_explain_x_t(run, signatures):
    x_t, t = tf.random.stateless_normal([3, 8, 8, 1], [0, 1]), tf.constant([0, 5, 19])
    answer = signatures["denoise"](x_t=x_t, t=t)
    np.testing.assert_allclose(answer["eps"], run.denoiser(x_t, t), atol=1e-5)
    again = run.chain.levels.at(tf.constant(t), tf.constant(x_t)).noised(answer["x_0"], answer["eps"])
    np.testing.assert_allclose(again, x_t, atol=1e-4)


def test_every_input_and_output_has_the_batch_first_and_xla_is_off(version):
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((version / "saved_model.pb").read_bytes())
    (graph,) = model.meta_graphs
    for name, signature in graph.signature_def.items():
        for tensor in [*signature.inputs.values(), *signature.outputs.values()]:
            assert name == "__saved_model_init_op" or tensor.tensor_shape.dim[0].size == -1, name
    for function in graph.graph_def.library.function:
        assert not function.attr["_XlaMustCompile"].b
        assert not any(node.op.startswith("Xla") for node in function.node_def)


def test_the_weights_stand_once_in_the_model(run, version):
    size = sum(path.stat().st_size for path in (version / "variables").iterdir())
    assert size < 1.5 * 4 * run.network.count_params() + 50_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ddim", "is no plan"),
        ("ddim-0", "sample.steps=0"),
        ("ddim-21", "more than diffusion.timesteps=20"),
        ("euler-5", "sample.sampler=euler"),
        ("ddim-5,ddim-05", "is listed twice"),
        ("ddim-5,", "is no plan"),
    ],
)
def test_a_wrong_plan_is_one_clear_line(run, words, message):
    with pytest.raises(UserError, match=message):
        plans.parse(words, run.config)


def test_the_default_plans_are_no_longer_than_the_chain(run):
    assert [plan.name for plan in plans.parse(None, run.config)] == ["ddim_20", "dpmpp_20", "ddpm_20"]


def test_latents_are_those_of_a_deterministic_plan(run):
    stochastic = config_lib.with_values(run.config, {"sample.eta": 1.0})
    for words, config, name, eta in (
        ("ddpm-9,dpmpp-5", run.config, "dpmpp_5", 0.0),
        ("dpmpp-5,ddim-7", stochastic, "ddim_20", 0.0),
        ("dpmpp-5,heun-7", stochastic, "heun_7", 1.0),
    ):
        chosen = plans.of_latents(plans.parse(words, config), config)
        assert (chosen.name, chosen.sample.eta) == (name, eta)


def test_allowed_batch_sizes_end_with_the_largest():
    assert joining.allowed_batch_sizes(64) == [1, 2, 4, 8, 16, 32, 64]
    assert joining.allowed_batch_sizes(20) == [1, 2, 4, 8, 16, 20]
    assert joining.allowed_batch_sizes(1) == [1]


def test_every_variable_of_the_graph_is_filled_from_the_checkpoint(version):
    """Python's loader does not need it; the C++ one does."""
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((version / "saved_model.pb").read_bytes())
    nodes = model.meta_graphs[0].graph_def.node
    filled = len(tf.train.list_variables(str(version / "variables" / "variables"))) - 1  # one is the object graph
    assert sum(node.op == "VarHandleOp" for node in nodes) == filled > 30


def test_a_model_that_draws_other_images_is_not_published(run, tmp_path, monkeypatch):
    monkeypatch.setattr(type(run), "sample", lambda self, seeds, **_: np.zeros((2, 8, 8, 1), np.uint8))
    with pytest.raises(UserError, match="other images than the run"):
        saved_model.export_run(run, tmp_path, plans.parse("ddim-2", run.config))
    assert not list(tmp_path.iterdir())


def test_a_right_export_of_a_chain_that_amplifies_rounding_is_not_refused(run):
    """A network of random weights draws other images in another precision; those of another network are farther."""
    network = build.recast(run.network, "float32")
    rng = np.random.default_rng(0)
    for weight in network.weights:
        weight.assign(rng.normal(0.0, 0.3, weight.shape))
    wild = Run(run.config, network, 0)
    (plan,) = plans.parse("ddim-10", run.config)
    settings = {"sampler": "ddim", "steps": 10}
    live = wild.sample([0, 1], **settings)
    rounded = Run(run.config, build.recast(network, "bfloat16"), 0).sample([0, 1], **settings)
    assert np.abs(live.astype(int) - rounded).max() > 16
    comparison._check_images(wild, plan, rounded.astype(int))
    with pytest.raises(UserError, match="other images than the run"):
        comparison._check_images(wild, plan, run.sample([0, 1], **settings).astype(int))


def test_one_call_of_the_network_must_agree_and_one_that_is_all_zero_may(run):
    x_t, t = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32), np.array([0, 19], np.int32)
    eps = run.bound_denoiser(None).eps(tf.constant(x_t), run.chain.levels.at(tf.constant(t), tf.constant(x_t))).numpy()
    comparison._check_call(run, x_t, t, None, eps + 1e-6)
    with pytest.raises(UserError, match="denoises differently"):
        comparison._check_call(run, x_t, t, None, eps * 1.001)
    still = build.recast(run.network, "float32")
    for weight in still.weights:
        weight.assign(np.zeros(weight.shape))
    comparison._check_call(Run(run.config, still, 0), x_t, t, None, np.zeros_like(eps))


def test_a_lane_waits_in_proportion_to_its_shortest_chain_and_a_single_call_not_at_all():
    lanes = joining.lanes([1, 20, 50, 1000, 200], seconds=0.005)
    waits = {calls: (lane.name, lane.wait_microseconds) for calls, lane in lanes.items()}
    assert waits == {
        1: ("call", 0), 20: ("short", 2000), 50: ("short", 2000), 200: ("long", 20_000), 1000: ("long", 20_000)
    }  # fmt: skip
    assert joining.lanes([20], seconds=100.0)[20].wait_microseconds == 50_000


def test_the_warm_up_asks_every_signature_for_a_row_first_and_keeps_to_its_time(run):
    calls = {"serving_default": 20, "ddim_20": 20, "denoise": 1, "ddpm_1000": 1000}
    known = {"limits": SimpleNamespace(max_batch=4), "lanes": dict.fromkeys(calls)}
    module = SimpleNamespace(calls=calls, endpoints=calls, default="ddim_20", **known)
    every = {"denoise": [1, 2, 4], "serving_default": [1, 2, 4], "ddpm_1000": [1]}
    assert warmup.sizes(module, seconds=1e-4, budget=60.0) == every
    assert warmup.sizes(module, seconds=1e-2, budget=3.0) == {
        name: every[name] for name in every if name != "ddpm_1000"
    }
    assert warmup.sizes(module, seconds=1.0, budget=1.0) == {"denoise": [1]}


def test_serving_default_is_the_first_plan_itself_so_that_neither_name_is_cold(version):
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((version / "saved_model.pb").read_bytes())
    signatures = model.meta_graphs[0].signature_def
    assert signatures["serving_default"] == signatures["ddim_20"] != signatures["dpmpp_20"]


def test_the_weights_decide_the_names_of_the_queues(run, tmp_path, uncompared):
    def queues(version):
        model = saved_model_pb2.SavedModel()
        model.ParseFromString((version / "saved_model.pb").read_bytes())
        nodes = [node for f in model.meta_graphs[0].graph_def.library.function for node in f.node_def]
        nodes = [node for node in nodes if node.op == "BatchFunction"]
        assert not any(node.attr["enable_large_batch_splitting"].b for node in nodes)
        names = {node.attr["batching_queue"].s.decode() for node in nodes}
        assert len(names) == 8 and len(nodes) == 9  # png stands in the plan's queue
        return {node.attr["shared_name"].s.decode().partition("/")[0] for node in nodes}

    chosen = plans.parse("ddim-2", run.config)
    (one,) = queues(saved_model.export_run(run, tmp_path / "a", chosen, 4))
    other = Run(run.config, build.recast(run.network, "float32"), 0)
    other.network.weights[0].assign_add(tf.ones_like(other.network.weights[0]))
    (two,) = queues(saved_model.export_run(other, tmp_path / "b", chosen, 4))
    assert one != two


def test_an_unwritable_folder_is_one_clear_line(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write into"):
        saved_model.export_run(run, tmp_path / "file")


def test_an_export_for_one_row_a_request_is_checked_too(run, tmp_path, uncompared):
    saved_model.export_run(run, tmp_path / "one", plans.parse("ddim-2", run.config), max_batch=1)
    done = subprocess.run(
        [sys.executable, "-m", "export.check", str(tmp_path / "one")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "fit to serve" in done.stdout, done.stdout + done.stderr


def test_a_system_that_does_not_tell_what_rows_take_is_told(tmp_path, monkeypatch, capsys):
    script = tmp_path / "verify.py"
    for told in (0, 1):
        script.write_text(f"import sys, numpy; numpy.savez(sys.argv[3], memory=[1.0, 1.0, {told}.0])")
        monkeypatch.setattr(comparison.verify, "__file__", str(script))
        comparison.asked(tmp_path, tmp_path, {}, "rows")
        assert ("does not tell what more rows take" in capsys.readouterr().err) is not bool(told)


def test_the_memory_of_an_export_is_not_that_of_the_process_that_asks(tmp_path):
    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def rows(self, x):
            return {"y": tf.reduce_mean(x[:, None] * tf.random.uniform([1, 2**23]), axis=1)}  # 32 MB each

    model, ballast = Model(), np.ones(2**31, np.uint8)
    tf.saved_model.save(model, tmp_path / "model", signatures={"rows": model.rows})
    answers = comparison.asked(tmp_path / "model", tmp_path, {"rows": {"x": np.ones(2, np.float32)}}, "rows")
    held, each_more = answers["memory"][:2] / 2**20
    assert ballast.all() and held < 2048 and 16 < each_more < 128
