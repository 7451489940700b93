"""The tensors of a TorchScript archive, read without PyTorch and without running anything in it. NumPy only.

Such an archive is a ZIP file: `data.pkl` describes a tree of modules, whose tensors lie in `data/`. Pickle can name
any function of any package to be called; here it gets the inert stand-ins below, and every other name is refused.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from typing import Any, NamedTuple

import numpy as np

from tf_ddpm.errors import UserError

_STORAGES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "DoubleStorage": "<f8", "LongStorage": "<i8"}


class _Module:
    """A module: its attributes, and no behaviour."""

    def __setstate__(self, state: dict) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a module's state is no dictionary")
        self.__dict__.update(state)


class _Storage(NamedTuple):
    dtype: str
    file: str
    length: int


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Every tensor of the archive by its dotted name, for example `net.layers.conv.weight`.

    Raises:
      UserError: where it cannot be read, or holds what a network of plain tensors does not.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (folder,) = {name.partition("/")[0] for name in archive.namelist()}
            root = _Reader(archive, folder).load()
        return dict(_tensors(root, ""))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    # Pickle raises whatever a crafted file makes it raise.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is no TorchScript archive of plain tensors: {reason[:150]}") from None


class _Reader(pickle.Unpickler):
    """Reads `data.pkl` with a closed list of names."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(archive.open(f"{folder}/data.pkl"))
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for `module.name`."""
        if module.startswith("__torch__."):
            return _Module
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch.jit._pickle", "build_intlist"): list,
            ("collections", "OrderedDict"): dict,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: tuple) -> _Storage:
        """A reference to a file of numbers."""
        kind, dtype, file, _, count = pid
        if kind != "storage" or not str(file).isdecimal():
            raise pickle.UnpicklingError(f"it refers to {str(pid)[:60]}")
        return _Storage(dtype, file, count)

    def _tensor(self, storage: _Storage, offset: int, shape: tuple, stride: tuple, *_: Any) -> np.ndarray:
        values = np.frombuffer(self._archive.read(f"{self._folder}/data/{storage.file}"), storage.dtype)
        contiguous = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
        if tuple(stride) != contiguous or offset < 0 or offset + int(np.prod(shape)) > len(values):
            raise pickle.UnpicklingError(f"a tensor of shape {tuple(shape)} does not lie in its storage")
        return values[offset : offset + int(np.prod(shape))].reshape(shape)


def _tensors(module: _Module, prefix: str):
    for name, value in vars(module).items():
        if isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")
        elif isinstance(value, np.ndarray):
            yield prefix + name, value
