"""Rebuilds and merges: all or nothing, few shards, checkpoints on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embedsearch.core.errors import (
    DamagedStore,
    IncompatibleStore,
    Interrupted,
)
from embedsearch.core.session import Session
from embedsearch.store import merge
from embedsearch.store.check import check_store
from embedsearch.store.current import read_current
from tests.support.extractor import CountingExtractor
from tests.support.library import Library, paint
from tests.support.stores import rows_of


def test_a_rebuild_is_all_or_nothing(library: Library, photos: Path) -> None:
    for seed in range(200, 260):
        paint(photos / f"{seed}.png", seed)
    library.index(photos)
    before = read_current(library.store)
    asked: list[bool] = []

    def stop() -> int:  # after the first batch
        asked.append(CountingExtractor.embedded > 72)
        return 2 if asked[-1] else 0

    with pytest.raises(Interrupted, match="the rebuild was dropped"):
        library.index(rebuild=True, checkpoint_images=1, session=Session(stop=stop))
    assert read_current(library.store) == before
    dry = library.index(rebuild=True, dry_run=True)
    assert (dry.added, dry.unchanged) == (72, 0)
    assert library.index(rebuild=True, checkpoint_images=1).added == 72


def test_many_checkpoints_leave_few_shards(
    library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each checkpoint closes a shard; they are merged on the way, and answers stay complete."""
    monkeypatch.setattr("embedsearch.indexing.store_update.TIDY_EVERY_SHARDS", 3)
    for seed in range(200, 500):
        paint(photos / f"{seed}.png", seed)
    most = []

    def watch(_: Any) -> None:
        most.append(len(read_current(library.store).shards) if (library.store / "CURRENT").exists()
                    else 0)  # fmt: skip

    many = library.index(photos, device="cpu", checkpoint_images=1, on_progress=watch)
    assert many.added == 312  # on a GPU, a batch would take most of them
    assert len(most) >= 10 and max(most) <= 4  # a batch may be of 8, 16 or 32
    assert len(rows_of(library.store)) == 312
    assert check_store(library.store, read_data=True)[1] == []


def test_another_model_needs_a_rebuild(
    library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.index(photos)
    old = read_current(library.store)
    again = replace(old.model, name="other", pooling="gem1")
    monkeypatch.setattr("embedsearch.indexing.job.resolve", lambda name, session: again)
    paint(photos / "more.png", 77)
    report = library.index(photos, model="other")
    assert (report.added, report.unchanged) == (1, 12), "its weights are those of the store"
    (photos / "more.png").unlink()
    assert library.index(photos, model="other").deleted == 1
    old = read_current(library.store)
    assert old.model.pooling == "gem3"
    other = replace(again, weights_sha256="0" * 64)
    monkeypatch.setattr("embedsearch.indexing.job.resolve", lambda name, session: other)
    with pytest.raises(IncompatibleStore, match=r"pooling: gem1 != gem3.*rebuild=True"):
        library.index(photos, model="other")
    assert read_current(library.store) == old
    (photos / "a" / "01.png").unlink()
    CountingExtractor.embedded = 0
    report = library.index(model="other", rebuild=True)
    assert report.added == CountingExtractor.embedded == 11
    new = read_current(library.store)
    assert new.model.name == "other" and new.live == 11
    assert min(shard.first_row for shard in new.shards) >= old.next_row, "row ids were reused"
    assert library.index(photos).unchanged == 11


def test_a_rebuild_mends_a_lost_shard_and_keeps_the_model(
    library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.index(photos)
    old = read_current(library.store)
    (library.store / old.shards[0].relative).unlink()
    with pytest.raises(DamagedStore, match="--rebuild"):
        library.index()
    monkeypatch.setattr(
        "embedsearch.indexing.job.resolve", None
    )  # would fail if a model were chosen
    assert library.index(rebuild=True).added == 12
    assert read_current(library.store).model == old.model
    assert check_store(library.store, read_data=True)[1] == []


def test_shards_are_merged_and_worn_ones_rewritten(
    library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(100, 104):
        paint(photos / f"{seed}.png", seed)
        library.index(photos)
        assert len(read_current(library.store).shards) == 1, "small shards were not merged"
    monkeypatch.setattr(merge, "SMALL_BYTES", 0)
    for path in sorted((photos / "a").iterdir()) + sorted((photos / "b").iterdir())[:3]:
        path.unlink()
    library.index(photos)
    manifest = read_current(library.store)
    assert (manifest.live, manifest.deleted_rows, manifest.deleted) == (7, 0, None)
    assert sum(shard.rows for shard in manifest.shards) == 7
    assert sum(record.rows for record in manifest.exact) == 7
    assert check_store(library.store, read_data=True)[1] == []


def test_checkpoints_commit_on_the_way(library: Library, photos: Path) -> None:
    generations = []

    def watch(progress: Any) -> None:
        generations.append(read_current(library.store).live if progress.done > 32 else 0)

    for seed in range(200, 300):
        paint(photos / f"{seed}.png", seed)
    report = library.index(photos, checkpoint_images=32, on_progress=watch)
    assert report.added == 112
    assert generations[1:] == sorted(generations[1:]) and generations[-1] >= 64
    assert len(read_current(library.store).shards) == 1
