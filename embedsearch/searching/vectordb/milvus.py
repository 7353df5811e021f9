"""Milvus, by pymilvus' MilvusClient: a server, a cluster, or a file of Milvus Lite.

Tested with Milvus 2.3, which has no nulls and no patterns except prefixes. So null is stored as
the lowest number of a field, as NO_TEXT, or as -1 for a flag (`fields.is_held` ensures that no
real value is one of these). NaN, the highest real in DuckDB, is infinity, and a prefix is a range.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import IncompatibleStore, MissingLibrary, StorageError, UsageError
from embedsearch.core.install import install_command
from embedsearch.searching.vectordb.conditions import (
    All,
    Always,
    AnyOf,
    Condition,
    Like,
    Null,
    OneOf,
    Pair,
    Test,
)
from embedsearch.searching.vectordb.database import (
    NAME,
    SEND_S,
    WORK_S,
    DatabaseRecord,
    DatabaseUrl,
    RowBatch,
    Rows,
    patiently,
    vanished,
)
from embedsearch.searching.vectordb.fields import LOWEST, NO_TEXT, Field, FieldKind, Value
from embedsearch.searching.vectordb.library_log import unlogged

# Their own logs hold every error that they raise, with a traceback.
_LIBRARIES = ("pymilvus", "milvus_lite")
_LOCKED = "DataDirLockedError"  # of Milvus Lite, which logs it and tells pymilvus nothing
_WINDOW = 16_384  # maximum rows of one answer of Milvus
_DELETED = 4_096  # at once
_MESSAGE_BYTES = 2 << 20  # of vectors
_SENDERS = 2  # pymilvus packs the next message while the server processes one
_MAX_TEXT_BYTES = 65_535
_M, _CONSTRUCTION = 16, 200  # of HNSW
_MIN_EF = 128
_CONNECT_S = 10.0
_LOWEST_REAL = -1.7976931348623157e308
_ESCAPES = str.maketrans({'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_GONE = re.compile(r"can't find collection|collection.*(not found|does not exist)")
_LASTING = re.compile(rf"{_GONE.pattern}|auth|permission|privilege|token|parse")


class Milvus:
    """A collection."""

    most = _WINDOW

    def __init__(self, place: DatabaseUrl) -> None:
        self._is_lite = not place.host
        if self._is_lite and not place.name.endswith(".db"):
            raise UsageError(f"{place}: the name of a Milvus Lite file must end in .db")
        try:
            from pymilvus import MilvusClient
            from pymilvus.exceptions import MilvusException
        except ImportError as error:
            raise MissingLibrary(
                f"milvus:// needs pymilvus ({error}): {install_command('pymilvus')}"
            ) from error
        self.place = place
        self._error = MilvusException
        if self._is_lite and find_spec("milvus_lite") is None:
            raise MissingLibrary(
                f"milvus:///*.db needs Milvus Lite: {install_command('milvus-lite')}"
            )
        if self._is_lite:
            import_module("milvus_lite.server_manager")  # its logger is there from now on
        uri = place.name if self._is_lite else f"http://{place.host}"
        token = os.environ.get("MILVUS_TOKEN", "")
        if place.user is not None:
            token = f"{place.user}:{place.password or ''}"
        with self._explained("cannot be reached"):
            self._client: Any = patiently(
                lambda left: MilvusClient(uri=uri, token=token, timeout=min(left, _CONNECT_S)),
                self._is_passing,
            )
            self._is_there = self._client.has_collection(place.table, timeout=_CONNECT_S)
            if self._is_there:
                self._client.load_collection(place.table, timeout=_CONNECT_S)

    def close(self) -> None:
        """Close the connection."""
        with self._explained("cannot be closed"):
            self._client.close()

    def record(self) -> DatabaseRecord | None:
        """Return the record in the collection's properties."""
        if not self._is_there:
            return None
        with self._explained("cannot be read"):
            found = self._client.describe_collection(self.place.table, timeout=_CONNECT_S)
        return DatabaseRecord.from_json(found.get("properties", {}).get(NAME), self.place)

    def create(self, record: DatabaseRecord) -> None:
        """Create an empty collection; it replaces an existing one."""
        from pymilvus import DataType

        types = {
            FieldKind.INTEGER: DataType.INT64,
            FieldKind.NUMBER: DataType.DOUBLE,
            FieldKind.TEXT: DataType.VARCHAR,
            FieldKind.BOOLEAN: DataType.INT8,
            FieldKind.TIME: DataType.INT64,
        }
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=record.dim)
        schema.add_field("mark", DataType.INT64)
        schema.add_field("root", DataType.INT64)
        schema.add_field("key", DataType.VARCHAR, max_length=_MAX_TEXT_BYTES)
        for field in record.fields:
            more = {"max_length": _MAX_TEXT_BYTES} if field.kind is FieldKind.TEXT else {}
            schema.add_field(field.name, types[field.kind], **more)
        index = self._client.prepare_index_params()
        params = {"M": _M, "efConstruction": _CONSTRUCTION}
        index.add_index("vector", index_type="HNSW", metric_type="COSINE", params=params)
        table = self.place.table
        with self._explained(f"does not take the collection {table}"):
            if self._is_there:
                self._client.drop_collection(table, timeout=WORK_S)
            self._client.create_collection(
                table,
                schema=schema,
                index_params=index,
                properties={NAME: record.to_json()},
                consistency_level="Bounded",
                timeout=WORK_S,
            )
            self._is_there = True

    def marks(self, rows: Rows | None, record: DatabaseRecord) -> tuple[Rows, Rows]:
        """Return (rows, marks) of the given rows that exist; without rows, of all."""
        with self._explained("cannot be read"):
            if rows is not None:
                return _pairs(self._marks(f"id in {rows.tolist()}"))
            # Strong: wait until this and later reads see all earlier writes.
            (counted,) = self._client.query(
                self.place.table,
                filter="",
                output_fields=["count(*)"],
                consistency_level="Strong",
                timeout=WORK_S,
            )
            total: int = counted["count(*)"]
            found: list[tuple[int, int]] = []
            for start in range(0, record.next_row, _WINDOW):
                if len(found) >= total:
                    break
                found += self._marks(f"id >= {start} and id < {start + _WINDOW}")
        if len(found) != total:
            raise IncompatibleStore(
                f"{self.place}: {self.place.table} holds {total:,} rows, but only {len(found):,} "
                "with row numbers of this store: replace=True creates it again",
                "replace",
            )
        return _pairs(found)

    def upsert(self, batch: RowBatch, record: DatabaseRecord) -> None:
        """Write rows, a few megabytes per message."""
        at_once = max(1, _MESSAGE_BYTES // (4 * record.dim))
        names = ["id", "vector", "mark", "root", "key", *(field.name for field in record.fields)]
        columns: list[Any] = [
            batch.rows.tolist(),
            batch.vectors.astype(np.float32),
            batch.marks.tolist(),
            batch.roots,
            [key.decode(errors="backslashreplace") for key in batch.keys],
            *(
                _stored(values, field.kind)
                for field, values in zip(record.fields, batch.values, strict=True)
            ),
        ]

        def send(start: int) -> None:
            parts = [column[start : start + at_once] for column in columns]
            parts[1] = parts[1].tolist()  # pymilvus does it row by row, at twice the cost
            rows = [dict(zip(names, row, strict=True)) for row in zip(*parts, strict=True)]
            with unlogged(*_LIBRARIES):
                self._client.upsert(self.place.table, rows, timeout=SEND_S)

        with self._explained("does not take rows"), ThreadPoolExecutor(_SENDERS) as senders:
            for _ in senders.map(send, range(0, len(batch.rows), at_once)):
                pass

    def delete(self, rows: Rows) -> None:
        """Remove rows."""
        with self._explained("does not delete rows"):
            for start in range(0, len(rows), _DELETED):
                ids = rows[start : start + _DELETED].tolist()
                self._client.delete(self.place.table, ids=ids, timeout=SEND_S)

    def finish(self, record: DatabaseRecord) -> None:
        """Seal the written rows, wait until searches see them, then write the record."""
        with self._explained("does not finish"):
            self._client.flush(self.place.table, timeout=WORK_S)
            self._client.query(
                self.place.table,
                filter="",
                output_fields=["count(*)"],
                consistency_level="Strong",
                timeout=WORK_S,
            )
            self._client.alter_collection_properties(
                self.place.table, {NAME: record.to_json()}, timeout=WORK_S
            )

    def search(
        self, queries: npt.NDArray[np.float32], count: int, condition: Condition
    ) -> list[Rows]:
        """Return the rows nearest to each query."""
        if condition == Always(False):
            return [np.empty(0, np.int64) for _ in queries]
        ef = min(max(_MIN_EF, 2 * count), 2 * _WINDOW)
        text = "" if condition == Always(True) else expression(condition)

        def ask(seconds: float) -> Any:
            return self._client.search(
                self.place.table,
                data=list(queries),
                anns_field="vector",
                limit=count,
                filter=text,
                output_fields=["id"],  # without it, Milvus Lite returns all fields
                search_params={"metric_type": "COSINE", "params": {"ef": ef}},
                timeout=seconds,
            )

        with self._explained("does not answer"):
            found = patiently(ask, self._is_passing)
            return [np.array([hit["id"] for hit in hits], np.int64) for hits in found]

    def _marks(self, text: str) -> list[tuple[int, int]]:
        found = self._client.query(
            self.place.table,
            filter=text,
            output_fields=["id", "mark"],
            limit=_WINDOW,
            timeout=SEND_S,
        )
        return [(row["id"], row["mark"]) for row in found]

    def _is_passing(self, error: Exception) -> bool:
        return _LASTING.search(str(error).lower()) is None

    @contextmanager
    def _explained(self, trouble: str) -> Iterator[None]:
        """Turn errors of pymilvus and gRPC into one-line messages."""
        import grpc

        try:
            with unlogged(*_LIBRARIES) as logged:
                yield
        except (self._error, grpc.RpcError, OSError) as error:
            if any(type(cause).__name__ == _LOCKED for cause in logged.causes):
                raise StorageError(
                    f"{self.place} is in use by another process, and a file of Milvus Lite "
                    "serves one at a time: end that process, or use a Milvus server"
                ) from error
            if _GONE.search((message := self.place.said(getattr(error, "message", error))).lower()):
                raise vanished(self.place) from error
            if self._is_lite and logged.causes:
                message = f"{message} ({self.place.said(logged.causes[-1])})"
            raise StorageError(f"{self.place} {trouble}: {message}") from error


def _pairs(found: list[tuple[int, int]]) -> tuple[Rows, Rows]:
    pairs = np.array(found, np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _stored(values: Iterable[Value | None], kind: FieldKind) -> list[Any]:
    """Return values as the collection holds them: there are no nulls."""
    if kind is FieldKind.NUMBER:
        return [_real(value) for value in values]
    if kind is FieldKind.BOOLEAN:
        return [-1 if value is None else int(value) for value in values]
    return [_null(kind) if value is None else value for value in values]


def _null(kind: FieldKind) -> Any:
    return {FieldKind.TEXT: NO_TEXT, FieldKind.NUMBER: -math.inf, FieldKind.BOOLEAN: -1}.get(
        kind, LOWEST
    )


def _real(value: Any) -> float:
    if value is None:
        return -math.inf
    return math.inf if math.isnan(value) else max(value, _LOWEST_REAL)


def expression(condition: Condition) -> str:
    """Return a condition as a Milvus expression. Raises UsageError for an unsupported pattern.

    Milvus cannot express Always: do not pass it.
    """
    match condition:
        case Test(field, operator, value):
            return _guarded(f"{field.name} {_milvus_operator(operator)} {_literal(value)}", field)
        case OneOf(field, values, is_in):
            listed = ", ".join(map(_literal, values))
            return _guarded(f"{field.name} {'in' if is_in else 'not in'} [{listed}]", field)
        case Pair(left, operator, right):
            test = f"{left.name} {_milvus_operator(operator)} {right.name}"
            return _guarded(_guarded(test, left), right)
        case Null(field, is_null):
            return _is_null(field, is_null)
        case Like(field):
            return _guarded(_prefixed(condition), field)
        case All(parts):
            return " and ".join(f"({expression(part)})" for part in parts)
        case AnyOf(parts):
            return " or ".join(f"({expression(part)})" for part in parts)
    raise AssertionError(f"{condition} is simplified away")


def _guarded(test: str, field: Field) -> str:
    """Return a test that nulls do not pass, though they are stored as ordinary values."""
    return f"(({test}) and {_is_null(field, False)})" if field.nullable else f"({test})"


def _is_null(field: Field, is_null: bool) -> str:
    if field.kind is FieldKind.NUMBER:  # infinity has no literal
        return f"{field.name} {'<' if is_null else '>='} {_LOWEST_REAL!r}"
    return f"{field.name} {'==' if is_null else '!='} {_literal(_null(field.kind))}"


def _milvus_operator(operator: str) -> str:
    return "==" if operator == "=" else operator


def _literal(value: Value) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return f'"{value.translate(_ESCAPES)}"' if isinstance(value, str) else repr(value)


def _prefixed(like: Like) -> str:
    """Return a pattern that ends in % as a range, and one without wildcards as a comparison."""
    name = like.field.name
    runs = [(is_letter, list(run)) for is_letter, run in groupby(like.pattern, _is_letter)]
    prefix = "".join(runs[0][1]) if runs and runs[0][0] else ""
    if not (rest := [letter for _, run in runs[bool(prefix) :] for letter in run]):
        return f"{name} {'==' if like.is_like else '!='} {_literal(prefix)}"
    if set(rest) != {Like.ANY}:
        raise UsageError(
            f"where: Milvus supports only patterns whose only wildcard is a % at the end, "
            f"as in {like.field.column} like 'abc%'"
        )
    end = _after(prefix)
    if like.is_like:
        below = "" if end is None else f" and {name} < {_literal(end)}"
        return f"{name} >= {_literal(prefix)}{below}"
    above = "" if end is None else f" or {name} >= {_literal(end)}"
    return f"{name} < {_literal(prefix)}{above}"


def _is_letter(part: str) -> bool:
    return part not in {Like.ANY, Like.ONE}


def _after(prefix: str) -> str | None:
    """Return the first text after all texts with this prefix, None if there is none."""
    for index in range(len(prefix) - 1, -1, -1):
        if (code := ord(prefix[index]) + 1) <= 0x10FFFF:
            code = 0xE000 if code == 0xD800 else code  # surrogates are no letters
            return prefix[:index] + chr(code)
    return None
