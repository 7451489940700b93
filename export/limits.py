"""What a request may hold, checked inside the graph: TF Serving answers 400 (INVALID_ARGUMENT) with these words."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from export import encoded
from export.assertions import require
from tf_ddpm.errors import required


@dataclasses.dataclass(frozen=True)
class Enlarging:
    """What may be enlarged: images of any size.

    Args:
      factor: how many times. augmentation: the most noise that the network knows on them.
      unit: what their sides are brought to a multiple of, so that the network's levels can halve them.
      max_pixels: of all enlarged images of a request together.
    """

    factor: int
    augmentation: int
    unit: int
    max_pixels: int


@dataclasses.dataclass(frozen=True)
class Limits:
    """The legal ranges of every input.

    Args:
      max_batch: rows of a request, and of the requests that are joined.
      image_shape: (H, W, C). timesteps: T. classes: labels that are known, -1 apart. null_class: whether -1 is one.
      enlarging: where images are enlarged; `image` is one of any size then.
      state_shape: (h, w, c) of what is diffused; None: of the images.
      takes_guidance: whether a request says how strongly it is guided, by the null class or another network.
    """

    max_batch: int
    image_shape: tuple[int, int, int]
    timesteps: int
    classes: int
    null_class: bool
    enlarging: Enlarging | None = None
    state_shape: tuple[int, int, int] | None = None
    takes_guidance: bool = False

    @classmethod
    def of_info(cls, info: dict) -> Limits:
        """Those of an export, from its model_info.json."""
        shape, most = tuple(info["image_shape"]), info["limits"]["max_batch"]
        guided = any("guidance" in inputs for inputs in info["signatures"].values())
        if "stages" in info:
            enlarging = Enlarging(**info["enlarging"])
            return cls(most, shape, 1, info["labels"], info["null_class"], enlarging, takes_guidance=guided)
        config = info["config"]
        model, timesteps = config["model"], config["diffusion"]["timesteps"]
        state = tuple(info["state_shape"]) if "state_shape" in info else None
        return cls(most, shape, timesteps, model["classes"], model["null_class"], None, state, guided)

    def specs(self) -> dict[str, tf.TensorSpec]:
        """Every input that a signature may have, by name."""
        shape, state = list(self.image_shape), list(self.state_shape or self.image_shape)
        specs = {
            "seed": tf.TensorSpec([None], tf.int64),
            "seed_2": tf.TensorSpec([None], tf.int64),
            "mix": tf.TensorSpec([None], tf.float32),
            "strength": tf.TensorSpec([None], tf.float32),
            "x_t": tf.TensorSpec([None, *state], tf.float32),
            "t": tf.TensorSpec([None], tf.int32),
            "latent": tf.TensorSpec([None, *state], tf.float32),
            "image": tf.TensorSpec([None, *shape], tf.uint8),
            "mask": tf.TensorSpec([None, *shape[:2], 1], tf.uint8),
        }
        if self.enlarging is not None:
            specs["image"] = tf.TensorSpec([None, None, None, shape[-1]], tf.uint8)
            specs["encoded"] = tf.TensorSpec([None], tf.string)
            specs["augmentation"] = tf.TensorSpec([None], tf.float32)
        if self.classes:
            specs["label"] = tf.TensorSpec([None], tf.int32)
        if self.takes_guidance:
            specs["guidance"] = tf.TensorSpec([None], tf.float32)
        return {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}

    def ranges(self) -> dict[str, tuple[int, int]]:
        """The least and the largest value of the inputs that have them, by name."""
        ranges = {"t": (0, self.timesteps - 1), "mix": (0, 1), "strength": (0, 1)}
        if self.enlarging is not None:
            ranges["augmentation"] = (0, self.enlarging.augmentation)
        return ranges | ({"label": (-1 if self.null_class else 0, self.classes - 1)} if self.classes else {})

    def checked(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """`inputs`, behind the assertions that they are legal."""
        specs = self.specs()
        # No operation here fails by itself, and no two assertions at once: the order in which they run is the
        # optimiser's.
        fits, rows, shapes = [], [], []
        for name, value in inputs.items():
            shape, row = _shape_as_sent(value), specs[name].shape[1:]
            rows.append(tf.reduce_prod(shape[:1]))
            known = tf.constant([-1 if side is None else side for side in row], tf.int32)
            same = tf.raw_ops.Equal(x=shape[1:], y=known, incompatible_shape_error=False)
            if None in row:  # any size but none
                same = tf.equal(tf.size(shape), 1 + len(row)) & (
                    same | (tf.equal(known, -1) & (tf.reduce_min(shape) > 0))
                )
            fits.append(tf.equal(tf.size(shape), 1 + len(row)) & tf.reduce_all(same))
            words = ["B", *(letter if side is None else str(side) for letter, side in zip("hwc", row, strict=False))]
            text = f"{name}: expected the shape [{', '.join(words)}], got"
            shapes.append(require(fits[-1], text, shape))
        rows, fit = tf.stack(rows), tf.reduce_all(fits)
        even = tf.reduce_all(tf.equal(rows, rows[0]))
        shapes.append(require(~fit | even, "batch: expected as many rows of each input, got", list(inputs), rows))
        legal = (rows[0] >= 1) & (rows[0] <= self.max_batch)
        shapes.append(require(~fit | ~even | legal, f"batch: expected 1 to {self.max_batch} rows, got", rows[0]))
        with tf.control_dependencies(shapes):
            sent = {name: tf.identity(value) for name, value in inputs.items()}
        checks = [self._value(name, value) for name, value in sent.items()]
        if self.enlarging is not None and "image" in sent:
            rows, *sides = tf.unstack(tf.shape(sent["image"], tf.int64)[:3])
            pixels = rows * encoded.padded_pixels(tf.stack([sides]), self.enlarging.unit)[0]
            text = f"image: expected at most {self.most_pixels} pixels in a request, got"
            checks.append(require(pixels <= self.most_pixels, text, pixels))
        if "encoded" in sent:
            checks += encoded.checked(sent["encoded"], self.most_pixels, required(self.enlarging, "enlarging").unit)
        with tf.control_dependencies([check for check in checks if check is not None]):
            return {name: tf.ensure_shape(tf.identity(value), specs[name].shape) for name, value in sent.items()}

    @property
    def most_pixels(self) -> int:
        """Of all images together that a request may have enlarged."""
        enlarging = required(self.enlarging, "enlarging")
        return enlarging.max_pixels // enlarging.factor**2

    def _value(self, name: str, value: tf.Tensor) -> tf.Operation | None:
        value = tf.reshape(value, [-1])
        if name in self.ranges():
            low, high = self.ranges()[name]
            legal = (value >= low) & (value <= high)  # (never true of what is no number)
            words = " (-1: no class)" if name == "label" and self.null_class else ""
            return require(tf.reduce_all(legal), f"{name}: expected {low} to {high}{words}, got", value[~legal])
        if value.dtype.is_floating:
            finite = tf.math.is_finite(value)
            return require(tf.reduce_all(finite), f"{name}: expected finite numbers, got", value[~finite])
        return None


def _shape_as_sent(value: tf.Tensor) -> tf.Tensor:
    """The shape int32 [rank] of what the caller sent, whatever the signature promises.

    The optimiser believes the signature and would take a check of the rank for true; it does not see through bytes.
    """
    shape = tf.io.parse_tensor(tf.io.serialize_tensor(tf.shape(value)), tf.int32)
    return tf.reshape(shape, [-1])
