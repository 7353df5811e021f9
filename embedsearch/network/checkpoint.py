"""A file of weights to the tensors of one residual network; in: a path, out: tensors by name.

safetensors, or what torch.save writes: its content decides, not its name. Checkpoints of training
scripts hold much more than tensors. No code in a file is run: the classes that it names become
empty objects, but for the few that make up a tensor.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import safetensors.torch
import torch

from embedsearch.network.clip_names import MARK as CLIP_MARK, VISUAL, clip_weights

_MAX_HEADER_BYTES = 100 << 20  # of safetensors, by its own rule
_DEPTH = 4  # of dictionaries in a checkpoint
_MARK = "layer1.0.conv1.weight"  # a parameter that every network of the family has
# Where a file holds several networks: the one to use, by its key or prefix.
_PREFERRED = (
    "state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model", "encoder_q",
    "online", "teacher", "net", "network", "backbone", "encoder", "student",
)  # fmt: skip
_HEADS = ("fc.", "head.", "classifier.")
_ALONE = "save the weights alone: torch.save(model.state_dict(), FILE)"
# Modules that no weights need: to name them is to try to run something.
_CODE = {
    "os", "posix", "nt", "subprocess", "sys", "shutil", "socket", "importlib", "runpy", "pty",
    "ctypes", "pickle", "_pickle", "code", "webbrowser", "operator", "functools", "multiprocessing",
}  # fmt: skip
_DATA = {"set", "frozenset", "slice", "complex", "bytearray", "object", "range", "int", "float"}
_TENSORS = {
    "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state",
}  # fmt: skip


def read_weights(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str], str]:
    """Return a network's tensors by torchvision's or timm's names, the metadata, and the sha256.

    Prefixes of wrappers and the classifier are removed. Whatever becomes of the file meanwhile, the
    sha256 is that of the bytes that were read. Raises ValueError.
    """
    data = file.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    metadata: dict[str, str] = {}
    length = int.from_bytes(data[:8], "little")
    if length <= _MAX_HEADER_BYTES and data[8:9] == b"{":
        loaded: Any = safetensors.torch.load(data)
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    else:
        loaded = _unpickled(file, data)
    weights = _network(file, loaded)
    body = {key: v for key, v in weights.items() if not key.startswith(_HEADS)}
    return body, metadata, sha256


class _Empty:
    """What stands for an object of a class that is no part of a tensor."""

    def __new__(cls, *_: Any, **__: Any) -> _Empty:
        """Take any arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Forget the state."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Forget an item."""

    def append(self, value: Any) -> None:
        """Forget a value."""

    def extend(self, values: Any) -> None:
        """Forget values."""

    def __hash__(self) -> int:
        """Return a number: such an object may be a key."""
        return id(self)


class _Unpickler(pickle.Unpickler):
    """Reads pickles, and finds no class but those of tensors."""

    named: ClassVar[list[str]] = []  # the classes that stayed empty

    def find_class(self, module: str, name: str) -> Any:
        """Return a part of a tensor, else an empty class. Raises ValueError for code."""
        top = module.partition(".")[0]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict  # which takes the attributes that torch gives a state_dict
        if module == "torch._utils" and name in _TENSORS:
            return getattr(torch._utils, name)
        if module in {"torch", "torch.storage"}:
            found = getattr(torch.storage if module != "torch" else torch, name, None)
            is_storage = name.endswith("Storage") and isinstance(found, type)
            if is_storage or isinstance(found, torch.dtype) or name in {"Size", "device"}:
                return found
        if top in _CODE or (top in {"builtins", "__builtin__"} and name not in _DATA):
            raise ValueError(f"it holds code, {module}.{name}, which is never run; {_ALONE}")
        self.named.append(f"{module}.{name}")
        return _Empty


class _PickleModule:
    """What torch.load wants of a module that reads pickles."""

    __name__ = "pickle"
    Unpickler = _Unpickler

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        """Read one object, as the older format of torch.save has several."""
        return _Unpickler(file, **options).load()


def _unpickled(file: Path, data: bytes) -> Any:
    _Unpickler.named.clear()
    run_program, torch.jit.load = torch.jit.load, _refuse_program
    try:
        # Python 2 wrote names as bytes, of which latin1 reads any.
        return torch.load(
            io.BytesIO(data),
            map_location="cpu",
            pickle_module=_PickleModule,
            weights_only=False,
            encoding="latin1",
        )
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    except Exception as error:  # a damaged or hostile file can make torch raise anything
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{file} cannot be read as a file of weights ({words})") from error
    finally:
        torch.jit.load = run_program


def _refuse_program(*_: Any, **__: Any) -> NoReturn:
    """Stand for torch.jit.load, to which torch.load hands every TorchScript file."""
    raise ValueError(f"it is a program (TorchScript), which is never run; {_ALONE}")


def _network(file: Path, loaded: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of the network in what was loaded, by their plain names."""
    found = list(_networks(loaded, "", 0))
    if not found:
        raise ValueError(f"{file} holds no residual network, but {_content(loaded)}: {_ALONE}")
    ranked = sorted(found, key=lambda network: _preference(network[0]))
    if len(found) > 1 and _preference(ranked[0][0]) == _preference(ranked[1][0]):
        names = ", ".join(sorted(name or "the top" for name, _ in found))
        raise ValueError(f"{file} holds several networks ({names}): save only one")
    return ranked[0][1]


def _content(loaded: Any) -> list[str]:
    """Return the first names in what was loaded."""
    keys = [k for k in _PREFERRED if isinstance(loaded, dict) and k in loaded]
    inner = loaded[keys[0]] if keys else loaded
    if isinstance(inner, dict):
        return sorted(map(str, inner))[:5]
    return _Unpickler.named[:1] or [type(inner).__name__]


def _networks(value: Any, name: str, depth: int) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Yield the networks in dictionaries of tensors, with the key and prefix that lead to each."""
    if not isinstance(value, dict) or depth > _DEPTH:
        return
    tensors = {key: v for key, v in value.items() if isinstance(key, str) and torch.is_tensor(v)}
    for mark in [key for key in tensors if key == _MARK or key.endswith("." + _MARK)]:
        prefix = mark.removesuffix(_MARK)
        body = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if CLIP_MARK in body:
            outer = prefix.removesuffix(VISUAL)
            both = {k.removeprefix(outer): v for k, v in tensors.items() if k.startswith(outer)}
            body = clip_weights(both)
        yield f"{name}.{prefix}".strip("."), body
    for key, inner in value.items():
        if isinstance(key, str) and not torch.is_tensor(inner):
            yield from _networks(inner, f"{name}.{key}".strip("."), depth + 1)


def _preference(name: str) -> tuple[int, ...]:
    """Return the rank of a network by the words of its name, the last word first."""
    ranks = {word: rank for rank, word in enumerate(_PREFERRED)}
    return tuple(ranks.get(word, len(ranks)) for word in reversed(name.split(".")))
