"""How many places an addition takes: each is made in a copy of the code, and used (CONTRIBUTING.md)."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_SAMPLER = '''
"""DDIM without its direction: the predicted image, noised anew as little as it may be."""

from tf_ddpm.diffusion.samplers.base import Sampler


class Plain(Sampler):
    def step(self, denoiser, x_t, step, noise, memory):
        x_0 = self.predicted_x_0(denoiser, x_t, self.chain.levels.at(step, x_t))
        return x_0, x_0, memory
'''

_USE = """
import sys
import numpy as np
import tensorflow as tf
import tf_ddpm
from absl import flags
from tf_ddpm.config import plans
from tf_ddpm import build
from tf_ddpm import config as config_lib
from tf_ddpm.commands import checks, cli
from tf_ddpm.commands.flags import FLAGS, help_text, sampling
from tf_ddpm.networks.unet import UNet
from tf_ddpm.runs import configuration

run_dir = sys.argv[1]
# The sampler: in the help, the configuration, the plans, and drawing.
assert "plain: without its direction" in " ".join(help_text("sample").split())
run = tf_ddpm.load_run(run_dir)
assert run.sample([1, 2], sampler="plain", steps=3).shape == (2, 8, 8, 1)
assert plans.parse("plain-3", run.config)[0].deterministic
# The argument: a key of --set, of config.json and of the network's own configuration; old runs have its default.
config = config_lib.with_settings(run.config, ["model.out_scale=2"])
assert config_lib.from_json(config_lib.to_json(config)).model.out_scale == 2.0 and run.config.model.out_scale == 1.0
twice = build.network(config, "float32")
assert UNet.from_config(twice.get_config()).model.out_scale == 2.0
for weight, own in zip(twice.weights, run.network.weights, strict=True):
    weight.assign(own)
x, t = tf.ones([1, 8, 8, 1]), tf.constant([3])
np.testing.assert_allclose(twice(x, t), 2.0 * run.network(x, t), rtol=1e-5)
# The flag: explained, checked for its mode, and in the configuration.
FLAGS(["main.py", "--mode=sample", "--third_order=taylor"])
checks.check()
assert configuration.used(run.config, [], sampling()).sample.third_order == "taylor"
FLAGS(["main.py", "--mode=train", "--third_order=taylor"])
try:
    checks.check()
except tf_ddpm.errors.UserError as error:
    assert "--third_order belongs to --mode=sample or export" in str(error)
else:
    raise AssertionError
print("used")
"""


def insert(path, before, text):
    """Puts text before the one line of the file that begins so; a place."""
    lines = path.read_text().splitlines(keepends=True)
    (at,) = [i for i, line in enumerate(lines) if line.startswith(before)]
    path.write_text("".join([*lines[:at], text, *lines[at:]]))


@pytest.fixture
def copy(tmp_path):
    for name in ("tf_ddpm", "export"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_sampler_a_network_argument_and_a_flag_take_two_two_and_one_places(copy, run_dir):
    ours = copy / "tf_ddpm"
    (ours / "diffusion" / "samplers" / "plain.py").write_text(_SAMPLER.lstrip())
    row = '    "plain": SamplerFacts("plain", "Plain", "without its direction", noise="never"),\n'
    insert(ours / "diffusion" / "sampler_facts.py", '    "heun":', row)

    argument = '    out_scale: float = key(1.0, "factor of the output", above=0.0, high=100.0)\n'
    insert(ours / "config" / "schema.py", "    null_class: bool", argument)
    unet = ours / "networks" / "unet.py"
    changed = re.sub(r"return (self\.conv_out\(.*\))\n", r"return self.model.out_scale * \1\n", unet.read_text())
    assert changed != unet.read_text()
    unet.write_text(changed)

    row = '    Flag("third_order", str, _RUNNING, "Second-derivative term of dpmpp.", key="third_order"),\n'
    insert(ours / "commands" / "flags.py", '    Flag("clip"', row)

    env = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run([sys.executable, "-c", _USE, run_dir], cwd=copy, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "used\n", done.stderr
