"""Students: trained, resumed, moved away from their teachers, drawn, exported."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.support.projection import take_its_place
from tests.support.students import METHODS, student_config
from tests.support.tiny import make_tiny_config, mirrored
from tf_ddpm import build, datasets
from tf_ddpm import config as config_lib
from tf_ddpm.config import plans, students
from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import evaluate, sweep
from tf_ddpm.evaluation.sliced_wasserstein import SlicedWasserstein
from tf_ddpm.figures import catalogue
from tf_ddpm.runs import checkpoint_files, configuration, probes
from tf_ddpm.sampling import teacher as teachers
from tf_ddpm.sampling.run import load_run
from tf_ddpm.training import loop
from tf_ddpm.training.optimizers import make_optimizer
from tf_ddpm.training.state import TrainState


@pytest.fixture(scope="module", params=list(METHODS))
def student(request, teacher_dir, tmp_path_factory):
    """(method, run directory, final state) of a student that was trained in one go."""
    path = tmp_path_factory.mktemp("runs") / request.param
    return request.param, path, loop.run(student_config(teacher_dir, request.param), path)


def same_state(one, other):
    assert one.updates == other.updates
    for name in ("weights", "average"):
        np.testing.assert_array_equal(getattr(one, name).numpy(), getattr(other, name).numpy(), err_msg=name)


def test_a_killed_student_goes_on_bit_for_bit_without_its_teachers_run(student, teacher_dir, tmp_path):
    _, path, whole = student
    cut = tmp_path / "cut"
    shutil.copytree(path, cut)
    for step in checkpoint_files.steps(cut):
        if step > 6:  # within the second stage
            checkpoint_files.remove(cut, step)
    assert checkpoint_files.steps(cut)[-1] == 6
    aside = teacher_dir.with_name("aside")
    os.rename(teacher_dir, aside)
    try:
        resumed = loop.run(configuration.read(cut), cut)
    finally:
        os.rename(aside, teacher_dir)
    same_state(resumed, whole)
    assert probes.read(cut) == probes.read(path)


def test_two_devices_make_the_student_of_one(student, teacher_dir, tmp_path):
    method, _, whole = student
    state = loop.run(student_config(teacher_dir, method), tmp_path / "two", mirrored(2))
    np.testing.assert_allclose(state.weights.numpy(), whole.weights.numpy(), atol=2e-5)


def test_a_student_begins_as_its_teacher_and_keeps_a_copy(student, teacher_dir):
    _, path, whole = student
    config = configuration.read(path)
    copy = teachers.open_teacher(config, path)
    assert copy.sha256 == config.distill.teacher_sha256
    teaching, own = load_run(teacher_dir), load_run(path)
    for weight, other in zip(copy.network.weights, teaching.network.weights, strict=True):
        np.testing.assert_array_equal(weight, other)
    size = np.linalg.norm(np.concatenate([np.ravel(weight) for weight in teaching.network.weights]))
    moved = np.linalg.norm(whole.weights.numpy() - np.concatenate([np.ravel(w) for w in teaching.network.weights]))
    assert 0 < moved < 0.2 * size
    assert own.sample(range(3)).shape == (3, 8, 8, 1)
    assert str(teacher_dir) not in config_lib.to_json(config_lib.portable(config))


def test_a_student_draws_with_the_checkpoint_of_its_best_probe(student):
    method, path, _ = student
    if method != "consistency":
        assert probes.read(path) == {}
        return
    found = probes.read(path)
    assert list(found) == [2, 4, 6, 8]
    best = min(found, key=found.get)
    assert best in checkpoint_files.steps(path) and load_run(path).checkpoint_step == best
    logged = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    # Weights are at most that of the least level, and those of the second stage are larger.
    assert all(1 < line["largest_weight"] < 1 / 0.05 * 20 for line in logged)


def test_the_log_has_the_largest_weight_of_all_updates_since_its_last_line(run_dir):
    config = configuration.read(run_dir)
    make = lambda: build.network(config, "float32")  # noqa: E731
    state = TrainState(make, make_optimizer(config.train), build.level_sampler(config), ("a", "b"), ("b",))
    for values, expected in (((3.0, 7.0, 5.0), (5.0, 7.0)), ((2.0, 1.0), (1.5, 2.0))):
        for value in values:
            state.add_metrics(tf.constant(1.0), tf.constant([0.0, value, value, *[0.0] * 8]))
        means = state.take_means()
        assert (means["a"], means["b"]) == expected


def test_a_sweep_finds_the_second_level(student, tmp_path, monkeypatch):
    method, path, _ = student
    if method != "consistency":
        return
    take_its_place(monkeypatch.setattr)
    wanted = evaluate.EvaluationRequest(("fid",), num_images=20, allow_few=True)
    config = config_lib.with_values(configuration.read(path), {"data.cache_dir": str(tmp_path)})
    rows = json.loads(sweep.sweep(wanted, config, str(path), "sigma:0.3,0.8").read_text())
    said = [row["fid"]["receipt"]["generated"] for row in rows.values()]
    assert [facts["sigmas"] for facts in said] == [[80.0, 0.3], [80.0, 0.8]]
    assert rows["0.3"]["fid"]["value"] != rows["0.8"]["fid"]["value"]


def test_another_copy_of_the_teacher_is_not_taken_for_it(student, tmp_path):
    _, path, _ = student
    changed = tmp_path / "changed"
    shutil.copytree(path, changed)
    config = config_lib.with_values(configuration.read(changed), {"distill.teacher_sha256": "0" * 64})
    with pytest.raises(UserError, match="is not the network that began to teach this student"):
        teachers.open_teacher(config, changed)


def test_a_consistency_student_has_no_way_back_to_noise(student, tmp_path):
    from export import saved_model

    method, path, _ = student
    run = load_run(path)
    jumps = method == "consistency"
    assert plans.own(run.config) == ("consistency-2" if jumps else "ddim-1")
    word = "consistency-2,consistency-1,consistency-4" if jumps else "ddim-1"
    version = saved_model.export_run(run, tmp_path / "served", plans.parse(word, run.config), 4)
    served = tf.saved_model.load(str(version)).signatures
    assert ("encode" in served, "decode" in served) == (not jumps, not jumps)
    info = json.loads((version / "assets.extra" / "model_info.json").read_text())
    assert list(info["left_out"]) == (["decode", "encode"] if jumps else [])
    inputs = {"label": tf.constant([3, 1])} | ({} if jumps else {"guidance": tf.constant([1.0, 1.0])})
    seeds = tf.constant([11, 12], tf.int64)
    images = served["serving_default"](seed=seeds, **inputs)["image"].numpy()
    alone = served["serving_default"](seed=seeds[1:], **{name: value[1:] for name, value in inputs.items()})
    assert np.abs(alone["image"].numpy()[0].astype(int) - images[1]).max() <= 1
    for steps in (2, 1, 4) if jumps else (1,):
        plan = served[plans.parse(word, run.config)[0].name[:-1] + str(steps)]
        drawn = run.sample([11, 12], label=[3, 1], steps=steps)
        assert np.abs(drawn.astype(int) - plan(seed=seeds, **inputs)["image"].numpy()).max() <= 1
    mask = np.zeros([2, 8, 8, 1], np.uint8)
    mask[:, :4] = 255
    filled = served["inpaint"](image=tf.constant(images), mask=tf.constant(mask), seed=seeds, **inputs)[
        "image"
    ].numpy()
    np.testing.assert_array_equal(filled[:, :4], images[:, :4])
    with pytest.raises(UserError, match="no bound follows"):
        evaluate.evaluate(evaluate.EvaluationRequest(("bpd",), 4), run.config, path, tmp_path / "metrics.json")
    with pytest.raises(UserError, match="coding has no meaning for a student"):
        catalogue.draw("coding", catalogue.FigureContext(run, path))
    if jumps:
        with pytest.raises(UserError, match="no meaning for a consistency student"):
            catalogue.draw("interpolation", catalogue.FigureContext(run, path))
    assert catalogue.draw("steps", catalogue.FigureContext(run, path), tmp_path / "steps.png")


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("consistency", ("distill.guidance=2", "distill.guide=4")),
        ("consistency", ("distill.guidance=2",)),
        ("progressive", ("distill.guidance=2",)),
    ],
)
def test_a_guided_teacher_teaches_something_else(teacher_dir, tmp_path, method, settings):
    runs = [loop.run(student_config(teacher_dir, method, *given), tmp_path / f"{len(given)}") for given in
            ((), settings)]  # fmt: skip
    assert np.abs(runs[0].weights.numpy() - runs[1].weights.numpy()).max() > 1e-5
    guided = configuration.read(tmp_path / f"{len(settings)}")
    assert guided.distill.guidance == 2.0 and guided.sample.guidance == 1.0
    again = teachers.open_teacher(guided, tmp_path / f"{len(settings)}")
    assert (again.guide is not None) == ("distill.guide=4" in settings)
    guide = {"guide": "4"} if "distill.guide=4" in settings else {}
    run, labels = load_run(teacher_dir, guidance=2.0, **guide), tf.constant([3, -1])
    x = tf.random.stateless_normal([2, 8, 8, 1], [0, 1])
    level = run.chain.levels.at(tf.constant([9, 4]), x)
    said = again.denoiser({"label": labels}, tf.constant(2))(x, level).x_0
    np.testing.assert_allclose(said, run.bound_denoiser(labels, tf.constant([2.0, 2.0]))(x, level).x_0, atol=1e-5)
    with pytest.raises(UserError, match=r"a student that draws with its teacher's, distill\.guidance=2"):
        configuration.used(guided, [], {"guidance": 1.5})
    assert not guided.takes_guidance


def test_the_lengths_of_pairs_follow_from_what_they_follow_unless_they_are_said(teacher_dir):
    def learns(*settings):
        config = student_config(teacher_dir, "consistency", *settings)
        distill, train = config.distill, config.train
        return distill.target, distill.solver, distill.gap, train.level_mean, train.learning_rate

    assert learns() == ("teacher", "heun", 8.0, 0.5, 0.5 * 5e-3)
    assert learns("distill.target=data") == ("data", "ddim", 256.0, -0.75, 0.2 * 5e-3)
    assert learns("distill.target=data", "distill.gap=4", "train.level_mean=1")[2:4] == (4.0, 1.0)
    assert learns("distill.solver=ddim", "train.learning_rate=1e-4") == ("teacher", "ddim", 8.0, 0.5, 1e-4)


def test_a_student_forgets_its_teacher_soon_however_slow_its_teachers_average(teacher_dir):
    own = config_lib.with_values(
        configuration.read(teacher_dir), {"train.ema_decay": 0.9999, "train.ema_warmup": False}
    )
    for method, settings in METHODS.items():
        train = students.student_of(own, str(teacher_dir), method, settings).train
        assert (train.ema_decay, train.ema_warmup) == (0.999, True)


def test_levels_that_were_chosen_for_two_steps_are_left_out_of_other_numbers(teacher_dir):
    config = student_config(teacher_dir, "consistency", "sample.sigmas=80,0.5")
    two, one = plans.parse("consistency-2,consistency-1", config)
    assert (two.sample.sigmas, one.sample.sigmas) == ((80.0, 0.5), ())
    assert configuration.used(config, [], {"steps": 4}).sample.sigmas == ()
    assert configuration.used(config, [], {"steps": 2}).sample.sigmas == (80.0, 0.5)
    given = configuration.used(config, ["sample.sigmas=80,1,0.5"], {"steps": 3})
    assert given.sample.sigmas == (80.0, 1.0, 0.5)
    assert [sweep.settings_at(config, "sampling_steps", count).sample.sigmas for count in (2, 4)] == [(80.0, 0.5), ()]


def test_a_student_that_knows_its_own_steps_draws_in_no_others(teacher_dir):
    config = student_config(teacher_dir, "progressive")
    for settings, name in (
        ({"steps": 4}, "steps=4"),
        ({"sampler": "dpmpp"}, "sampler=dpmpp"),
        ({"spacing": "leading"}, "spacing=leading"),
        ({"eta": 0.5}, "eta=0.5"),
    ):
        with pytest.raises(UserError, match=rf"sample\.{name}: this student learned to draw in 1 steps of ddim"):
            configuration.used(config, [], settings)
    with pytest.raises(UserError, match=r"sample\.steps=5: this student learned"):
        plans.parse("ddim-5", config)


def test_the_teacher_of_eps_is_converted_first(run_dir, tmp_path):
    own = configuration.read(run_dir)
    assert own.diffusion.prediction == "eps"
    taught = load_run(run_dir)
    x_0 = taught.codec.encode(tf.constant(datasets.load(own.data).images[:64]))
    level = taught.chain.levels.at(tf.fill([64], 5), x_0)
    x = level.noised(x_0, tf.random.stateless_normal(x_0.shape, [1, 2]))
    wanted = np.clip(taught.bound_denoiser(None)(x, level).x_0, -1, 1)
    for method, settings in METHODS.items():
        config = students.student_of(own, str(run_dir), method, settings)
        assert config.diffusion.prediction == "v" and config.distill.convert == 2
        if method == "progressive":  # whose steps lead elsewhere in the end
            loop.run(config, tmp_path / method)
            assert load_run(tmp_path / method).sample(range(2)).shape == (2, 8, 8, 1)
            continue
        longer = ("train.steps=300", "distill.convert=298", "train.learning_rate=5e-3", "distill.probe_every=0")
        config = students.student_of(own, str(run_dir), method, [*settings, *longer, "train.checkpoint_every=100"])
        loop.run(config, tmp_path / method)
        unconverted = build.denoiser(config.diffusion, taught.network, {})(x, level).x_0
        found = load_run(tmp_path / method).bound_denoiser(None)(x, level).x_0
        apart = [float(np.sqrt(np.mean(np.square(part - wanted)))) for part in (found, unconverted)]
        assert apart[0] < 0.5 * apart[1], apart


def test_a_configuration_that_leaves_its_machine_can_be_read_again():
    values = {"data.name": "folder", "data.path": "/pictures", "data.holdout": 0.1, "data.image_size": (8, 8)}
    config = config_lib.with_values(config_lib.Config(), values)
    again = config_lib.from_json(config_lib.to_json(config_lib.portable(config)))
    assert again.data.name is None and again.data.holdout == 0.1 and again.data.path is None


def test_what_does_not_fit_a_student_is_named(teacher_dir):
    def refused(match, method="consistency", *settings):
        with pytest.raises(UserError, match=match):
            student_config(teacher_dir, method, *settings)

    data = "distill.target=data"
    refused("with distill.target=data the teacher is not asked", "consistency", data, "distill.guidance=2")
    refused("distill.solver=heun is of distill.target=teacher", "consistency", data, "distill.solver=heun")
    refused("distill.gap is of distill.method=consistency", "progressive", "distill.gap=3")
    refused("6, 18, 54, 162 are", "progressive", "distill.steps=2", "distill.factor=3", "distill.teacher_steps=12")
    refused("is more than diffusion.timesteps=20", "progressive", "distill.teacher_steps=32")
    refused("too few for distill.convert=7 and 2", "consistency", "distill.convert=7")
    refused("a stage has 4 updates; expected fewer", "progressive", "train.warmup_steps=4")
    refused("the learning rate decays in each stage", "progressive", "train.decay_steps=5")
    refused("are those of its grids", "progressive", "train.level_sampling=lognormal")
    refused("have no effect with distill.guidance=1", "consistency", "distill.guidance_min=1")
    refused("train.min_snr_gamma is of networks that learn from data", "consistency", "train.min_snr_gamma=5")
    refused("a student predicts v or edm", "consistency", "diffusion.prediction=x_0")
    refused("has no effect with distill.guidance=1", "consistency", "distill.guide=4")
    with pytest.raises(UserError, match=r"distill\.gap is of students"):
        make_tiny_config(distill__gap=4.0)
    with pytest.raises(UserError, match="method=magic: expected one of consistency, progressive"):
        students.student_of(configuration.read(teacher_dir), "T", "magic", [])
    with pytest.raises(UserError, match="the teacher predicts v; expected v"):
        teachers.open_teacher(student_config(teacher_dir, "consistency", "diffusion.prediction=edm"), "nowhere")
    with pytest.raises(UserError, match=r"train\.steps is 8, not 16 .a student's stages follow from it"):
        saved = student_config(teacher_dir, "progressive")
        configuration.resumed(saved, config_lib.with_values(saved, {"train.steps": 16}))
    other = student_config(teacher_dir, "consistency", "model.channels=16")
    with pytest.raises(UserError, match="model: a student has those of its teacher"):
        teachers.open_teacher(other, "nowhere")
    with pytest.raises(UserError, match=r"sample.sigmas=3: expected 2 of them"):
        student_config(teacher_dir, "consistency", "sample.sigmas=3")
    with pytest.raises(UserError, match=r"sample\.sigmas=3,1: no level at which an image is noise alone"):
        student_config(teacher_dir, "consistency", "sample.sigmas=3,1")
    with pytest.raises(UserError, match="expected each smaller than the one before"):
        student_config(teacher_dir, "consistency", "sample.sigmas=1,2")


def test_a_student_may_teach_but_no_jumps_are_made_in_one(student, tmp_path):
    method, path, _ = student
    own = configuration.read(path)
    again = students.student_of(own, str(path), "consistency", METHODS["consistency"])
    assert again.distill.teacher_sha256 is None and again.distill.teacher == str(path)
    assert again.distill.target == "data"
    loop.run(again, tmp_path / "again")
    config = students.student_of(own, str(path), "progressive", METHODS["progressive"])
    jumps, wrong = "is a consistency student, which has no steps", "is a student that knows its own 1 steps alone"
    with pytest.raises(UserError, match=jumps if method == "consistency" else wrong):
        teachers.open_teacher(config, "nowhere")


def test_a_student_of_four_steps_teaches_one_of_two(teacher_dir, tmp_path):
    settings = ("distill.steps=4", "distill.teacher_steps=16")
    loop.run(student_config(teacher_dir, "progressive", *settings), tmp_path / "four")
    own = configuration.read(tmp_path / "four")
    config = students.student_of(own, str(tmp_path / "four"), "progressive", ["train.steps=8"])
    assert (config.distill.teacher_steps, config.distill.steps) == (4, 2)
    teachers.open_teacher(config, "nowhere")


def test_what_the_teacher_says_is_compiled_with_the_step(teacher_dir, tmp_path):
    settings = ("distill.guidance=2", "distill.guide=4", "train.jit=step", "train.steps=4")
    settings += ("distill.probe_every=0", "train.checkpoint_every=4")
    state = loop.run(student_config(teacher_dir, "consistency", *settings), tmp_path / "step")
    assert state.updates == 4 and np.isfinite(state.weights.numpy()).all()


def test_the_probes_distance_is_small_between_like_sets_and_grows_with_what_is_wrong():
    rng = np.random.default_rng(0)
    smooth = rng.integers(40, 200, (64, 4, 4, 1)).repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)
    one, other = smooth[:32], smooth[32:]
    distance = SlicedWasserstein(one)
    alike, noisy = distance(other), distance(np.clip(other + rng.normal(0, 25, other.shape), 0, 255).astype(np.uint8))
    assert distance(one) == 0 and alike < 0.5 * noisy
    assert alike < distance(np.clip(other.astype(int) + 60, 0, 255).astype(np.uint8))
    with pytest.raises(ValueError, match="expected 32"):
        distance(one[:3])
