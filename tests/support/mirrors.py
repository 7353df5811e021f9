"""Stores at URLs: put there, asked, and looked at in the cache."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import embedsearch
from embedsearch.core.records import Hit
from embedsearch.core.session import Session

if TYPE_CHECKING:
    from tests.support.s3 import S3Server

URL = "s3://bucket/in/photos.es"


PREFIX = "bucket/in/photos.es"


ASK = np.ones(512, np.float32) / 512**0.5


class Heard:
    """A session's notices."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.session = Session(notice=self.lines.append)


def upload(s3: S3Server, store: Path) -> None:
    """As the README says: all files, CURRENT last."""
    names = [str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()]
    for name in sorted(names, key=lambda name: name == "CURRENT"):
        s3.put(f"{PREFIX}/{name}", (store / name).read_bytes())


def fetched(s3: S3Server) -> set[str]:
    """Return which files were asked for since the last look, CURRENT not counted."""
    asked = {line.partition(f"/{PREFIX}/")[2] for line in s3.requests if line.startswith("GET")}
    s3.requests.clear()
    return asked - {"CURRENT"}


def hits(store: str | Path, session: Session | None = None) -> list[Hit]:
    with embedsearch.open_store(store, session=session) as searcher:
        return searcher.query(ASK, k=20)


def names(store: Path, folder: str) -> set[str]:
    return {f"{folder}/{name}" for name in os.listdir(store / folder)}


def whole(store: Path) -> None:
    """Assert that a folder is a store of which no byte is wrong and nothing is left over."""
    done, problems = checked(store)
    assert not problems, problems
    assert not os.listdir(store / "tmp")
    assert done.live


def checked(store: Path) -> Any:
    from embedsearch.store.check import check_store

    return check_store(store, read_data=True)


def entry(cached: Path) -> Path:
    (folder,) = cached.glob("*.es")
    return folder


def one_file(store: Path, folder: str) -> str:
    """Return the one file of a folder; of caches the FAISS file."""
    (name,) = (name for name in os.listdir(store / folder) if not name.endswith(".sqlite"))
    return f"{folder}/{name}"


def harmed(data: bytes, harm: str) -> bytes:
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    return {"flip": flipped, "cut": data[:-1], "more": data + b"\n", "empty": b""}[harm]


def point_at(s3: S3Server, manifest: str, data: bytes, claims: int | None = None) -> None:
    sha256 = hashlib.sha256(data).hexdigest()
    size = len(data) if claims is None else claims
    pointer = {"generation": 1, "manifest": manifest, "bytes": size, "sha256": sha256}
    s3.put(f"{PREFIX}/CURRENT", json.dumps(pointer).encode())
