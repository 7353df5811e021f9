"""What a store holds, read in ways of the tests' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import embedsearch
from embedsearch import Key
from embedsearch.store.shards import row_schema
from embedsearch.store.snapshot import open_snapshot


def contents(store: Path) -> dict[str, bytes]:
    """Return the bytes of each file of a store."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name != "writer.lock"
    }


def rows_of(store: Path) -> dict[bytes, bytes]:
    """Read the live rows with nothing but pyarrow and the manifest: key to vector bytes."""
    pointer = json.loads((store / "CURRENT").read_text())
    manifest = json.loads((store / "manifests" / pointer["manifest"]).read_text())
    dead: set[int] = set()
    if manifest["deleted"]:
        table = pq.read_table(store / "shards" / manifest["deleted"]["name"])
        dead = set(table["row"].to_numpy().tolist())
    found = {}
    for shard in manifest["shards"]:
        for row in pq.read_table(store / "shards" / shard["name"]).to_pylist():
            if row["row"] not in dead:
                found[row["key"]] = np.array(row["vector"], np.float16).tobytes()
    assert len(found) == manifest["live"]
    return found


def live_rows(store: Path) -> list[dict[str, Any]]:
    """Read the live rows, all their columns, as the store itself gives them."""
    with open_snapshot(store) as snapshot:
        alive = snapshot.live_mask()
        rows = [
            row for _, table in snapshot.tables(row_schema(512).names) for row in table.to_pylist()
        ]
    return [row for row, is_alive in zip(rows, alive, strict=True) if is_alive]


def said(store: Path, key: str) -> dict[str, Any]:
    """Return the metadata of an image, as a hit brings it."""
    with embedsearch.open_store(store) as searcher:
        (hit,) = searcher.query(Key(key), 1)
        assert hit.key == key
        return dict(hit.metadata)
