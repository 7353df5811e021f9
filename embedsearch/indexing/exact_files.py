"""The FAISS files of exact search; in: a manifest, out: files that cover all its shards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from embedsearch.searching.ann.build import flat_bytes
from embedsearch.store.manifest import ExactRecord, Manifest, ShardRecord
from embedsearch.store.shards import Shard
from embedsearch.store.writer import StoreWriter, write_exact

# FAISS builds and serializes a file in memory, and briefly holds up to four copies of it; several
# small files bound that.
EXACT_FILE_BYTES = 64 << 20


def refresh_exact(writer: StoreWriter, manifest: Manifest) -> tuple[ExactRecord, ...]:
    """Write FAISS files for the shards that none covers; return the records of all files.

    A file is kept while at least half of its rows belong to shards of the manifest. It is merged
    into the new file if that is not much smaller: the number of files stays logarithmic.
    """
    names = {record.name for record in manifest.shards}
    limit = max(1, EXACT_FILE_BYTES // (2 * manifest.model.dim))

    def live_rows(record: ExactRecord) -> int:
        return sum(part.rows for part in record.segments if part.shard in names)

    kept = [
        record
        for record in sorted(manifest.exact, key=live_rows, reverse=True)
        if 2 * live_rows(record) >= record.rows and (writer.store / record.relative).exists()
    ]
    while True:
        covered = {part.shard for record in kept for part in record.segments}
        uncovered = [record for record in manifest.shards if record.name not in covered]
        rest = sum(record.rows for record in uncovered)
        if not kept or rest == 0 or live_rows(kept[-1]) > min(2 * rest, limit // 2):
            break
        kept.pop()
    written = [_write_exact(writer, manifest, group) for group in _groups(uncovered, limit)]
    return (*kept, *written)


def _groups(records: list[ShardRecord], limit: int) -> Iterable[list[ShardRecord]]:
    """Yield the records in groups of at most `limit` rows, or of one."""
    group: list[ShardRecord] = []
    for record in records:
        if group and sum(r.rows for r in group) + record.rows > limit:
            yield group
            group = []
        group.append(record)
    if group:
        yield group


def _write_exact(
    writer: StoreWriter, manifest: Manifest, records: list[ShardRecord]
) -> ExactRecord:
    dim, center = manifest.model.dim, manifest.open_center()

    def rows() -> Iterable[Any]:
        for record in records:
            shard = Shard(writer.store, record, dim)
            try:
                shard.verify()
                yield from shard.vectors() if center is None else map(center.rows, shard.vectors())
            finally:
                shard.close()

    return write_exact(writer.store, writer.next_generation, records, flat_bytes(dim, rows()))
