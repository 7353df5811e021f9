"""A store read without embedsearch, and embedsearch held against what that found.

In: a store; out: an `Account` of its rows, by nothing but JSON, hashlib and pyarrow.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

import embedsearch
from embedsearch.store.check import check_store

_FOLDERS = {
    "s": "shards",
    "d": "shards",
    "f": "shards",
    "e": "ann",
    "a": "ann",
    "w": "ann",
    "u": "meta",
}
_QUERIES = 3
_K = 10
_SAME_SCORE = 1e-3


@dataclass(frozen=True)
class Row:
    """What a row must say: the file's digest, and the vector."""

    digest: bytes
    vector: bytes  # float16 (D,)


@dataclass(frozen=True)
class Account:
    """A generation: its rows by (root, key), and the sha256 of each file that it names."""

    generation: int
    rows: dict[tuple[int, bytes], Row]
    failed: frozenset[bytes]
    files: dict[str, str]
    columns: dict[tuple[int, bytes], str]  # the user's, by (root, key), as JSON
    center: bytes = b""  # float32 (D,), nothing where vectors are compared as they are


class Contradiction(Exception):
    """A store that does not agree with itself."""


def current(store: Path) -> tuple[str, dict[str, Any]]:
    """Return the relative path of the current manifest, and what it says."""
    pointer = json.loads((store / "CURRENT").read_bytes())
    name = f"manifests/{pointer['manifest']}"
    return name, json.loads(_file(store, name, pointer["sha256"]))


def records(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a manifest says of each of its files."""
    single = ("ann", "words", "deleted", "failures", "metadata")
    several = [*manifest["shards"], *manifest["exact"]]
    return several + [manifest[kind] for kind in single if manifest.get(kind) is not None]


def relative(name: str) -> str:
    """Return where in a store a file of this name lies."""
    return f"{_FOLDERS[name[0]]}/{name}"


def read(store: Path, *, without_cache: bool = False) -> Account | None:
    """Return the account of the current generation, None where none was committed yet.

    FAISS files may be missing `without_cache`. Raises Contradiction.
    """
    if not (store / "CURRENT").exists():
        left = {path.name for path in store.glob("manifests/*")} - {"m-00000001.json"}
        if left:
            raise Contradiction(f"no CURRENT, but {sorted(left)}")
        return None
    try:
        manifest = current(store)[1]
        files = {relative(record["name"]): record["sha256"] for record in records(manifest)}
        data = {
            name: _file(store, name, sha256)
            for name, sha256 in files.items()
            if not (without_cache and name.startswith("ann/") and not (store / name).exists())
        }
        return _account(manifest, files, data)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise Contradiction(f"{type(error).__name__}: {error}") from error


def _account(manifest: dict[str, Any], files: dict[str, str], data: dict[str, bytes]) -> Account:
    def table(record: dict[str, str]) -> pa.Table:
        return pq.read_table(pa.BufferReader(data[relative(record["name"])]))

    dead = set(table(manifest["deleted"])["row"].to_pylist()) if manifest["deleted"] else set()
    rows: dict[tuple[int, bytes], Row] = {}
    numbers: dict[int, tuple[int, bytes]] = {}
    for shard in manifest["shards"]:
        for row in table(shard).to_pylist():
            if row["row"] in dead:
                continue
            name = (row["root"], row["key"])
            if name in rows or row["row"] in numbers:
                raise Contradiction(f"{name} or its row {row['row']} is there twice")
            numbers[row["row"]] = name
            rows[name] = Row(row["digest"], np.array(row["vector"], np.float16).tobytes())
    if len(rows) != manifest["live"]:
        raise Contradiction(f"{len(rows)} rows, the manifest says {manifest['live']}")
    failed: list[Any] = (
        table(manifest["failures"])["key"].to_pylist() if manifest["failures"] else []
    )
    user = table(manifest["metadata"]).to_pylist() if manifest["metadata"] else []
    said = {row.pop("row"): json.dumps(row, sort_keys=True) for row in user}
    columns = {numbers[row]: text for row, text in said.items() if row in numbers}
    center = base64.b64decode((manifest.get("center") or {"vector": ""})["vector"])
    return Account(manifest["generation"], rows, frozenset(failed), files, columns, center)


def _file(store: Path, name: str, sha256: str) -> bytes:
    data = (store / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Contradiction(f"{name} is not what was committed")
    return data


def examine(store: Path, *, without_cache: bool = False) -> Account | None:
    """Read a store, have embedsearch check it and answer from it; all three must agree.

    Raises Contradiction, and whatever embedsearch raises.
    """
    account = read(store, without_cache=without_cache)
    if account is None:
        return None
    problems = check_store(store, read_data=True)[1]
    if without_cache:
        problems = [p for p in problems if not p.file.startswith("ann/")]
    if problems:
        raise Contradiction(f"check finds {problems[0].message}")
    if account.rows:
        _compare_answers(store, account)
    return account


def _measured(
    vectors: npt.NDArray[np.float64], center: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    moved = vectors - center
    units: npt.NDArray[np.float64] = moved / np.linalg.norm(moved, axis=-1, keepdims=True)
    return units


def _compare_answers(store: Path, account: Account) -> None:
    names = list(account.rows)
    rows = np.stack([np.frombuffer(account.rows[name].vector, np.float16) for name in names])
    center = np.frombuffer(account.center or bytes(4), "<f4").astype(np.float64)
    vectors = _measured(rows.astype(np.float64), center)
    rng = np.random.default_rng(len(names))
    queries = rng.standard_normal((_QUERIES, vectors.shape[1]))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    place = {bytes(name[1]): number for number, name in enumerate(names)}
    with embedsearch.open_store(store) as searcher:
        if searcher.manifest.generation != account.generation:
            raise Contradiction(f"it answers from generation {searcher.manifest.generation}")
        for query in queries:
            truth = vectors @ _measured(query, center)
            hits = searcher.query(query.astype(np.float32), k=_K)
            if len(hits) != min(_K, len(names)):
                raise Contradiction(f"{len(hits)} hits among {len(names)} rows")
            found = np.array([hit.score for hit in hits])
            mine = np.array(
                [truth[place[hit.key.encode(errors="surrogateescape")]] for hit in hits]
            )
            best = np.sort(truth)[::-1][: len(hits)]
            if np.abs(found - mine).max() > _SAME_SCORE or np.abs(found - best).max() > _SAME_SCORE:
                raise Contradiction(f"scores {found}, but they are {mine}, the best {best}")
