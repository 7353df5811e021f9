"""The center of a store: when it is set, kept and taken anew; every door measures from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import embedsearch
from embedsearch import Key
from embedsearch.core.config import MODEL_CENTER, NO_CENTER, STORE_CENTER
from embedsearch.core.errors import DamagedStore, UsageError
from embedsearch.indexing.centering import Centering
from embedsearch.indexing.distributed.commit import commit
from embedsearch.store.check import check_store
from embedsearch.store.current import read_current
from embedsearch.store.manifest import Manifest
from tests.soak.damage import replace_manifest
from tests.support.library import paint
from tests.support.stores import imported
from tests.support.units import Shared


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(12):
        paint(tmp_path / "photos" / f"{number:03}.png", number)
    return tmp_path / "photos"


def plain_rows(store: Path) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Return keys and stored vectors, from an export: what other programs read."""
    target = store.parent / "all.parquet"
    embedsearch.export(store, target)
    import pyarrow.parquet as pq

    table = pq.read_table(target)
    vectors = np.array(table.column("vector").to_pylist(), np.float32)
    keys = [str(key) for key in table.column("path").to_pylist()]
    return keys, vectors / np.linalg.norm(vectors, axis=1)[:, None]


def by_hand(store: Path, query: npt.NDArray[np.float32]) -> dict[str, float]:
    """Return each image's cosine with a query, both measured from the center."""
    keys, vectors = plain_rows(store)
    center = read_current(store).open_center()
    if center is not None:
        vectors, query = center.measured(vectors), center.measured(query)
    return dict(zip(keys, (vectors @ query).tolist(), strict=True))


def test_every_door_measures_from_it(alone: Shared, photos: Path) -> None:
    alone.index(photos)
    manifest = read_current(alone.store)
    assert manifest.center is not None
    assert (manifest.center.kind, manifest.center.images) == (STORE_CENTER, 12)
    keys, vectors = plain_rows(alone.store)
    wanted = by_hand(alone.store, vectors[0])
    uncentered = dict(zip(keys, (vectors @ vectors[0]).tolist(), strict=True))
    assert max(abs(wanted[key] - uncentered[key]) for key in keys) > 0.1, "it does something"
    with embedsearch.open_store(alone.store) as searcher:
        for query in (Key(keys[0]), vectors[0], searcher.embed([Key(keys[0])])[0]):
            found = {hit.key: hit.score for hit in searcher.query(query, k=12)}
            assert found == pytest.approx(wanted, abs=2e-3)
        embedded = searcher.embed([Key(key) for key in keys])
        assert np.allclose(embedded, vectors, atol=1e-6), "what is given out is the network's"
        assert np.array_equal(searcher.embed([vectors[0]])[0], vectors[0])
        both = embedsearch.Mix([Key(keys[0]), Key(keys[1])])
        mixed = searcher.query(both, k=12)
        again = searcher.query(searcher.embed([both])[0], k=12)
        # The two of the mixture are equally near to it: their order is the rounding's.
        assert {hit.key for hit in mixed[:2]} == {hit.key for hit in again[:2]} == {*keys[:2]}
        assert [hit.key for hit in mixed[2:]] == [hit.key for hit in again[2:]]
        assert [h.score for h in mixed] == pytest.approx([h.score for h in again], abs=1e-5)
        scores = [hit.score for hit in searcher.query(Key(keys[3]), k=12)]
    for file in (alone.store / "ann").iterdir():
        file.unlink()
    with embedsearch.open_store(alone.store) as searcher:  # from the shards themselves
        assert [hit.score for hit in searcher.query(Key(keys[3]), k=12)] == scores


def test_it_stays_while_little_comes_and_moves_with_much(alone: Shared, photos: Path) -> None:
    for number in range(12, 24):  # of a few, a single one moves the mean far
        paint(photos / f"{number:03}.png", number)
    alone.index(photos)
    first = read_current(alone.store)
    paint(photos / "one-more.png", 500)
    alone.index(photos)
    second = read_current(alone.store)
    assert first.center is not None and second.center is not None
    assert (second.center.vector, second.center.seen) == (first.center.vector, 25)
    for number in range(200):
        paint(photos / "new" / f"{number}.png", number, size=(48, 40 + number % 5))
    with embedsearch.open_store(alone.store) as searcher:  # a server that goes on
        searcher.query(Key("000.png"))
        alone.index(photos)
        grown = read_current(alone.store)
        assert grown.center is not None and grown.center.images == grown.live == 225
        assert grown.center.vector != first.center.vector
        _, vectors = plain_rows(alone.store)
        wanted = by_hand(alone.store, vectors[0])
        assert searcher.refresh()
        found = {hit.key: hit.score for hit in searcher.query(vectors[0], k=300)}
        assert found == pytest.approx(wanted, abs=2e-3)
    assert check_store(alone.store, read_data=True)[1] == []
    report = alone.index()
    assert (report.embedded, report.committed) == (0, False)


def test_a_run_that_ends_too_early_leaves_it_to_the_next(
    alone: Shared, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is killed after its last commit: the center is that of the first images."""
    alone.index(photos)
    first = read_current(alone.store).center
    for number in range(12, 40):
        paint(photos / f"{number:03}.png", number, size=(48, 40 + number % 5))
    with monkeypatch.context() as patch:
        patch.setattr(Centering, "renewed", lambda self, manifest, session: manifest)
        alone.index(photos)
    early = read_current(alone.store).center
    assert first is not None and early is not None
    assert (early.vector, early.seen) == (first.vector, 40)
    report = alone.index()
    late = read_current(alone.store).center
    assert (report.embedded, report.committed) == (0, True)
    assert late is not None and (late.images, late.seen) == (40, 40)
    assert alone.index().committed is False


def test_when_most_images_are_gone_the_others_are_counted(alone: Shared, photos: Path) -> None:
    alone.index(photos)
    for number in range(9):
        (photos / f"{number:03}.png").unlink()
    alone.index(photos)
    after = read_current(alone.store).center
    assert after is not None and (after.images, after.seen) == (3, 3)


@pytest.mark.parametrize("kind", [MODEL_CENTER, NO_CENTER])
def test_another_kind_needs_no_network(
    alone: Shared, photos: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone.index(photos)
    own = read_current(alone.store)
    report = alone.index(center=kind)
    changed = read_current(alone.store)
    assert (report.embedded, report.committed) == (0, True)
    assert changed.center is not None and changed.center.kind == kind
    assert changed.shards == own.shards and changed.exact != own.exact
    _, vectors = plain_rows(alone.store)
    with embedsearch.open_store(alone.store) as searcher:
        found = {hit.key: hit.score for hit in searcher.query(vectors[0], k=12)}
    assert found == pytest.approx(by_hand(alone.store, vectors[0]), abs=2e-3)
    assert alone.index().committed is False, "the store keeps the kind"
    alone.index(center=STORE_CENTER)
    back = read_current(alone.store).center
    assert own.center is not None and back is not None and back.vector == own.center.vector
    with pytest.raises(UsageError, match="center must be one of store, model, none"):
        alone.index(center="middle")


def test_units_agree_on_one(shared: Shared, alone: Shared, photos: Path) -> None:
    alone.index(photos)
    made = shared.plan(photos)
    for number in reversed(range(len(made.units))):
        shared.run(number)
    commit(shared.store)
    ours, theirs = read_current(shared.store), read_current(alone.store)
    query = plain_rows(alone.store)[1][0]
    assert ours.center is not None and ours.center.images == 12
    mine, other = ours.open_center(), theirs.open_center()
    assert mine is not None and other is not None
    assert np.allclose(mine.measured(query), other.measured(query), atol=1e-6)


def test_a_plan_of_another_kind(shared: Shared, photos: Path) -> None:
    made = shared.plan(photos, center=NO_CENTER)
    for number in range(len(made.units)):
        shared.run(number)
    commit(shared.store)
    record = read_current(shared.store).center
    assert record is not None and (record.kind, record.vector) == (NO_CENTER, "")


def test_vectors_made_elsewhere_are_compared_as_they_are(tmp_path: Path) -> None:
    vectors = np.abs(np.random.default_rng(0).standard_normal((20, 16))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [f"{number}.png" for number in range(20)]
    store = imported(tmp_path, vectors, names)
    with embedsearch.open_store(store) as searcher:
        hits = searcher.query(vectors[0], k=20)
        assert {h.key: h.score for h in hits} == pytest.approx(
            dict(zip(names, (vectors @ vectors[0]).tolist(), strict=True)), abs=2e-3
        )
    report = embedsearch.import_vectors(
        tmp_path / "v.npy", paths=tmp_path / "names.txt", root=tmp_path, model="elsewhere",
        store=store, center=STORE_CENTER,
    )  # fmt: skip
    assert report.images == 20
    center = read_current(store).center
    assert center is not None and center.kind == STORE_CENTER and center.images
    with embedsearch.open_store(store) as searcher:
        hits = searcher.query(vectors[0], k=20)
    assert {h.key: h.score for h in hits} == pytest.approx(by_hand(store, vectors[0]), abs=2e-3)


def test_a_center_of_nan_is_damage(alone: Shared, photos: Path) -> None:
    alone.index(photos)

    def spoil(values: dict[str, Any]) -> None:
        import base64

        nan = np.full(512, np.nan, "<f4").tobytes()
        values["center"]["vector"] = base64.b64encode(nan).decode()

    data = json.loads(read_current(alone.store).to_bytes())
    spoil(data)
    with pytest.raises(ValueError, match="finite"):
        Manifest.from_bytes(json.dumps(data).encode())
    replace_manifest(alone.store, json.dumps(data).encode())
    with pytest.raises(DamagedStore, match="finite"):
        embedsearch.open_store(alone.store)
