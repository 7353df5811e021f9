"""Copies, clusters, outliers and maps: known answers on known pictures."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

import embedsearch
from embedsearch.core.config import DuplicateConfig
from embedsearch.core.errors import NothingIndexed, UsageError
from embedsearch.curation.clusters import clusters, outliers
from embedsearch.curation.duplicates import DuplicateReport, duplicates
from embedsearch.curation.likeness import AS_IT_IS, Likeness
from embedsearch.curation.linkage import Ball, Members, complete_groups
from embedsearch.curation.plane import picture_map
from embedsearch.exchange.import_vectors import import_vectors
from embedsearch.searching.ann.graph import EXACT_ROWS, NearGraph
from tests.support.library import GOLDEN, SAMPLES, paint, run_cli

CLOCK, BOAT = SAMPLES / "clocks" / "clocks_1.jpg", SAMPLES / "boats" / "boats_1.jpg"


def nothing() -> None:
    pass


def units(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """54 photos, and copies of two of them."""
    folder = tmp_path_factory.mktemp("curated")
    photos = folder / "photos"
    shutil.copytree(SAMPLES, photos)
    (photos / "copies").mkdir()
    shutil.copy(CLOCK, photos / "copies" / "same.jpg")
    image = Image.open(CLOCK).convert("RGB")
    for name, made in {
        "small.png": image.resize((200, 150), Image.Resampling.LANCZOS),
        "grey.png": image.convert("L"),
        "flip.png": ImageOps.mirror(image),
        "upside.png": ImageOps.flip(image),
        "right.png": image.transpose(Image.Transpose.ROTATE_270),
        "half.png": image.transpose(Image.Transpose.ROTATE_180),
        "left_flipped.png": ImageOps.mirror(image.transpose(Image.Transpose.ROTATE_90)),
        "part.png": image.crop((30, 20, 606, 452)),
    }.items():
        made.save(photos / "copies" / name)
    Image.open(BOAT).convert("RGB").save(photos / "copies" / "boat.jpg", quality=30)
    embedsearch.index(photos, store=folder / "s.es", model="packaged")
    return folder / "s.es"


def found(report: DuplicateReport) -> dict[str, dict[str, str]]:
    """Return the kept keys, and how each copy is one."""
    return {
        group.keep.key: {
            copy.picture.key.removeprefix("copies/"): copy.how for copy in group.copies
        }
        for group in report.groups
    }


PLAIN = {"same.jpg": "same bytes", "small.png": "copy", "grey.png": "copy"}


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, {}),
        ({"flips": True}, {"flip.png": "flipped"}),
        ({"rotations": True}, {"right.png": "turned right", "half.png": "upside down"}),
        (
            {"flips": True, "rotations": True},
            {
                "flip.png": "flipped",
                "upside.png": "upside down, flipped",
                "right.png": "turned right",
                "half.png": "upside down",
                "left_flipped.png": "turned left, flipped",
            },
        ),
        ({"crops": True}, {"part.png": "crop"}),
    ],
)
def test_copies_are_found(store: Path, options: dict[str, bool], more: dict[str, str]) -> None:
    """And nothing else: all other photos are photos of their own."""
    keep = (f"folder={store.parent / 'photos' / 'clocks'}",)
    report = duplicates(store=store, config=DuplicateConfig(keep=keep, **options))
    groups = found(report)
    clock = groups.pop("clocks/clocks_1.jpg")
    boat = groups.pop("boats/boats_1.jpg")
    assert boat == {"boat.jpg": "copy"}
    # Turned ones are copies of each other, too, where only some turns are looked for.
    assert {**PLAIN, **more}.items() <= clock.items()
    rest = [name for group in groups.items() for name in (group[0], *group[1])]
    assert all("copies/" in name or name.endswith((".png", ".jpg")) for name in rest)
    assert set(clock) <= set(os.listdir(store.parent / "photos" / "copies"))
    if not options:
        assert clock == PLAIN and not groups
        assert (report.images, report.copies, report.unsigned) == (64, 4, 0)
    for group in report.groups:
        assert all(0.9 < copy.score <= 1.0 for copy in group.copies)


def test_which_one_is_kept(store: Path, tmp_path: Path) -> None:
    def kept(*wishes: str) -> str:
        config = DuplicateConfig(
            keep=wishes, where="path like '%clocks_1%' or path like 'copies/%'"
        )
        report = duplicates(store=store, config=config)
        return next(g.keep.key for g in report.groups if len(g.copies) == 3)

    photos = store.parent / "photos"
    assert kept() == kept("largest") == "copies/grey.png"  # as many pixels, and more bytes
    assert kept("format=JPEG,PNG") in {"clocks/clocks_1.jpg", "copies/same.jpg"}
    assert kept("format=PNG") == "copies/grey.png"
    assert kept(f"folder={photos / 'clocks'}") == "clocks/clocks_1.jpg"
    assert kept(f"folder={photos / 'clo'}") == "copies/grey.png"  # no folder of that name
    assert kept("format=JPEG", f"folder={photos / 'copies'}") == "copies/same.jpg"
    ages = {"clocks/clocks_1.jpg": 5, "copies/same.jpg": 4, "copies/small.png": 3}
    for wish, key in (("oldest", "copies/small.png"), ("newest", "copies/grey.png")):
        again = shutil.copytree(photos, tmp_path / wish)
        for name, age in ages.items():
            os.utime(again / name, (age, age))
        embedsearch.index(again, store=tmp_path / f"{wish}.es", model="packaged")
        config = DuplicateConfig(keep=(wish,))
        report = duplicates(store=tmp_path / f"{wish}.es", config=config)
        assert next(g.keep.key for g in report.groups if len(g.copies) == 3) == key


def test_one_folder_against_another(store: Path) -> None:
    photos = store.parent / "photos"
    report = duplicates(photos / "copies", against=photos / "clocks", store=store)
    assert found(report) == {"clocks/clocks_1.jpg": PLAIN}
    report = duplicates(
        photos / "clocks",
        against=photos / "copies",
        store=store,
        config=DuplicateConfig(flips=True),
    )
    ((group),) = report.groups
    assert (group.keep.key, [copy.picture.key for copy in group.copies]) == (
        "copies/same.jpg",
        ["clocks/clocks_1.jpg"],
    )
    assert found(duplicates(photos / "copies", store=store)) == {
        "copies/grey.png": {"same.jpg": "copy", "small.png": "copy"}
    }
    for arguments, words in (
        ({"folder": photos / "none"}, "no image of the store lies in"),
        ({"folder": photos / "clo"}, "no image of the store lies in"),
        ({"folder": None, "against": photos}, "needs a folder"),
        ({"folder": photos, "against": photos / "clocks"}, "are in"),
    ):
        with pytest.raises(UsageError, match=words):
            duplicates(store=store, **arguments)  # type: ignore[arg-type]


def test_look_alikes(store: Path) -> None:
    """Every two of a group reach the cosine that is asked for."""
    with embedsearch.open_store(store) as searcher:
        report = duplicates(store=store, config=DuplicateConfig(similar=0.6))
        assert len(report.groups) > 3
        for group in report.groups:
            rows = [group.keep.row, *(copy.picture.row for copy in group.copies)]
            vectors = searcher.embed([embedsearch.Key(row) for row in rows])
            assert (vectors @ vectors.T).min() >= 0.6 - 1e-3
            assert {copy.how for copy in group.copies} <= {"similar", "same bytes"}


def test_the_script_deletes_what_it_says(tmp_path: Path) -> None:
    """Real files of hostile names, a real shell; what is kept is never touched."""
    photos = tmp_path / "photos"
    names = [
        "a.jpg",
        "-rf",
        "it's $(touch owned).jpg",
        "two\nlines.jpg",
        os.fsdecode(b"\xff\xfe.jpg"),
    ]
    names = [name if name.endswith(".jpg") else name + ".jpg" for name in names]
    photos.mkdir()
    for number, name in enumerate(names):
        shutil.copy(CLOCK, photos / name)
        os.utime(photos / name, (number, number))
    shutil.copy(BOAT, photos / "b.jpg")
    shutil.copy(BOAT, photos / "b2.jpg")
    store, script = tmp_path / "s.es", tmp_path / "delete it.sh"
    embedsearch.index(photos, store=store, model="packaged")
    done = run_cli("duplicates", "--store", store, "--script", script, "--keep", "oldest")
    assert done.returncode == 0, done.stderr
    assert "nothing was deleted" in done.stderr and len(os.listdir(photos)) == 7
    boats = sorted({"b.jpg", "b2.jpg"})
    (photos / boats[0]).unlink()  # the one that would be kept: its copy must stay
    assert [line for line in done.stdout.splitlines() if "keep" in line and boats[0] in line]
    shell = subprocess.run(["sh", script], capture_output=True, cwd=tmp_path)
    assert shell.returncode == 0
    assert sorted(os.listdir(photos)) == sorted(["a.jpg", "b2.jpg"])
    assert b"left alone" in shell.stderr and b"b2.jpg" in shell.stderr
    assert not (tmp_path / "owned").exists()
    again = subprocess.run(["sh", script], capture_output=True, cwd=tmp_path)
    assert sorted(os.listdir(photos)) == ["a.jpg", "b2.jpg"], again.stderr


def test_output_for_programs(store: Path) -> None:
    lines = run_cli("duplicates", "--store", store, "--json").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["what"] for row in rows if row["group"] == 1] == ["keep", "copy"]
    shown = run_cli("duplicates", "--store", store, "--csv").stdout
    read = list(csv.DictReader(io.StringIO(shown)))
    assert [{**row, "score": str(row["score"])} for row in rows] and len(read) == len(rows)
    assert [row["path"] for row in read] == [row["path"] for row in rows]
    for arguments, words in (
        (["--json", "--csv"], "exclude"),
        (["--threshold", "0.2"], "0.5 to 1"),
        (["--similar", "2"], "at most 1"),
        (["--similar", "0.9", "--flips"], "know nothing"),
        (["--keep", "biggest"], "largest, oldest"),
        (["--keep", "format="], "largest, oldest"),
        (["--where", "widht > 1"], "did you mean width"),
        (["--script", str(store)], "s.es"),
    ):
        done = run_cli("duplicates", "--store", store, *arguments)
        assert done.returncode in {2, 4} and words in done.stderr, done.stderr


def test_a_page_of_copies(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    hostile = '"><script>alert(1)</script>'.replace("/", "_") + ".jpg"
    for name in ("a.jpg", hostile, "gone.jpg"):
        shutil.copy(CLOCK, photos / name)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    (photos / "gone.jpg").unlink()
    out = tmp_path / "copies.html"
    done = run_cli("duplicates", "--store", tmp_path / "s.es", "--html", out)
    assert done.returncode == 0 and "3 images, 2 of them copies" in done.stderr, done.stderr
    page = out.read_text()
    assert page.count("<figure") == 3 and page.count("data:image/jpeg") == 2
    assert page.count("cannot be read any more") == 1 and "<script" not in page
    assert page.count("same bytes · 1.000") == 2 and page.count("keep") >= 1
    assert run_cli("duplicates", "--store", tmp_path / "s.es", "--html", tmp_path).returncode == 4


def test_pictures_without_a_signature(tmp_path: Path) -> None:
    golden = shutil.copytree(GOLDEN / "format_1", tmp_path / "old")
    with pytest.raises(UsageError, match="no image here has a signature"):
        duplicates(store=golden)
    photos = shutil.copytree(SAMPLES / "boats", tmp_path / "more")
    shutil.copy(photos / "boats_1.jpg", photos / "twin.jpg")
    embedsearch.index(photos, store=golden)
    report = duplicates(store=golden)
    assert report.unsigned == 7
    # Of one of the old ones the bytes are those of a new one.
    assert sorted(len(group.copies) for group in report.groups) == [1, 1, 2]


def test_pictures_without_structure_are_compared_by_their_bytes(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, colour in (
        ("a.png", "black"),
        ("b.png", "white"),
        ("c.png", "black"),
        ("d.png", "grey"),
    ):
        Image.new("RGB", (60, 40), colour).save(photos / name)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    assert found(duplicates(store=tmp_path / "s.es")) == {"a.png": {"c.png": "same bytes"}}


def test_real_duplicates(shared_data: Path, tmp_path: Path) -> None:
    embedsearch.index(shared_data / "duplicates", store=tmp_path / "s.es", model="packaged")
    config = DuplicateConfig(flips=True, rotations=True, crops=True)
    report = duplicates(store=tmp_path / "s.es", config=config)
    by_photo = {
        frozenset(
            os.path.basename(p.key)[:12] for p in (g.keep, *(copy.picture for copy in g.copies))
        ): len(g.copies) + 1
        for g in report.groups
    }
    # Of the first one, one file is turned by 25 degrees, which is no quarter turn.
    assert sorted(by_photo.values()) == [2, 3, 5, 9]
    alpha = frozenset({"alpha_channel"[:12], "ukbench00120"})
    assert by_photo.keys() == {
        alpha,
        *(frozenset({f"ukbench{n}"}) for n in ("00120", "09268", "09380")),
    }


class Matrix:
    """Says which positions are alike, and not where they lie."""

    reach = 1.0

    def __init__(self, alike: npt.NDArray[np.bool_]) -> None:
        self._alike = alike

    def ball(self, members: Members) -> Ball:
        return Ball(np.ones(1, np.float32), math.inf)

    def farthest(self, members: Members, centre: npt.NDArray[np.float32]) -> float:
        return math.inf

    def all_alike(self, some: Members, others: Members) -> bool:
        return bool(self._alike[np.ix_(some, others)].all())


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 14), st.floats(0.3, 0.95))
def test_every_two_of_a_group_are_alike(seed: int, count: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    likes = rng.random((count, count))
    likes = np.minimum(likes, likes.T)
    alike = likes < share
    pairs = sorted(
        ((i, j) for i in range(count) for j in range(i) if alike[i, j]), key=lambda p: likes[p]
    )
    groups = complete_groups(pairs, Matrix(alike))
    members = [place for group in groups for place in group]
    assert len(members) == len(set(members)) and all(len(group) > 1 for group in groups)
    for group in groups:
        assert all(alike[i, j] for i, j in itertools.combinations(group, 2))
    whole = groups + [[place] for place in range(count) if place not in members]
    for one, other in itertools.combinations(whole, 2):  # and no two could be joined
        assert not alike[np.ix_(one, other)].all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 40), st.floats(0.05, 0.6))
def test_balls_say_no_more_than_comparing_does(seed: int, count: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = units(np.array([1, 0, 0]) + spread * rng.standard_normal((count, 3)))
    likeness = Likeness(vectors, 0.97, [AS_IT_IS], nothing)
    pairs, _ = likeness.pairs()
    listed = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    wide = vectors.astype(np.float32)
    for group in complete_groups(listed, likeness):
        assert (wide[group] @ wide[group].T).min() >= 0.97


def test_a_chain_makes_no_group_of_its_ends() -> None:
    """The mutant: single linkage, which would make one group of all."""
    angles = np.deg2rad(np.arange(0, 60, 6))
    likeness = Likeness(
        units(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)),
        float(np.cos(np.deg2rad(7))),
        [AS_IT_IS],
        nothing,
    )
    pairs, _ = likeness.pairs()
    listed = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert len(listed) == 9
    assert max(map(len, complete_groups(listed, likeness))) == 2
    assert max(map(len, complete_groups(listed, Matrix(np.ones((10, 10), np.bool_))))) == 10


def test_the_graph_of_many_is_that_of_an_exact_search() -> None:
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((400, 64), np.float32)
    rows = EXACT_ROWS + 6_000
    vectors = centres[rng.integers(400, size=rows)] + rng.standard_normal((rows, 64), np.float32)
    vectors[-3000:] = vectors[:3000] + 0.1 * rng.standard_normal((3000, 64), np.float32)
    base = units(vectors)
    pairs = NearGraph(base, nothing).pairs(base, 8, 0.97)
    got = {
        (a, b) for a, b in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True) if a < b
    }
    wide = base.astype(np.float32)
    exact = set()
    for start in range(0, rows, 2000):
        a, b = np.nonzero(wide[start : start + 2000] @ wide.T >= 0.97)
        exact |= {(i, j) for i, j in zip((a + start).tolist(), b.tolist(), strict=True) if i < j}
    assert len(exact) >= 2_900
    assert len(got & exact) >= 0.995 * len(exact) and len(got - exact) <= 3  # of rounding
    products = np.einsum("pd,pd->p", wide[pairs.first], wide[pairs.second])
    assert np.allclose(products, pairs.scores, atol=2e-3)


def test_many_copies_of_one_picture(tmp_path: Path) -> None:
    """20,000 vectors, nearly the same; in the benchmark they are 100,000."""
    rng = np.random.default_rng(4)
    one = rng.standard_normal(64).astype(np.float32)
    vectors = one + 0.02 * rng.standard_normal((20_000, 64), np.float32)
    np.save(tmp_path / "v.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    (tmp_path / "p.txt").write_text("".join(f"{n}.jpg\n" for n in range(20_000)))
    import_vectors(
        tmp_path / "v.npy",
        paths=tmp_path / "p.txt",
        root=tmp_path,
        model="theirs",
        store=tmp_path / "s.es",
    )
    started = time.monotonic()
    report = duplicates(store=tmp_path / "s.es", config=DuplicateConfig(similar=0.98))
    assert [len(group.copies) for group in report.groups] == [19_999]
    assert time.monotonic() - started < 60


def test_clusters_hold_what_is_alike(store: Path) -> None:
    found = clusters(9, store=store)
    assert sum(len(cluster.rows) for cluster in found) == 64
    assert [cluster.number for cluster in found] == list(range(1, len(found) + 1))
    sizes = [len(cluster.rows) for cluster in found]
    assert sizes == sorted(sizes, reverse=True)
    pure = sum(
        max(
            sum(path.split("/")[-2] == folder for path in cluster.paths)
            for folder in {path.split("/")[-2] for path in cluster.paths}
        )
        for cluster in found
    )
    assert pure / 64 > 0.6  # nine folders of six, and copies
    assert clusters(9, store=store) == found
    with embedsearch.open_store(store) as searcher:
        first = found[0]
        vectors = searcher.embed([embedsearch.Key(row) for row in first.rows])
        centre = vectors.mean(axis=0)
        cosines = vectors @ centre / np.linalg.norm(centre)
        assert abs(cosines.mean() - first.cohesion) < 0.02
    for k, words in ((0, "from 1"), (65, "from 1 to 64")):
        with pytest.raises(UsageError, match=words):
            clusters(k, store=store)
    assert len(clusters(1, store=store)) == 1 and len(clusters(store=store)) <= 6


def test_the_odd_one_out(store: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(12):
        image = Image.open(CLOCK).convert("RGB")
        image.resize((200 + number, 150)).save(photos / f"clock_{number}.png")
    paint(photos / "odd.png", 5)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    oddest, *others = outliers(13, store=tmp_path / "s.es")
    assert oddest.path.endswith("odd.png")
    assert all(other.score > oddest.score + 0.1 for other in others)
    scores = [odd.score for odd in outliers(64, store=store)]
    assert scores == sorted(scores) and len(scores) == 64
    done = run_cli("outliers", "-n", "2", "--store", tmp_path / "s.es", "--json")
    assert json.loads(done.stdout.splitlines()[0])["row"] == oddest.row


def test_a_map(store: Path) -> None:
    found = picture_map(store=store)
    assert len(found.points) == found.images == 64
    places = np.array([(point.x, point.y) for point in found.points])
    assert places.min() == 0.0 and places.max() == 1.0
    with embedsearch.open_store(store) as searcher:
        vectors = searcher.embed([embedsearch.Key(point.key) for point in found.points])
    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    for place, axis in zip(places.T, axes[:2], strict=True):
        assert abs(np.corrcoef(place, centred @ axis)[0, 1]) > 0.99
    assert all(Image.open(io.BytesIO(p.jpeg)).format == "JPEG" for p in found.points if p.jpeg)
    assert sum(point.jpeg is None for point in found.points) == 0
    assert len(picture_map(store=store, most=10).points) == 10
    with pytest.raises(UsageError, match="pca, umap"):
        picture_map(store=store, method="tsne")
    with pytest.raises(NothingIndexed):
        picture_map(store=store, where="path like 'clocks/clocks_1%'")


@pytest.mark.scale
def test_umap_keeps_neighbors_together(store: Path) -> None:
    pytest.importorskip("umap", reason="needs the extra `map`")
    found = picture_map(store=store, method="umap", where="path not like 'copies/%'")
    places = np.array([(point.x, point.y) for point in found.points])
    folders = np.array([os.path.dirname(point.key) for point in found.points])
    far = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(far, np.inf)
    assert (folders[far.argmin(axis=1)] == folders).mean() > 0.6  # of nine folders


def test_a_map_is_one_page_of_data(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    hostile = "</script><img src=x onerror=alert(1)>"
    for seed, name in enumerate(("a", hostile.replace("/", "_"), "b\n", "gone")):
        paint(photos / f"{name}.png", seed)
    (photos / "</script>").mkdir(parents=True)
    paint(photos / "</script>" / "c.png", 9)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    (photos / "gone.png").unlink()
    out = tmp_path / "map.html"
    done = run_cli("map", out, "--store", tmp_path / "s.es")
    assert done.returncode == 0, done.stderr
    page = out.read_text()
    assert page.count("<script>") == page.count("</script>") == 1
    assert "http:" not in page and "https:" not in page and "onerror=alert" in page
    (folder := tmp_path / "folder").mkdir()
    assert run_cli("map", folder, "--store", tmp_path / "s.es").returncode == 4
    assert not list(folder.iterdir())


def test_an_empty_store_has_neither(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photo = paint(photos / "a.png", 1)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    photo.unlink()
    with pytest.raises(NothingIndexed):
        embedsearch.index(photos, store=tmp_path / "s.es", allow_empty=True)
    for command in (["clusters"], ["outliers"], ["map", str(tmp_path / "m.html")]):
        done = run_cli(*command, "--store", tmp_path / "s.es")
        assert done.returncode == 1 and "image" in done.stderr
    done = run_cli("duplicates", "--store", tmp_path / "s.es")
    assert (done.returncode, done.stdout) == (0, "")
