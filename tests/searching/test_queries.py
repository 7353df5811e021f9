"""What a query may be: parts of images, keys, mixtures; and what is done with its neighbors."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

import embedsearch
from embedsearch import Crop, Key, Mix
from embedsearch.core.config import DecodeLimits, SearchConfig
from embedsearch.core.errors import UnreadableImage, UsageError
from embedsearch.core.model_spec import SQUASHED
from embedsearch.core.records import Box, Hit
from embedsearch.images.decode.image import decode, square
from embedsearch.searching.queries import UNLIKE_WEIGHT
from embedsearch.searching.ranking import ordering
from tests.support.library import SAMPLES, paint, run_cli
from tests.support.oracle import unit, units
from tests.support.stores import compared_rows, measured, reranked_by_hand

CLOCK = SAMPLES / "clocks" / "clocks_1.jpg"


@pytest.fixture(scope="module")
def samples(samples_store: Path) -> embedsearch.Searcher:
    return embedsearch.open_store(samples_store)


def keys(hits: list[Hit]) -> list[str]:
    return [hit.key for hit in hits]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("box", [Box(3, 5, 20, 11), Box(-4, 2, 10, 10), Box(20, 10, 500, 9)])
def test_a_crop_is_cut_from_the_upright_picture(orientation: int, box: Box) -> None:
    rows, columns = np.mgrid[:37, :53]
    pixels = np.stack([40 + 3 * columns + rows, 30 + 2 * rows + columns, 200 - 2 * columns], -1)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(data, "PNG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(data))
    left, top = max(box.x, 0), max(box.y, 0)
    right, bottom = min(box.x + box.width, upright.width), min(box.y + box.height, upright.height)
    part = upright.crop((left, top, right, bottom))
    wanted = np.asarray(part.resize((32, 32), Image.Resampling.BICUBIC, reducing_gap=3.0))
    data.seek(0)
    assert np.array_equal(decode(data, 32, DecodeLimits(), crop=box).pixels, wanted)
    assert np.array_equal(square(Image.open(data), 32, SQUASHED, box), wanted)


def test_a_crop_finds_what_it_shows(samples: embedsearch.Searcher, tmp_path: Path) -> None:
    """A picture pasted into another is found again by its rectangle, in every form of image."""
    clock, boat = Image.open(CLOCK), Image.open(SAMPLES / "boats" / "boats_1.jpg")
    collage = Image.new("RGB", (clock.width + 300, clock.height + 200), "gray")
    collage.paste(boat.resize((300, 200)), (0, 0))
    collage.paste(clock, (300, 200))
    collage.save(tmp_path / "collage.png")
    place = (300, 200, clock.width, clock.height)
    data = (tmp_path / "collage.png").read_bytes()
    for image in (tmp_path / "collage.png", data, collage, np.asarray(collage)):
        best = samples.query(Crop(image, *place), 1)[0]
        assert best.key == "clocks/clocks_1.jpg" and best.ranked_by > 0.99
        assert samples.query(Crop(image, 0, 0, 300, 200), 1)[0].key == "boats/boats_1.jpg"
    assert samples.query(collage, 1)[0].ranked_by < 0.9
    whole = Crop(CLOCK, 0, 0, clock.width, clock.height)
    assert samples.query(whole, 3)[0].ranked_by > 0.999


@pytest.mark.parametrize(
    "numbers", [(0, 0, 0, 5), (0, 0, 5, -1), (0.5, 0, 5, 5), (1 << 40, 0, 5, 5)], ids=str
)
def test_wrong_numbers_of_crops_are_refused(numbers: tuple[Any, Any, Any, Any]) -> None:
    with pytest.raises(UsageError, match="crop"):
        Crop(CLOCK, *numbers)


def test_wrong_crops_are_refused(samples: embedsearch.Searcher) -> None:
    outside = Crop(CLOCK, 5000, 5000, 10, 10)
    with pytest.raises(UnreadableImage, match="holds nothing of a picture of 640 x 480"):
        samples.query(outside)
    with pytest.raises(UsageError, match="holds nothing"):
        samples.query(Crop(Image.open(CLOCK), 5000, 5000, 10, 10))
    with pytest.raises(UsageError):
        samples.query(Crop(unit(0), 0, 0, 5, 5))  # type: ignore[arg-type]


def test_a_key_asks_with_the_stored_row(samples: embedsearch.Searcher) -> None:
    by_key = samples.query(Key("clocks/clocks_1.jpg"), 5)
    assert by_key[0].key == "clocks/clocks_1.jpg"
    assert by_key[0].score == pytest.approx(1.0, abs=1e-6)
    assert samples.query(Key(str(CLOCK)), 5) == by_key
    assert keys(samples.query(CLOCK, 5)) == keys(by_key)
    for wrong in ("clocks_1.jpg", "nowhere/x.jpg", "/etc/passwd", "", "/"):
        with pytest.raises(UsageError, match="no single image"):
            samples.query(Key(wrong))


def test_a_key_of_two_folders_needs_the_whole_path(
    tmp_path: Path, extractor: Callable[..., Any]
) -> None:
    for folder in ("one", "two"):
        paint(tmp_path / folder / "same.png", len(folder) + ord(folder[0]))
    paint(tmp_path / "one" / "gone.png", 5)
    folders = [tmp_path / "one", tmp_path / "two"]
    store = tmp_path / "s.es"
    embedsearch.index(folders, store=store, model="packaged", extractor_factory=extractor)
    (tmp_path / "one" / "gone.png").unlink()
    embedsearch.index(store=store, extractor_factory=extractor)
    with embedsearch.open_store(store) as searcher:
        with pytest.raises(UsageError, match=r"2 images .* give the whole path"):
            searcher.query(Key("same.png"))
        for folder in ("one", "two"):
            path = str(tmp_path / folder / "same.png")
            assert searcher.query(Key(path), 1)[0].full_path == path
        with pytest.raises(UsageError, match="no single image"):
            searcher.query(Key("gone.png"))


def test_a_mixture_is_rocchios(samples: embedsearch.Searcher) -> None:
    """Of vectors as they are compared, measured from the center."""
    like, unlike = [unit(1), unit(2), unit(3)], [unit(4), unit(5)]
    likes, unlikes = (measured(samples.store, np.array(some)) for some in (like, unlike))
    center = samples.manifest.open_center()
    assert center is not None
    by_hand = likes.mean(axis=0) - UNLIKE_WEIGHT * unlikes.mean(axis=0)
    wanted = samples.query(Mix(like, unlike), 9)
    same = samples.query(center.plain(by_hand.astype(np.float32)), 9)
    assert keys(wanted) == keys(same)
    assert [h.score for h in wanted] == pytest.approx([h.score for h in same], abs=1e-6)
    assert samples.query(like[0], 9, like=like[1:], unlike=unlike) == wanted
    assert samples.query(like=like, unlike=unlike, k=9) == wanted
    assert samples.query(Mix([unit(1)]), 9) == samples.query(unit(1), 9)
    assert samples.query_batch([unit(1), Mix(like, unlike)], 9)[1] == wanted
    for wrong in (lambda: samples.query(), lambda: Mix([]), lambda: samples.query(unlike=unlike)):
        with pytest.raises(UsageError, match="an image, one in like, or a text"):
            wrong()
    with pytest.raises(UsageError, match="cannot hold another Mix"):
        samples.query(Mix(like), like=[unit(2)])
    with pytest.raises(UsageError, match="cancel"):
        samples.query(Mix([center.plain(unit(1)), center.plain(-unit(1))]))


def test_unlike_takes_away_what_it_shows(samples: embedsearch.Searcher) -> None:
    clock, boat = Key("clocks/clocks_1.jpg"), Key("boats/boats_1.jpg")
    both = samples.query(Mix([clock, boat]), 54)
    without = samples.query(Mix([clock, boat], [Key("boats/boats_2.jpg")]), 54)
    rank = {hit.key: hit.rank for hit in without}
    boats = [hit for hit in both if hit.key.startswith("boats")]
    assert sum(rank[hit.key] for hit in boats) > sum(hit.rank for hit in boats)


def test_pages_join(samples: embedsearch.Searcher) -> None:
    whole = samples.query(unit(3), 54)
    paged = [hit for start in range(0, 60, 7) for hit in samples.query(unit(3), 7, offset=start)]
    assert paged == whole
    assert samples.query(unit(3), 5, offset=54) == []
    assert samples.query(unit(3), 5, offset=10**9) == []
    assert keys(samples.query(unit(3), 5, offset=2, min_score=whole[3].score)) == keys(whole[2:4])


def test_collapsing_leaves_the_best_of_each_kind(
    tmp_path: Path, extractor: Callable[..., Any]
) -> None:
    """40 pictures, 30 of them one and the same: k different ones are still found."""
    photos, store = tmp_path / "photos", tmp_path / "s.es"
    for seed in range(40):
        paint(photos / f"{seed:02d}.png", 0 if seed < 30 else seed)
    embedsearch.index(photos, store=store, model="packaged", extractor_factory=extractor)
    with embedsearch.open_store(store) as searcher:
        query = Key("00.png")
        assert keys(searcher.query(query, 5)) == [f"{n:02d}.png" for n in range(5)]
        plain = searcher.query(query, 40)
        hits = searcher.query(query, 5, collapse=0.999)
        assert keys(hits) == ["00.png", *keys(plain[30:34])]
        assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
        assert keys(searcher.query(query, 3, offset=2, collapse=0.999)) == keys(hits[2:5])
        assert len(searcher.query(query, 40, collapse=0.999)) == 11
        apart = searcher.query(query, 40, collapse=0.05)
        vectors = measured(store, searcher.embed([Key(hit.key) for hit in apart]))
        cosines = vectors @ vectors.T - 2 * np.eye(len(apart))
        assert 1 < len(apart) < 11 and cosines.max() < 0.05


def test_diverse_hits_are_by_maximal_marginal_relevance(samples: embedsearch.Searcher) -> None:
    query = Key("clocks/clocks_1.jpg")
    plain = samples.query(query, 54)
    assert samples.query(query, 10, diverse=0.0) == plain[:10]
    embedded = measured(samples.store, samples.embed([Key(hit.key) for hit in plain]))
    vectors = dict(zip(keys(plain), embedded, strict=True))
    weight, left = 0.6, list(plain)
    chosen: list[str] = []
    while len(chosen) < 10:
        best = max(
            left,
            key=lambda hit: (
                (1 - weight) * hit.ranked_by
                - weight * max((vectors[hit.key] @ vectors[other] for other in chosen), default=0.0)
            ),
        )
        chosen.append(best.key)
        left.remove(best)
    hits = samples.query(query, 10, diverse=weight)
    assert keys(hits) == chosen != keys(plain[:10])
    assert samples.query(query, 4, offset=6, diverse=weight) == hits[6:]


def test_expansion_adds_weighed_neighbors(samples: embedsearch.Searcher) -> None:
    (query,) = samples.embed([Key("boats/boats_1.jpg")])
    near = samples.query(query, 4)
    rows = measured(samples.store, samples.embed([Key(hit.key) for hit in near]))
    weights = [max(hit.ranked_by, 0.0) ** 3 for hit in near]
    center = samples.manifest.open_center()
    assert center is not None
    vector = measured(samples.store, query) + weights @ rows
    wanted = samples.query(center.plain(vector.astype(np.float32)), 9)
    hits = samples.query(query, 9, expand=4)
    assert keys(hits) == keys(wanted)
    assert [h.score for h in hits] == pytest.approx([h.score for h in wanted], abs=1e-3)


def test_reranked_hits(samples: embedsearch.Searcher) -> None:
    """Hits that resemble other near hits move up; the cosine stays beside the rank score."""
    (query,) = samples.embed([Key("boats/boats_1.jpg")])
    plain, hits = samples.query(query, 54), samples.query(query, 54, rerank=True)
    assert all(hit.rank_score is None for hit in plain) and keys(hits) != keys(plain)
    cosines = {hit.key: hit.score for hit in plain}
    assert {hit.key: hit.score for hit in hits} == cosines
    stored = {key.decode(): row for key, row in compared_rows(samples.store).items()}
    rows = units(np.array([stored[key] for key in cosines]))
    wanted = dict(zip(cosines, reranked_by_hand(measured(samples.store, query), rows), strict=True))
    given = [hit.rank_score for hit in hits]
    assert given == pytest.approx([wanted[hit.key] for hit in hits], abs=1e-5)
    assert given == pytest.approx(sorted(wanted.values(), reverse=True), abs=1e-5)
    assert [hit.rank for hit in hits] == [*range(1, 55)]
    assert samples.query(query, 5, rerank=True) == hits[:5]
    assert samples.query(query, 5, offset=7, rerank=True) == hits[7:12]
    drawn = samples.query(query, 54, expand=3)
    assert {*keys(samples.query(query, 54, rerank=True, expand=3))} == {*keys(drawn)}


def test_what_is_left_out_is_no_neighbor_of_a_reranked_hit(samples: embedsearch.Searcher) -> None:
    """Filters, least scores and copies come first: what is left is re-ranked."""
    (query,) = samples.embed([Key("boats/boats_1.jpg")])
    stored = {key.decode(): row for key, row in compared_rows(samples.store).items()}
    for options in ({"min_score": 0.1}, {"where": "path like '%s/%'"}, {"collapse": 0.5}):
        plain = samples.query(query, 54, **options)
        assert 6 < len(plain) <= 54
        rows = units(np.array([stored[hit.key] for hit in plain]))
        wanted = reranked_by_hand(measured(samples.store, query), rows)
        hits = samples.query(query, 54, rerank=True, **options)
        by_key = dict(zip(keys(plain), wanted, strict=True))
        assert [h.rank_score for h in hits] == pytest.approx(
            [by_key[h.key] for h in hits], abs=1e-5
        )
    assert len(samples.query(query, 54, collapse=0.5)) < 54


def test_those_beyond_the_reranked_follow_by_cosine(
    samples: embedsearch.Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "RERANKED", 5)
    (query,) = samples.embed([Key("boats/boats_1.jpg")])
    plain, hits = samples.query(query, 9), samples.query(query, 9, rerank=True)
    assert {*keys(hits[:5])} == {*keys(plain[:5])} and keys(hits[5:]) == keys(plain[5:])
    assert [hit.rank_score is None for hit in hits] == [False] * 5 + [True] * 4
    assert samples.query(query, 3, offset=4, rerank=True) == hits[4:7]


def test_wrong_options_are_refused(samples: embedsearch.Searcher) -> None:
    wrong: list[dict[str, Any]] = [
        {"offset": -1},
        {"offset": 1.5},
        {"collapse": 0.0},
        {"collapse": 1.1},
        {"diverse": -0.1},
        {"diverse": 0.5, "offset": 250},
        {"expand": -1},
        {"expand": 10**6},
        {"min_score": 2.0},
        {"rerank": "yes"},
        {"rerank": True, "diverse": 0.5},
        {"k": 0},
        {"radius": 3},
        {"where": "widht > 1"},
    ]
    for options in wrong:
        with pytest.raises(UsageError):
            samples.query_batch([unit(0)], **options)
    assert SearchConfig(k=np.int64(3)).k == 3  # type: ignore[arg-type]


def test_a_filter_is_asked_of_the_columns(samples: embedsearch.Searcher) -> None:
    hits = samples.query(CLOCK, 54, where="format = 'PNG' and path like 'clocks/%'")
    assert hits and all(h.key.endswith(".png") and h.key.startswith("clocks/") for h in hits)
    assert samples.query(CLOCK, 54, where="width > 100000") == []
    folder = str(SAMPLES.resolve())
    assert len(samples.query(CLOCK, 99, where=f"folder = '{folder}'")) == 54
    assert len(samples.query(CLOCK, 99, where="modified > '2000-01-01' and size > 0")) == 54
    wide = samples.query(CLOCK, 99, where="width > height")
    assert 0 < len(wide) < 54 and all(hit.width > hit.height for hit in wide)
    assert len(samples.query(CLOCK, 99, where="not width > height")) == 54 - len(wide)


def test_the_command_line_asks_the_same(samples_store: Path, tmp_path: Path) -> None:
    def answer(*arguments: str | Path) -> list[str]:
        done = run_cli("query", *arguments, "--store", samples_store, "--paths")
        assert done.returncode == 0, done.stderr
        prefix = f"{SAMPLES.resolve()}/"
        return [line.removeprefix(prefix) for line in done.stdout.splitlines()]

    boat = SAMPLES / "boats" / "boats_1.jpg"
    with embedsearch.open_store(samples_store) as searcher:

        def ask(query: Any, **options: Any) -> list[str]:
            return keys(searcher.query_batch([query], **options)[0])

        mix = Mix([str(CLOCK), str(boat)], [str(SAMPLES / "boats" / "boats_2.jpg")])
        assert answer(CLOCK, "--like", boat, "--unlike", SAMPLES / "boats/boats_2.jpg") == ask(mix)
        assert answer("--like", CLOCK, "--like", boat) == ask(Mix([str(CLOCK), str(boat)]))
        assert answer("--key", "clocks/clocks_1.jpg") == ask(Key("clocks/clocks_1.jpg"))
        assert answer(CLOCK, "--crop", "10,20,300,200") == ask(Crop(str(CLOCK), 10, 20, 300, 200))
        where = "path like 'boats/%'"
        assert answer(CLOCK, "--where", where) == ask(str(CLOCK), where=where)
        options = ["--offset", "2", "-k", "4", "--diverse", "0.5", "--collapse", "0.99"]
        wanted = ask(str(CLOCK), offset=2, k=4, diverse=0.5, collapse=0.99)
        assert answer(CLOCK, *options) == wanted
        assert answer(CLOCK, "--expand", "3") == ask(str(CLOCK), expand=3)
        assert answer(CLOCK, "--rerank") == ask(str(CLOCK), rerank=True)
    sheet = tmp_path / "sheet.png"
    arguments = ["query", "--key", "clocks/clocks_1.jpg", CLOCK, "--crop", "0,0,300,300"]
    arguments += ["--like", boat, "-k", "2", "--store", samples_store, "--sheet", sheet]
    done = run_cli(*arguments)
    assert done.returncode == 0 and sheet.stat().st_size > 1000
    assert f"{CLOCK} 0,0,300,300 + {boat}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name an image"),
        (["--unlike", CLOCK], "name an image"),
        (["--crop", "1,2,3,4"], "--crop needs an image"),
        ([CLOCK, "--crop", "1,2,3"], "four whole numbers"),
        ([CLOCK, "--crop", "1,2,3,x"], "four whole numbers"),
        ([CLOCK, "--crop", "1,2,0,5"], "at least 1 x 1"),
        ([CLOCK, "--where", "read_csv('/etc/passwd') is null"], "--where"),
        ([CLOCK, "--where", "widht > 3"], "did you mean width?"),
        ([CLOCK, "--key", "nobody.jpg"], "no single image"),
        ([CLOCK, "--offset", "-1"], "--offset"),
        ([CLOCK, "--diverse", "3"], "diverse"),
    ],
)
def test_the_command_line_refuses(samples_store: Path, arguments: list[Any], words: str) -> None:
    done = run_cli("query", *arguments, "--store", samples_store)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not done.stdout


def test_no_match_is_an_empty_answer(samples_store: Path) -> None:
    done = run_cli("query", CLOCK, "--store", samples_store, "--where", "width < 0")
    assert done.returncode == 0 and "no image" in done.stdout


def test_filters_work_on_uncovered_and_deleted_rows(
    tmp_path: Path, extractor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedsearch.indexing.store_update.StoreUpdate.tidy", lambda self: None)
    photos, store = tmp_path / "photos", tmp_path / "s.es"
    for seed in range(9):
        paint(photos / f"{seed}.png", seed)
        embedsearch.index(photos, store=store, model="packaged", extractor_factory=extractor)
    (photos / "4.png").unlink()
    embedsearch.index(photos, store=store, extractor_factory=extractor)
    shutil.rmtree(store / "ann")
    with embedsearch.open_store(store) as searcher:
        hits = searcher.query(unit(0), 20, where="path >= '3.png'")
    assert sorted(keys(hits)) == [f"{n}.png" for n in (3, 5, 6, 7, 8)]
