"""The serving signatures of runs that draw one after the other, and of one that enlarges."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from export import encoded, endpoints, joining
from export.endpoints import Compute, Endpoints, Queue
from export.joining import Tensors
from export.limits import Enlarging, Limits
from export.traced_network import TracedNetwork, traced_guide
from tf_ddpm import build
from tf_ddpm.config.plans import Plan, StagedPlan
from tf_ddpm.networks.backbone import Backbone
from tf_ddpm.sampling import drawing
from tf_ddpm.sampling.image_files import PNG_CHANNELS
from tf_ddpm.sampling.run import Run
from tf_ddpm.sampling.upscaler import tiled

UPSCALE = "upscale"


class CascadeModule(Endpoints):
    """Runs of which each enlarges what the one before has drawn, or one run that enlarges, as TF Serving sees them.

    A pipeline draws from seeds by each of its plans, and what its first run draws by `base`. `upscale` and
    `upscale_bytes` enlarge images of callers with the last run.

    Args:
      runs: one that enlarges, or a pipeline. rounded: whether what goes between its stages is rounded to bytes.
      plans: the first is `serving_default`. max_batch: the most rows of a request. max_pixels: see `Enlarging`.
      seconds: see `Endpoints`.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        rounded: bool,
        plans: tuple[StagedPlan, ...],
        max_batch: int,
        max_pixels: int,
        seconds: float,
    ):
        *_, last = runs
        knowing = [run.config.model for run in runs if run.config.model.classes]
        # No class, and guidance, are for pipelines all of whose stages that know labels know that as well. (A stage
        # with a guide has its own weight.)
        classes, null = max([model.classes for model in knowing], default=0), all(m.null_class for m in knowing)
        null = null and bool(knowing)
        of_null = [run.config.takes_guidance for run in runs if run.config.model.classes and run.guide is None]
        guided = null and bool(of_null) and all(of_null)
        model = last.config.model
        unit = model.phase // model.factor
        enlarging = Enlarging(model.factor, last.config.train.augmentation, unit, max_pixels)
        limits = Limits(max_batch, last.image_shape, 1, classes, null, enlarging, takes_guidance=guided)
        super().__init__(limits, plans[0].name if len(runs) > 1 else UPSCALE)
        self._runs, self._rounded = tuple(runs), rounded
        # See `ServingModule`.
        self.network_variables = [weight.value for run in runs for weight in run.all_weights]
        self._networks = [self._traced(run, run.state_shape) for run in runs]
        state = tf.TensorSpec([None, *runs[0].state_shape], tf.float32)
        self._guide = traced_guide(runs[0], state, limits.specs())  # a run that enlarges has none
        any_size = (None, None, last.image_shape[-1])
        self._tiled = tiled(self._traced(last, any_size), last.config.model.phase)
        png = last.image_shape[-1] in PNG_CHANNELS and len(runs) > 1
        parts = [part for run in runs for part in endpoints.of_run(run)]
        self._publish(self._queues(plans), seconds, png, [*parts, plans, rounded, max_pixels])

    def _traced(self, run: Run, shape: Sequence[int | None]) -> TracedNetwork:
        specs, network = self.limits.specs(), run.network
        state = tf.TensorSpec([None, *shape[:2], network.input_channels], tf.float32)
        condition = {name: specs[name] for name in network.conditions}
        return TracedNetwork(network, state, condition, network.compute_dtype)

    def _queues(self, plans: tuple[StagedPlan, ...]) -> dict[str, Queue]:
        last, first = plans[0].stages[-1], plans[0].stages[0]
        channels = self._runs[-1].image_shape[-1]
        free = joining.FREE
        image = {"image": tf.TensorSpec([None, None, None, channels], tf.uint8)}
        calls, given = _calls(self._runs[-1], last), ("augmentation", "seed")
        queues = {UPSCALE: Queue(self._upscaled(last), calls, "image", *given, lane=free, alone=image)}
        if channels in (1, 3, 4):
            files = {"png_bytes": tf.TensorSpec([None], tf.string)}
            name = f"{UPSCALE}_bytes"
            queues[name] = Queue(self._of_files(last), calls, "encoded", *given, lane=free, alone=files)
        if len(self._runs) == 1:
            return queues
        queues["base"] = Queue(self._base(first), _calls(self._runs[0], first), "seed")
        for plan in plans:
            calls = sum(_calls(run, stage) for run, stage in zip(self._runs, plan.stages, strict=True))
            queues[plan.name] = Queue(self._cascaded(plan), calls, "seed")
        return queues

    def _drawn(
        self,
        stage: int,
        plan: Plan,
        inputs: Tensors,
        small: tf.Tensor | None,
        level: tf.Tensor | None,
        rounded: bool = True,
        network: Backbone | None = None,
    ) -> tf.Tensor:
        """What a stage draws, [B, H, W, C] from 0 to 255.

        Args:
          small: what it enlarges, [B, h, w, C] from 0 to 255, and the `level` of its augmentation [B]; None: nothing.
          network: that of the stage if it is None.
        """
        run = self._runs[stage]
        config, sampler = run.config, build.sampler(plan.sample, run.chain)
        factor, channels = config.model.factor, run.image_shape[-1]
        shape = run.state_shape if small is None else [*tf.unstack(tf.shape(small)[1:3] * factor), channels]
        noise = drawing.image_noise(inputs["seed"], shape, drawing.stage_of(config))
        condition = {"label": inputs["label"]} if config.model.classes else {}
        if small is not None and level is not None:
            condition |= drawing.low_res_condition(run.codec, factor, tf.cast(small, tf.float32), level, noise)
        guide = self._guide if stage == 0 else None
        guidance = inputs.get("guidance") if config.takes_guidance and guide is None else None
        if guidance is None and plan.sample.guidance != 1.0:  # callers do not send it
            guidance = tf.fill(tf.shape(inputs["seed"]), plan.sample.guidance)
        network = network or self._networks[stage]
        interval = build.guidance_interval(plan.sample)
        denoiser = build.denoiser(
            config.diffusion, network, condition, guidance, sampler.levels, guide=guide, interval=interval
        )
        return drawing.draw(sampler, denoiser, noise, run.codec, rounded=rounded)[0]

    def _cascaded(self, plan: StagedPlan) -> Compute:
        def compute(inputs: Tensors) -> Tensors:
            image = None
            for stage, (run, part) in enumerate(zip(self._runs, plan.stages, strict=True)):
                last = stage + 1 == len(self._runs)
                level = None if image is None else tf.fill(tf.shape(inputs["seed"]), part.sample.augmentation)
                image = self._drawn(stage, part, inputs, image, level, last or self._rounded)
                image = tf.ensure_shape(image, [None, *run.image_shape])
            return {"image": image}

        return compute

    def _base(self, plan: Plan) -> Compute:
        return lambda inputs: {"image": self._drawn(0, plan, inputs, None, None)}

    def _enlarged(self, plan: Plan, inputs: Tensors, images: tf.Tensor) -> tf.Tensor:
        """uint8 [B, h, w, C] -> uint8 [B, factor h, factor w, C], as `Upscaler` does."""
        model = self._runs[-1].config.model
        height, width = tf.unstack(tf.shape(images)[1:3])
        unit = model.phase // model.factor
        for axis, side in ((1, height), (2, width)):
            more = tf.minimum(tf.range(side + tf.math.floormod(-side, unit)), side - 1)
            images = tf.gather(images, more, axis=axis)
        level = tf.cast(tf.round(inputs["augmentation"]), tf.int32)
        large = self._drawn(len(self._runs) - 1, plan, inputs, images, level, network=self._tiled)
        return large[:, : height * model.factor, : width * model.factor]

    def _upscaled(self, plan: Plan) -> Compute:
        return lambda inputs: {"image": self._enlarged(plan, inputs, inputs["image"])}

    def _of_files(self, plan: Plan) -> Compute:
        """Each row by itself, since each has a size of its own."""
        channels = self._runs[-1].image_shape[-1]

        def one(row: Tensors) -> tf.Tensor:
            image = encoded.decoded(row["encoded"], channels)[tf.newaxis]
            inputs = {name: value[tf.newaxis] for name, value in row.items() if name != "encoded"}
            return tf.io.encode_png(self._enlarged(plan, inputs, tf.ensure_shape(image, [1, None, None, channels]))[0])

        def compute(inputs: Tensors) -> Tensors:
            string = tf.TensorSpec([], tf.string)
            return {"png_bytes": tf.map_fn(one, inputs, fn_output_signature=string, parallel_iterations=1)}

        return compute


def _calls(run: Run, plan: Plan) -> int:
    """Calls of the network for a row."""
    sampler = build.sampler(plan.sample, run.chain)
    return len(sampler.chain) * sampler.calls
