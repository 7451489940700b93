"""Picture files in requests: what they are is read from their first bytes, before anything is decoded."""

from __future__ import annotations

import tensorflow as tf

from export.assertions import require

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_GREY = [[0.299], [0.587], [0.114]]  # of red, green and blue (ITU-R BT.601)
_SHORTEST = 33  # bytes of a PNG's first chunk and what stands before it


def checked(files: tf.Tensor, most_pixels: int) -> list[tf.Operation]:
    """The assertions that each of the `files` string [B] is a still PNG or JPEG, and all together not too large.

    Args:
      most_pixels: of all of them.
    """
    pngs = tf.equal(tf.strings.substr(files, 0, 8), _PNG) & (tf.strings.length(files) >= _SHORTEST)
    pngs &= tf.equal(_bytes(files, 12, 4), b"IHDR")
    jpegs = tf.equal(tf.strings.substr(files, 0, 3), _JPEG)
    known = require(
        tf.reduce_all(pngs | jpegs), "encoded: expected PNG or JPEG, got other bytes in row", _rows(~(pngs | jpegs))
    )
    animated = pngs & tf.map_fn(_is_animated, files, fn_output_signature=tf.bool)
    still = require(
        ~tf.reduce_any(animated), "encoded: expected still pictures, got an animation in row", _rows(animated)
    )
    with tf.control_dependencies([known, still]):
        sizes = tf.map_fn(_size, tf.identity(files), fn_output_signature=tf.TensorSpec([2], tf.int64))
    sizes = tf.minimum(sizes, most_pixels + 1)  # so that no product overflows
    pixels = tf.reduce_sum(tf.reduce_prod(sizes, axis=1))
    empty = tf.reduce_any(sizes < 1, axis=1)
    return [
        require(~tf.reduce_any(empty), "encoded: expected pictures with pixels, got none in row", _rows(empty)),
        require(
            tf.reduce_any(empty) | (pixels <= most_pixels),
            f"encoded: expected at most {most_pixels} pixels in a request, got",
            pixels,
        ),
    ]


def decoded(file: tf.Tensor, channels: int) -> tf.Tensor:
    """The pixels uint8 [h, w, channels] of a scalar file that was `checked`; without alpha, what is clear is white.

    Args:
      channels: 1, 3 or 4.

    A file that is damaged fails with INVALID_ARGUMENT.
    """
    # (Asked for the alpha of a PNG that has none, TensorFlow makes one up, and of 4-bit colours a wrong one: 15.)
    pixels = tf.cond(
        _has_alpha(file),
        lambda: tf.io.decode_png(file, channels=4),
        lambda: tf.pad(
            tf.io.decode_image(file, channels=3, expand_animations=False),
            [[0, 0], [0, 0], [0, 1]],
            constant_values=255,
        ),
    )
    if channels == 4:
        return pixels
    colours, alpha = tf.cast(pixels[..., :3], tf.float32), tf.cast(pixels[..., 3:], tf.float32) / 255.0
    on_white = colours * alpha + 255.0 * (1.0 - alpha)
    if channels == 1:
        on_white = tf.tensordot(on_white, tf.constant(_GREY, tf.float32), 1)
    return tf.cast(tf.round(on_white), tf.uint8)


def _rows(which: tf.Tensor) -> tf.Tensor:
    return tf.where(which)[:, 0]


def _bytes(files: tf.Tensor, start: int, count: int) -> tf.Tensor:
    """These bytes of each file; nothing of one that is shorter (and where `substr` alone would fail)."""
    long = tf.strings.length(files) >= start + count
    return tf.strings.substr(tf.where(long, files, b"\0" * (start + count)), start, count)


def _has_alpha(file: tf.Tensor) -> tf.Tensor:
    """Whether it is a PNG with a channel of alpha, or with transparent colours."""
    kind = tf.cast(tf.io.decode_raw(_bytes(file, 25, 1), tf.uint8)[0], tf.int32)
    before = tf.strings.split(file, "IDAT", maxsplit=1)[0]
    transparent = tf.size(tf.strings.split(before, "tRNS", maxsplit=1)) > 1
    return tf.equal(tf.strings.substr(file, 0, 8), _PNG) & (tf.equal(kind, 4) | tf.equal(kind, 6) | transparent)


def _is_animated(file: tf.Tensor) -> tf.Tensor:
    """Whether a PNG has the chunk of an animation before its first one of pixels."""
    before = tf.strings.split(file, "IDAT", maxsplit=1)[0]
    return tf.size(tf.strings.split(before, "acTL", maxsplit=1)) > 1


def _size(file: tf.Tensor) -> tf.Tensor:
    """(height, width) int64 of a PNG or a JPEG, as its header says."""

    def of_png() -> tf.Tensor:
        numbers = tf.cast(tf.reshape(tf.io.decode_raw(_bytes(file, 16, 8), tf.uint8), [2, 4]), tf.int64)
        width_height = tf.reduce_sum(numbers * tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64), axis=1)
        return width_height[::-1]

    of_jpeg = lambda: tf.cast(tf.io.extract_jpeg_shape(file)[:2], tf.int64)  # noqa: E731
    return tf.cond(tf.equal(tf.strings.substr(file, 0, 8), _PNG), of_png, of_jpeg)
