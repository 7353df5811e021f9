"""Words over the columns of a store: the order of a textbook, whatever happened to the store."""

from __future__ import annotations

import hashlib
import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedsearch
from embedsearch import Key, Mix, Searcher, Text
from embedsearch.core.errors import DamagedStore, UsageError
from embedsearch.core.records import Hit
from embedsearch.searching.words import documents as documents_file
from embedsearch.searching.words.search import kth_largest
from embedsearch.searching.words.tokens import words_of
from embedsearch.store.current import read_current
from tests.soak.damage import replace_manifest
from tests.support.captions import bm25, captioned
from tests.support.library import Library, paint

WEIGHTS = {"path": 0.5, "camera": 0.5, "caption": 1.0, "tags": 1.0}
VOCABULARY = [f"word{n}" for n in range(60)]


def keys(hits: list[Hit]) -> list[str]:
    return [hit.key for hit in hits]


def made(count: int, seed: int = 0) -> dict[str, dict[str, str]]:
    """Return captions of about ten words, some much more frequent than others."""
    dice = random.Random(seed)
    chances = [1 / (n + 1) for n in range(len(VOCABULARY))]
    return {
        f"{dice.choice(VOCABULARY)}/{number:05d}.jpg": {
            "caption": " ".join(dice.choices(VOCABULARY, chances, k=dice.randint(0, 14))),
            "tags": " ".join(dice.choices(VOCABULARY, chances, k=dice.randint(0, 3))),
        }
        for number in range(count)
    }


def parted(rows: dict[str, dict[str, str]]) -> dict[str, dict[str, list[str]]]:
    """Return the words of each column of each row."""
    return {
        key: {"path": words_of(key)} | {column: words_of(text) for column, text in columns.items()}
        for key, columns in rows.items()
    }


def expected(rows: dict[str, dict[str, str]], text: str) -> list[tuple[str, float]]:
    scores = bm25(parted(rows), words_of(text), WEIGHTS)
    return sorted(((k, round(s, 9)) for k, s in scores.items()), key=lambda i: (-i[1], i[0]))


def found(searcher: Searcher, text: str, k: int = 10_000, **options: Any) -> list[tuple[str, Any]]:
    return [(hit.key, hit.words_score) for hit in searcher.query(text=text, k=k, **options)]


@pytest.fixture(scope="module")
def thousand(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, dict[str, str]], Searcher]:
    rows = made(1_000)
    store = captioned(tmp_path_factory.mktemp("captions"), rows)
    return rows, embedsearch.open_store(store)


@pytest.mark.parametrize("text", ["word3", "word7 word40", "word1 word2 word59", "word0", "00007"])
def test_the_order_is_that_of_a_textbook(thousand: Any, text: str) -> None:
    rows, searcher = thousand
    wanted = expected(rows, text)
    hits = found(searcher, text)
    assert len(hits) == len(wanted) > 0
    # A sum of floats in another order: rows that tie here may differ there in the last digit.
    assert [score for _, score in hits] == pytest.approx([score for _, score in wanted], abs=2e-9)
    assert dict(hits) == pytest.approx(dict(wanted), abs=2e-9)
    assert hits == sorted(hits, key=lambda hit: (-hit[1], hit[0]))


def test_pages_have_no_gaps(thousand: Any) -> None:
    _, searcher = thousand
    whole = found(searcher, "word5 word9", k=90)
    paged = [
        hit for start in range(0, 90, 7) for hit in found(searcher, "word5 word9", 7, offset=start)
    ]
    assert paged[:90] == whole


def test_pages_of_both_have_no_gaps(thousand: Any) -> None:
    """Beyond the pool that is fused, too: there those follow that the picture finds."""
    rows, searcher = thousand
    first = Key(next(iter(rows)))
    asked: dict[str, Any] = {"text": "word3 word50", "where": "caption <> ''"}
    whole = searcher.query(first, k=700, **asked)
    paged = [hit for n in range(0, 700, 90) for hit in searcher.query(first, 90, offset=n, **asked)]
    assert keys(paged[:700]) == keys(whole)
    assert len(set(keys(whole))) == len(whole) == 700
    assert [hit.rank for hit in paged] == list(range(1, len(paged) + 1))
    everything = searcher.query(first, k=2_000, **asked)
    assert len(everything) == sum(bool(row["caption"]) for row in rows.values())


def test_a_filter_leaves_as_many_as_match(thousand: Any) -> None:
    rows, searcher = thousand
    wanted = [key for key, _ in expected(rows, "word4") if rows[key]["tags"]]
    assert [k for k, _ in found(searcher, "word4", where="tags <> ''")] == wanted
    assert len(found(searcher, "word4", k=3, where="tags <> ''")) == 3


SMALL: dict[str, dict[str, Any]] = {
    "a/red_shoes.jpg": {"caption": "A pair of shoes", "tags": "leather"},
    "a/2.jpg": {"caption": "Red shoes on a red carpet", "tags": "blue"},
    "a/3.jpg": {"caption": "The shoe is not red", "tags": ""},
    "b/tower.jpg": {"caption": "東京タワーの夜景", "tags": "東京"},
    "b/creme.jpg": {"caption": "Crème brûlée 🙂", "tags": "sweet"},
    "b/6.jpg": {"caption": 'says "13:30" <b>AND</b> OR NOT', "tags": ""},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    return embedsearch.open_store(captioned(tmp_path_factory.mktemp("small"), SMALL))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("RED shoes", ["a/2.jpg", "a/red_shoes.jpg", "a/3.jpg"]),
        ('"red shoes"', ["a/2.jpg", "a/red_shoes.jpg"]),
        ("caption:\"red shoes\"", ["a/2.jpg"]),
        ("path:red", ["a/red_shoes.jpg"]),
        ("sho*", ["a/2.jpg", "a/3.jpg", "a/red_shoes.jpg"]),
        ("shoes -blue", ["a/red_shoes.jpg"]),
        ("red -path:red -blue", ["a/3.jpg"]),
        ("東京", ["b/tower.jpg"]),
        ("タワー", ["b/tower.jpg"]),
        ("夜景", ["b/tower.jpg"]),
        ("京東", []),
        ("creme BRULEE", ["b/creme.jpg"]),
        ("🙂", ["b/creme.jpg"]),
        ("13:30", ["b/6.jpg"]),
        ("AND", ["b/6.jpg"]),
        ('and"red', ["b/6.jpg", "a/2.jpg", "a/3.jpg", "a/red_shoes.jpg"]),
        ("tower", ["b/tower.jpg"]),
        ("2.jpg", ["a/2.jpg"]),
        ("png", []),
        ("the", ["a/3.jpg"]),
    ],
)  # fmt: skip
def test_what_is_typed_finds(small: Searcher, text: str, wanted: list[str]) -> None:
    assert sorted(keys(small.query(text=text))) == sorted(wanted)


def test_a_hit_says_what_matched(small: Searcher) -> None:
    hits = {hit.key: hit for hit in small.query(text="red shoes")}
    assert hits["a/red_shoes.jpg"].matched == ("path", "caption")
    assert hits["a/2.jpg"].matched == ("caption",)
    assert {hit.score for hit in hits.values()} == {None}
    both = small.query(Key("a/2.jpg"), text="tower")
    assert {h.key: h.matched for h in both}["b/tower.jpg"] == ("picture", "path")
    assert {h.key: h.matched for h in both}["a/2.jpg"] == ("picture",)


@pytest.mark.parametrize("text", ["", "  ", "...", '"', "-red", "\0", "* *"])
def test_no_word_is_refused(small: Searcher, text: str) -> None:
    with pytest.raises(UsageError, match="text"):
        small.query(text=text)


def test_weights_count(small: Searcher) -> None:
    plain = keys(small.query(text="red"))
    assert keys(small.query(text="red", weight=("path=9",)))[0] == "a/red_shoes.jpg" != plain[0]
    assert keys(small.query(text="red", weight=("path=0",))) == [
        k for k in plain if k != "a/red_shoes.jpg"
    ]
    for wrong in (("caption",), ("caption=x",), ("=1",), ("caption=-1",), ("caption=nan",)):
        with pytest.raises(UsageError, match="NAME=NUMBER"):
            small.query(text="red", weight=wrong)


def test_by_chooses_the_ranking(small: Searcher) -> None:
    first = Key("b/tower.jpg")
    pictures = small.query(first)
    assert keys(small.query(first, text="red", by="picture")) == keys(pictures)
    assert keys(small.query(first, text="red", by="words")) == keys(small.query(text="red"))
    for image, text, by in ((first, None, "words"), (None, "red", "picture"), (first, "a", "x")):
        with pytest.raises(UsageError, match="by"):
            small.query(image, text=text, by=by)


def test_copies_collapse_and_differ_as_everywhere(small: Searcher) -> None:
    assert len(small.query(text="red", collapse=0.999)) == 3
    assert set(keys(small.query(text="red", diverse=0.5))) == set(keys(small.query(text="red")))
    assert len(small.query(Key("a/2.jpg"), text="red", collapse=0.999, diverse=0.3, k=4)) == 4


def test_queries_of_every_kind_are_answered_together(small: Searcher) -> None:
    asked: list[Any] = [Text("red"), Key("a/2.jpg"), Mix([Key("a/2.jpg")], text=Text("tower"))]
    alone = [small.query_batch([query])[0] for query in asked]
    assert small.query_batch(asked) == alone


def test_a_text_has_no_vector(small: Searcher) -> None:
    with pytest.raises(UsageError, match="no vector"):
        small.embed([Text("red")])


def test_a_store_without_texts_says_so(tmp_path: Path) -> None:
    store = captioned(tmp_path, {"clocks/1.jpg": {}, "boats/2.jpg": {}})
    with embedsearch.open_store(store) as searcher:
        assert keys(searcher.query(text="clocks")) == ["clocks/1.jpg"]
        with pytest.raises(UsageError, match="neither columns of text nor a model that reads text"):
            searcher.query(text="red shoes")


def test_a_store_that_changed_answers_like_a_new_one(tmp_path: Path) -> None:
    rows = made(300)
    store = captioned(tmp_path, rows)
    dice = random.Random(1)
    for step in range(1, 5):
        more = made(310 + step, seed=step)
        changed = dict(dice.sample(sorted(more.items()), 40))
        renewed = {"caption": f"word3 new{step}", "tags": ""}
        old = dict.fromkeys(dice.sample(sorted(rows), 5), renewed)
        captioned(tmp_path, {**changed, **old})
        rows |= changed | old
        with embedsearch.open_store(store) as searcher:
            for text in ("word3", "word1 word30", f"new{step}"):
                wanted = expected(rows, text)
                assert dict(found(searcher, text)) == pytest.approx(dict(wanted), abs=2e-9)
        with sqlite3.connect(store / read_current(store).words.relative) as file:  # type: ignore[union-attr]
            kept = documents_file.Documents.of(file)
            assert len(kept.rows) <= len(rows) / 0.95 + 1
    before = read_current(store).words
    captioned(tmp_path, {next(iter(rows)): rows[next(iter(rows))]})
    assert before is not None


def test_folders_are_followed(
    tmp_path: Path, extractor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, library = tmp_path / "photos", Library(tmp_path / "s.es", extractor)
    for number, name in enumerate(["red/boat.png", "red/car.png", "blue/boat.png"]):
        paint(photos / name, number)
    table = tmp_path / "captions.csv"
    table.write_text("path,caption\nred/boat.png,a fast one\nblue/boat.png,a slow one\n")
    library.index(photos, metadata=str(table))

    def asked(text: str) -> list[str]:
        with embedsearch.open_store(library.store) as searcher:
            return sorted(keys(searcher.query(text=text)))

    assert asked("boat") == ["blue/boat.png", "red/boat.png"]
    assert asked("slow") == ["blue/boat.png"]
    (photos / "red" / "boat.png").rename(photos / "red" / "ship.png")
    (photos / "red" / "car.png").unlink()
    paint(photos / "green" / "tree.png", 9)
    library.index(photos)
    assert asked("boat") == ["blue/boat.png"]
    assert asked("fast") == asked("ship") == ["red/ship.png"]
    assert asked("car") == []
    assert asked("tree") == ["green/tree.png"]
    record = read_current(library.store).words
    library.index(photos)
    assert read_current(library.store).words == record
    table.write_text("path,caption\nred/ship.png,now another\n")
    library.index(photos, metadata=str(table))
    assert asked("fast") == []
    assert asked("another") == ["red/ship.png"]


def test_a_file_of_words_that_is_gone_is_made_again(tmp_path: Path) -> None:
    store = captioned(tmp_path, SMALL)
    record = read_current(store).words
    assert record is not None
    (store / record.relative).unlink()
    with embedsearch.open_store(store) as searcher:
        assert len(searcher.query(text="red")) == 3
    embedsearch.repair(store)
    assert embedsearch.check(store).problems == []
    with embedsearch.open_store(store) as searcher:
        assert len(searcher.query(text="red")) == 3


def test_a_damaged_file_of_words_is_refused_and_repaired(tmp_path: Path) -> None:
    store = captioned(tmp_path, SMALL)
    record = read_current(store).words
    assert record is not None
    path = store / record.relative
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with embedsearch.open_store(store) as searcher:
        assert len(searcher.query(Key("a/2.jpg"))) == 6  # what needs no words goes on
        with pytest.raises(DamagedStore, match="repair"):
            searcher.query(text="red")
    embedsearch.repair(store)
    with embedsearch.open_store(store) as searcher:
        assert len(searcher.query(text="red")) == 3


def test_a_search_goes_on_while_its_file_is_swept(tmp_path: Path) -> None:
    store = captioned(tmp_path, SMALL)
    with embedsearch.open_store(store) as searcher:
        shutil.rmtree(store / "ann")
        assert len(searcher.query(text="red")) == 3


def test_vectors_alone_need_no_sqlite(small: Searcher) -> None:
    vector = np.eye(1, 16, dtype=np.float32)[0]
    assert all(
        hit.matched == ("picture",) and hit.words_score is None for hit in small.query(vector)
    )


def _with_trigger(file: sqlite3.Connection) -> None:
    file.execute("CREATE TABLE bait (x)")
    file.execute("CREATE TRIGGER t INSERT ON documents BEGIN INSERT INTO bait VALUES (1); END")


def _with_view(file: sqlite3.Connection) -> None:
    file.execute("DROP TABLE documents")
    file.execute("CREATE VIEW documents AS SELECT 'rows' AS name, zeroblob(1 << 30) AS numbers")


def _shorter(file: sqlite3.Connection) -> None:
    file.execute("UPDATE documents SET numbers = zeroblob(8) WHERE name = 'rows'")


def _without_index(file: sqlite3.Connection) -> None:
    file.execute("DELETE FROM words_data")


@pytest.mark.parametrize("harm", [_with_trigger, _with_view, _shorter, _without_index])
def test_a_file_of_words_is_not_believed(
    tmp_path: Path, harm: Callable[[sqlite3.Connection], None]
) -> None:
    """Its sha256 may be right, in a store that was fetched from somebody."""
    store = captioned(tmp_path, SMALL)
    record = read_current(store).words
    assert record is not None
    path = store / record.relative
    path.chmod(0o644)
    with sqlite3.connect(path) as file:
        harm(file)
    file.close()
    data = path.read_bytes()
    forged = replace(record, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    replace_manifest(store, replace(read_current(store), words=forged).to_bytes())
    with embedsearch.open_store(store) as searcher:
        assert len(searcher.query(Key("a/2.jpg"))) == 6
        with pytest.raises(DamagedStore, match="cannot be read"):
            searcher.query(text="red")


@pytest.mark.parametrize("distinct", [1, 3, 50, 10**6])
@pytest.mark.parametrize("count", [1, 255, 256, 5000, 40_000])
def test_the_kth_largest_of_many(count: int, distinct: int) -> None:
    values = np.random.default_rng(count).integers(1, distinct + 1, count) / 7.0
    ordered = np.sort(values)[::-1]
    for k in (1, 2, 10, 100, 255):
        if k <= count:
            assert kth_largest(values, k) == ordered[k - 1]
