"""Our own files of weights, in safetensors format; in: a file, out: tensors by name, and back.

They are read without the safetensors library: a GPU machine with torch alone can use them.
Strangers' files go through that library, in `prepare.py`, which is hardened against them.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file. Raises ValueError if it is not laid out as it should be.

    Layout: the header's length, 8 bytes little-endian; the header, JSON with type, shape and
    place of each tensor; the values (https://github.com/huggingface/safetensors).
    """
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8].ljust(8, b"\0"))
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + length :]
    tensors = {}
    for name, entry in header.items():
        dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
        start, end = entry["data_offsets"]
        count = math.prod(shape)
        if not 0 <= start <= end <= len(body) or end - start != count * dtype.itemsize:
            raise ValueError(f"{path}: tensor {name} does not lie where the header says")
        tensors[name] = torch.frombuffer(body[start:end], dtype=dtype).reshape(shape)
    return tensors


def dump_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return tensors, and strings that describe them, as the bytes of a file."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    pieces, start = [], 0
    # The widest first: every tensor then begins at a multiple of its width.
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        piece = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        place = [start, start + len(piece)]
        shape = list(tensor.shape)
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": shape, "data_offsets": place}
        pieces.append(piece)
        start += len(piece)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(pieces)
