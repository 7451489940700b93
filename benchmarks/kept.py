"""Long measurements in parts: commands of this project, and figures that are kept for the next time."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def begin(out: str | Path, **settings: object) -> None:
    """Makes the folder of a measurement, or goes on with the one of these settings.

    Where this process is terminated, so is the one that it waits for: it would be measured beside the next.

    Raises:
      SystemExit: where the figures in `out` were measured with other settings.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    Path(out).mkdir(parents=True, exist_ok=True)
    before = kept(out, "settings", lambda: settings, quiet=True)
    for name, value in settings.items():
        if before.get(name) != json.loads(json.dumps(value)):
            raise SystemExit(
                f"--out={out} has figures of {name}={before.get(name)}, not {value}; choose another folder"
            )


def kept(out: str | Path, name: str, make: Callable[[], dict], quiet: bool = False) -> dict:
    """What `make` gives, from the file of the last time in `out` if there is one."""
    path = Path(out) / f"{name}.json"
    if not path.exists():
        found = make()
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        aside.replace(path)
        if not quiet:
            print(f"{name}: {found}", flush=True)
    return json.loads(path.read_text(encoding="utf-8"))


def ours(*arguments: str) -> None:
    """A command of this project, in a process of its own."""
    subprocess.run([sys.executable, "main.py", *arguments], check=True)
