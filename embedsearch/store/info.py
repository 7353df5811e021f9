"""What a store holds, its generations and its failures; in: a folder, out: records.

`info` loads no FAISS, and pyarrow only if the store has user columns.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from embedsearch.core.arguments import checked
from embedsearch.core.errors import DamagedStore, UsageError
from embedsearch.core.names import unicode_text
from embedsearch.core.paths import whole_path
from embedsearch.core.records import Failure, JsonRecord, Root, RootKind
from embedsearch.core.session import Session
from embedsearch.core.system import is_cached_store
from embedsearch.store.current import check_format, read_current, read_generation
from embedsearch.store.files import is_here, pulled_from
from embedsearch.store.locate import StorePath, readable_store
from embedsearch.store.manifest import AnnRecord, Manifest


@dataclass(frozen=True)
class StoreInfo:
    """The facts that `embedsearch info` shows."""

    store: str
    manifest: Manifest
    shard_bytes: int
    faiss_bytes: int
    columns: dict[str, str]  # of the user: name to type
    units: dict[str, int] | None = None  # of the open plan: all, done, images

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-ready values."""
        manifest = self.manifest
        return {
            "store": self.store,
            "images": manifest.live,
            "pending": manifest.pending,
            "failures": manifest.failure_rows,
            "roots": [unicode_text(root.path) for root in manifest.roots],
            "missing_roots": [unicode_text(root.path) for root in manifest.roots if _is_gone(root)],
            "excludes": asdict(manifest.excludes),
            "follow_links": manifest.follow_links,
            "model": manifest.model.to_dict() | {"fingerprint": manifest.model.fingerprint},
            "dim": manifest.model.dim,
            "center": {
                "kind": manifest.center_kind,
                "images": 0 if manifest.center is None else manifest.center.images,
            },
            "generation": manifest.generation,
            "created": manifest.created,
            "tool": manifest.tool,
            "search": "exact" if manifest.ann is None else manifest.ann.factory,
            "search_budget": asdict(manifest.search.budget),
            "search_measured": _measured(manifest),
            "shards": len(manifest.shards),
            "shard_bytes": self.shard_bytes,
            "faiss_files": len(manifest.faiss),
            "faiss_bytes": self.faiss_bytes,
            "words_bytes": 0 if manifest.words is None else manifest.words.bytes,
            "words_columns": [] if manifest.words is None else list(manifest.words.columns),
            "columns": self.columns,
            "deleted_rows": manifest.deleted_rows,
            "open_plan": self.units,
        }


@checked
def info(store: StorePath = None, *, session: Session | None = None) -> StoreInfo:
    """Return what a store holds: its manifest, and the names of the user's columns.

    Raises EmbedSearchError.
    """
    with readable_store(store, session) as path:
        check_format(path)
        manifest, columns = read_generation(path, lambda found: (found, _columns(path, found)))
        return StoreInfo(
            store=_origin(path),
            manifest=manifest,
            shard_bytes=sum(record.bytes for record in manifest.shards),
            faiss_bytes=sum(record.bytes for record in manifest.faiss),
            columns=columns,
            units=_open_units(path),
        )


def _is_gone(root: Root) -> bool:
    """Return whether a root of this machine is not there now."""
    return not (root.is_remote or root.kind is RootKind.LIST or os.path.lexists(root.path))


def _open_units(store: Path) -> dict[str, int] | None:
    from embedsearch.store.units import missing_units, read_plan

    if (plan := read_plan(store)) is None:
        return None
    done = len(plan.units) - len(missing_units(store, plan, plan.units))
    return {"units": len(plan.units), "done": done, "images": plan.images}


def _origin(store: Path) -> str:
    """Return the path of a store, or the URL of a store in the cache."""
    pulled = pulled_from(store) if is_cached_store(store) else None
    return str(store) if pulled is None else pulled[0]


def _columns(store: Path, manifest: Manifest) -> dict[str, str]:
    if manifest.metadata is None:
        return {}
    from embedsearch.store.snapshot import read_metadata

    schema = read_metadata(store, manifest.metadata).schema
    return {field.name: str(field.type) for field in schema if field.name != "row"}


def _measured(manifest: Manifest) -> dict[str, Any]:
    """Return the measurements from when the kind of search was chosen."""
    search = manifest.search
    return {
        "rows": search.measured_rows,
        "exact_latency_ms": round(1000 * search.exact_latency_s, 3),
        "curve": [
            {"setting": setting, "recall_at_10": recall, "latency_ms": round(1000 * seconds, 3)}
            for setting, recall, seconds in search.curve
        ],
        "reached": search.is_reached,
        "unlike": _unlike(manifest.ann),
    }


def _unlike(ann: AnnRecord | None) -> dict[str, Any] | None:
    """Return what was measured of queries unlike the rows, None if nothing was."""
    if ann is None or ann.unlike_recall is None:
        return None
    return {
        "recall_at_10": ann.unlike_recall,
        "latency_ms": round(1000 * ann.unlike_latency_s, 3),
        "setting": ann.wide_setting or None,  # none: exact search
    }


@dataclass(frozen=True)
class GenerationInfo(JsonRecord):
    """A generation that `repair` can go back to."""

    generation: int
    created: str
    images: int
    bytes: int
    is_current: bool
    is_here: bool  # whether all its files are here with the right length


@checked
def generations(store: StorePath = None, *, session: Session | None = None) -> list[GenerationInfo]:
    """Return the generations that are on the disk, the newest first. Raises EmbedSearchError."""
    from embedsearch.store.writer import generations as on_disk

    with readable_store(store, session) as path:
        check_format(path)
        current = read_current(path)
        return [
            GenerationInfo(
                generation=manifest.generation,
                created=manifest.created,
                images=manifest.live,
                bytes=sum(record.bytes for record in manifest.files()),
                is_current=manifest.generation == current.generation,
                is_here=all(is_here(path, record) for record in manifest.files()),
            )
            for manifest in on_disk(path, current)
        ]


def roll_back(
    store: Path, generation: int, wait_s: float = 0.0, session: Session | None = None
) -> list[str]:
    """Commit a former generation as the newest one; return what was done, as text.

    The undone generation stays on the disk, so the rollback can be undone too. Raises UsageError
    if there is no such generation, and DamagedStore if its rows are damaged.
    """
    from embedsearch.store.check import problems_of
    from embedsearch.store.writer import StoreWriter, generations as on_disk

    check_format(store)
    with StoreWriter(store, wait_s, session) as writer:
        found = {manifest.generation: manifest for manifest in on_disk(store, writer.manifest)}
        if (current := writer.manifest) is None or generation not in found:
            known = ", ".join(map(str, found)) or "none"
            raise UsageError(f"{store} has no generation {generation}; on the disk: {known}")
        if generation == current.generation:
            return []
        former = found[generation]
        for problem in problems_of(store, former, Session(), read_data=True):
            if not problem.file.startswith("ann/"):
                raise DamagedStore(
                    f"{store} cannot go back to generation {generation}: its {problem.file} is "
                    "missing or damaged"
                )
        # The numbers of undone rows are not used again.
        writer.commit(replace(former, next_row=max(former.next_row, current.next_row)))
        return [
            f"generation {writer.next_generation - 1} holds the {former.live} images of generation "
            f"{generation}; the next index syncs the store with its folders again"
        ]


class StoreFailure(NamedTuple):
    """A file that could not be indexed, and the path of its root."""

    root_path: str
    failure: Failure

    @property
    def path(self) -> str:
        """Return the path inside the folder or archive; "" is the folder or archive itself."""
        return unicode_text(self.failure.key)

    @property
    def full_path(self) -> str:
        """Return the whole path or URL."""
        key = self.failure.key
        return whole_path(self.root_path, key) if key else self.root_path


@checked
def failures(store: StorePath = None, *, session: Session | None = None) -> list[StoreFailure]:
    """Return the files that could not be indexed. Raises EmbedSearchError."""
    from embedsearch.store.snapshot import read_failures

    with readable_store(store, session) as path:
        check_format(path)

        def read(manifest: Manifest) -> list[StoreFailure]:
            roots = {root.id: root.path for root in manifest.roots}
            listed = read_failures(path, manifest)
            return [StoreFailure(roots[failure.root], failure) for failure in listed]

        return read_generation(path, read)
