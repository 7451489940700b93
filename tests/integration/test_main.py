"""The command line, as a person uses it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tf_ddpm import config as config_lib
from tf_ddpm.commands.flags import MODES, ROWS

ROOT = Path(__file__).parents[2]


def command(*flags, cwd, block_tensorflow=False):
    code = "import sys, runpy\n"
    if block_tensorflow:
        code += "sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
    code += (
        f"sys.argv = ['main.py', *{list(flags)!r}]\nrunpy.run_path({str(ROOT / 'main.py')!r}, run_name='__main__')\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
    env.pop("TF_CPP_MIN_LOG_LEVEL", None)
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["--mode", "train, sample, export, eval"]),
        (["--mode=trian"], ["trian", "train, sample, export, eval"]),
        (["--mode=train", "--preset=mnits"], ["mnits", "mnist"]),
        (["--mode=figure"], ["--figure=", "expected one of schedules", "all"]),
        (["--mode=figure", "--figure=noise"], ["--figure=noise", "expected one of schedules"]),
        (["--mode=figure", "--figure=all", "--out=x.png"], ["--out names one picture", "figures"]),
        (["--mode=figure", "--figure=bound", "--out=x.jpg"], ["x.jpg", ".png"]),
        (["--mode=figure", "--figure=bound", "--sampler=ddim"], ["--sampler has no effect", "samples, progressive"]),
        (["--mode=export", "--plans=ddim-5", "--sampler=ddpm"], ["--sampler and --plans=ddim-5"]),
        (["--mode=sample", "--figure=bound"], ["--figure belongs to --mode=figure"]),
        (["--mode=train", "--set=train.stpes=3"], ["train.stpes", "train.steps"]),
        (["--mode=train", "--set=train.steps=x"], ["train.steps=x", "whole number"]),
        (["--mode=train", "--set=train.steps=-1"], ["train.steps=-1", "from 1"]),
        (["--mode=train", "--set=model.groups=3"], ["model.groups=3"]),
        (["--mode=train", "--set=data.name=folder"], ["data.path"]),
        (
            ["--mode=train", "--set=data.name=folder", "--set=data.path=nowhere", "--set=data.image_size=8"],
            ["nowhere"],
        ),
        (["--mode=sample"], ["no run in runs/digits", "--mode=train"]),
        (["--mode=sample", f"--run_dir={'x' * 300}"], ["x" * 300, "File name too long"]),
        (["--mode=train", f"--run_dir={'x' * 300}"], ["x" * 300, "File name too long"]),
        (["--mode=train", "--run_dir="], ["--run_dir= is empty"]),
        (["--mode=export", "--run_dir=nowhere"], ["no run in nowhere"]),
        (["--mode=sample", "--num_images=0"], ["num_images"]),
        (["--mode=import", "--run_dir=new"], ["--diffusers_dir"]),
        (["--mode=import", "--run_dir=new", "--diffusers_dir=nowhere"], ["nowhere", "no such folder"]),
        (["--mode=sample", "--diffusers_dir=x"], ["--diffusers_dir belongs to --mode=import"]),
        (["--mode=import", "--preset=digits", "--run_dir=new", "--diffusers_dir=x"], ["--preset belongs to"]),
        (["--mode=train", "extra"], ["unexpected argument 'extra'"]),
        (["--mode=train", "--stepz=3"], ["stepz"]),
        (["--mode=train", "--seed=x"], ["seed"]),
        (["--mode=train", "--seed=5"], ["--mode=sample", "train.seed"]),
        (["--mode=train", "--sampler=ddpm"], ["--mode=sample or export"]),
        (["--mode=eval", "--sampler=ddpm"], ["--sampler has no effect with --metrics=bpd"]),
        (["--mode=eval", "--metrics=fdi"], ["--metrics=fdi", "bpd,fid"]),
        (["--mode=eval", "--metrics=fid,is"], ["logits"]),
        (["--mode=eval", "--metrics=fid", "--images=x"], ["needs a reference", "--reference=DIR"]),
        (["--mode=eval", "--metrics=bpd,fid", "--images=x"], ["metrics=bpd needs a run"]),
        (["--mode=eval", "--metrics=fid", "--images=x", "--seed=3"], ["--seed", "drawn already"]),
        (
            ["--mode=eval", "--metrics=fid", "--images=x", "--reference=y", "--set=train.steps=3"],
            ["train.steps", "data.* keys only"],
        ),
        (
            ["--mode=eval", "--metrics=fid", "--images=x", "--set=data.memory_gb=8"],
            ["needs a reference", "data.name="],
        ),
        (["--mode=eval", "--metrics=fid", "--images=x", "--reference=y", "--preset=mnist"], ["--preset names a run"]),
        (["--mode=eval", "--metrics=fid,bpd", "--sweep=checkpoint"], ["take bpd out"]),
        (["--mode=eval", "--metrics=fid", "--sweep=checkpoint", "--metrics_file=x"], ["--metrics_file has no effect"]),
        (["--mode=eval", "--metrics=fid", "--sweep=ema:0.1", "--ema=0.2"], ["--ema has no effect with --sweep=ema"]),
        (["--mode=eval", "--metrics=fid", "--sweep=checkpoint", "--ema=0.2"], ["--ema has no effect"]),
        (["--mode=eval", "--metrics=fid", "--sweep=sigma:1", "--spacing=linspace"], ["--spacing has no effect"]),
        (["--mode=sample", "--inception=x"], ["--inception belongs to --mode=eval"]),
        (["--mode=train", "--set=data.name=none"], ["data.name"]),
        (["--mode=train", "--set=data.split=test"], ["data.split=test", "expected train"]),
        (["--mode=sample", "--seed=99999999999999999999"], ["seed"]),
        (["--mode=train", "--run_dir=" + 300 * "a", "--set=train.steps=0"], ["train.steps=0"]),
        (["--mode=sample", "--pipeline=nowhere"], ["pipeline=nowhere", "BASE,LARGER"]),
        (["--mode=sample", "--pipeline=a,b"], ["no run in a"]),
        (
            ["--mode=sample", "--pipeline=a,b", "--sampler=ddim"],
            ["--sampler is of one run", "--plans=ddim-50+dpmpp-10"],
        ),
        (["--mode=eval", "--pipeline=a,b"], ["--metrics=bpd is of one run", "fid,kid,pr,memorisation"]),
        (["--mode=eval", "--pipeline=a,b", "--metrics=fid", "--sweep=checkpoint"], ["--sweep=augmentation:0,25"]),
        (["--mode=train", "--pipeline=a,b"], ["--pipeline belongs to --mode=sample or eval or export"]),
        (["--mode=sample", "--plans=ddim-5"], ["--plans belongs to --pipeline", "--sampler and --sampling_steps"]),
        (["--mode=sample", "--between=float"], ["--between belongs to --pipeline"]),
        (["--mode=upscale", "--run_dir=new"], ["--mode=upscale needs", "--images=DIR"]),
        (["--mode=upscale", "--run_dir=new", "--images=x"], ["no run in new"]),
    ],
)
def test_wrong_use_is_at_most_three_lines_exit_code_1_and_nothing_written(flags, words, tmp_path):
    done = command(*flags, cwd=tmp_path, block_tensorflow=True)
    assert done.returncode == 1, done.stderr
    assert 1 <= len(done.stderr.strip().splitlines()) <= 3, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())


def test_an_unknown_set_is_one_clear_line_in_spite_of_tensorflow(tmp_path):
    done = command("--mode=train", "--set=data.name=mnits", "--set=data.data_dir=sets", cwd=tmp_path)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "mnits" in done.stderr and "mnist" in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--sampling_steps=21"], ["expected 1 to 20"]),
        (["--sampling_steps=0"], ["sampling_steps"]),
        (["--sampler=eulr"], ["one of ddpm, ddim, dpmpp"]),
        (["--spacing=even"], ["one of linspace, leading"]),
        (["--clip=soft"], ["one of none, static, dynamic"]),
        (["--eta=2"], ["from 0.0 to 1.0"]),
        (["--set=sample.rho=5"], ["--set=sample.rho=5 has no effect here", "sample.spacing=karras"]),
        (["--set=sample.guidance_min=1"], ["has no effect here", "sample.guidance"]),
        (["--guidance_interval=1,2"], ["--guidance_interval has no effect with guidance 1"]),
        (["--mode=report", "--guide=450"], ["--guide has no effect with guidance 1"]),
        (["--mode=export", "--plans=dpmpp-5", "--set=sample.churn=4"], ["--set=sample.churn=4 has no effect", "heun"]),
        (["--mode=figure", "--figure=variation", "--guide=450"], ["--guide has no effect with guidance 1"]),
        (["--eta=0.5"], ["--eta has no effect with --sampler=ddpm", "--sampler=ddim and --sampler=dpmpp"]),
        (["--mode=figure", "--figure=samples", "--eta=0.5"], ["--eta has no effect with --sampler=ddpm"]),
        (["--guidance=2"], ["guidance 2", "unconditional"]),
        (["--label=3"], ["label 3", "unconditional"]),
        (["--label=all"], ["label=all", "unconditional"]),
        (["--label=cat"], ["label=cat", "a number, a name, all or none"]),
        (["--augmentation=5"], ["augmentation 5", "enlarges no images"]),
        (["--mode=upscale", "--images=x"], ["draws from noise alone", "one that enlarges"]),
        (["--set=model.channels=16"], ["model.channels", "sample.*"]),
        (["--set=sample.eta=2"], ["sample.eta=2"]),
    ],
)
def test_wrong_sampling_flags_are_found_before_tensorflow_is_imported(flags, words, run_dir, tmp_path):
    done = command("--mode=sample", f"--run_dir={run_dir}", *flags, cwd=tmp_path, block_tensorflow=True)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) <= 3, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert not (run_dir / "samples").exists()


def test_helpshort_explains_every_flag_and_of_a_mode_those_that_it_takes(tmp_path):
    everything = command("--helpshort", cwd=tmp_path, block_tensorflow=True).stdout
    assert all(f"  --{row.name}" in everything for row in ROWS if row.instead_of is None), everything
    for mode in MODES:
        text = command(f"--mode={mode}", "--helpshort", cwd=tmp_path, block_tensorflow=True).stdout
        shown = set(re.findall(r"^  --(\w+)", text, re.M))
        assert shown == {row.name for row in ROWS if mode in row.known and row.instead_of is None} - {"mode"}, text


def test_every_flag_that_sets_a_key_sets_one_that_there_is():
    assert {f"sample.{row.key}" for row in ROWS if row.key} <= set(config_lib.keys())


@pytest.mark.processes
def test_a_mode_has_one_word_for_where_its_result_goes_and_the_older_ones_still_work(run_dir, tmp_path):
    for flag in ("--out=one", "--out_dir=two"):
        done = command("--mode=sample", f"--run_dir={run_dir}", flag, "--num_images=1", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    both = command("--mode=export", "--out=x", "--export_dir=y", cwd=tmp_path, block_tensorflow=True)
    assert both.returncode == 1 and "another name for --out" in both.stderr


@pytest.mark.processes
def test_train_sample_export_work_one_after_the_other_with_the_mode_alone(tmp_path):
    tiny = ["model.channels=8", "model.groups=2", "diffusion.timesteps=10", "train.steps=3", "train.batch_size=8"]
    trained = command("--mode=train", *[f"--set={setting}" for setting in tiny], cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    run_dir = tmp_path / "runs/digits"
    assert (run_dir / "config.json").exists()
    other = command("--mode=train", "--preset=mnist", "--run_dir=runs/digits", cwd=tmp_path, block_tensorflow=True)
    assert other.returncode == 1 and "another configuration" in other.stderr, other.stderr
    again = command("--mode=train", cwd=tmp_path)
    assert again.returncode == 0 and "already at step 3" in again.stdout, again.stderr
    sampled = command("--mode=sample", "--num_images=3", cwd=tmp_path)
    assert sampled.returncode == 0 and (run_dir / "samples/grid.png").exists(), sampled.stderr
    exported = command("--mode=export", "--plans=ddim-2", cwd=tmp_path)
    assert exported.returncode == 0 and (run_dir / "serving/ddpm/1/saved_model.pb").exists(), exported.stderr
