"""The plan of work that many processes share: cut, killed, damaged, overtaken, gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from embedsearch.core.errors import (
    IncompatibleStore,
    StorageError,
    StoreLocked,
)
from embedsearch.core.records import ImageRef
from embedsearch.indexing.distributed import plan as plan_module, run as run_module
from embedsearch.indexing.distributed.commit import commit
from embedsearch.indexing.distributed.plan import cut, unit_images
from embedsearch.store.current import read_current
from embedsearch.store.shards import write_shard
from embedsearch.store.units import UNITS_NAME, read_plan, read_refs
from tests.support.library import paint, run_cli
from tests.support.units import Shared


def test_a_store_that_moved_on_does_not_take_the_plan(shared: Shared, photos: Path) -> None:
    shared.plan(photos)
    shared.run(0, 1, 2, 3)
    kept = shared.store.with_name("kept")
    (shared.store / UNITS_NAME).rename(kept)
    shared.index()
    kept.rename(shared.store / UNITS_NAME)
    before = read_current(shared.store)
    with pytest.raises(IncompatibleStore, match=r"adds to generation 1, which is not the current"):
        commit(shared.store)
    assert read_current(shared.store) == before


def test_a_plan_that_was_killed_while_it_was_made_is_none(
    shared: Shared, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(plan_module, "write_plan", die)
        with pytest.raises(Killed):
            shared.plan(photos)
    assert (shared.store / UNITS_NAME).exists()
    assert shared.index().added == 12
    assert not (shared.store / UNITS_NAME).exists()


def test_a_damaged_plan_names_the_way_out(shared: Shared, photos: Path) -> None:
    made = shared.plan(photos)
    refs = shared.store / UNITS_NAME / made.units[0].refs.relative
    refs.chmod(0o600)
    refs.write_bytes(refs.read_bytes()[::-1])
    done = run_cli("index", photos, "--store", shared.store, "--unit", "0/4")
    assert done.returncode == 5 and "commit --drop" in done.stderr
    path = shared.store / UNITS_NAME / "PLAN"
    good = json.loads(path.read_bytes())
    for bad in (b"", b"{", b"[]", json.dumps({**good, "units": 3}).encode()):
        path.write_bytes(bad)
        done = run_cli("commit", "--store", shared.store)
        assert done.returncode in {5, 6} and "Traceback" not in done.stderr, done.stderr
    assert run_cli("commit", "--drop", "--store", shared.store).returncode == 0
    assert run_cli("index", photos, "--store", shared.store).returncode == 0


def test_how_refs_are_cut() -> None:
    assert unit_images(100, 4, 1000) == 25
    assert unit_images(100, 3, 10) == 9, "four rounds of three shares"
    assert unit_images(1, 64, 1000) == 1
    refs = [(ImageRef(root, str(n), 1, 1), -1) for root in range(3) for n in range(7)]
    assert [len(some) for some in cut(refs, 10, set())] == [10, 10, 1]
    assert [len(some) for some in cut(refs, 10, {0, 1, 2})] == [7, 7, 7]
    assert [len(some) for some in cut(refs, 20, {0, 1, 2})] == [14, 7]
    assert [ref for some in cut(refs, 4, {0}) for ref in some] == refs


def test_the_folder_of_a_plan_that_has_gone(
    shared: Shared, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A straggler whose plan was committed meanwhile fails by itself, and changes nothing."""
    made = shared.plan(photos, shares=1)

    def gone(*arguments: Any) -> Any:
        shutil.rmtree(shared.store / UNITS_NAME)
        return write_shard(*arguments)

    monkeypatch.setattr(run_module, "write_shard", gone)
    with pytest.raises(StorageError):
        shared.run(0)
    assert read_plan(shared.store) is None and read_current(shared.store).generation == made.base


def test_refs_come_back_as_they_were(shared: Shared, photos: Path) -> None:
    paint(photos / "a\udcff\n.png", 99)
    made = shared.plan(photos)
    found = [ref for unit in made.units for ref, _ in read_refs(shared.store, unit)]
    assert "a\udcff\n.png" in {ref.key for ref in found} and len(found) == 13
    with pytest.raises(StoreLocked):
        shared.index()
