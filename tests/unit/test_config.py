"""Words, ranges, presets, JSON."""

import dataclasses
import json

import pytest

from tf_ddpm import config as config_lib
from tf_ddpm.config import presets
from tf_ddpm.errors import UserError
from tf_ddpm.runs import configuration


def set_(*settings):
    return config_lib.with_settings(config_lib.Config(), settings)


def test_settings_reach_their_keys_in_their_types():
    config = set_(
        "train.steps=2000", "train.learning_rate=1e-3", "data.random_flip=true", "model.multipliers=1,2,4",
        "data.image_size=32", "data.path=a=b", "sample.steps=none", "data.channels=3",
    )  # fmt: skip
    assert config.train.steps == 2000 and config.train.learning_rate == 1e-3
    assert config.data.random_flip is True and config.model.multipliers == (1, 2, 4)
    assert config.data.image_size == (32, 32) and config.data.path == "a=b"
    assert config.sample.steps is None and config.data.channels == 3
    assert set_("data.image_size=32,48").data.image_size == (32, 48)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.stepz=3", ["unknown key 'train.stepz'", "train.steps"]),
        ("steps=3", ["unknown key 'steps'", "train.steps", "sample.steps"]),
        ("train.steps", ["expected section.key=value"]),
        ("train.steps=ten", ["train.steps=ten", "a whole number from 1"]),
        ("train.steps=1.5", ["a whole number"]),
        ("train.steps=0", ["from 1 to"]),
        ("train.learning_rate=nan", ["a number above 0"]),
        ("train.learning_rate=0", ["above 0"]),
        ("train.precision=float16", ["one of float32, bfloat16"]),
        ("data.random_flip=maybe", ["true or false"]),
        ("model.multipliers=1,x", ["whole numbers separated by commas"]),
        ("data.image_size=1,2,3", ["data.image_size=(1, 2, 3)"]),
        ("model.dropout=1", ["from 0.0 to 0.95"]),
        ("train.steps=1" + 400 * "0", ["train.steps=1000", "from 1 to"]),
        ("model.multipliers=1" + 400 * "0", ["model.multipliers"]),
        ("train.learning_rate=1e999", ["train.learning_rate=inf"]),
        ("train.steps=a\nb\nc\nd", ["train.steps=a b c d"]),
    ],
)
def test_a_wrong_setting_says_what_would_be_right(setting, words):
    with pytest.raises(UserError) as error:
        set_(setting)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert str(error.value).count("\n") < 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.groups=3"], ["model.groups=3", "model.groups=8 would"]),
        (["model.channels=7", "model.groups=1"], ["even number"]),
        (["model.attention_levels=5"], ["the last level is 1"]),
        (["model.heads=3"], ["model.heads=1 would"]),
        (["diffusion.beta_start=0.5"], ["above diffusion.beta_end"]),
        (["sample.steps=2000"], ["expected 1 to 1000"]),
        (["diffusion.variance=learned_range"], ["expected hybrid or vlb"]),
        (["train.objective=hybrid"], ["needs diffusion.variance=learned_range"]),
        (["train.objective=vlb", "train.min_snr_gamma=5"], ["weighs train.objective=simple"]),
        (["diffusion.sigma_data=0.5"], ["diffusion.sigma_data is of diffusion.prediction=edm"]),
        (["train.level_sampling=lognormal", "train.objective=vlb"], ["lognormal", "vlb", "uniform or importance"]),
        (["train.level_mean=-1"], ["train.level_mean is of train.level_sampling=lognormal"]),
        (["train.timestep_sampling=uniform", "train.level_sampling=lognormal"], ["the former name of", "one of them"]),
        (
            ["diffusion.schedule=ve", "diffusion.sigma_max=2"],
            ["sigma_max=2", "expected 5 at least, or sample.sampler="],
        ),
        (["train.guide_at=0.1,2"], ["train.guide_at=(0.1, 2.0)", "numbers separated by commas"]),
        (["train.guide_at=0.1,x"], ["train.guide_at=0.1,x", "numbers separated by commas"]),
        (["sample.guidance_min=3", "sample.guidance_max=2"], ["guidance_interval=3,2", "lower end first"]),
        (["train.nearest_noise=4", "train.objective=vlb"], ["train.nearest_noise=4", "expected 1"]),
        (["sample.spacing=karras", "sample.sigma_min=0.001"], ["sigma_min=0.001", "from 0.01 to 157.4"]),
        (["sample.spacing=karras", "sample.sigma_max=200"], ["sigma_max=200", "from 0.01 to 157.4"]),
        (["sample.spacing=karras", "sample.sigma_min=9", "sample.sigma_max=2"], ["sigma_min=9 is not below"]),
        (["sample.spacing=karras", "sample.sigma_max=2"], ["sigma_max=2: no level at which", "expected 5 at least"]),
        (["train.decay_steps=10"], ["must exceed train.warmup_steps"]),
        (["data.name=folder"], ["data.path=DIR"]),
        (["data.name=folder", "data.path=x"], ["data.image_size"]),
        (["data.name=folder", "data.path=x", "data.image_size=32", "data.channels=2"], ["1 (grey), 3 (RGB) or 4"]),
        (["data.image_size=9"], ["divisible by 2"]),
        (["model.multipliers=,"], ["model.multipliers is empty"]),
        (["data.channels=5"], ["expected 1 (grey), 3 (RGB) or 4"]),
        (["diffusion.timesteps=20000"], ["alpha_bar=", "lower diffusion.beta_end=0.02"]),
        (["diffusion.beta_end=0.999"], ["lower diffusion.beta_end=0.999"]),
        (["diffusion.schedule=constant", "diffusion.beta_end=0.999"], ["lower diffusion.beta_end"]),
    ],
)
def test_keys_that_do_not_fit_together_are_named(settings, words):
    with pytest.raises(UserError) as error:
        config_lib.validated(set_(*settings))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_one_channel_a_group_is_warned_of():
    assert "model.groups=8" in config_lib.warnings(set_("model.groups=32"))[0]
    assert not config_lib.warnings(config_lib.Config())


def test_lognormal_levels_with_what_was_made_for_even_ones_are_warned_of():
    levels = "train.level_sampling=lognormal"
    (weighed,) = config_lib.warnings(set_(levels, "diffusion.prediction=v", "train.min_snr_gamma=5"))
    assert "train.min_snr_gamma=5 with train.level_sampling=lognormal: both weigh the levels" in weighed
    (predicted,) = config_lib.warnings(set_(levels))
    assert "diffusion.prediction=eps with train.level_sampling=lognormal" in predicted
    assert not config_lib.warnings(set_("train.min_snr_gamma=5"))
    for name in presets.PRESETS:
        assert not any("lognormal" in line for line in config_lib.warnings(presets.preset(name))), name


def test_levels_below_noise_alone_and_a_chain_of_one_step_are_for_who_can_use_them():
    low = ("diffusion.schedule=ve", "diffusion.sigma_max=2", "sample.sampler=annealed_langevin")
    assert config_lib.validated(set_(*low)).diffusion.sigma_max == 2
    one = ("diffusion.timesteps=1", "diffusion.beta_end=0.99", "diffusion.beta_start=0.99", "sample.spacing=karras")
    assert config_lib.validated(set_(*one)).sample.spacing == "karras"


@pytest.mark.parametrize("name", presets.PRESETS)
def test_presets_are_valid_and_survive_json(name):
    config = config_lib.with_values(presets.preset(name), {"data.path": "pictures"})
    assert config_lib.from_json(config_lib.to_json(config_lib.validated(config))) == config


@pytest.mark.parametrize("name", presets.PRESETS)
def test_any_preset_may_train_an_autoencoder_instead(name):
    if presets.preset(name).autoencoder.trained or presets.preset(name).distill.teacher:
        return
    settings = ["autoencoder.kind=kl", "data.path=pictures", "data.name=folder", "data.image_size=64,64"]
    config = config_lib.validated(config_lib.with_settings(presets.preset(name), settings))
    assert config.autoencoder.trained and config.train.steps == presets.preset(name).train.steps
    with pytest.raises(UserError, match=r"diffusion\.prediction is of networks that denoise"):
        config_lib.validated(config_lib.with_settings(presets.preset(name), [*settings, "diffusion.prediction=v"]))


def test_to_say_that_no_autoencoder_is_trained_changes_nothing():
    preset = presets.preset("fashion_mnist")
    assert config_lib.with_settings(preset, ["autoencoder.kind=none"]) == preset


def test_small_presets_keep_at_least_four_channels_a_group():
    for name in presets.PRESETS:
        model = presets.preset(name).model
        assert not presets.preset(name).autoencoder.trained or model == config_lib.ModelConfig()
        assert model.channels // model.groups >= 4, name


def test_cifar10_preset_is_hos():
    config = presets.preset("cifar10")
    assert config.model == config_lib.ModelConfig(
        channels=128, multipliers=(1, 2, 2, 2), blocks=2, attention_levels=(1,), heads=1, groups=32, dropout=0.1
    )
    assert config.diffusion == config_lib.DiffusionConfig(1000, "linear", 1e-4, 0.02, "eps", "fixed_large")
    train = config.train
    assert (train.learning_rate, train.warmup_steps, train.decay_steps, train.batch_size) == (2e-4, 5000, 0, 128)
    assert (train.ema_decay, train.ema_warmup, train.clip_norm, train.optimizer) == (0.9999, False, 1.0, "adam")
    assert config.data.random_flip and presets.preset("celebahq256").diffusion.variance == "fixed_small"


def test_unknown_preset_names_the_closest():
    with pytest.raises(UserError, match="fashion_mnist"):
        presets.preset("fashion-mnist")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a run's configuration"),
        ("[]", "not a run's configuration"),
        ('{"format_version": 99}', "use a newer one"),
        ('{"format_version": "1"}', "not a version"),
        ('{"format_version": 1, "train": 3}', "not a run's configuration"),
        ('{"format_version": 1, "train": {"stepz": 3}}', "train.stepz"),
        ('{"format_version": 1, "bogus": {}}', "unknown section 'bogus'"),
        ('{"format_version": 1, "train": {"learning_rate": 1' + 400 * "0" + "}}", "train.learning_rate=1000"),
        ('{"format_version": 1, "train": {"steps": "3"}}', "train.steps=3"),
        ('{"format_version": 1, "train": {"steps": true}}', "train.steps=True"),
        ('{"format_version": 1, "train": {"learning_rate": NaN}}', "train.learning_rate=nan"),
        ('{"format_version": 1, "data": {"image_size": [8, "8"]}}', "data.image_size"),
    ],
)
def test_a_damaged_config_is_one_clear_line(text, words):
    with pytest.raises(UserError, match=words):
        config_lib.from_json(text)


def test_every_key_has_help_and_a_range_or_a_word():
    for name, key in config_lib.keys().items():
        assert key.help, name
        assert key.kind in (bool, str) or key.high is not None, name


def test_a_config_without_the_images_sizes_is_no_run(tmp_path):
    (tmp_path / "config.json").write_text(config_lib.to_json(config_lib.Config()))
    with pytest.raises(UserError, match="is missing"):
        configuration.read(tmp_path)


def test_a_learning_rate_of_zero_is_warned_of():
    assert "learning rate is 0" in config_lib.warnings(set_("train.decay_steps=500", "train.steps=501"))[0]


@pytest.mark.parametrize("timesteps", [1, 2, 10, 1000, 4000, 20_000])
def test_chains_of_any_usual_length_are_accepted(timesteps):
    config = set_(f"diffusion.timesteps={timesteps}", "diffusion.schedule=cosine")
    assert config_lib.validated(config) is config


def test_training_goes_on_with_the_runs_own_configuration(tmp_path):
    asked = configuration.training_config(
        tmp_path, None, ["data.image_size=8", "data.channels=1", "model.dropout=0.2"]
    )
    assert asked.train.steps == presets.preset("digits").train.steps
    (tmp_path / "config.json").write_text(config_lib.to_json(asked))
    again = configuration.training_config(tmp_path, None, ["train.steps=9000"])
    assert again.model.dropout == 0.2 and again.train.steps == 9000
    with pytest.raises(UserError, match="another configuration"):
        configuration.training_config(tmp_path, "mnist", [])


@pytest.mark.parametrize(
    ("settings", "sampling"),
    [
        (["train.level_sampling=uniform"], "uniform"),
        (["train.timestep_sampling=importance"], "importance"),
        (["train.objective=hybrid", "diffusion.variance=learned_range"], "uniform"),
        (["train.objective=vlb", "diffusion.variance=learned", "train.level_sampling=importance"], "importance"),
        (["train.level_std=1"], "lognormal"),
    ],
)
def test_other_levels_than_the_presets_need_no_further_words(tmp_path, settings, sampling):
    train = configuration.training_config(tmp_path, "digits", settings).train
    assert train.level_sampling == sampling and train.level_mean == (-0.85 if sampling == "lognormal" else -1.2)


def test_a_mean_of_levels_that_are_not_drawn_around_one_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"train\.level_mean is of train\.level_sampling=lognormal"):
        configuration.training_config(tmp_path, "digits", ["train.level_sampling=uniform", "train.level_mean=-2"])


_CHANGED = [(name, i) for name in presets.PRESETS for i in range(len(presets.earlier(name)))]


def test_the_first_form_of_a_preset_that_has_changed_predicts_eps_or_is_of_pictures():
    names = {"digits", "digits_cond", "mnist", "fashion_mnist", "fashion_mnist_cond"}
    latents = {"autoencoder_flowers128", "flowers128_latent", "emoji64_latent"}
    pictures = {"images32", "images64", "images32_gpu", "images64_gpu"}
    assert {name for name, _ in _CHANGED} == names | latents | pictures
    assert {presets.earlier(name)[0].train.level_sampling for name in pictures} == {"uniform"}
    assert {presets.earlier(name)[-1].diffusion.prediction for name in names} == {"eps"}


@pytest.mark.parametrize(("name", "which"), _CHANGED)
def test_a_run_that_began_with_an_earlier_preset_goes_on_by_its_own_command(tmp_path, name, which):
    before = presets.earlier(name)[which]
    size = before.data.image_size or (28, 28)
    own = {"data.path": "/pictures"} if before.data.name == "folder" else {}
    own |= {"data.image_size": size, "data.channels": before.data.channels or 1}
    before = config_lib.with_values(before, own)
    assert config_lib.changed(before, presets.preset(name))
    (tmp_path / "config.json").write_text(config_lib.to_json(before))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-4.index").touch()
    path = ["data.path=/pictures"] if before.data.name == "folder" else []
    again = configuration.training_config(tmp_path, name, ["train.log_every=7", *path])
    assert again.train.log_every == 7 and again.train.steps == before.train.steps
    assert (again.diffusion, again.model) == (before.diffusion, before.model)
    assert again.train.level_sampling == before.train.level_sampling
    others = ("model.channels=96", "diffusion.prediction=x_0")
    for settings in [[other] for other in (("autoencoder.blocks=2",) if before.autoencoder.trained else others)]:
        with pytest.raises(UserError, match="another configuration"):
            configuration.training_config(tmp_path, name, settings + path)


def test_a_run_goes_on_with_more_steps_and_refuses_another_model():
    saved = set_("data.image_size=8", "data.channels=1")
    assert configuration.resumed(saved, set_("train.steps=9000")).train.steps == 9000
    assert configuration.resumed(saved, set_("train.steps=9000")).data.image_size == (8, 8)
    with pytest.raises(UserError, match=r"model.channels is 32, not 64"):
        configuration.resumed(saved, set_("model.channels=64"))


def test_the_saved_form_holds_every_key():
    other = config_lib.with_values(
        config_lib.Config(), {"codec.run": "runs/autoencoder", "autoencoder.blocks": 2, "distill.steps": 3}
    )
    saved = json.loads(config_lib.to_json(other))
    assert saved.pop("format_version") == config_lib.FORMAT_VERSION
    left_out = {name for name, key in config_lib.keys().items() if key.later}
    names = {f"{section}.{name}" for section, names in saved.items() for name in names}
    assert names == set(config_lib.keys()) - left_out - {"train.level_sampling"} | {"train.timestep_sampling"}
    assert list(saved) == [field.name for field in dataclasses.fields(config_lib.Config)]


def test_sections_that_came_later_are_not_in_the_form_of_a_run_that_does_without_them():
    """Its hash, by which receipts know it, stays what it was, and an older program reads it."""
    saved = json.loads(config_lib.to_json(config_lib.Config()))
    assert list(saved) == ["format_version", "model", "diffusion", "data", "train", "sample"]
    assert list(saved["diffusion"])[-1] == "variance" and saved["train"]["timestep_sampling"] == "uniform"
    assert "churn" not in saved["sample"]


def test_keys_that_came_later_are_saved_where_they_say_something_and_former_names_are_read():
    config = set_("train.level_sampling=lognormal", "train.level_mean=-0.9", "sample.churn=3", "sample.rho=7")
    saved = json.loads(config_lib.to_json(config))
    assert saved["train"]["level_sampling"] == "lognormal" and saved["train"]["level_mean"] == -0.9
    assert saved["sample"]["churn"] == 3.0 and "rho" not in saved["sample"] and "level_std" not in saved["train"]
    assert config_lib.from_json(json.dumps(saved)) == config
    former = set_("train.timestep_sampling=importance")
    assert former.train.level_sampling == "importance"
    assert config_lib.from_json(config_lib.to_json(former)) == former


def test_a_configuration_that_leaves_the_machine_has_none_of_its_paths():
    values = {"data.data_dir": "/data/sets", "data.cache_dir": "/data/cache", "data.name": "mnist"}
    portable = config_lib.portable(config_lib.with_values(presets.preset("mnist"), values))
    assert "/data" not in config_lib.to_json(portable) and portable.data.name == "mnist"
    values = {"data.name": "folder", "data.path": "/data/pictures", "data.image_size": (32, 32)}
    portable = config_lib.portable(config_lib.with_values(presets.preset("mnist"), values))
    assert "/data" not in config_lib.to_json(portable) and config_lib.validated(portable).data.name is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("train.level_sampling=lognormal", "train.level_mean=-16"), "hardly a level of this chain"),
        (("train.level_sampling=lognormal", "train.level_mean=10", "train.level_std=0.1"), "expected a mean within"),
        (("diffusion.schedule=ve", "diffusion.sigma_min=1e-6", "diffusion.sigma_max=1.1e-6"), "further apart"),
        (("sample.langevin_size=10",), "sample.langevin_size"),
    ],
)
def test_values_that_leave_nothing_to_do_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        config_lib.validated(config_lib.with_settings(config_lib.Config(), settings))


def test_settings_of_another_sampler_or_grid_are_remarked():
    changes = ("sample.rho=5", "sample.churn=3", "sample.order=3", "sample.guidance_min=1", "train.averages_every=5")
    found = config_lib.warnings(config_lib.validated(config_lib.with_settings(config_lib.Config(), changes)))
    for key, known in {
        "sample.rho": "sample.spacing=karras",
        "sample.churn": "sample.sampler=heun",
        "sample.order": "sample.sampler=dpmpp",
        "sample.guidance_min": "sample.guidance",
        "train.averages_every": "train.averages",
    }.items():
        assert any(f"{key} has no effect: it is of {known}" in line for line in found), key
    nowhere = set_("sample.sampler=heun", "sample.churn=3", "sample.churn_min=5", "sample.churn_max=1")
    assert config_lib.idle(nowhere) == {"sample.churn": "a sample.churn_min below sample.churn_max"}
    alone = config_lib.with_settings(presets.preset("digits"), ["autoencoder.kind=kl", "train.averages=0.1"])
    assert "train.averages has no effect" in " ".join(config_lib.warnings(config_lib.validated(alone)))
    assert alone.train.guide_at == ()
    for name in ("digits", "fashion_mnist", "digits_cond", "flowers128_latent"):
        assert not any("no effect" in line for line in config_lib.warnings(presets.preset(name))), name
