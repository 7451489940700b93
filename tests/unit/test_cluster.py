"""Which process this is, as TF_CONFIG says."""

import json

import pytest

from tf_ddpm.errors import UserError
from tf_ddpm.runtime import cluster
from tf_ddpm.runtime.cluster import Worker

TWO = {"worker": ["a:1", "b:2"]}


def config(jobs, kind="worker", index=0):
    return json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize("text", ["", " ", "{}", '{"cluster": {}}'])
def test_without_a_cluster_there_is_one_process(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    assert cluster.this_worker() == Worker(0, 1) and cluster.this_worker().is_chief


def test_the_first_worker_or_the_chief_writes(monkeypatch):
    for text, expected in (
        (config(TWO), Worker(0, 2)),
        (config(TWO, index=1), Worker(1, 2)),
        (config({"chief": ["c:3"], **TWO}, "chief"), Worker(0, 3)),
        (config({"chief": ["c:3"], **TWO}, index=0), Worker(1, 3)),
    ):
        monkeypatch.setenv("TF_CONFIG", text)
        assert cluster.this_worker() == expected and cluster.this_worker().is_chief == (expected.index == 0)


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
        cluster.this_worker()
    assert words in str(error.value) and "\n" not in str(error.value)
