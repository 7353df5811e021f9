"""The hits of many queries in one file; in: rows of `hit_values`, out: CSV, JSON or Parquet."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from embedsearch.cli.output.text import HIT_COLUMNS, csv_lines, json_line
from embedsearch.core.errors import UsageError
from embedsearch.images.output_files import output_files

Write: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], None]
_ROW_GROUP = 16_384


@contextlib.contextmanager
def hits_file(path: Path) -> Iterator[Write]:
    """Yield a function that writes rows; `path` appears at the end, in the format of its suffix.

    Raises UsageError for another suffix, and StorageError if it cannot be written.
    """
    if path.suffix not in _FORMS:
        raise UsageError(f"--out {path} does not end in one of {', '.join(_FORMS)}")
    with output_files([path]) as (temporary,), _FORMS[path.suffix](temporary) as write:
        yield write


@contextlib.contextmanager
def _csv(path: Path) -> Iterator[Write]:
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(",".join(HIT_COLUMNS) + "\n")
        yield lambda rows: file.writelines([csv_lines(rows)])


@contextlib.contextmanager
def _json_lines(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda rows: file.writelines(json_line(row) + "\n" for row in rows)


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    """Write Parquet; metadata is JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds: dict[str, pa.DataType] = dict.fromkeys(HIT_COLUMNS, pa.string())
    kinds |= {name: pa.int64() for name in ("rank", "row", "width", "height")}
    kinds |= {name: pa.float64() for name in ("score", "rank_score", "words_score", "percentile")}
    kinds["matched"] = pa.list_(pa.string())
    schema = pa.schema(kinds)
    waiting: list[dict[str, Any]] = []

    def flush() -> None:
        writer.write_table(pa.Table.from_pylist(waiting, schema))
        waiting.clear()

    def take(rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            waiting.append({**row, "metadata": json.dumps(row["metadata"])})
        if len(waiting) >= _ROW_GROUP:
            flush()

    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        yield take
        flush()


_FORMS = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}
