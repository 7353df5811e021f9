"""What rows that name values of a dictionary take unpacked; in: a file or an array, out: bytes.

Arrow keeps each value once and the rows as numbers, so a row is measured before it is made: a row
with lists may name one long value any number of times, and a row is read as a whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedsearch.core.errors import OverBound

_ROWS = 65_536  # that are read together


def largest_rows(path: str | Path, leaf: str) -> list[int]:
    """Return how many bytes the largest row of each row group has in a column of the schema.

    Raises OverBound where Arrow would not keep its values once, and what Arrow raises.
    """
    largest = []
    with pq.ParquetFile(path, read_dictionary=[leaf]) as file:
        for group in range(file.metadata.num_row_groups):
            most = 0  # a batch over two groups would have two dictionaries, which lists cannot have
            for batch in file.iter_batches(_ROWS, row_groups=[group], columns=[leaf]):
                for column in batch.columns:
                    if not _all_named(column.type):
                        raise OverBound(f"what rows of {leaf} unpack to cannot be told")
                    most = max(most, int(_of_rows(column).max(initial=0)))
            largest.append(most)
    return largest


def unpacked_bytes(batch: pa.RecordBatch) -> int:
    """Return how many bytes a batch has once its dictionaries are unpacked."""
    named = (column for column in batch.columns if _any_named(column.type))
    return batch.nbytes + sum(int(_of_rows(column).sum()) for column in named)


def _inner(kind: Any) -> list[pa.DataType]:
    if isinstance(kind, pa.BaseExtensionType):
        return [kind.storage_type]
    return [kind.field(number).type for number in range(kind.num_fields)]


def _any_named(kind: pa.DataType) -> bool:
    return pa.types.is_dictionary(kind) or any(map(_any_named, _inner(kind)))


def _all_named(kind: pa.DataType) -> bool:
    inner = _inner(kind)
    return pa.types.is_dictionary(kind) or (bool(inner) and all(map(_all_named, inner)))


def _of_rows(array: Any) -> npt.NDArray[np.int64]:
    """Return the bytes that each element names in dictionaries."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _of_rows(array.storage)
    if not _any_named(kind):
        return np.zeros(len(array), np.int64)
    if pa.types.is_dictionary(kind):
        return _of_numbers(array)
    if pa.types.is_struct(kind):
        return np.sum(np.stack([_of_rows(part) for part in array.flatten()]), axis=0)  # type: ignore[no-any-return]
    if pa.types.is_map(kind):
        pairs = pa.struct([pa.field("key", kind.key_type), pa.field("value", kind.item_type)])
        array = array.cast(pa.list_(pairs))
    counts = _numbers(pc.list_value_length(array))
    ends = np.cumsum(counts)
    before = np.concatenate([[0], np.cumsum(_of_rows(pc.list_flatten(array)))])
    sizes: npt.NDArray[np.int64] = before[ends] - before[ends - counts]
    return sizes


def _of_numbers(array: Any) -> npt.NDArray[np.int64]:
    values, indices = array.dictionary, array.indices
    if not _has_lengths(values.type):
        return np.full(len(array), -(-values.nbytes // max(1, len(values))), np.int64)
    lengths = np.append(_numbers(pc.binary_length(values)), 0)
    sizes: npt.NDArray[np.int64] = lengths[_numbers(indices, -1)]
    return sizes


def _has_lengths(kind: Any) -> bool:
    is_kind = pa.types
    long = is_kind.is_large_string(kind) or is_kind.is_large_binary(kind)
    return long or is_kind.is_string(kind) or is_kind.is_binary(kind)


def _numbers(array: Any, none: int = 0) -> npt.NDArray[np.int64]:
    whole = pc.fill_null(array.cast(pa.int64()), none)
    return np.asarray(whole.to_numpy(zero_copy_only=False), np.int64)
