"""The manifest of a generation: what the store holds, in one immutable JSON file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from embedsearch.core.config import NO_CENTER, SearchBudget
from embedsearch.core.errors import IncompatibleStore, UsageError
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.records import Root, RootKind
from embedsearch.core.strict_json import strict_json
from embedsearch.core.unknown_fields import record_of, values_of
from embedsearch.core.walks import Excludes
from embedsearch.store.center import Center, CenterRecord
from embedsearch.store.files import FileRecord

FORMAT_VERSION = 2
READERS = 1  # the oldest format whose readers understand a store without a center
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class ShardRecord(FileRecord):
    """A Parquet file of rows. The footer locates the pages, so it is verified separately."""

    rows: int
    first_row: int
    footer_bytes: int
    footer_sha256: str
    min_norm: float  # of the float16 vectors; bounds the scores of rows that were not fetched


@dataclass(frozen=True)
class Segment:
    """A run of positions in a FAISS file that stands for rows of one shard from `start` on.

    Rows whose shard is no longer in the manifest are gone, or are in another shard now.
    """

    shard: str
    rows: int
    start: int = 0


@dataclass(frozen=True)
class FaissRecord(FileRecord):
    """A FAISS file: its positions are the rows of its segments, one after another."""

    segments: tuple[Segment, ...]

    @property
    def rows(self) -> int:
        """Return the number of vectors in the file."""
        return sum(segment.rows for segment in self.segments)


@dataclass(frozen=True)
class ExactRecord(FaissRecord):
    """A flat fp16 FAISS file: an exact copy of the rows."""


@dataclass(frozen=True)
class AnnRecord(FaissRecord):
    """An ANN index that supplies candidates; their scores come from the rows themselves.

    A query whose best candidate is below `wide_below` by the index's own products is unlike the
    store, and is searched with the wider setting, if it was measured.
    """

    factory: str  # as FAISS's index_factory reads it
    setting: int  # lists to probe, or efSearch of HNSW
    trained_rows: int  # of the store when it was trained
    wide_below: float = 0.0
    wide_setting: int = 0  # 0: such queries are searched exactly
    wide_rescored: int = 0  # candidates for each neighbor wanted
    unlike_recall: float | None = None  # recall@10 of such queries; None if never measured
    unlike_latency_s: float = 0.0


@dataclass(frozen=True)
class WordsRecord(FileRecord):
    """A SQLite file with the words of all live rows: a cache of what its `sources` hold."""

    columns: tuple[str, ...]  # whose words they are
    rules: int  # by which texts became words
    sources: str  # Manifest.word_sources when it was made


@dataclass(frozen=True)
class SearchRecord:
    """How a generation is searched, and the measurements on its rows behind that choice.

    `curve` holds (setting, recall@10, seconds) of the chosen index, from fast to thorough.
    `pair_levels` and `pair_cosines` are the distribution of the cosine of two random rows: the
    fraction of pairs below each cosine.
    """

    budget: SearchBudget
    measured_rows: int = 0  # live rows when the index was chosen; 0 if it never was
    exact_latency_s: float = 0.0  # of one query by exact search; 0 if not measured
    curve: tuple[tuple[int, float, float], ...] = ()
    is_reached: bool = True  # whether the budget is met
    pair_levels: tuple[float, ...] = ()
    pair_cosines: tuple[float, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """Generation `generation` of a store; `live` rows = sum of shard rows - deleted rows."""

    generation: int
    parent: int
    created: str
    tool: str
    model: ModelSpec
    roots: tuple[Root, ...]
    next_row: int
    live: int
    store_id: str = ""  # made with the store, so that copies are told from others; "" in old ones
    shards: tuple[ShardRecord, ...] = ()
    excludes: Excludes = field(default_factory=Excludes)  # what walks leave out
    follow_links: bool = True  # in walks
    deleted: FileRecord | None = None
    deleted_rows: int = 0
    metadata: FileRecord | None = None  # the user's columns, by row number
    failures: FileRecord | None = None
    failure_rows: int = 0
    center: CenterRecord | None = None  # None in old stores: vectors are compared as they are
    exact: tuple[ExactRecord, ...] = ()
    ann: AnnRecord | None = None
    words: WordsRecord | None = None
    search: SearchRecord = field(default_factory=lambda: SearchRecord(SearchBudget()))
    run: Mapping[str, Any] = field(default_factory=dict)  # counts and settings of the last run
    # Fields of a later version, which this one hands on.
    unknown: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pending(self) -> int:
        """Return how many images the last run found and did not embed: it was interrupted."""
        count = self.run.get("pending", 0)
        return count if isinstance(count, int) else 0

    @property
    def faiss(self) -> list[FaissRecord]:
        """Return the FAISS files, which can be rebuilt from the shards."""
        return [*self.exact, *([] if self.ann is None else [self.ann])]

    @property
    def caches(self) -> list[FileRecord]:
        """Return the files that can be rebuilt from the shards and the user's columns."""
        return [*self.faiss, *([] if self.words is None else [self.words])]

    @property
    def word_sources(self) -> str:
        """Return 16 hex digits that tell the texts of this generation from others.

        Deleted rows need no other file of words: they are not found in any.
        """
        names = [shard.name for shard in self.shards]
        names.append("" if self.metadata is None else self.metadata.name)
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]

    def files(self) -> list[FileRecord]:
        """Return every file that this generation needs."""
        optional = (self.deleted, self.failures, self.metadata)
        return [*self.shards, *self.caches, *(record for record in optional if record is not None)]

    def open_center(self) -> Center | None:
        """Return what vectors are measured from, None where they are compared as they are."""
        return Center.of(self.center, self.model.dim)

    @property
    def center_kind(self) -> str:
        """Return what vectors are measured from, as in IndexConfig."""
        return self.center.kind if self.center is not None and self.center.vector else NO_CENTER

    @property
    def center_id(self) -> str:
        """Return 16 hex digits that tell its center from others, "" where there is none."""
        vector = "" if self.center is None else self.center.vector
        return hashlib.sha256(vector.encode()).hexdigest()[:16] if vector else ""

    def to_bytes(self) -> bytes:
        """Return the manifest as JSON."""
        own = {f.name: values_of(getattr(self, f.name)) for f in fields(self)}
        values = {**own.pop("unknown"), **own}
        values["format_version"] = FORMAT_VERSION
        is_plain = self.center_kind == NO_CENTER
        values["min_reader_version"] = READERS if is_plain else FORMAT_VERSION
        return json.dumps(values, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse and cross-check a manifest.

        Raises IncompatibleStore for a newer format, ValueError for anything malformed.
        """
        if not isinstance((values := strict_json(data)), dict):
            raise ValueError("not a JSON object")
        needs = values.pop("min_reader_version", None)
        written = values.pop("format_version", None)
        if not isinstance(needs, int):
            raise ValueError("no min_reader_version")
        if needs > FORMAT_VERSION:
            raise IncompatibleStore(
                f"the store needs format {needs}, this embedsearch reads {FORMAT_VERSION}: "
                "update embedsearch"
            )
        try:
            manifest = cls(**_records(values))
            manifest._check()
        except (ValueError, TypeError, KeyError, AttributeError, UsageError) as error:
            if isinstance(written, int) and written > FORMAT_VERSION:
                raise IncompatibleStore(
                    f"the store was written in format {written}, this embedsearch reads "
                    f"{FORMAT_VERSION} and not all of it ({error}): update embedsearch"
                ) from error
            raise ValueError(f"malformed manifest: {error}") from error
        return manifest

    def _check(self) -> None:
        counts = (self.generation, self.next_row, self.live, self.deleted_rows, self.failure_rows)
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            raise ValueError("a count is not a whole number")
        if sum(shard.rows for shard in self.shards) - self.deleted_rows != self.live:
            raise ValueError("shard rows, deleted rows and live rows do not add up")
        if not all(8 < shard.footer_bytes <= shard.bytes for shard in self.shards):
            raise ValueError("a footer does not fit into its shard")
        if len({root.id for root in self.roots}) != len(self.roots):
            raise ValueError("two roots have one id")
        if not isinstance(self.store_id, str):
            raise ValueError("store_id is no text")
        if not isinstance(self.follow_links, bool):
            raise ValueError("follow_links is neither true nor false")
        if len({shard.name for shard in self.shards}) != len(self.shards):
            raise ValueError("a shard is named twice")
        if self.center is not None:
            self.center.check(self.model.dim)


def _records(values: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON values with objects converted to records."""
    known = {f.name for f in fields(Manifest)} - {"unknown"}
    unknown = {name: value for name, value in values.items() if name not in known}
    values = {name: value for name, value in values.items() if name in known}
    values["unknown"] = unknown
    if "search" in values:  # older stores have none
        search = dict(values["search"])
        search["budget"] = record_of(SearchBudget, search["budget"])
        search["curve"] = tuple((int(s), float(r), float(t)) for s, r, t in search["curve"])
        for name in ("pair_levels", "pair_cosines"):
            search[name] = tuple(map(float, search[name]))
        values["search"] = record_of(SearchRecord, search)
    if "excludes" in values:  # older stores have none
        kept = dict(values["excludes"])
        kept["patterns"] = tuple(map(str, kept["patterns"]))
        values["excludes"] = record_of(Excludes, {**kept, "defaults": bool(kept["defaults"])})
    if values.get("ann") is not None:
        values["ann"] = record_of(AnnRecord, _with_segments(values["ann"]))
    if values.get("words") is not None:
        columns = tuple(map(str, values["words"]["columns"]))
        values["words"] = record_of(WordsRecord, {**values["words"], "columns": columns})
    if values.get("center") is not None:
        values["center"] = record_of(CenterRecord, values["center"])
    for name in ("deleted", "failures", "metadata"):
        if values.get(name) is not None:
            values[name] = record_of(FileRecord, values[name])
    return {
        **values,
        "model": ModelSpec.from_dict(values["model"]),
        "roots": tuple(root_of(root) for root in values["roots"]),
        "shards": tuple(record_of(ShardRecord, shard) for shard in values["shards"]),
        "exact": tuple(record_of(ExactRecord, _with_segments(item)) for item in values["exact"]),
    }


def root_of(item: Mapping[str, Any]) -> Root:
    """Return a root from its JSON form. Raises TypeError and ValueError."""
    # Old stores have only folders, without a kind.
    return record_of(Root, {**item, "kind": RootKind(item.get("kind", RootKind.FOLDER))})


def _with_segments(item: Mapping[str, Any]) -> dict[str, Any]:
    return {**item, "segments": tuple(record_of(Segment, part) for part in item["segments"])}
