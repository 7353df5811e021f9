"""Files beside an ONNX file that hold its weights; in: a path, out: their names.

ONNX is protobuf: a message is a list of numbered fields. Only what leads to tensors is read, and
what a tensor says of its place; https://onnx.ai/onnx/repo-docs/ExternalData.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
# Of onnx.proto: a model's graph; a graph's nodes and initializers; a node's attributes; an
# attribute's tensors and graphs; a tensor's place, as keys and values.
_GRAPH, _NODE, _INITIALIZER, _ATTRIBUTE = 7, 1, 5, 5
_TENSORS_OF_ATTRIBUTE, _GRAPHS_OF_ATTRIBUTE = {5, 10}, {6, 11}
_PLACE, _KEY, _VALUE = 13, 1, 2
_IR_VERSION = 1
_MAX_DEPTH = 32  # of graphs in graphs


def external_files(path: Path) -> list[str]:
    """Return the names, as the file has them, of the files with its weights.

    Raises ValueError for a file that is not ONNX, and for a name outside its folder.
    """
    data = memoryview(path.read_bytes())  # a file that is cut under a mapping ends the process
    if not data:
        raise ValueError(f"{path.name} is empty")
    try:
        top = list(_fields(data))
        graphs = [value for number, value in top if number == _GRAPH]
        if not graphs or not any(number == _IR_VERSION for number, _ in top):
            raise ValueError
        names = sorted({name for graph in graphs for name in _of_graph(graph, 0)})
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path.name} is not an ONNX file") from error
    for name in names:
        if not name or not name.isprintable():
            raise ValueError(f"{path.name} keeps weights in a file without a name")
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{path.name} keeps weights outside its folder, in {name!r}")
    return names


def _of_graph(graph: memoryview, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    for number, value in _fields(graph):
        if number == _INITIALIZER:
            yield from _of_tensor(value)
        elif number == _NODE:
            for part, attribute in _fields(value):
                if part == _ATTRIBUTE:
                    yield from _of_attribute(attribute, depth)


def _of_attribute(attribute: memoryview, depth: int) -> Iterator[str]:
    for number, value in _fields(attribute):
        if number in _TENSORS_OF_ATTRIBUTE and len(value):
            yield from _of_tensor(value)
        elif number in _GRAPHS_OF_ATTRIBUTE:
            yield from _of_graph(value, depth + 1)


def _of_tensor(tensor: memoryview) -> Iterator[str]:
    for number, place in _fields(tensor):
        if number == _PLACE:
            entry = {part: bytes(value) for part, value in _fields(place)}
            if entry.get(_KEY) == b"location":
                yield entry.get(_VALUE, b"").decode()


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the fields of a message: their numbers, and the bytes of those that have a length.

    Raises ValueError and IndexError for what is no message.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        start = at
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == _BYTES:
            length, start = _varint(message, at)
            at = start + length
        elif kind in {_FIXED_64, _FIXED_32}:
            at += 8 if kind == _FIXED_64 else 4
        else:
            raise ValueError("unknown kind of field")
        if number == 0 or at > len(message):
            raise ValueError("cut off")
        yield number, message[start:at]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, at = value | (byte & 127) << shift, at + 1
        if byte < 128:
            return value, at
        if (shift := shift + 7) > 63:
            raise ValueError("a number that does not end")
