"""A database in step with a store that changes, and what it does not overwrite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from embedsearch import Key
from embedsearch.core.errors import (
    IncompatibleStore,
)
from embedsearch.exchange.upload import upload
from embedsearch.searching.searcher import open_store
from tests.support.databases import ROWS, Changing, Notices, import_rows
from tests.support.engines import (
    Engine,
)
from tests.support.library import paint


def test_a_database_follows_its_store(quick_engine: Engine, changing: Changing) -> None:
    url = quick_engine.url()
    changing.index(center="model")  # that of so few images would move with one
    assert changing.counts(url) == (13, 0, 0)
    assert changing.counts(url) == (0, 13, 0)
    assert not changing.same_hits(url, k=20)
    (changing.photos / "a" / "03.png").unlink()
    paint(changing.photos / "a" / "05.png", 105)
    paint(changing.photos / "c" / "20.png", 20)
    changing.index()
    # Before it is told: what has gone is not shown, what is new comes from the store itself.
    said = changing.same_hits(url, k=20)
    assert "holds generation 3, the store generation" in said[0]
    assert "export --to brings it up to date" in said[0]
    assert "the store itself is searched, exactly" in said[1] and len(said) == 2
    assert changing.counts(url) == (2, 11, 2)
    assert not changing.same_hits(url, k=20)
    assert not changing.same_hits(url, k=3, where="path like 'a/%' and width > 4")
    # Columns that are new make it another table; other values in them are sent.
    changing.caption({"a/01.png": "one", "a/07.png": "seven"})
    with pytest.raises(
        IncompatibleStore, match=r"other columns of the store \(caption\): replace=True"
    ):
        upload(changing.store, url)
    assert changing.counts(url, replace=True) == (13, 0, 0)
    assert not changing.same_hits(url, where="caption = 'seven'")
    changing.caption({"a/07.png": "VII", "b/08.png": "seven"})
    # A filter is the store's: row 7 is not shown though the database still calls it seven.
    assert len(changing.same_hits(url, where="caption = 'seven'")) == 2
    assert changing.counts(url) == (2, 11, 0)
    assert not changing.same_hits(url, where="caption = 'seven'")


def test_a_searcher_follows_its_store(engines: Callable[[str], Engine], changing: Changing) -> None:
    url, said = engines("postgres").url(), Notices()
    upload(changing.store, url)
    with open_store(changing.store, serve_from=url, session=said.session) as searcher:
        paint(changing.photos / "c" / "20.png", 20)
        changing.index()
        upload(changing.store, url)
        assert len(searcher.query(Key("a/01.png"), k=20)) == 13
        assert searcher.refresh()
        assert len(searcher.query(Key("a/01.png"), k=20)) == 14
    assert not said


def test_other_vectors_are_refused(
    quick_engine: Engine, store: Path, vectors: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    url = quick_engine.url()
    half = vectors[:300, :32] / np.linalg.norm(vectors[:300, :32], axis=1, keepdims=True)
    for name in ("other model", "other dim", "other rows"):
        (tmp_path / name).mkdir()
    others = {
        "other model": import_rows(tmp_path / "other model", vectors[:300], "another one"),
        "other dim": import_rows(tmp_path / "other dim", half.astype(np.float32), "made up"),
    }
    for name, other in others.items():
        upload(other, url, replace=True)
        for refused in (lambda: upload(store, url), lambda: open_store(store, serve_from=url)):
            with pytest.raises(IncompatibleStore, match=r"holds vectors of .* replace=True"):
                refused()
        assert upload(other, url).unchanged == 300, name
    # The same model, other images of the same numbers: told by their vectors.
    other = import_rows(tmp_path / "other rows", vectors[300:600], "made up")
    upload(other, url, replace=True)
    with pytest.raises(IncompatibleStore, match="was filled from another store"):
        open_store(store, serve_from=url)
    with pytest.raises(IncompatibleStore, match="holds the rows of another store"):
        upload(store, url)
    assert upload(store, url, replace=True).uploaded == ROWS
    open_store(store, serve_from=url).close()


def test_another_center_sends_the_rows_again(quick_engine: Engine, changing: Changing) -> None:
    """Until then the database is out of date, which costs no hit and is no other store."""
    url = quick_engine.url()
    assert changing.counts(url) == (13, 0, 0)
    changing.index(center="none")
    said = changing.same_hits(url, k=20)
    assert len(said) == 1 and "export --to brings it up to date" in said[0]
    assert changing.counts(url) == (13, 0, 0)
    assert not changing.same_hits(url, k=20)
    changing.index(center="store")
    assert changing.counts(url) == (13, 0, 0)
    assert changing.counts(url) == (0, 13, 0)


def test_other_rows_from_another_center_are_refused(
    quick_engine: Engine, vectors: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    """Each store has a center of its own: it does not hide whose rows the database holds."""
    url, stores = quick_engine.url(), {}
    for name, first, last in (("one", 0, 200), ("other", 300, 500), ("again", 0, 260)):
        (tmp_path / name).mkdir()
        stores[name] = import_rows(tmp_path / name, vectors[first:last], "made up", "store")
    upload(stores["other"], url, replace=True)
    with pytest.raises(IncompatibleStore, match="was filled from another store"):
        open_store(stores["one"], serve_from=url)
    upload(stores["one"], url, replace=True)
    said = Notices()
    with open_store(stores["again"], serve_from=url, session=said.session) as served:
        assert len(said) == 1 and "another store" in said[0]
        assert len(served.query(vectors[250], k=20)) == 20


def test_what_embedsearch_did_not_make_stays(engines: Callable[[str], Engine], store: Path) -> None:
    psycopg = pytest.importorskip("psycopg", reason="needs psycopg")
    url = engines("postgres").url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE embedsearch (precious text)")
        for replaced in (False, True):
            with pytest.raises(IncompatibleStore, match="was not made by"):
                upload(store, url, replace=replaced)
        connection.execute("SELECT precious FROM embedsearch")


def test_the_rows_of_another_store_are_not_overwritten(
    quick_engine: Engine, vectors: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    """One of the same model and columns: by a slip, or made again where the first one stood."""
    url = quick_engine.url()
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
    first = import_rows(tmp_path / "first", vectors[:200], "made up")
    again = import_rows(tmp_path / "again", vectors[:260], "made up")
    upload(first, url, replace=True)
    with pytest.raises(IncompatibleStore, match="holds the rows of another store"):
        upload(again, url)
    assert upload(first, url).unchanged == 200, "nothing of the first was touched"
    said = Notices()
    with (
        open_store(again) as own,
        open_store(again, serve_from=url, session=said.session) as served,
    ):
        assert len(said) == 1 and "another store" in said[0]
        where = "row < 240"
        own_hits, hits = (s.query(vectors[250], k=20, where=where) for s in (own, served))
        assert {hit.row for hit in hits} <= set(range(240)), "none that is not allowed"
        assert len(own_hits) == len(hits) == 20
    assert upload(again, url, replace=True).uploaded == 260
    with open_store(again, serve_from=url, session=Notices().session) as served:
        assert len(served.query(vectors[0], k=260)) == 260
