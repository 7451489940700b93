"""The workers that TF_CONFIG names, and which of them this process is. Imports no TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import os

from tf_ddpm.errors import UserError

_FORM = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}'


@dataclasses.dataclass(frozen=True)
class Worker:
    """This process among `count`; only the first one, the chief, writes the files of a run."""

    index: int
    count: int

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run's files."""
        return self.index == 0

    def __str__(self) -> str:
        return f"worker {self.index} of {self.count}"


def this_worker() -> Worker:
    """What TF_CONFIG says; without it, the only process.

    Raises:
      UserError: where it is no TF_CONFIG of workers (and at most one chief).
    """
    text = os.environ.get("TF_CONFIG", "").strip()
    if not text:
        return Worker(0, 1)
    try:
        config = json.loads(text)
        jobs = {kind: list(addresses) for kind, addresses in config.get("cluster", {}).items()}
        if not jobs:
            return Worker(0, 1)
        task = config["task"]
        kind, index = task["type"], int(task["index"])
    except (ValueError, AttributeError, KeyError, TypeError):
        raise UserError(f"TF_CONFIG={_short(text)}: expected {_FORM}") from None
    foreign = sorted(set(jobs) - {"chief", "worker"})
    if foreign or len(jobs.get("chief", [])) > 1:
        raise UserError(f"TF_CONFIG: cluster.{(foreign or ['chief'])[0]}: expected workers, and at most one chief")
    members = [("chief", i) for i in range(len(jobs.get("chief", [])))]
    members += [("worker", i) for i in range(len(jobs.get("worker", [])))]
    addresses = [str(address) for kind in ("chief", "worker") for address in jobs.get(kind, [])]
    wrong = [address for address in addresses if not address.rpartition(":")[2].isdecimal() or ":" not in address]
    if wrong or len(set(addresses)) < len(addresses):
        raise UserError(f"TF_CONFIG: cluster: {(wrong or addresses)[0]}: expected each worker's own HOST:PORT")
    if (kind, index) not in members:
        raise UserError(f"TF_CONFIG: task {kind} {index} is none of the cluster's {len(members)}")
    return Worker(members.index((kind, index)), len(members))


def _short(text: str) -> str:
    return " ".join(text.split())[:60]
