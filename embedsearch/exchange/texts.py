"""Texts with vectors made elsewhere, in a separate store; in: texts and vectors, out: a commit.

They are rows like those of `import`; the text and its fields are user columns.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedsearch.core.config import SearchBudget
from embedsearch.core.errors import IncompatibleStore, UsageError
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.records import NO_DIGEST, EmbeddingBatch, ImageFacts, ImageRef, Root
from embedsearch.core.session import Session
from embedsearch.indexing.store_update import StoreUpdate
from embedsearch.store.files import FORMAT_NAME
from embedsearch.store.locate import locate_store
from embedsearch.store.manifest import Manifest
from embedsearch.store.snapshot import Snapshot
from embedsearch.store.writer import StoreWriter

TEXT, FIELDS = "text", "fields"  # the columns
WAIT_S = 30.0  # for another writer
_TYPES: dict[str, pa.DataType] = {"row": pa.int64(), TEXT: pa.string(), FIELDS: pa.string()}
_COLUMNS = pa.schema(_TYPES)


@dataclass(frozen=True)
class StoredText:
    """A text with its id; `fields` are additional JSON-ready values."""

    id: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, key: str, metadata: Mapping[str, Any]) -> StoredText:
        """Return the text of a row from its key and user columns."""
        return cls(unquote(key), metadata[TEXT] or "", json.loads(metadata[FIELDS] or "{}"))

    @staticmethod
    def key(identity: str) -> str:
        """Return the key of the row of the text with this id."""
        return quote(identity, safe="")


def put_texts(
    store: str | os.PathLike[str],
    texts: Sequence[StoredText],
    vectors: npt.NDArray[Any],
    *,
    model: str,
) -> None:
    """Add texts and their vectors, (n, D), to a store, all or none; known ids are replaced.

    `model` is the name of the model of the vectors, which are scaled to length 1. Raises UsageError
    for vectors that cannot be scaled, and IncompatibleStore for a store of images or another model.
    """
    rows = np.asarray(vectors, np.float64)
    if rows.ndim != 2 or len(rows) != len(texts) or not rows.size:
        raise UsageError(f"{len(texts)} texts come with vectors of the shape {rows.shape}")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise UsageError("a vector is zero, NaN or infinite")
    fields = [_json(text) for text in texts]
    last = {text.id: index for index, text in enumerate(texts)}
    units = (rows / lengths).astype(np.float32)[[*last.values()]]

    def put(update: StoreUpdate) -> pa.Table:
        refs = [ImageRef(0, StoredText.key(identity), -1, -1) for identity in last]
        facts = [ImageFacts(0, 0, "", NO_DIGEST)] * len(refs)
        first = update.add(EmbeddingBatch(refs, facts, units))
        rows = pa.array(range(first, first + len(last)))
        columns = [[texts[index].text for index in last.values()]]
        columns.append([fields[index] for index in last.values()])
        return pa.table([rows, *columns], schema=_COLUMNS)

    spec = ModelSpec.foreign(model, rows.shape[1], ModelSpec.TEXTS)
    _change(locate_store(store, create=True), spec, [*last], put)


def delete_texts(store: str | os.PathLike[str], ids: Sequence[str] | None = None) -> None:
    """Delete texts by id, or all without `ids`; unknown ids and a missing store are accepted."""
    _change(locate_store(store, create=True), None, ids, lambda update: _COLUMNS.empty_table())


def _change(
    store: Path,
    spec: ModelSpec | None,
    ids: Sequence[str] | None,
    put: Callable[[StoreUpdate], pa.Table],
) -> None:
    """Commit the deletion of the rows of `ids` (all without `ids`) and the rows that `put` adds."""
    if spec is None and not (store / FORMAT_NAME).is_file():
        return
    with StoreWriter(store, WAIT_S) as writer:
        before = writer.manifest
        known: dict[str, int] = {}
        texts = _COLUMNS.empty_table()
        if before is not None:
            with Snapshot(store, before) as snapshot:
                user = snapshot.metadata()
                if not holds_texts(store, before, () if user is None else user.column_names[1:]):
                    raise IncompatibleStore(
                        f"{store} holds images, embedded by {before.model.name}: texts have a "
                        "store of their own, give another folder"
                    )
                _check(store, before.model, spec)
                known = {os.fsdecode(key): row for row, _, key in snapshot.live_keys()}
                texts = texts if user is None else user.select(_COLUMNS.names)
        if (model := spec if before is None else before.model) is None:
            return
        update = StoreUpdate(writer, model, (Root(0, str(store)),), rebuild=False)
        keys = known if ids is None else {StoredText.key(identity) for identity in ids}
        gone = [known[key] for key in keys if key in known]
        new = put(update)
        if not gone and not len(new):
            return
        update.delete(gone)
        kept = np.isin(texts.column("row").to_numpy(), gone, invert=True)
        update.set_user_columns(pa.concat_tables([texts.filter(pa.array(kept)), new]))
        counts = {"texts": len(new)}
        update.commit(counts)
        update.finish(SearchBudget(), counts, Session())


def holds_texts(store: Path, manifest: Manifest, columns: Iterable[str]) -> bool:
    """Return whether the rows of a store, with these columns of users, are texts, not images."""
    if (is_marked := manifest.model.source == ModelSpec.TEXTS) or not manifest.model.is_foreign:
        return is_marked
    # Older versions wrote no such source, but their own folder as the root, and these columns.
    roots = [root.path.rpartition("/")[2] for root in manifest.roots]
    return roots == [store.name] and {*columns} in ({TEXT, FIELDS}, set())


def _json(text: StoredText) -> str:
    """Return the fields of a text as JSON. Raises UsageError if JSON or Unicode cannot hold it."""
    try:
        f"{text.id}{text.text}".encode()
        return json.dumps(dict(text.fields), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the text {text.id!r} cannot be stored as JSON: {error}") from error


def _check(store: Path, stored: ModelSpec, requested: ModelSpec | None) -> None:
    if requested is not None and stored.fingerprint != requested.fingerprint:
        raise IncompatibleStore(
            f"{store} holds vectors of {stored.name} with {stored.dim} components, "
            f"not of {requested.name} with {requested.dim}"
        )
