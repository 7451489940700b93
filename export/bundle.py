"""The files beside the versions, for the operator of the server. Edited files are never overwritten."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

from export import joining
from tf_ddpm.runtime import atomic_files

MODEL_NAME = "ddpm"
IMAGE_TAG = "2.20.0"  # of tensorflow/serving
SERVER_THREADS = 128  # of REST, and as many of gRPC

_TEMPLATES = Path(__file__).parent / "templates"
_NAMES = ("docker-compose.yml", "kubernetes.yml", "models.config", "monitoring.config", "play.html")
_SEAL = re.compile(r"(?:# |<!-- )tf_ddpm wrote what follows \(sha256 ([0-9a-f]{64})\)")
_WORDS = "tf_ddpm wrote what follows (sha256 {}). An export keeps this file once it is edited."

# sha256 of the files as they were written before they had a seal.
_UNSEALED = {
    "docker-compose.yml": "829ae519a445f4afb379181a2dad9177aec1509e4de5915d698c155b0afff1a4",
    "models.config": "50c4c75a4b2f8aa9e1747421b0676b3886f7ad739cb13394bd92d5221face3c6",
    "monitoring.config": "bb222bfcc1ab925e3f41cab0b3b47028fe6bda29a7779a045616d062075086e2",
}
# The joining of requests was the server's own then; nothing reads this file any more.
_BATCHING = re.compile(
    r"max_batch_size \{ value: \d+ \}\nbatch_timeout_micros \{ value: 5000 \}\n"
    r"max_enqueued_batches \{ value: 1000 \}\nnum_batch_threads \{ value: 2 \}\n(?:allowed_batch_sizes: \d+\n)+"
)


def texts(memory_bytes: int, label_names: Sequence[str] = ()) -> dict[str, str]:
    """Name -> text of each file.

    Args:
      memory_bytes: what a server needs with a full batch on every batch thread.
      label_names: of the run's classes; `play.html` takes them in place of numbers.
    """
    words = {
        "model": MODEL_NAME,
        "tag": IMAGE_TAG,
        "threads": SERVER_THREADS,
        "batches": sum(lane.threads for lane in joining.LANES),
        "memory": f"{-(-memory_bytes // 2**20)}Mi",
    }
    found = {}
    for name in _NAMES:
        text = (_TEMPLATES / name).read_text(encoding="utf-8")
        found[name] = _named(text, label_names) if name.endswith(".html") else Template(text).substitute(words)
    return found


def _named(page: str, label_names: Sequence[str]) -> str:
    """The page with the names in it; a "<" in one of them must not end the page's script."""
    names = json.dumps(list(label_names)).replace("<", "\\u003c")
    return page.replace('type="application/json">[]<', f'type="application/json">{names}<')


def publish(folder: Path, files: dict[str, str]) -> list[str]:
    """Writes the files into `folder`, each whole.

    An edited one stays as it is, and what would have replaced it goes beside it as NAME.new.

    Returns:
      A line for each file that stays.

    Raises:
      OSError: where the disk does not take them.
    """
    kept = []
    for name, text in files.items():
        sealed, target = _sealed(name, text), folder / name
        if _edited(target) and target.read_bytes() != text.encode():
            beside = folder / f"{name}.new"
            while _edited(beside):
                beside = beside.with_name(f"{beside.name}.new")
            atomic_files.write_text(beside, sealed)
            kept.append(f"{target} has been edited and stays as it is; this export's own is {beside.name}")
        else:
            atomic_files.write_text(target, sealed)
    _remove_batching(folder)
    return kept


def _sealed(name: str, text: str) -> str:
    words = _WORDS.format(hashlib.sha256(text.encode()).hexdigest())
    return f"<!-- {words} -->\n{text}" if name.endswith(".html") else f"# {words}\n{text}"


def _edited(path: Path) -> bool:
    """Whether a file is there that is not as this program wrote it."""
    if not path.exists():
        return False
    content = path.read_bytes()
    first, _, rest = content.partition(b"\n")
    seal = _SEAL.match(first.decode("utf-8", "replace"))
    if seal:
        return hashlib.sha256(rest).hexdigest() != seal[1]
    return hashlib.sha256(content).hexdigest() != _UNSEALED.get(path.name)


def _remove_batching(folder: Path) -> None:
    """Removes batching.config as earlier versions wrote it, unless an edited compose file may still name it."""
    path = folder / "batching.config"
    if not path.exists() or _edited(folder / "docker-compose.yml"):
        return
    if _BATCHING.fullmatch(path.read_text(encoding="utf-8", errors="replace")):
        path.unlink()
