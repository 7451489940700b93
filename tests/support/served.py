"""An export as a program without Python asks it (serve.cc, on the loader of TF Serving)."""

import io
import json
import shutil
import subprocess

import numpy as np
import tensorflow as tf
from PIL import Image

from export import warmup
from export.limits import Limits


class Served:
    """A run and its export, asked through the program, which loads it once."""

    def __init__(self, run, version, program, folder):
        self.run, self.version, self.program, self.folder = run, version, program, folder
        self.info = json.loads((version / "assets.extra" / "model_info.json").read_text())
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([program, "answer", version], stdin=pipe, stdout=pipe, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def ask(self, *requests):
        """(signature, inputs) pairs -> for each its outputs, or the text of its error, one after the other."""
        return self.ask_at_once(requests, 1)[0]

    def ask_at_once(self, requests, threads):
        """As `ask`, from so many threads: the answers, and the MB that the process holds afterwards."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        print(self._written(requests), threads, file=self.process.stdin, flush=True)
        said = self.process.stdout.readline()
        assert said, f"the program ended with status {self.process.wait()}"
        return [self._answer(f"answer{i}.") for i in range(len(requests))], float(said.split()[-1])

    def _written(self, requests):
        """The file of the requests; what several have in common is written once."""
        lines, paths = [], {}
        for i, (signature, inputs) in enumerate(requests):
            words = [signature, str(self.folder / f"answer{i}")]
            for name, value in inputs.items():
                if id(value) not in paths:
                    paths[id(value)] = self.folder / f"request{i}.{name}"
                    paths[id(value)].write_bytes(tf.make_tensor_proto(value).SerializeToString())
                words.append(f"{name}={paths[id(value)]}")
            lines.append(" ".join(words))
        file = self.folder / "requests"
        file.write_text("\n".join(lines))
        return file

    def _answer(self, prefix):
        error = self.folder / f"{prefix}error"
        if error.exists():
            return error.read_text()
        found = {}
        for path in self.folder.glob(prefix + "*"):
            proto = tf.make_tensor_proto(0)
            proto.ParseFromString(path.read_bytes())
            found[path.name.removeprefix(prefix)] = tf.make_ndarray(proto)
        return found

    def classes(self, count, label=3, guidance=1.5):
        return {"label": np.full(count, label, np.int32), "guidance": np.full(count, guidance, np.float32)}

    def example(self, signature, rows):
        return warmup.example(Limits.of_info(self.info), self.info["signatures"][signature], rows)


def grey(a, b):
    """The largest distance in grey levels."""
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).max()


def decoded(png):
    """The pixels of a PNG."""
    return np.array(Image.open(io.BytesIO(png)))
