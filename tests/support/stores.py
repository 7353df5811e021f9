"""Stores of vectors made elsewhere, and what a store holds, read in ways of the tests' own."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

import embedsearch
from embedsearch import Key
from embedsearch.core.session import Session
from embedsearch.network.weights import resolve
from embedsearch.store.shards import row_schema
from embedsearch.store.snapshot import open_snapshot
from tests.soak.damage import replace_manifest


def imported(folder: Path, vectors: npt.NDArray[Any], names: Iterable[str]) -> Path:
    """Return a store, `s.es` in a folder, of vectors (n, D) that another network made."""
    np.save(folder / "v.npy", vectors)
    (folder / "names.txt").write_text("".join(f"{name}\n" for name in names))
    store = folder / "s.es"
    embedsearch.import_vectors(
        folder / "v.npy", paths=folder / "names.txt", root=folder, model="elsewhere", store=store
    )
    return store


def contents(store: Path) -> dict[str, bytes]:
    """Return the bytes of each file of a store."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name != "writer.lock"
    }


def rows_of(store: Path) -> dict[bytes, bytes]:
    """Read the live rows with nothing but pyarrow and the manifest: key to vector bytes."""
    manifest = _manifest(store)
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


def measured(store: Path, vectors: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return unit vectors (…, D) as they are compared, by what the manifest says."""
    moved = vectors.astype(np.float64) - _center(store)
    units: npt.NDArray[np.float64] = moved / np.linalg.norm(moved, axis=-1, keepdims=True)
    return units


def reranked_by_hand(
    query: npt.NDArray[np.float64], rows: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the rank scores of unit rows, float64 (n, D), for a query, (D,), row by row."""
    scores = []
    for place, row in enumerate(rows):
        others = np.delete(rows, place, axis=0)
        near = others[np.argsort(-(others @ row))[:5]]
        weights = np.clip(near @ row, 0, None)
        drawn = row + (weights @ near / weights.sum() if weights.sum() else 0.0)
        scores.append((row @ query + drawn @ query / np.linalg.norm(drawn)) / 2)
    return np.array(scores)


def with_packaged_weights(store: Path) -> Path:
    """Let a store say that the packaged weights of this version made its vectors."""
    manifest = _manifest(store)
    manifest["model"]["weights_sha256"] = resolve("packaged", Session()).weights_sha256
    replace_manifest(store, json.dumps(manifest).encode())
    return store


def compared_rows(store: Path) -> dict[bytes, npt.NDArray[np.float64]]:
    """Return key to vector of the live rows, measured and rounded as they are compared."""
    rows = {key: np.frombuffer(vector, np.float16) for key, vector in rows_of(store).items()}
    if np.any(_center(store)):
        keys, vectors = [*rows], np.array([*rows.values()])
        rows = dict(zip(keys, measured(store, vectors).astype(np.float16), strict=True))
    return {key: vector.astype(np.float64) for key, vector in rows.items()}


def _center(store: Path) -> npt.NDArray[np.float32]:
    """Return float32 (D,), or a 0 for none."""
    record = _manifest(store).get("center") or {"vector": ""}
    return np.frombuffer(base64.b64decode(record["vector"]) or bytes(4), "<f4")


def _manifest(store: Path) -> dict[str, Any]:
    pointer = json.loads((store / "CURRENT").read_text())
    values: dict[str, Any] = json.loads((store / "manifests" / pointer["manifest"]).read_text())
    return values


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


def values(store: Path, column: str) -> list[Any]:
    """Return a column of all images as `get` and JSON have it, and check that filters read it."""
    with embedsearch.open_store(store) as searcher:
        found = searcher.images(100).images
        for image in found:
            json.dumps(image.to_dict(), allow_nan=False)
        held = [image.metadata.get(column) for image in found]
        if any(value is not None for value in held):
            condition = f'"{column}" IS NOT NULL'
            count = searcher.images(100, where=condition).total
            assert count == sum(value is not None for value in held)
    return held


def unit_vectors(store: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Return what an export has to hold: path to vector of length 1."""
    found = {}
    for key, data in rows_of(store).items():
        vector = np.frombuffer(data, np.float16).astype(np.float32)
        found[key.decode()] = vector / np.linalg.norm(vector)
    return found
