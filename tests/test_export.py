"""The SavedModel, as a process with TensorFlow alone sees it."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tf_ddpm
from export import saved_model
from tf_ddpm.errors import UserError


@pytest.fixture(scope="module")
def run(run_dir):
    return tf_ddpm.load_run(run_dir)


@pytest.fixture(scope="module")
def version(run, tmp_path_factory):
    return saved_model.export_run(run, tmp_path_factory.mktemp("serving") / "ddpm")


@pytest.fixture(scope="module")
def signatures(version):
    return tf.saved_model.load(str(version)).signatures


def close(a, b):
    return np.abs(a.astype(int) - b.astype(int)).max() <= 1


def test_versions_count_up_and_nothing_else_is_left(run, version):
    assert version.name == "1"
    assert saved_model.export_run(run, version.parent).name == "2"
    assert sorted(path.name for path in version.parent.iterdir()) == ["1", "2"]


def test_a_seed_gives_the_same_image_in_any_batch(run, signatures):
    def ask(seeds):
        return signatures["serving_default"](seed=tf.constant(seeds, tf.int64))

    alone, five = ask([7]), ask([3, 1, 7, 2, 9])
    sixteen = ask([*range(100, 115), 7])
    assert alone["image"].dtype == tf.uint8 and five["image"].shape == (5, 8, 8, 1)
    np.testing.assert_array_equal(five["seed"], [3, 1, 7, 2, 9])
    assert close(alone["image"][0].numpy(), five["image"][2].numpy())
    assert close(alone["image"][0].numpy(), sixteen["image"][15].numpy())
    assert close(alone["image"].numpy(), run.sample([7]))
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
    assert close(np.load(tmp_path / "out.npy"), run.sample([7, 8]))


def test_denoise_gives_noise_and_image_that_explain_x_t(run, signatures):
    x_t, t = tf.random.stateless_normal([3, 8, 8, 1], [0, 1]), tf.constant([0, 5, 19])
    answer = signatures["denoise"](x_t=x_t, t=t)
    np.testing.assert_allclose(answer["eps"], run.denoiser(x_t, t), atol=1e-5)
    np.testing.assert_allclose(run.process.q_sample(answer["x_0"], t, answer["eps"]), x_t, atol=1e-4)


def test_every_input_and_output_has_the_batch_first_and_xla_is_off(version):
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    model.ParseFromString((version / "saved_model.pb").read_bytes())
    (graph,) = model.meta_graphs
    for name in ("serving_default", "denoise"):
        signature = graph.signature_def[name]
        for tensor in [*signature.inputs.values(), *signature.outputs.values()]:
            assert tensor.tensor_shape.dim[0].size == -1, name
    for function in graph.graph_def.library.function:
        assert not function.attr["_XlaMustCompile"].b
        assert not any(node.op.startswith("Xla") for node in function.node_def)


def test_the_weights_stand_once_in_the_model(run, version):
    size = sum(path.stat().st_size for path in (version / "variables").iterdir())
    assert size < 1.5 * 4 * run.network.count_params() + 50_000


def test_a_model_that_draws_other_images_is_not_published(run, tmp_path, monkeypatch):
    monkeypatch.setattr(type(run), "sample", lambda self, seeds: np.zeros((2, 8, 8, 1), np.uint8))
    with pytest.raises(UserError, match="other images than the run"):
        saved_model.export_run(run, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_one_clear_line(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write into"):
        saved_model.export_run(run, tmp_path / "file")
