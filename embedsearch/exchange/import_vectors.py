"""Vectors made elsewhere into a store; in: Parquet, or .npy and paths, out: a commit.

Rows are identified by their paths, as in `index`: a path that is already in the store gets the new
vector.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedsearch.core.arguments import checked
from embedsearch.core.config import SearchBudget, check_center
from embedsearch.core.errors import (
    IncompatibleStore,
    NothingIndexed,
    OverBound,
    StorageError,
    UsageError,
)
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.names import EXACT, from_exact_bytes
from embedsearch.core.paths import is_url, local_path, size_and_time, whole_path
from embedsearch.core.records import (
    NO_DIGEST,
    EmbeddingBatch,
    Failure,
    ImageFacts,
    ImageRef,
    JsonRecord,
    Reason,
    Root,
    Stage,
)
from embedsearch.core.session import Session
from embedsearch.exchange.homes import Homes
from embedsearch.images.sources.vectors import open_vectors
from embedsearch.images.tables.column_names import NAME, NEEDED, folded, naming_column
from embedsearch.images.tables.csv_table import open_csv
from embedsearch.images.tables.held_values import held_table
from embedsearch.images.tables.parquet_bounds import open_parquet
from embedsearch.images.tables.table import (
    LEFT_OUT,
    UserTable,
    holds_bytes,
    image_names,
    own_names,
    read_table,
)
from embedsearch.images.tables.text_file import MAX_ROW_BYTES, open_text
from embedsearch.indexing.store_update import StoreUpdate
from embedsearch.indexing.user_columns import join
from embedsearch.network.catalog import AUTO, CATALOG
from embedsearch.network.weights import is_file_name, resolve
from embedsearch.searching.columns import BUILT_IN
from embedsearch.store.locate import locate_store
from embedsearch.store.snapshot import read_failures
from embedsearch.store.writer import StoreWriter

VECTOR_COLUMNS = ("vector", "embedding")
_TABLES = (".csv", ".tsv")  # of paths; any other file is a list
_ROWS = 8192  # at once


@dataclass(frozen=True)
class ImportReport(JsonRecord):
    """What `import` did: rows = added + replaced + failed + repeated."""

    store: str
    model: str
    generation: int
    images: int  # of the store after the import
    rows: int
    added: int
    replaced: int
    failed: int  # no finite vector that could be scaled to length 1
    repeated: int  # duplicate paths: the first one counts


@checked
def import_vectors(
    source: str | Path,
    *,
    model: str,
    paths: str | Path | None = None,
    root: str | Path = ".",
    store: str | Path | None = None,
    center: str | None = None,
    session: Session | None = None,
) -> ImportReport:
    """Add vectors to a store, all or nothing.

    `source` is Parquet with the columns `path` and `vector` or `embedding`, or a .npy file of
    (rows, D). A .npy file needs `paths`: a text file of one path per line, or a CSV with the column
    `path`, which may have another usual name, such as `file_name`. Paths are below the folder
    `root`. `model` is the model of the vectors: a catalog entry or a file of weights, whose network
    then embeds query images, or any other name; then the store is queried only by keys and vectors.
    Vectors are scaled to length 1. `center` is as in IndexConfig; a new store of vectors that were
    made elsewhere has "none": scores are the cosines of the vectors as they are. Other columns of
    the Parquet or CSV become user columns, except those named like built-in ones. Raises
    EmbedSearchError.
    """
    check_center(center)
    session = session or Session()
    reader = _reader(Path(local_path(source)), None if paths is None else Path(local_path(paths)))
    spec = _spec(model, reader.dim, session)
    with StoreWriter(locate_store(store, create=True)) as writer:
        home = os.path.realpath(local_path(root))
        return _Import(writer, spec, home, center, session).run(reader)


def _spec(model: str, dim: int, session: Session) -> ModelSpec:
    if not model.strip():
        raise UsageError("model must name the model of the vectors", "model")
    if model not in {AUTO, *CATALOG} and not is_file_name(model):
        return ModelSpec.foreign(model, dim)
    if (spec := resolve(model, session)).dim != dim:
        raise UsageError(f"{model} makes vectors of {spec.dim} components, these have {dim}")
    return spec


class _Import:
    """One import."""

    def __init__(
        self,
        writer: StoreWriter,
        spec: ModelSpec,
        root: str,
        center: str | None,
        session: Session,
    ) -> None:
        self._writer = writer
        self._spec = spec
        self._root = root.rstrip("/") or "/"
        self._center = center
        self._session = session
        self._counts = dict.fromkeys(("rows", "added", "replaced", "failed", "repeated"), 0)
        self._failures: list[Failure] = []
        self._seen: set[tuple[int, str]] = set()
        self._homes = Homes(writer, self._root)

    def run(self, reader: _Reader) -> ImportReport:
        """Read all blocks into the update, then commit."""
        before = self._writer.manifest
        if before is not None and before.model.source == ModelSpec.TEXTS:
            raise IncompatibleStore(
                f"{self._writer.store} holds texts: images have a store of their own"
            )
        if before is not None and before.model.fingerprint != self._spec.fingerprint:
            raise IncompatibleStore(
                f"{self._writer.store} was made with {before.model.name}, not {self._spec.name} "
                f"({'; '.join(self._spec.differences(before.model))})"
            )
        user = self._user_columns(reader)
        update = StoreUpdate(
            self._writer, self._spec, self._homes.roots, rebuild=False, center=self._center
        )
        for paths, vectors in reader.blocks():
            self._session.at(f"importing: {self._counts['rows']:,} rows so far")
            self._take(update, paths, vectors)
        update.set_roots(self._homes.roots)
        if self._failures:
            lost = {(failure.root, failure.key) for failure in self._failures}
            old = [] if before is None else read_failures(self._writer.store, before)
            update.set_failures([*self._failures, *(f for f in old if (f.root, f.key) not in lost)])
        if user is not None:
            with update.staged() as snapshot:
                update.set_user_columns(join(snapshot, user, update.user_columns())[0])
        update.commit(self._counts)
        budget = SearchBudget() if before is None else before.search.budget
        update.finish(budget, self._counts, self._session)
        if not update.images:
            raise NothingIndexed(f"none of {self._counts['rows']} rows holds a vector")
        manifest = self._writer.manifest
        assert manifest is not None, "it was committed"
        return ImportReport(
            store=str(self._writer.store),
            model=self._spec.name,
            generation=manifest.generation,
            images=manifest.live,
            **self._counts,
        )

    def _user_columns(self, reader: _Reader) -> UserTable | None:
        """Return the other columns of the file, except those named like built-in ones."""
        source = reader.source if reader.paths is None else reader.paths
        if source.suffix.lower() not in {".parquet", *_TABLES}:
            return None
        table, by = read_table(source, str(source))
        built_in = BUILT_IN | LEFT_OUT | {EXACT, by}
        names = [name for name in table.column_names if name.lower() not in built_in and name != by]
        if not names or by is None:
            return None
        first: dict[str, int] = {}
        for index, path in enumerate(_names(table, by)):
            if path is not None:  # reported when the vectors are read
                home, key = self._homes.of(self._key(path))
                first.setdefault(whole_path(home.path, key), index)
        columns = held_table(table.select(own_names(names, frozenset(), str(source))), str(source))
        columns = columns.take(pa.array(list(first.values()), pa.int64()))
        return UserTable(str(source), "path", list(first), columns)

    def _take(
        self,
        update: StoreUpdate,
        paths: list[str],
        vectors: npt.NDArray[np.float32],
    ) -> None:
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        good, refs, facts, old = [], [], [], []
        for index, path in enumerate(paths):
            self._counts["rows"] += 1
            home, key = self._homes.of(self._key(path))
            if (home.id, key) in self._seen:
                self._counts["repeated"] += 1
                continue
            self._seen.add((home.id, key))
            if not (np.isfinite(lengths[index]) and lengths[index] > 0):
                self._counts["failed"] += 1
                detail = "the vector is zero" if lengths[index] == 0 else "NaN or infinity"
                self._failures.append(Failure(home.id, key, Stage.EMBED, Reason.NOT_FINITE, detail))
                continue
            old.append(self._homes.row(home, key))
            self._counts["added" if old[-1] is None else "replaced"] += 1
            good.append(index)
            refs.append(self._ref(home, key))
            facts.append(ImageFacts(0, 0, "", NO_DIGEST))
        if good:
            units = vectors[good] / lengths[good, None]
            first = update.add(EmbeddingBatch(refs, facts, units.astype(np.float32)))
            for row, before in enumerate(old, start=first):
                if before is not None:
                    update.replace(before, row)

    def _key(self, path: str) -> str:
        """Return the path inside the root, or a URL as it is. Raises UsageError for one outside."""
        if is_url(path) and "\0" not in path:
            return path
        whole = os.path.normpath(os.path.join(self._root, path))
        inside = self._root if self._root == "/" else self._root + "/"
        if "\0" in path or not path or not whole.startswith(inside):
            raise UsageError(f"{path!r} is not below {self._root}: name its folder as root", "root")
        return whole.removeprefix(inside)

    def _ref(self, home: Root, key: str) -> ImageRef:
        """Return the ref, with size and time of an existing file: `index` then keeps it."""
        try:
            facts = os.stat(os.path.join(home.path, key), follow_symlinks=False)
        except OSError:
            return ImageRef(home.id, key, -1, -1)
        return ImageRef(home.id, key, *size_and_time(facts))


@dataclass(frozen=True)
class _Reader:
    """The rows of a file, read in blocks."""

    source: Path
    paths: Path | None
    column: str  # of the vectors in Parquet; "" for .npy
    by: str  # the column of the paths in Parquet; "" for .npy
    dim: int

    def blocks(self) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
        """Yield paths and float32 (n, D). Raises UsageError and StorageError."""
        try:
            yield from self._parquet_blocks() if self.column else self._numpy_blocks()
        except OSError as error:
            raise StorageError(f"{self.source} cannot be read to its end: {error}") from error

    def _parquet_blocks(self) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
        parquet = open_parquet(self.source)
        with parquet.file as file:
            wanted = [
                name for name in (self.by, EXACT, self.column) if name in file.schema_arrow.names
            ]
            rows = parquet.rows_at_once(wanted, _ROWS)
            for batch in file.iter_batches(rows, columns=wanted):
                paths = [path for path in _names(batch, self.by) if path is not None]
                if len(paths) < len(batch):
                    raise UsageError(f"{self.source}: a row has no path")
                yield paths, self._matrix(batch.column(self.column))

    def _matrix(self, column: Any) -> npt.NDArray[np.float32]:
        if (lengths := {len(value) if value is not None else 0 for value in column}) - {self.dim}:
            raise UsageError(
                f"{self.source}: vectors of {sorted(lengths)} components among those of {self.dim}"
            )
        flat = column.flatten().to_numpy(zero_copy_only=False)
        matrix: npt.NDArray[np.float32] = flat.astype(np.float32).reshape(-1, self.dim)
        return matrix

    def _numpy_blocks(self) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
        assert self.paths is not None, "a .npy file comes with paths"
        vectors = open_vectors(self.source)
        rows = len(vectors)
        names = _listed(self.paths)
        for start in range(0, rows, _ROWS):
            block = np.asarray(vectors[start : start + _ROWS], dtype=np.float32)
            if len(paths := [name for _, name in zip(block, names, strict=False)]) < len(block):
                raise UsageError(f"{self.paths} names fewer than the {rows} rows")
            yield paths, block
        if next(names, None) is not None:
            raise UsageError(f"{self.paths} names more than the {rows} rows")


def _reader(source: Path, paths: Path | None) -> _Reader:
    """Return a reader for a file's format. Raises UsageError."""
    if not source.is_file():
        raise UsageError(f"{source}: there is no such file")
    if source.suffix == ".npy":
        if paths is None or not paths.is_file():
            raise UsageError(f"{source} needs paths=FILE with the path of each row", "paths")
        return _Reader(source, paths, "", "", open_vectors(source).dim)
    if paths is not None:
        raise UsageError("paths needs a .npy file", "paths")
    try:
        with open_parquet(source).file as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            column = next((name for name in VECTOR_COLUMNS if name in schema.names), "")
            by = _path_column(schema.names)
            if not column or by is None or not rows:
                raise UsageError(
                    f"{source} has {rows} rows of {', '.join(schema.names)}; path and vector are "
                    "needed"
                )
            if not _is_list_of_floats(kind := schema.field(column).type):
                raise UsageError(f"{source}: {column} is {kind}, not a list of floats")
            first = next(file.iter_batches(1, columns=[column])).column(column)
            return _Reader(source, None, column, by, len(first[0]) if first[0].is_valid else 0)
    except (pa.ArrowException, OSError, ValueError, OverBound) as error:
        raise UsageError(f"{source} cannot be read as Parquet: {error}") from error


def _is_list_of_floats(kind: Any) -> bool:
    listed: list[Any] = [pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list]
    return any(is_kind(kind) for is_kind in listed) and bool(pa.types.is_floating(kind.value_type))


def _path_column(names: Iterable[str]) -> str | None:
    """Return the column of paths: names without folders are not enough to tell images apart."""
    return naming_column(name for name in names if folded(name) != NAME)


def _listed(paths: Path) -> Iterator[str]:
    """Yield the paths of a text file, one per line, or of the column `path` of a CSV."""
    try:
        if paths.suffix.lower() not in _TABLES:
            with open_text(paths) as file:
                for line in iter(lambda: file.readline(MAX_ROW_BYTES), ""):
                    yield line.rstrip("\r\n")
            return
        with open_csv(paths, lambda header: _path_column(header) is not None) as table:
            if (by := _path_column(table.columns)) is None:
                raise UsageError(f"{paths} needs {NEEDED}; it has {', '.join(table.columns)}")
            at = table.columns.index(by)
            exact = table.columns.index(EXACT) if EXACT in table.columns else at
            for _, cells in table.rows:
                is_exact = exact != at and cells[exact]
                yield from_exact_bytes(cells[exact]) if is_exact else cells[at]
    except ValueError as error:
        raise UsageError(f"{paths} cannot be read: {error}", "paths") from error


def _names(table: pa.Table | pa.RecordBatch, by: str) -> list[str | None]:
    """Return the paths of rows: the exact ones, where an export wrote them down."""
    column = table.column(by)
    texts = column.to_pylist() if holds_bytes(column.type) else image_names(column, by)
    exact: list[Any] = [None] * len(texts)
    if EXACT in table.schema.names:
        exact = table.column(EXACT).to_pylist()
    return [
        from_exact_bytes(name) if name else None if text is None else os.fsdecode(text)
        for text, name in zip(texts, exact, strict=True)
    ]
