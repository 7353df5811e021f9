"""Thrift's compact protocol, in which Parquet states its sizes; in: bytes, out: values."""

from __future__ import annotations

from collections.abc import Iterator

from embedsearch.core.errors import OverBound

_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BINARY = 1, 2, 3, {4, 5, 6}, 7, 8
LISTS, _MAP, STRUCT, _UUID = {9, 10}, 11, 12, 13
_DEEPEST = 64  # structs and lists in one another


class ThriftReader:
    """Values in Thrift's compact protocol. Raises IndexError at the end of the bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def fields(self) -> Iterator[tuple[int, int]]:
        """Yield number and type of each field of a struct; each is read or skipped meanwhile."""
        number = 0
        while byte := self._byte():
            step = byte >> 4
            number = number + step if step else self.integer()
            yield number, byte & 15

    def integer(self) -> int:
        """Return a number with a sign."""
        value = self._number()
        return (value >> 1) ^ -(value & 1)

    def length(self) -> int:
        """Return how many elements a list has; their type is passed over."""
        byte = self._byte()
        return self._number() if byte >> 4 == 15 else byte >> 4

    def binary(self) -> bytes:
        """Return bytes."""
        length = self._number()
        start, self.at = self.at, self.at + length
        if self.at > len(self._data):
            raise IndexError
        return self._data[start : self.at]

    def skip(self, kind: int, depth: int = 0) -> None:
        """Pass over a value."""
        if depth > _DEEPEST:
            raise OverBound("a header is nested too deeply")
        if kind in {_TRUE, _FALSE}:
            return
        if kind == _BYTE:
            self._byte()
        elif kind in _INTEGERS:
            self._number()
        elif kind in {_DOUBLE, _UUID}:
            self.at += 8 if kind == _DOUBLE else 16
        elif kind == _BINARY:
            self.binary()
        elif kind == STRUCT:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        elif kind in LISTS or kind == _MAP:
            self._skip_elements(kind, depth)
        else:
            raise ValueError(f"a header holds a value of type {kind}, which there is not")

    def _skip_elements(self, kind: int, depth: int) -> None:
        if kind == _MAP:
            count = self._number()
            byte = self._byte() if count else 0
            kinds = [byte >> 4, byte & 15]
        else:
            kinds = [self._data[self.at] & 15]
            count = self.length()
        for _ in range(count):
            for each in kinds:
                if each in {_TRUE, _FALSE}:
                    self._byte()  # in a list it has one
                else:
                    self.skip(each, depth + 1)

    def _byte(self) -> int:
        byte = self._data[self.at]
        self.at += 1
        return byte

    def _number(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a header holds a number of more than 64 bits")
