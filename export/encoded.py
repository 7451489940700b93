"""Picture files in requests: what they are is read from their first bytes, before anything is decoded."""

from __future__ import annotations

import tensorflow as tf

from export.assertions import require

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_GREY = [[0.299], [0.587], [0.114]]  # of red, green and blue (ITU-R BT.601)
_MOST_CHUNKS = 1000  # that are looked at
_SHORTEST = 33  # bytes of a PNG's first chunk and what stands before it


def padded_pixels(sizes: tf.Tensor, unit: int) -> tf.Tensor:
    """Pixels int64 [B] of images of `sizes` int64 [B, 2] whose sides are brought to multiples of `unit`."""
    return tf.reduce_prod(-(-sizes // unit) * unit, axis=1)


def checked(files: tf.Tensor, most_pixels: int, unit: int) -> list[tf.Operation]:
    """The assertions that each of the `files` string [B] is a still PNG or JPEG, and all together not too large.

    Args:
      most_pixels: of all of them. unit: see `padded_pixels`.
    """
    pngs = tf.equal(tf.strings.substr(files, 0, 8), _PNG) & (tf.strings.length(files) >= _SHORTEST)
    pngs &= tf.equal(_bytes(files, 12, 4), b"IHDR")
    jpegs = tf.equal(tf.strings.substr(files, 0, 3), _JPEG)
    known = require(
        tf.reduce_all(pngs | jpegs), "encoded: expected PNG or JPEG, got other bytes in row", _rows(~(pngs | jpegs))
    )
    animated = pngs & tf.map_fn(lambda file: _has_chunk(file, b"acTL"), files, fn_output_signature=tf.bool)
    still = require(
        ~tf.reduce_any(animated), "encoded: expected still pictures, got an animation in row", _rows(animated)
    )
    with tf.control_dependencies([known, still]):
        sizes = tf.map_fn(_size, tf.identity(files), fn_output_signature=tf.TensorSpec([2], tf.int64))
    # (Cut off, so that neither a product nor the sum overflows.)
    each = padded_pixels(tf.minimum(sizes, most_pixels + 1), unit)
    pixels = tf.reduce_sum(tf.minimum(each, most_pixels + 1))
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
        lambda: tf.pad(_opaque(file), [[0, 0], [0, 0], [0, 1]], constant_values=255),
    )
    if channels == 4:
        return pixels
    colours, alpha = tf.cast(pixels[..., :3], tf.float32), tf.cast(pixels[..., 3:], tf.float32) / 255.0
    on_white = colours * alpha + 255.0 * (1.0 - alpha)
    if channels == 1:
        on_white = tf.tensordot(on_white, tf.constant(_GREY, tf.float32), 1)
    return tf.cast(tf.round(on_white), tf.uint8)


def _opaque(file: tf.Tensor) -> tf.Tensor:
    """uint8 [h, w, 3]; a JPEG as Pillow decodes it, and not by TensorFlow's faster, less exact transform."""
    return tf.cond(
        tf.equal(tf.strings.substr(file, 0, 8), _PNG),
        lambda: tf.io.decode_png(file, channels=3),
        lambda: tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE"),
    )


def _rows(which: tf.Tensor) -> tf.Tensor:
    return tf.where(which)[:, 0]


def _bytes(files: tf.Tensor, start: tf.Tensor | int, count: int) -> tf.Tensor:
    """These bytes of each file; zeros of one that is shorter (where `substr` alone would fail)."""
    long = tf.strings.length(files) >= start + count
    first = tf.where(long, start, 0)
    return tf.strings.substr(tf.where(long, files, b"\0" * count), first, tf.zeros_like(first) + count)


def _has_alpha(file: tf.Tensor) -> tf.Tensor:
    """Whether it is a PNG with a channel of alpha, or with transparent colours."""
    kind = _number(_bytes(file, 25, 1))
    png = tf.equal(tf.strings.substr(file, 0, 8), _PNG)
    return png & (tf.equal(kind, 4) | tf.equal(kind, 6) | _has_chunk(file, b"tRNS"))


def _has_chunk(file: tf.Tensor, name: bytes) -> tf.Tensor:
    """Whether a PNG has such a chunk before its first one of pixels (and among its first ones)."""

    def step(start: tf.Tensor, count: tf.Tensor, found: tf.Tensor, done: tf.Tensor) -> tuple:
        kind = _bytes(file, start + 4, 4)
        length = tf.minimum(_number(_bytes(file, start, 4)), tf.strings.length(file))
        found |= tf.equal(kind, name)
        ends = tf.equal(kind, b"IDAT") | (start + 12 + length >= tf.strings.length(file)) | (count >= _MOST_CHUNKS)
        return start + 12 + length, count + 1, found, done | found | ends

    state = (tf.constant(8), tf.constant(0), tf.constant(False), tf.constant(False))
    _, _, found, _ = tf.while_loop(lambda *s: ~s[3], step, state, parallel_iterations=1)
    return found


def _number(text: tf.Tensor) -> tf.Tensor:
    """int32 of one to four bytes, the first the highest; 2^31-1 for what is more."""
    digits = tf.cast(tf.io.decode_raw(text, tf.uint8), tf.int64)
    number = tf.reduce_sum(digits * 256 ** tf.range(tf.size(digits, tf.int64) - 1, -1, -1, tf.int64))
    return tf.cast(tf.minimum(number, 2**31 - 1), tf.int32)


def _size(file: tf.Tensor) -> tf.Tensor:
    """(height, width) int64 of a PNG or a JPEG, as its header says."""

    def of_png() -> tf.Tensor:
        return tf.cast(tf.stack([_number(_bytes(file, 20, 4)), _number(_bytes(file, 16, 4))]), tf.int64)

    of_jpeg = lambda: tf.cast(tf.io.extract_jpeg_shape(file)[:2], tf.int64)  # noqa: E731
    return tf.cond(tf.equal(tf.strings.substr(file, 0, 8), _PNG), of_png, of_jpeg)
