"""PostgreSQL with pgvector, by psycopg: rows in a table, vectors as halfvec, an HNSW index.

Texts compare by their bytes (COLLATE "C") as in DuckDB, NaN is the highest real in both, and the
values of a condition are sent as parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import MissingLibrary, StorageError
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
    SEND_S,
    WORK_S,
    DatabaseRecord,
    DatabaseUrl,
    RowBatch,
    Rows,
    patiently,
    vanished,
)
from embedsearch.searching.vectordb.fields import FieldKind, Value

_CONNECT_S = 5
_M, _CONSTRUCTION = 16, 64  # of HNSW
_MIN_EF, _MAX_EF = 128, 1000
_TYPES = {
    FieldKind.INTEGER: "bigint",
    FieldKind.NUMBER: "double precision",
    FieldKind.TEXT: 'text COLLATE "C"',
    FieldKind.BOOLEAN: "boolean",
    FieldKind.TIME: "timestamp",
}
_BINARY = {
    FieldKind.INTEGER: "int8",
    FieldKind.NUMBER: "float8",
    FieldKind.TEXT: "text",
    FieldKind.BOOLEAN: "bool",
    FieldKind.TIME: "timestamp",
}
_EPOCH = datetime(1970, 1, 1)
# With a filter that keeps few rows, the index scans until it has enough of them.
_SETTINGS = (
    "SET hnsw.iterative_scan = strict_order",
    "SET hnsw.max_scan_tuples = 2147483647",
    "SET maintenance_work_mem = '512MB'",
)


class Postgres:
    """A table."""

    most = 1 << 16

    def __init__(self, place: DatabaseUrl) -> None:
        try:
            import pgvector.psycopg
            import psycopg
        except ImportError as error:
            raise MissingLibrary(
                f"postgresql:// needs psycopg and pgvector ({error}): {install_command('postgres')}"
            ) from error
        self.place = place
        self._psycopg = psycopg
        self._pgvector = pgvector.psycopg
        self._table = psycopg.sql.Identifier(place.table)
        self._connection: Any = None
        self._bounds = 0, 0  # of the connection: search effort, seconds
        with self._explained("cannot be reached"):
            patiently(lambda seconds: self._connected(), self._is_passing)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def record(self) -> DatabaseRecord | None:
        """Return the record in the table's comment."""
        with self._explained("cannot be read"):
            ((table, text),) = self._rows(
                "SELECT to_regclass(%s)::oid, obj_description(to_regclass(%s)::oid, 'pg_class')",
                [name := f'"{self.place.table}"', name],
            )
        return None if table is None else DatabaseRecord.from_json(text, self.place)

    def create(self, record: DatabaseRecord) -> None:
        """Create an empty table; it replaces an existing one."""
        sql = self._psycopg.sql
        columns = [sql.SQL("id bigint PRIMARY KEY, mark bigint NOT NULL, root integer NOT NULL")]
        columns += [sql.SQL("key bytea NOT NULL, vector halfvec({}) NOT NULL").format(record.dim)]
        columns += [
            sql.SQL("{} " + _TYPES[field.kind]).format(sql.Identifier(field.name))
            for field in record.fields
        ]
        with self._explained(f"does not take the table {self.place.table}"):
            connection = self._connected()
            with connection.transaction():
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self._table))
                connection.execute(
                    sql.SQL("CREATE TABLE {} ({})").format(self._table, sql.SQL(", ").join(columns))
                )
                self._write(record)

    def marks(self, rows: Rows | None, record: DatabaseRecord) -> tuple[Rows, Rows]:
        """Return (rows, marks) of the given rows that exist; without rows, of all."""
        sql = self._psycopg.sql
        query = sql.SQL("SELECT id, mark FROM {}").format(self._table)
        values = []
        if rows is not None:
            query, values = query + sql.SQL(" WHERE id = ANY(%s)"), [rows.tolist()]
        with self._explained("cannot be read"):
            found = np.array(self._rows(query, values), np.int64).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    def upsert(self, batch: RowBatch, record: DatabaseRecord) -> None:
        """Write rows in one transaction: delete rows of the same numbers, then a binary COPY."""
        from pgvector import HalfVector

        sql = self._psycopg.sql
        names = ["id", "mark", "root", "key", "vector", *(field.name for field in record.fields)]
        columns = [
            batch.rows.tolist(),
            batch.marks.tolist(),
            batch.roots,
            batch.keys,
            map(HalfVector, batch.vectors),
            *(
                map(_moment, values) if field.kind is FieldKind.TIME else values
                for field, values in zip(record.fields, batch.values, strict=True)
            ),
        ]
        types = ["int8", "int8", "int4", "bytea", "halfvec"]
        types += [_BINARY[field.kind] for field in record.fields]
        copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
            self._table, sql.SQL(", ").join(map(sql.Identifier, names))
        )
        with self._explained("does not take rows"):
            connection = self._connected()
            with connection.transaction(), connection.cursor() as cursor:
                self._delete(batch.rows)
                with cursor.copy(copy) as writer:
                    writer.set_types(types)
                    for row in zip(*columns, strict=True):
                        writer.write_row(row)

    def delete(self, rows: Rows) -> None:
        """Remove rows."""
        with self._explained("does not delete rows"):
            self._delete(rows)

    def finish(self, record: DatabaseRecord) -> None:
        """Build the index if it does not exist, then write the record."""
        sql = self._psycopg.sql
        index = sql.SQL(
            "CREATE INDEX IF NOT EXISTS {} ON {} USING hnsw (vector halfvec_cosine_ops) "
            "WITH (m = {}, ef_construction = {})"
        ).format(sql.Identifier(f"{self.place.table}_vector"), self._table, _M, _CONSTRUCTION)
        with self._explained("does not finish"):
            connection = self._connected()
            connection.execute("SET statement_timeout = 0")  # a large index takes hours
            connection.execute(index)
            connection.execute(sql.SQL("ANALYZE {}").format(self._table))
            self._write(record)

    def search(
        self, queries: npt.NDArray[np.float32], count: int, condition: Condition
    ) -> list[Rows]:
        """Return the rows nearest to each query."""
        sql = self._psycopg.sql
        if condition == Always(False):
            return [np.empty(0, np.int64) for _ in queries]
        values: list[Any] = []
        where = "" if condition == Always(True) else " WHERE " + expression(condition, values)
        columns = [sql.Identifier(name) for name in _names(condition)]
        query = (
            sql.SQL("SELECT id FROM {}").format(self._table)
            + sql.SQL(where).format(*columns)
            + sql.SQL(" ORDER BY vector <=> %s::halfvec LIMIT %s")
        )
        texts = ["[" + ",".join(map(repr, vector.tolist())) + "]" for vector in queries]

        def ask(seconds: float) -> list[Rows]:
            self._set(count, seconds)
            found = [self._rows(query, [*values, text, count]) for text in texts]
            return [np.array(rows, np.int64).reshape(-1) for rows in found]

        with self._explained("does not answer"):
            return patiently(ask, self._is_passing)

    def _set(self, count: int, seconds: float) -> None:
        """Set the search effort and the time limit of a search."""
        connection = self._connected()
        bounds = min(max(_MIN_EF, 2 * count), _MAX_EF), max(1, round(seconds))
        if bounds != self._bounds:
            connection.execute(f"SET hnsw.ef_search = {bounds[0]}")
            connection.execute(f"SET statement_timeout = '{bounds[1]}s'")
            self._bounds = bounds

    def _rows(self, query: Any, values: list[Any]) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._connected().execute(query, values).fetchall()
        return found

    def _connected(self) -> Any:
        """Return the connection; reconnect if the server closed it."""
        if self._connection is not None and not self._connection.closed:
            return self._connection
        connection = self._psycopg.connect(
            self.place.url,
            connect_timeout=_CONNECT_S,
            tcp_user_timeout=round(1000 * SEND_S),  # do not wait for a server that vanished
            autocommit=True,
        )
        try:
            connection.execute(f"SET statement_timeout = '{round(WORK_S)}s'")
            with suppress(self._psycopg.errors.InsufficientPrivilege):  # it may be there already
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            for setting in _SETTINGS:
                connection.execute(setting)
            self._pgvector.register_vector(connection)
            ((encoding,),) = connection.execute("SHOW server_encoding").fetchall()
            if encoding != "UTF8":
                raise StorageError(f"{self.place} is encoded in {encoding}: it must be UTF8")
        except BaseException:
            connection.close()
            raise
        self._connection, self._bounds = connection, (0, 0)
        return connection

    def _delete(self, rows: Rows) -> None:
        query = self._psycopg.sql.SQL("DELETE FROM {} WHERE id = ANY(%s)").format(self._table)
        self._connected().execute(query, [rows.tolist()])

    def _write(self, record: DatabaseRecord) -> None:
        sql = self._psycopg.sql
        comment = sql.SQL("COMMENT ON TABLE {} IS {}").format(self._table, record.to_json())
        self._connected().execute(comment)

    def _is_passing(self, error: Exception) -> bool:
        """Return whether a retry may succeed: after a lost connection, or while a server starts."""
        errors = self._psycopg.errors
        lasting = (
            errors.InvalidPassword,
            errors.InvalidAuthorizationSpecification,
            errors.InvalidCatalogName,
            errors.QueryCanceled,
        )
        is_lost = isinstance(error, self._psycopg.OperationalError)
        return is_lost and not isinstance(error, lasting) and "password" not in str(error)

    @contextmanager
    def _explained(self, trouble: str) -> Iterator[None]:
        """Turn errors of psycopg into one-line messages."""
        try:
            yield
        except self._psycopg.errors.UndefinedTable as error:
            raise vanished(self.place) from error
        except self._psycopg.Error as error:
            raise StorageError(f"{self.place} {trouble}: {self.place.said(error)}") from error


def _moment(microseconds: Any) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)


def expression(condition: Condition, values: list[Any]) -> str:
    """Return a condition as SQL, with {} for each name (see `_names`) and %s for each value."""

    def held(value: Value, kind: FieldKind) -> str:
        values.append(_moment(value) if kind is FieldKind.TIME else value)
        return "%s::timestamp" if kind is FieldKind.TIME else f"%s::{_BINARY[kind]}"

    match condition:
        case Test(field, operator, value):
            return "{} " + f"{operator} {held(value, field.kind)}"
        case OneOf(field, several, is_in):
            listed = ", ".join(held(value, field.kind) for value in several)
            return "{} " + f"{'IN' if is_in else 'NOT IN'} ({listed})"
        case Pair(_, operator, _):
            return "{} " + operator + " {}"
        case Null(_, is_null):
            return "{} IS " + ("NULL" if is_null else "NOT NULL")
        case Like(_, pattern, is_like):
            values.append("".join(_LIKE.get(part, part) for part in pattern))
            return "{} " + ("LIKE" if is_like else "NOT LIKE") + " %s::text"
        case All(parts):
            return "(" + " AND ".join(expression(part, values) for part in parts) + ")"
        case AnyOf(parts):
            return "(" + " OR ".join(expression(part, values) for part in parts) + ")"
    raise AssertionError(f"{condition} is simplified away")


# PostgreSQL escapes with a backslash.
_LIKE = {Like.ANY: "%", Like.ONE: "_", "%": "\\%", "_": "\\_", "\\": "\\\\"}


def _names(condition: Condition) -> Iterator[str]:
    """Yield the names of an expression in their order."""
    match condition:
        case All(parts) | AnyOf(parts):
            for part in parts:
                yield from _names(part)
        case Pair(left, _, right):
            yield from (left.name, right.name)
        case Test(field) | OneOf(field) | Null(field) | Like(field):
            yield field.name
