"""Builds serve.cc against the headers and libraries of the TensorFlow wheel: the loader that TF Serving builds on."""

import subprocess
from pathlib import Path

import tensorflow as tf


def build(folder: Path) -> Path:
    """The program in `folder`, made with g++."""
    home, out = Path(tf.__file__).parent, folder / "serve"
    flags = ["-O1", "-w", "-std=c++17", "-D_GLIBCXX_USE_CXX11_ABI=1", "-DEIGEN_MAX_ALIGN_BYTES=64"]
    libraries = ["-Wl,--no-as-needed", "-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2", "-lpthread"]
    source = Path(__file__).parent / "serve.cc"
    command = ["g++", *flags, f"-I{home / 'include'}", str(source), "-o", str(out), f"-L{home}", *libraries]
    subprocess.run([*command, f"-Wl,-rpath,{home}"], check=True)
    return out
