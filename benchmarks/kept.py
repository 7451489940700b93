"""Long measurements in parts: commands of this project, and figures that are kept for the next time."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def kept(out: str | Path, name: str, make: Callable[[], dict]) -> dict:
    """What `make` gives, from the file of the last time in `out` if there is one."""
    path = Path(out) / f"{name}.json"
    if not path.exists():
        found = make()
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {found}", flush=True)
    return json.loads(path.read_text(encoding="utf-8"))


def ours(*arguments: str) -> None:
    """A command of this project, in a process of its own."""
    subprocess.run([sys.executable, "main.py", *arguments], check=True)
