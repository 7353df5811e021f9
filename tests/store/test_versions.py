"""Stores that a later version wrote, and repairs that must not lose what they need not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import embedsearch
from embedsearch.core.errors import DamagedStore, IncompatibleStore
from embedsearch.store.current import read_current
from embedsearch.store.manifest import FORMAT_VERSION
from embedsearch.store.snapshot import open_snapshot
from tests.support.library import Library, paint


def current(store: Path) -> tuple[Path, dict[str, Any]]:
    """Return the path and the values of the current manifest."""
    path = store / "manifests" / json.loads((store / "CURRENT").read_text())["manifest"]
    return path, json.loads(path.read_text())


def put(store: Path, values: dict[str, Any]) -> None:
    """Let the current manifest say this, with every checksum right."""
    path, _ = current(store)
    data = json.dumps(values, sort_keys=True, indent=1).encode()
    path.chmod(0o644)
    path.write_bytes(data)
    pointer = json.loads((store / "CURRENT").read_text())
    pointer |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (store / "CURRENT").write_text(json.dumps(pointer | {"later": 1}))


def rows(store: Path) -> dict[str, int]:
    with open_snapshot(store) as snapshot:
        return {key.decode(): row for row, _, key in snapshot.live_keys()}


@pytest.fixture
def grown(library: Library, tmp_path: Path) -> Path:
    """A store of two generations of 3 and 4 images."""
    for seed in range(4):
        paint(tmp_path / "photos" / f"{seed}.png", seed)
        if seed > 1:
            library.index(tmp_path / "photos")
    return library.store


def test_fields_of_a_later_version_are_handed_on(
    grown: Path, library: Library, tmp_path: Path
) -> None:
    _, values = current(grown)
    values |= {
        "format_version": FORMAT_VERSION + 1,
        "captions_index": {"name": "t-00000009.sqlite"},
    }
    values["roots"][0]["label"] = "holidays"
    values["search"]["again"] = [1, {"a": None}]
    values["search"]["budget"]["joules"] = 0.5
    values["excludes"]["hidden"] = True
    values["model"]["note"] = "x"
    values["center"]["spread"] = 0.5
    put(grown, values)
    with embedsearch.open_store(grown) as searcher:
        assert len(searcher) == 4
    paint(tmp_path / "photos" / "9.png", 9)
    library.index(tmp_path / "photos")
    _, written = current(grown)
    assert written["live"] == 5
    assert written["captions_index"] == values["captions_index"]
    assert written["roots"][0]["label"] == "holidays"
    assert written["search"]["again"] == [1, {"a": None}]
    assert written["search"]["budget"]["joules"] == 0.5
    assert written["excludes"]["hidden"] is True
    assert written["model"]["note"] == "x"
    assert written["center"]["vector"] != values["center"]["vector"], "taken anew"
    assert written["center"]["spread"] == 0.5
    assert written["format_version"] == FORMAT_VERSION


def test_what_a_later_version_means_otherwise_is_no_damage(grown: Path) -> None:
    _, values = current(grown)
    put(grown, values | {"format_version": FORMAT_VERSION + 1, "roots": "elsewhere"})
    with pytest.raises(IncompatibleStore, match="update embedsearch"):
        embedsearch.open_store(grown)
    before = (grown / "CURRENT").read_bytes()
    with pytest.raises(IncompatibleStore):
        embedsearch.repair(grown)
    assert (grown / "CURRENT").read_bytes() == before, "nothing is given up"


def test_a_remedy_says_what_it_costs(grown: Path) -> None:
    path, _ = current(grown)
    path.chmod(0o644)
    path.write_bytes(b"{")
    with pytest.raises(DamagedStore, match="or lose what came after"):
        embedsearch.open_store(grown)


@pytest.mark.parametrize("damage", ["manifest cut", "manifest and shard gone", "pointer gone"])
def test_a_row_number_is_never_given_twice(
    grown: Path, library: Library, tmp_path: Path, damage: str
) -> None:
    before = rows(grown)
    path, values = current(grown)
    if damage == "pointer gone":
        (grown / "CURRENT").unlink()
    else:
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:200])
    if damage == "manifest and shard gone":
        (grown / "shards" / values["shards"][-1]["name"]).unlink()
    embedsearch.repair(grown)
    lost = set(before) - set(rows(grown))
    assert lost == (set() if damage == "pointer gone" else {"3.png"})
    (tmp_path / "photos" / "3.png").unlink()
    paint(tmp_path / "photos" / "7.png", 7)
    library.index(tmp_path / "photos")
    after = rows(grown)
    assert after["7.png"] not in before.values()
    assert read_current(grown).next_row > max(before.values())
