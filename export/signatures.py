"""The serving signatures: seeds in, pixels out, the whole reverse loop inside the graph."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from export import joining
from export.joining import Tensors
from export.limits import Limits
from export.traced_network import TracedNetwork
from tf_ddpm import build
from tf_ddpm import config as config_lib
from tf_ddpm.config import plans as plans_lib
from tf_ddpm.config.plans import Plan
from tf_ddpm.diffusion import samplers
from tf_ddpm.diffusion.denoiser import Denoiser
from tf_ddpm.diffusion.levels import Levels
from tf_ddpm.sampling import drawing
from tf_ddpm.sampling.image_files import PNG_CHANNELS
from tf_ddpm.sampling.run import Run

_FRAMES = 16  # of `progress`
_REPEATS = 4  # of `inpaint`
_CLASS = ("label", "guidance")

Compute = Callable[[Tensors], Tensors]


class Queue:
    """What is drawn for the joined rows of a signature.

    Args:
      calls: of the network, for a row. inputs: their names, but for those of a class.
    """

    def __init__(self, compute: Compute, calls: int, *inputs: str):
        self.compute, self.calls, self.inputs = compute, calls, inputs


class ServingModule(tf.Module):
    """The EMA network of a run and its sampling plans as TF Serving sees them.

    There is no scalar input, every input and output has the batch as dimension 0, and each row depends on its own
    inputs alone. A run with classes takes `label` int32 [B] as well, and where it has the null class, `guidance`
    float32 [B] and label -1. Each request is checked by itself (`limits`); then its rows are drawn together with those
    of others (`joining`).

    Args:
      plans: the first is `serving_default`. max_batch: the most rows of a request.
      seconds: of a call of the network for one row, in proportion to which requests wait for each other.
    """

    def __init__(self, run: Run, plans: tuple[Plan, ...], max_batch: int, seconds: float):
        super().__init__()
        self._run, self._codec = run, run.codec
        self._shape = list(run.codec.state_shape(run.image_shape))
        # TensorFlow's own variables and not Keras': of a Keras variable a SavedModel holds two, and the checkpoint
        # fills the other one. Python's loader puts that right; TF Serving's does not, and finds no weights.
        self.network_variables = [weight.value for weight in run.network.weights]
        known = run.config.model
        self.limits = Limits(
            max_batch, run.image_shape, run.config.diffusion.timesteps, known.classes, known.null_class
        )
        specs = self.limits.specs()
        condition = {name: specs[name] for name in run.network.conditions}
        self._network = TracedNetwork(run.network, specs["x_t"], condition, run.network.compute_dtype)
        self._latent_plan = plans_lib.of_latents(plans, run.config)
        self.endpoints: dict[str, Callable] = {}
        self.inputs: dict[str, list[str]] = {}  # signature -> names of its inputs
        self.default = plans[0].name  # is `serving_default` too
        queues = self._queues(plans)
        self.calls = {name: queue.calls for name, queue in queues.items()}  # signature -> of the network, for a row
        lanes = joining.lanes(self.calls.values(), seconds)
        self.lanes = {name: lanes[calls] for name, calls in self.calls.items()}  # signature -> where it is drawn
        model = _identity(run, plans, max_batch, self.lanes)
        for name, queue in queues.items():
            names = [*queue.inputs, *(name for name in _CLASS if name in specs)]
            join = joining.joined(
                queue.compute, [specs[name] for name in names], self.lanes[name], model, name, max_batch
            )
            self._add(name, names, join)
            if name == self.default and self._shape[-1] in PNG_CHANNELS:
                self._add("png", names, self._png(join))
        tables: list[dict[str, Any]] = [self.inputs, self.calls, self.lanes]
        for table in tables:
            table["serving_default"] = table[self.default]
            if "png" in self.endpoints:
                table["png"] = table[self.default]
        self.endpoints["serving_default"] = self.endpoints[self.default]

    def _queues(self, plans: tuple[Plan, ...]) -> dict[str, Queue]:
        """What is drawn for each signature, but `png` and `serving_default`, which stand in the first plan's queue."""
        first, latent = plans[0], self._latent_plan
        calls = self._calls(first)
        return {plan.name: Queue(self._sampled(plan), self._calls(plan), "seed") for plan in plans} | {
            "progress": Queue(self._progress(first), calls, "seed"),
            "interpolate": Queue(self._interpolated(first), calls, "seed", "seed_2", "mix"),
            "variation": Queue(self._varied(first), calls, "image", "strength", "seed"),
            "inpaint": Queue(self._inpaint(first), first.steps * _REPEATS, "image", "mask", "seed"),
            "decode": Queue(self._decode, self._calls(latent), "latent"),
            "encode": Queue(self._encode, latent.steps, "image"),
            "denoise": Queue(self._denoise, 1, "x_t", "t"),
        }

    def _calls(self, plan: Plan) -> int:
        """Calls of the network for a row of the plan."""
        sampler = self._sampler(plan)
        return len(sampler.chain) * sampler.calls

    def _add(self, signature: str, names: list[str], compute: Compute) -> None:
        """A signature of the inputs `names`: checked, then computed; a seed is answered beside its image."""
        specs = self.limits.specs()

        @tf.function(input_signature=[specs[name] for name in names], autograph=False)
        def endpoint(*values: tf.Tensor) -> Tensors:
            inputs = self.limits.checked(dict(zip(names, values, strict=True)))
            return compute(inputs) | ({"seed": tf.identity(inputs["seed"])} if "seed" in names else {})

        self.endpoints[signature], self.inputs[signature] = endpoint, names

    def _png(self, join: Compute) -> Compute:
        """The images of a queue, each request's encoded by itself."""
        string = tf.TensorSpec([], tf.string)

        def compute(inputs: Tensors) -> Tensors:
            image = join(inputs)["image"]
            return {"png_bytes": tf.map_fn(tf.io.encode_png, image, fn_output_signature=string)}

        return compute

    def _denoiser(self, inputs: Tensors, levels: Levels | None) -> Denoiser:
        """Under the request's condition; see `build.denoiser`."""
        condition = {name: inputs[name] for name in self._network.conditions}
        diffusion = self._run.config.diffusion
        return build.denoiser(diffusion, self._network, condition, inputs.get("guidance"), levels)

    def _sampler(self, plan: Plan) -> samplers.Sampler:
        return build.sampler(plan.sample, self._run.chain)

    def _noise(self, seeds: tf.Tensor) -> drawing.ImageNoise:
        return drawing.image_noise(seeds, self._shape)

    def _draw(
        self, inputs: Tensors, sampler: samplers.Sampler, noise: drawing.ImageNoise, num_frames: int = 0
    ) -> tuple[tf.Tensor, tf.Tensor]:
        denoiser = self._denoiser(inputs, sampler.chain.levels)
        return drawing.draw(sampler, denoiser, noise, self._codec, num_frames)

    def _sampled(self, plan: Plan) -> Compute:
        def compute(inputs: Tensors) -> Tensors:
            image, _ = self._draw(inputs, self._sampler(plan), self._noise(inputs["seed"]))
            return {"image": image}

        return compute

    def _progress(self, plan: Plan) -> Compute:
        def compute(inputs: Tensors) -> Tensors:
            _, frames = self._draw(inputs, self._sampler(plan), self._noise(inputs["seed"]), _FRAMES)
            return {"frames": frames}

        return compute

    def _interpolated(self, plan: Plan) -> Compute:
        def compute(inputs: Tensors) -> Tensors:
            ends = self._noise(inputs["seed"]), self._noise(inputs["seed_2"])
            image, _ = self._draw(inputs, self._sampler(plan), drawing.noise_between(*ends, inputs["mix"]))
            return {"image": image}

        return compute

    def _varied(self, plan: Plan) -> Compute:
        def compute(inputs: Tensors) -> Tensors:
            sampler = self._sampler(plan)
            denoiser, noise = self._denoiser(inputs, sampler.chain.levels), self._noise(inputs["seed"])
            image = drawing.vary(sampler, denoiser, noise, self._codec, inputs["image"], inputs["strength"])
            return {"image": image}

        return compute

    def _inpaint(self, plan: Plan) -> Compute:
        """Ancestral steps, which have no memory, on the plan's chain."""

        def compute(inputs: Tensors) -> Tensors:
            chain = build.shorter_chain(plan.sample, self._run.chain)
            keep, given = tf.cast(inputs["mask"] == 255, tf.float32), self._codec.encode(inputs["image"])
            sampler = samplers.Inpainting(samplers.Ancestral(chain, plan.sample.clip), given, keep, _REPEATS)
            image, _ = self._draw(inputs, sampler, self._noise(inputs["seed"]))
            return {"image": image}

        return compute

    def _decode(self, inputs: Tensors) -> Tensors:
        sampler = self._sampler(self._latent_plan)
        latent = inputs["latent"]  # a deterministic sampler asks for no noise
        denoiser = self._denoiser(inputs, sampler.chain.levels)
        x_0, _ = samplers.sample_loop(sampler, denoiser, latent, lambda _: tf.zeros_like(latent))
        x_0 = tf.clip_by_value(x_0, -1.0, 1.0)
        return {"image_float": x_0, "image": self._codec.decode(x_0)}

    def _encode(self, inputs: Tensors) -> Tensors:
        chain = build.shorter_chain(self._latent_plan.sample, self._run.chain)
        x_0 = self._codec.encode(inputs["image"])
        return {"latent": samplers.ddim_inversion(chain, self._denoiser(inputs, chain.levels), x_0)}

    def _denoise(self, inputs: Tensors) -> Tensors:
        x_t, denoiser = inputs["x_t"], self._denoiser(inputs, None)
        level = self._run.chain.levels.at(inputs["t"], x_t)
        output = denoiser.output(x_t, level)
        return {
            "eps": denoiser.parametrisation.eps(x_t, level, output.prediction),
            "x_0": denoiser.prediction(x_t, level, output).x_0,
        }


def _identity(run: Run, plans: tuple[Plan, ...], max_batch: int, lanes: dict[str, joining.Lane]) -> str:
    """A name for the model that none with other weights, configuration, plans or limits has."""
    found = hashlib.sha256(repr((config_lib.to_json(run.config), plans, max_batch, lanes)).encode())
    for weight in run.network.weights:
        found.update(weight.numpy().tobytes())
    return found.hexdigest()[:16]
