"""The processes of the sides, which repeat their work one after the other."""

import json
import subprocess
import sys


class Side:
    """A process of `side.serve`.

    Args:
      module: whose `main` takes the arguments.
    """

    def __init__(self, module: str, **arguments: object):
        command = [sys.executable, "-m", module, json.dumps(arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts = json.loads(self._answer())
        self.seconds: list[float] = []

    def _answer(self) -> str:
        for line in self._process.stdout:
            if line.startswith(("{",)) or line[:1].isdigit():
                return line
        raise SystemExit(f"a side ended early: {self._process.args[2]} {self._process.args[3]}")

    def turn(self) -> None:
        """One more measurement."""
        print("go", file=self._process.stdin, flush=True)
        self.seconds.append(float(self._answer()))

    def end(self) -> float:
        """Ends the process and gives its peak memory in MB, the libraries' left out."""
        print("", file=self._process.stdin, flush=True)
        peak = float(self._answer())
        self._process.wait()
        return peak - self.facts["library_mb"]
