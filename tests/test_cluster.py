"""Which process this is, as TF_CONFIG says."""

import json

import pytest

from tf_ddpm import cluster
from tf_ddpm.cluster import Place
from tf_ddpm.errors import UserError

TWO = {"worker": ["a:1", "b:2"]}


def config(jobs, kind="worker", index=0):
    return json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize("text", ["", " ", "{}", '{"cluster": {}}'])
def test_without_a_cluster_there_is_one_process(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    assert cluster.place() == Place(0, 1) and cluster.place().is_chief


def test_the_first_worker_or_the_chief_writes(monkeypatch):
    for text, expected in (
        (config(TWO), Place(0, 2)),
        (config(TWO, index=1), Place(1, 2)),
        (config({"chief": ["c:3"], **TWO}, "chief"), Place(0, 3)),
        (config({"chief": ["c:3"], **TWO}, index=0), Place(1, 3)),
    ):
        monkeypatch.setenv("TF_CONFIG", text)
        assert cluster.place() == expected and cluster.place().is_chief == (expected.index == 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("worker0", "expected {"),
        ("[]", "expected {"),
        ('{"cluster": {"worker": ["a:1"]}}', "expected {"),
        (config({"ps": ["a:1"], **TWO}), "cluster.ps: expected workers"),
        (config({"chief": ["a:1", "b:1"]}, "chief"), "at most one chief"),
        (config({"worker": ["a", "b:2"]}), "cluster: a: expected each worker's own HOST:PORT"),
        (config({"worker": ["a:1", "a:1"]}), "own HOST:PORT"),
        (config(TWO, index=2), "task worker 2 is none of the cluster's 2"),
        (config(TWO, "chief"), "task chief 0 is none"),
    ],
)
def test_a_wrong_cluster_is_named(monkeypatch, text, words):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError) as error:
        cluster.place()
    assert words in str(error.value) and "\n" not in str(error.value)
