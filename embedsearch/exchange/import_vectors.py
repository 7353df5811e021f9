"""Vectors made elsewhere into a store; in: Parquet, or .npy and paths, out: a commit.

Rows are identified by their paths, as in `index`: a path that is already in the store gets the new
vector, and keeps what is known of its picture while the file is as it was.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedsearch.core.arguments import checked
from embedsearch.core.config import SearchBudget, check_center
from embedsearch.core.errors import (
    IncompatibleStore,
    NothingIndexed,
    UsageError,
)
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.paths import is_url, local_path, printable, size_and_time, whole_path
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
from embedsearch.exchange.vector_files import (
    TABLES,
    VectorColumns,
    VectorFile,
    names_of,
    open_vector_file,
)
from embedsearch.images.tables.held_values import held_table
from embedsearch.images.tables.table import (
    LEFT_OUT,
    UserTable,
    own_names,
    read_table,
)
from embedsearch.indexing.known_rows import KeptRow
from embedsearch.indexing.store_update import StoreUpdate
from embedsearch.indexing.user_columns import join
from embedsearch.network.catalog import AUTO, CATALOG
from embedsearch.network.weights import is_file_name, resolve
from embedsearch.searching.columns import BUILT_IN
from embedsearch.store.locate import locate_store
from embedsearch.store.snapshot import Snapshot, read_failures
from embedsearch.store.writer import StoreWriter


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
    path_column: str | None = None,
    vector_column: str | None = None,
    session: Session | None = None,
) -> ImportReport:
    """Add vectors to a store, all or nothing.

    `source` is Parquet with the columns `path` and `vector` or `embedding`, or a .npy file of
    (rows, D). A .npy file needs `paths`: a text file of one path per line, or a CSV with the column
    `path`, which may have another usual name, such as `file_name`. `path_column` and
    `vector_column` name columns that are called otherwise. Paths are below the folder `root`.
    `model` is the model of the vectors: a catalog entry or a file of weights, whose network then
    embeds query images, or any other name; then the store is queried only by keys and vectors.
    Vectors are scaled to length 1. `center` is as in IndexConfig; a new store of vectors that were
    made elsewhere has "none": scores are the cosines of the vectors as they are. Other columns of
    the Parquet or CSV become user columns, except those named like built-in ones. Raises
    EmbedSearchError.
    """
    check_center(center)
    session = session or Session()
    reader = open_vector_file(
        Path(local_path(source)),
        None if paths is None else Path(local_path(paths)),
        VectorColumns(path_column, vector_column),
    )
    spec = _spec(model, reader.dim, session)
    with StoreWriter(locate_store(store, create=True)) as writer:
        home = os.path.realpath(local_path(root))
        if not os.path.isdir(home):
            session.notice(f"there is no folder {printable(home)}: no thumbnails until there is")
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

    def run(self, reader: VectorFile) -> ImportReport:
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
        store = self._writer.store
        with nullcontext() if before is None else Snapshot(store, before) as snapshot:
            for paths, vectors in reader.blocks():
                self._session.at(f"importing: {self._counts['rows']:,} rows so far")
                self._take(update, paths, vectors, snapshot)
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

    def _user_columns(self, reader: VectorFile) -> UserTable | None:
        """Return the other columns of the file, except those named like built-in ones."""
        source = reader.source if reader.paths is None else reader.paths
        if source.suffix.lower() not in {".parquet", *TABLES}:
            return None
        table, _ = read_table(source, str(source), by := reader.by)
        left_out = BUILT_IN | LEFT_OUT
        names = [name for name in table.column_names if name.lower() not in left_out]
        names = [name for name in names if name not in {by, reader.column}]
        if not names:
            return None
        first: dict[str, int] = {}
        for index, path in enumerate(names_of(table, by)):
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
        snapshot: Snapshot | None,
    ) -> None:
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        good, refs, old = [], [], []
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
        units = (vectors[good] / lengths[good, None]).astype(np.float32)
        kept = {} if snapshot is None else _same_files(snapshot, refs, old)
        if snapshot is not None and kept:
            update.move(list(kept.values()), snapshot, units[list(kept)])
        if left := [at for at in range(len(good)) if at not in kept]:
            facts = [ImageFacts(0, 0, "", NO_DIGEST)] * len(left)
            first = update.add(EmbeddingBatch([refs[at] for at in left], facts, units[left]))
            for row, at in enumerate(left, start=first):
                if (before := old[at]) is not None:
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


def _same_files(
    snapshot: Snapshot, refs: list[ImageRef], old: list[int | None]
) -> dict[int, KeptRow]:
    """Return by position the indexed rows whose files are as they were, or cannot be looked at.

    What is known of their pictures stays. `old` are the numbers of the rows that refs have.
    """
    if not (known := {at: row for at, row in enumerate(old) if row is not None}):
        return {}
    ordinals = snapshot.ordinals(list(known.values()))
    found = snapshot.take(ordinals, ["size", "mtime_ns", "digest"]).to_pylist()
    kept = {}
    for (at, row), ordinal, facts in zip(known.items(), ordinals.tolist(), found, strict=True):
        then, now = (facts["size"], facts["mtime_ns"]), (refs[at].size, refs[at].mtime_ns)
        if facts["digest"] != NO_DIGEST and (now == then or now == (-1, -1)):
            kept[at] = KeptRow(ImageRef(refs[at].root, refs[at].key, *then), ordinal, row)
    return kept
