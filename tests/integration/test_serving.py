"""The served model as a program without Python asks it (tests/support/cpp/serve.cc, on the loader of TF Serving)."""

import dataclasses
import os
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from export import check, joining, saved_model
from tests.support.served import Served, decoded, grey
from tests.support.tiny import make_tiny_config
from tf_ddpm import config as config_lib
from tf_ddpm.config import plans, presets
from tf_ddpm.sampling.run import load_run
from tf_ddpm.training import loop

MAX_BATCH = 16
PLANS = "ddim-6,dpmpp-5,ddpm-20"

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to build the program that serves")


def make_served(run_dir, program, path, words=PLANS):
    run = load_run(run_dir)
    version = saved_model.export_run(run, path / "ddpm", plans.parse(words, run.config), MAX_BATCH)
    return Served(run, version, program, path / "exchange")


@pytest.fixture(scope="module")
def served(program, tmp_path_factory):
    """A run with classes, whose signatures have every input."""
    path = tmp_path_factory.mktemp("served")
    classes = {"model__classes": 10, "model__null_class": True, "train__label_dropout": 0.2}
    # alpha_bar of 0.1 at the end: an image is still in its latent after eight updates' worth of a network.
    schedule = {"diffusion__schedule": "linear", "diffusion__beta_end": 0.2}
    loop.run(make_tiny_config(**classes, **schedule, train__learning_rate=5e-3), path / "run")
    with make_served(path / "run", program, path) as served:
        yield served


def check_answers(served, names):
    """Whether the program answers these signatures as Python does."""
    loaded = tf.saved_model.load(str(served.version)).signatures
    requests = [(name, served.example(name, 3)) for name in names]
    for (name, inputs), answer in zip(requests, served.ask(*requests), strict=True):
        right = loaded[name](**{key: tf.constant(value) for key, value in inputs.items()})
        assert set(answer) == set(right), (name, answer)
        for key, value in answer.items():
            assert len(value) == 3
            if key == "png_bytes":
                assert grey([*map(decoded, value)], [*map(decoded, right[key].numpy())]) <= 1
            elif value.dtype == np.uint8:
                assert grey(value, right[key]) <= 1, (name, key)
            else:
                np.testing.assert_allclose(value, right[key], rtol=1e-4, atol=1e-4, err_msg=f"{name} {key}")


@pytest.mark.usefixtures("graphs_as_they_are")
def test_every_signature_answers_as_python_does(served):
    names = sorted(served.info["signatures"])
    expected = {"serving_default", "ddim_6", "dpmpp_5", "ddpm_20", "png", "progress", "decode", "encode", "inpaint"}
    assert set(names) == expected | {"denoise", "interpolate", "variation"}
    check_answers(served, names)


@pytest.mark.usefixtures("graphs_as_they_are")
def test_a_run_without_classes_answers_as_python_does(run_dir, program, tmp_path):
    with make_served(run_dir, program, tmp_path, "ddim-2") as served:
        assert "label" not in str(served.info["signatures"])
        check_answers(served, ["denoise", "serving_default", "variation"])


def test_signatures_agree_with_the_run_and_with_each_other(served):
    seeds = np.array([5, 8], np.int64)
    classes = served.classes(2)
    plan, png, progress, same = served.ask(
        ("ddim_6", {"seed": seeds, **classes}),
        ("png", {"seed": seeds, **classes}),
        ("progress", {"seed": seeds, **classes}),
        ("serving_default", {"seed": seeds, **classes}),
    )
    live = served.run.sample(seeds, sampler="ddim", steps=6, label=3, guidance=1.5)
    assert grey(plan["image"], live) <= 1 and plan["seed"].tolist() == [5, 8]
    np.testing.assert_array_equal(plan["image"], same["image"])
    pictures = np.stack([decoded(data) for data in png["png_bytes"]])[..., None]
    assert grey(pictures, live) <= 1
    assert progress["frames"].shape == (2, 6, 8, 8, 1) and grey(progress["frames"][:, -1], live) <= 1


def test_encode_then_decode_comes_back_to_the_image(served):
    (image,) = [a["image"] for a in served.ask(("dpmpp_5", {"seed": np.arange(2), **served.classes(2, guidance=1.0)}))]
    classes = served.classes(2, guidance=1.0)
    (latent,) = served.ask(("encode", {"image": image, **classes}))
    (back,) = served.ask(("decode", {"latent": latent["latent"], **classes}))
    # Six steps of the inversion are coarse; an unrelated image is several times as far.
    error = np.abs(back["image"].astype(int) - image).mean()
    unrelated = np.abs(back["image"][::-1].astype(int) - image).mean()
    assert error < 0.5 * unrelated, (error, unrelated)
    np.testing.assert_allclose(back["image_float"], back["image"] / 127.5 - 1, atol=0.5 / 127.5 + 1e-6)


def test_inpainting_keeps_the_known_pixels_and_draws_the_others(served):
    request = served.example("inpaint", 4)
    (answer,) = served.ask(("inpaint", request))
    known = np.broadcast_to(request["mask"] == 255, request["image"].shape)
    np.testing.assert_array_equal(answer["image"][known], request["image"][known])
    assert np.abs(answer["image"][~known].astype(int) - request["image"][~known]).mean() > 10


def test_the_ends_of_an_interpolation_are_the_images_of_the_two_seeds_bit_for_bit(served):
    classes, seeds = served.classes(4), np.array([5, 5, 5, 5], np.int64)
    mixes = {"seed": seeds, "seed_2": seeds + 3, "mix": np.array([0, 1, 0.5, 0.5], np.float32)}
    ends = np.array([5, 8, 5, 8], np.int64)
    between, own = served.ask(("interpolate", {**mixes, **classes}), ("serving_default", {"seed": ends, **classes}))
    np.testing.assert_array_equal(between["image"][:2], own["image"][:2])
    np.testing.assert_array_equal(between["image"][2], between["image"][3])
    assert grey(between["image"][2], own["image"][0]) > 5 and grey(between["image"][2], own["image"][1]) > 5
    assert between["seed"].tolist() == seeds.tolist()


def test_a_variation_of_no_strength_is_the_image_and_a_stronger_one_is_farther(served):
    request = served.example("variation", 5)
    request["strength"] = np.array([0, 0.2, 0.5, 1, 0], np.float32)
    request["image"] = np.repeat(request["image"][:1], 5, axis=0)
    first = {name: value[1:2] for name, value in request.items()}
    answer, alone = served.ask(("variation", request), ("variation", first))
    np.testing.assert_array_equal(answer["image"][[0, 4]], request["image"][[0, 4]])
    assert grey(answer["image"][1], alone["image"][0]) <= 1
    far = np.abs(answer["image"].astype(int) - request["image"]).mean(axis=(1, 2, 3))
    assert far[0] == 0 < far[1] < far[3]


def test_strangers_in_one_padded_batch_get_what_they_get_alone(served):
    alone = [served.example("serving_default", 1) | {"seed": np.array([seed])} for seed in (11, -4, 2**40)]
    joined = {name: np.concatenate([request[name] for request in [*alone, alone[0]]]) for name in alone[0]}
    many = {name: np.concatenate([value] * 4) for name, value in joined.items()}
    *single, batch, whole = served.ask(
        *[("serving_default", request) for request in alone], ("serving_default", joined), ("serving_default", many)
    )
    for i, answer in enumerate(single):
        assert grey(answer["image"][0], batch["image"][i]) <= 1
        assert grey(answer["image"][0], whole["image"][4 + i]) <= 1
    again, same = served.ask(("serving_default", joined), ("serving_default", joined))
    np.testing.assert_array_equal(again["image"], same["image"])
    assert grey(single[0]["image"], single[1]["image"]) > 20


def bad_requests(served):
    """(signature, inputs, words of the message)."""
    good = lambda name, rows=2: served.example(name, rows)  # noqa: E731
    yield "serving_default", good("serving_default", MAX_BATCH + 1), ["batch", f"1 to {MAX_BATCH} rows", "17"]
    for name in served.info["signatures"]:
        yield name, {key: value[:0] for key, value in good(name).items()}, ["batch", "1 to 16 rows", "got] [0]"]
    yield "denoise", good("denoise") | {"t": np.array([3, 20], np.int32)}, ["t: expected 0 to 19", "[20]"]
    yield "denoise", good("denoise") | {"t": np.array([-1, 2], np.int32)}, ["t: expected 0 to 19", "[-1]"]
    for value in (np.inf, -np.inf, np.nan):
        infinite = np.full((2, 8, 8, 1), value, np.float32)
        yield "denoise", good("denoise") | {"x_t": infinite}, ["x_t: expected finite numbers"]
        yield "decode", good("decode") | {"latent": infinite}, ["latent: expected finite numbers"]
    yield "decode", good("decode") | {"latent": np.zeros((2, 8, 12, 1), np.float32)}, ["latent", "[B, 8, 8, 1]", "12"]
    yield "encode", good("encode") | {"image": np.zeros((2, 16, 16, 1), np.uint8)}, ["image", "[B, 8, 8, 1]", "16"]
    yield "inpaint", good("inpaint") | {"image": np.zeros((2, 8, 8, 3), np.uint8)}, ["image", "[B, 8, 8, 1]"]
    yield "inpaint", good("inpaint") | {"mask": np.zeros((2, 8, 9, 1), np.uint8)}, ["mask", "[B, 8, 8, 1]"]
    uneven = ["batch: expected as many rows of each input", "seed", "2 3"]
    yield "inpaint", good("inpaint") | {"seed": np.zeros(3, np.int64)}, uneven
    # Another rank than the signature's: JSON's [[7]], 7, and an image without a batch.
    yield "png", good("png") | {"seed": np.zeros((2, 1), np.int64)}, ["seed: expected the shape [B], got] [2 1]"]
    yield "png", good("png") | {"seed": np.zeros((), np.int64)}, ["seed: expected the shape [B], got] []"]
    yield "png", good("png") | {"label": np.zeros((1, 2), np.int32)}, ["label: expected the shape [B], got] [1 2]"]
    flat = good("encode") | {"image": np.zeros((8, 8, 1), np.uint8)}
    yield "encode", flat, ["image: expected the shape [B, 8, 8, 1], got] [8 8 1]"]
    yield "inpaint", good("inpaint") | {"mask": np.zeros((2, 1, 8, 8, 1), np.uint8)}, ["mask", "[B, 8, 8, 1]"]
    wrong = np.array([0, 10], np.int32)
    yield "png", good("png") | {"label": wrong}, ["label: expected -1 to 9", "[10]"]
    for name, key in (("interpolate", "mix"), ("variation", "strength")):
        for value in (-0.01, 1.01, np.nan, np.inf):
            outside = np.array([0.5, value], np.float32)
            yield name, good(name) | {key: outside}, [f"{key}: expected 0 to 1, got]"]
    yield "interpolate", good("interpolate") | {"seed_2": np.zeros(3, np.int64)}, uneven
    nan = np.array([1.0, np.nan], np.float32)
    yield "progress", good("progress") | {"guidance": nan}, ["guidance: expected finite numbers, got] [nan]"]
    last = good("png", 16) | {"label": np.array([0] * 15 + [12], np.int32)}
    yield "png", last, ["label: expected -1 to 9 (-1: no class), got] [12]"]


def test_a_bad_request_is_told_what_is_legal_and_the_next_good_one_is_answered(served):
    requests, words = [], []
    for signature, inputs, message in bad_requests(served):
        requests += [(signature, inputs), (signature, served.example(signature, 1))]
        words.append(message)
    answers = served.ask(*requests)
    for i, message in enumerate(words):
        bad, good = answers[2 * i : 2 * i + 2]
        assert isinstance(bad, str) and bad.startswith("INVALID_ARGUMENT"), (requests[2 * i][0], bad)
        assert all(word in bad for word in message), bad
        assert isinstance(good, dict), good


def test_the_warm_up_holds_legal_requests_of_every_allowed_size(served):
    from tensorflow_serving.apis import prediction_log_pb2

    path = served.version / "assets.extra" / "tf_serving_warmup_requests"
    seen, requests = {}, []
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log_pb2.PredictionLog()
        log.ParseFromString(record.numpy())
        request = log.predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        rows = len(next(iter(inputs.values())))
        seen.setdefault(request.model_spec.signature_name, []).append(rows)
        requests.append((request.model_spec.signature_name, inputs))
    assert seen["serving_default"] == seen["denoise"] == [1, 2, 4, 8, 16]
    assert served.info["cold"] == []
    others = set(served.info["signatures"]) - {"serving_default", "denoise", "ddim_6"}
    assert {name: seen[name] for name in others} == {name: [1] for name in others}
    assert all(isinstance(answer, dict) for answer in served.ask(*requests))


def test_model_info_says_what_the_model_is(served):
    info = served.info
    assert info["image_shape"] == [8, 8, 1] and info["default_plan"] == "ddim_6"
    assert info["limits"]["max_batch"] == MAX_BATCH and info["limits"]["t"] == [0, 19]
    assert info["parameters"] == served.run.network.count_params() and info["config"]["data"]["name"] == "digits"
    assert info["plans"]["ddpm_20"] == {"sampler": "ddpm", "steps": 20} and info["checkpoint_step"] == 8


def same(answer, right, exact):
    """Whether an answer is the right one: bit for bit, or as near as `export.check` wants rows alone and together."""
    assert isinstance(answer, dict) and set(answer) == set(right), answer
    for name, value in answer.items():
        if exact or value.dtype.kind == "i":
            np.testing.assert_array_equal(value, right[name])
        elif value.dtype.kind in "SO":
            assert all(grey(decoded(a), decoded(b)) <= 1 for a, b in zip(value, right[name], strict=True))
        else:
            scale = 1.0 if value.dtype.kind == "u" else 1e-3 * max(np.abs(right[name]).max(), 1e-6)
            assert np.abs(value.astype(np.float64) - right[name]).max() <= scale, name


def test_a_thousand_requests_at_once_are_each_answered_as_alone_and_no_bad_one_fails_a_neighbour(served):
    """16 threads, every signature; 200 of them bad, of every kind."""
    sizes = joining.allowed_batch_sizes(MAX_BATCH)
    names = sorted(served.info["signatures"])
    warm = [(name, served.example(name, rows)) for name in names for rows in sizes]
    good = [(name, served.example(name, rows)) for name in names for rows in (1, 2, 3, 7, MAX_BATCH)]
    right = served.ask(*good)
    bad = list(bad_requests(served))
    rng = np.random.default_rng(0)
    chosen = [("good", i) for i in rng.integers(0, len(good), 800)] + [("bad", i % len(bad)) for i in range(200)]
    rng.shuffle(chosen)
    chosen = [(kind, int(i)) for kind, i in chosen]
    requests = [good[i] if kind == "good" else bad[i][:2] for kind, i in chosen]
    _, before = served.ask_at_once([*warm, *warm], 16)
    answers, after = served.ask_at_once(requests, 16)
    for (kind, i), answer in zip(chosen, answers, strict=True):
        if kind == "good":
            rows = len(next(iter(good[i][1].values())))
            same(answer, right[i], exact=rows == MAX_BATCH)  # a full request runs as it is
        else:
            assert isinstance(answer, str) and answer.startswith("INVALID_ARGUMENT"), (bad[i][0], answer)
            assert all(word in answer for word in bad[i][2]), (bad[i], answer)
    assert after - before < 10, (before, after)


def test_a_request_beyond_what_a_queue_holds_is_told_so_and_nothing_hangs(run_dir, program, tmp_path, monkeypatch):
    short = [dataclasses.replace(lane, waiting=1) for lane in joining.LANES]
    monkeypatch.setattr(joining, "LANES", tuple(short))
    run = load_run(run_dir)
    version = saved_model.export_run(run, tmp_path / "ddpm", plans.parse("ddim-20", run.config), MAX_BATCH)
    with Served(run, version, program, tmp_path / "exchange") as served:
        request = ("serving_default", served.example("serving_default", MAX_BATCH))
        (right,) = served.ask(request)
        answers, _ = served.ask_at_once([request] * 64, 16)
    refused = [answer for answer in answers if isinstance(answer, str)]
    assert 0 < len(refused) < 64 and all(text.startswith("UNAVAILABLE") and "full" in text for text in refused)
    for answer in answers:
        if isinstance(answer, dict):
            same(answer, right, exact=True)


def test_versions_of_another_limit_stand_in_one_folder_and_each_keeps_to_its_own(run_dir, program, tmp_path):
    run, chosen = load_run(run_dir), plans.parse("ddim-2", load_run(run_dir).config)
    for rows in (8, 4):
        saved_model.export_run(run, tmp_path / "ddpm", chosen, rows)
    for version, rows in (("1", 8), ("2", 4)):
        with Served(run, tmp_path / "ddpm" / version, program, tmp_path / "exchange") as served:
            most, more = served.ask(
                *(("serving_default", served.example("serving_default", n)) for n in (rows, rows + 1))
            )
            assert len(most["image"]) == rows and f"batch: expected 1 to {rows} rows, got] [{rows + 1}]" in more
            records = [record for record in check.warmup_requests(served.version) if record[0] == "serving_default"]
            assert all(isinstance(answer, dict) for answer in served.ask(*records))
            at_once, _ = served.ask_at_once([("serving_default", served.example("serving_default", rows))] * 32, 8)
            assert all(isinstance(answer, dict) for answer in at_once)


def soaked(served, folder, count, max_batch, onednn=True):
    """What the program prints of `count` requests from eight threads, of random rows and sizes, each once first."""
    request = served.example("serving_default", max_batch)
    (answer,) = served.ask(("serving_default", request))
    for kind, tensors in (("input", request), ("output", answer)):
        for name, value in tensors.items():
            (folder / f"{kind}.{name}").write_bytes(tf.make_tensor_proto(value).SerializeToString())
    command = [served.program, "soak", served.version, "serving_default", folder, 8, count, max_batch]
    env = os.environ | {"TF_ENABLE_ONEDNN_OPTS": str(int(onednn))}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=3600, env=env)
    print(done.stdout)
    words = dict(zip(done.stdout.split()[::2], done.stdout.split()[1::2], strict=True))
    assert done.returncode == 0 and words["failures"] == "0" and int(words["worst_distance"]) <= 1, done.stdout
    return float(words["slope_kb"]), float(words["late_slope_kb"])


def test_many_threads_and_batch_sizes_give_the_right_images(served, tmp_path):
    soaked(served, tmp_path, 60, MAX_BATCH)


@pytest.mark.slow
def test_a_thousand_requests_of_many_sizes_leave_memory_flat(program, tmp_path):
    config = config_lib.with_values(presets.preset("digits"), {"train.steps": 10})
    loop.run(config_lib.validated(config), tmp_path / "run")
    run = load_run(tmp_path / "run")
    version = saved_model.export_run(run, tmp_path / "ddpm", plans.parse("dpmpp-10", run.config), 64)
    with Served(run, version, program, tmp_path / "exchange") as served:
        assert soaked(served, tmp_path, 1000, 64, onednn=False)[0] < 20
        # oneDNN keeps what it compiles for each shape in each thread: memory grows until each has met every size.
        assert soaked(served, tmp_path, 2000, 64)[1] < 20
