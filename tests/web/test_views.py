"""Copies, groups, outliers and the map: what the server shows of a whole store."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import embedsearch
from embedsearch.core.names import PATHS
from embedsearch.curation.picture_map import picture_map
from tests.support.answers import failed
from tests.support.library import BOAT, CLOCK, SAMPLES, paint
from tests.support.serving import Served, served

pytest.importorskip("fastapi", reason="needs the extra `serve`")

GENERATION = 2  # of a store that was just made: its images, then what speeds up searches


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, with copies of two of them."""
    photos = tmp_path_factory.mktemp("viewed") / "photos"
    shutil.copytree(SAMPLES, photos)
    (photos / "copies").mkdir()
    shutil.copy(CLOCK, photos / "copies" / "same é.jpg")
    image = Image.open(CLOCK).convert("RGB")
    for name, made in {
        "small.png": image.resize((200, 150), Image.Resampling.LANCZOS),
        "flip.png": ImageOps.mirror(image),
        "half.png": image.transpose(Image.Transpose.ROTATE_180),
        "part.png": image.crop((30, 20, 606, 452)),
    }.items():
        made.save(photos / "copies" / name)
    Image.open(BOAT).convert("RGB").save(photos / "copies" / "boat.jpg", quality=30)
    return photos


@pytest.fixture(scope="module")
def store(photos: Path) -> Path:
    path = photos.parent / "s.es"
    embedsearch.index(photos, store=path, model="packaged")
    return path


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Served]:
    with served(store) as running:
        yield running


@pytest.fixture(scope="module")
def searcher(store: Path) -> Iterator[embedsearch.Searcher]:
    with embedsearch.open_store(store) as opened:
        yield opened


KINDS: dict[str, dict[str, Any]] = {
    "": {},
    "?kind=same&keep=largest": {},
    "?kind=same&keep=oldest": {"keep": ("oldest",)},
    "?keep=newest": {"keep": ("newest",)},
    "?kind=turned": {"flips": True, "rotations": True},
    "?kind=parts": {"crops": True},
    "?kind=similar": {"similar": 0.95},
    "?kind=similar&similar=0.9&keep=oldest": {"similar": 0.9, "keep": ("oldest",)},
}


@pytest.mark.parametrize("query", KINDS, ids=lambda query: query or "as it is")
def test_copies_are_those_of_python(server: Served, store: Path, query: str) -> None:
    expected = embedsearch.duplicates(store, **{"keep": ("largest",), **KINDS[query]})
    found = server.get("/copies" + query).json
    names = ("row", *PATHS, "width", "height", "size_bytes", "format", "what")
    groups = [
        [{name: row[name] for name in (*names, "score")} for row in group.rows(1)]
        for group in expected.groups
    ]
    answered = [[group["keep"], *group["copies"]] for group in found["groups"]]
    keys = [[member.pop("key") for member in group] for group in answered]
    assert answered == groups
    assert keys == [[g.keep.key, *(copy.picture.key for copy in g.copies)] for g in expected.groups]
    rest = {name: value for name, value in found.items() if name != "groups"}
    assert rest == {
        "total": len(groups),
        "truncated": False,
        "images": 60,
        "copies": expected.copies,
        "others": expected.others,
        "bytes": expected.bytes,
        "generation": GENERATION,
    }


def test_each_kind_finds_what_it_is_for(server: Served) -> None:
    def found(query: str) -> dict[str, str]:
        groups = server.get("/copies" + query).json["groups"]
        return {copy["key"]: copy["what"] for group in groups for copy in group["copies"]}

    same = found("?kind=same&keep=oldest")  # what was painted here is younger
    assert {"copies/small.png", "copies/boat.jpg"} <= same.keys()
    assert same["copies/same é.jpg"] == "same bytes"
    assert not {"copies/flip.png", "copies/half.png", "copies/part.png"} & same.keys()
    turned = found("?kind=turned&keep=oldest")
    assert (turned["copies/flip.png"], turned["copies/half.png"]) == ("flipped", "upside down")
    assert found("?kind=parts&keep=oldest")["copies/part.png"] == "crop"
    alike = found("?kind=similar&similar=0.6")
    assert "similar" in alike.values() and set(alike.values()) <= {"similar", "same bytes"}


def test_the_script_is_that_of_python(server: Served, store: Path, tmp_path: Path) -> None:
    for query in ("", "?kind=turned&keep=newest"):
        answer = server.get("/copies/script" + query)
        assert answer.headers["content-type"].startswith("text/x-shellscript")
        assert answer.headers["content-disposition"] == 'attachment; filename="delete_copies.sh"'
        report = embedsearch.duplicates(store, **{"keep": ("largest",), **KINDS.get(query, {})})
        if query:
            report = embedsearch.duplicates(store, flips=True, rotations=True, keep=("newest",))
        embedsearch.write_script(tmp_path / "delete_copies.sh", report.groups)
        assert answer.body == (tmp_path / "delete_copies.sh").read_bytes()
        assert b"\nremove " in answer.body


@pytest.mark.parametrize(
    "query",
    [
        *("?kind=all", "?kind=", "?keep=smallest", "?keep=folder=/", "?similar=0.9", "?where=1"),
        *("?kind=similar&similar=0", "?kind=similar&similar=1.1", "?kind=similar&similar=nan"),
        *("?kind=similar&similar=inf", "?kind=similar&similar=x", "?kind=same&kind=same"),
        *("?kind=turned&similar=0.9", "?kind=similar&similar="),
    ],
)
def test_copies_that_cannot_be(server: Served, query: str) -> None:
    failed(server.get("/copies" + query), 400)
    failed(server.get("/copies/script" + query), 400)


def test_groups_are_those_of_python(
    server: Served, store: Path, searcher: embedsearch.Searcher
) -> None:
    expected = embedsearch.clusters(store, 9)
    found = server.get("/groups?k=9").json
    assert (found["total"], found["generation"]) == (len(expected), GENERATION)
    for group, cluster in zip(found["groups"], expected, strict=True):
        records = [searcher.get(row) for row in cluster.rows[:4]]
        assert group == {
            "number": cluster.number,
            "images": len(cluster.rows),
            "cohesion": round(cluster.cohesion, 4),
            "representatives": [
                {"row": r.row, "key": r.key, "width": r.width, "height": r.height} for r in records
            ],
        }
    assert len(server.get("/groups").json["groups"]) == len(embedsearch.clusters(store))


def test_the_images_of_a_group(server: Served, store: Path, searcher: embedsearch.Searcher) -> None:
    first, *_, last = embedsearch.clusters(store, 9)
    for cluster in (first, last):
        whole = server.get(f"/groups/{cluster.number}?groups=9").json
        assert whole == {
            "images": [searcher.get(row).to_dict() for row in cluster.rows],
            "total": len(cluster.rows),
            "generation": GENERATION,
        }
    some = server.get("/groups/1?groups=9&k=2&offset=1").json
    assert [image["row"] for image in some["images"]] == first.rows[1:3]
    assert server.get("/groups/1?groups=9&offset=99").json["images"] == []
    default = embedsearch.clusters(store)
    assert server.get("/groups/1").json["total"] == len(default[0].rows)


def test_outliers_are_those_of_python(
    server: Served, store: Path, searcher: embedsearch.Searcher
) -> None:
    expected = embedsearch.outliers(store, 200)
    whole = server.get("/outliers?k=200").json
    assert whole == {
        "images": [
            {**searcher.get(odd.row).to_dict(), "score": round(odd.score, 4)} for odd in expected
        ],
        "total": 60,
        "generation": GENERATION,
    }
    assert server.get("/outliers?k=3&offset=2").json["images"] == whole["images"][2:5]
    assert server.get("/outliers?offset=60").json["images"] == []


@pytest.mark.parametrize(
    "path",
    [
        *("/groups?k=0", "/groups?k=61", "/groups?k=1001", "/groups?k=x", "/groups?k=1&k=1"),
        *("/groups?where=1", "/groups/1?k=0", "/groups/1?k=1001", "/groups/1?offset=-1"),
        *("/groups/1?groups=0", "/groups/1?groups=61", "/outliers?k=0", "/outliers?offset=x"),
        *("/outliers?row=1", "/map?max_images=2", "/map?max_images=50001", "/map?max_images="),
        *("/map?method=umap", "/groups?k=%D9%A3%00"),
    ],
)
def test_views_that_cannot_be(server: Served, path: str) -> None:
    failed(server.get(path), 400)


@pytest.mark.parametrize("number", ["0", "10", "x", "-1", "01", "1e0", "%D9%A1", "9" * 30, "1 "])
def test_groups_that_are_not_there(server: Served, number: str) -> None:
    answer = server.get(f"/groups/{number.replace(' ', '%20')}?groups=9")
    failed(answer, 404)
    assert answer.json["code"] == "no_such_group"


def test_a_map_is_that_of_python(
    server: Served, store: Path, searcher: embedsearch.Searcher
) -> None:
    expected = picture_map(store)
    found = server.get("/map").json
    assert [searcher.get(row).key for row in found["rows"]] == [p.key for p in expected.points]
    assert np.allclose(found["x"], [point.x for point in expected.points], atol=5.1e-5)
    assert np.allclose(found["y"], [point.y for point in expected.points], atol=5.1e-5)
    assert (min(found["x"]), max(found["x"]), min(found["y"]), max(found["y"])) == (0, 1, 0, 1)
    assert all(len(str(x)) <= 6 for x in (*found["x"], *found["y"]))
    assert (found["images"], found["generation"]) == (60, GENERATION)
    some = server.get("/map?max_images=10").json
    assert (len(some["rows"]), some["images"]) == (10, 60)


def test_the_answers_are_what_the_document_says(server: Served) -> None:
    from embedsearch.web.routes import view_models
    from embedsearch.web.routes.images import ListAnswer

    view_models.CopiesAnswer.model_validate(server.get("/copies?kind=parts").json)
    view_models.GroupsAnswer.model_validate(server.get("/groups").json)
    view_models.OutliersAnswer.model_validate(server.get("/outliers").json)
    view_models.MapAnswer.model_validate(server.get("/map").json)
    ListAnswer.model_validate(server.get("/groups/1").json)


def test_a_view_is_made_once(tmp_path: Path) -> None:
    """The second answer comes from memory: it is there although the store is gone."""
    for seed in range(6):
        paint(tmp_path / "p" / f"{seed}.png", seed)
    embedsearch.index(tmp_path / "p", store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es") as server:
        first = [server.get(path) for path in ("/groups?k=2", "/map", "/copies", "/outliers")]
        shards = tmp_path / "s.es" / "shards"
        assert [answer.status for answer in first] == [200] * 4
        shutil.move(shards if shards.exists() else tmp_path / "s.es", tmp_path / "away")
        again = [server.get(path) for path in ("/groups?k=2", "/map", "/copies", "/outliers")]
        assert [answer.body for answer in again] == [answer.body for answer in first]
        failed(server.get("/groups?k=3"), 503)


def test_a_view_follows_the_store(tmp_path: Path) -> None:
    for seed in range(4):
        paint(tmp_path / "p" / f"{seed}.png", seed)
    embedsearch.index(tmp_path / "p", store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es") as server:
        assert server.get("/map").json["images"] == 4
        shutil.copy(tmp_path / "p" / "0.png", tmp_path / "p" / "copy.png")
        (tmp_path / "p" / "3.png").unlink()
        (tmp_path / "p" / "2.png").unlink()
        embedsearch.index(tmp_path / "p", store=tmp_path / "s.es", model="packaged")
        generation = embedsearch.open_store(tmp_path / "s.es").manifest.generation
        deadline = time.monotonic() + 30
        while server.get("/health").json["generation"] < generation:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        answer = server.get("/copies").json
        assert (answer["generation"], answer["images"]) == (generation, 3)
        assert [copy["what"] for group in answer["groups"] for copy in group["copies"]] == [
            "same bytes"
        ]
        assert server.get("/map").json["images"] == 3


def test_views_of_hardly_anything(tmp_path: Path) -> None:
    photo = paint(tmp_path / "p" / "a.png", 1)
    embedsearch.index(tmp_path / "p", store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es") as server:
        assert server.get("/map").json == {
            **{"rows": [], "x": [], "y": [], "images": 1},
            "generation": GENERATION,
        }
        assert server.get("/groups").json["total"] == 1
        assert server.get("/outliers").json["total"] == 1
    photo.unlink()
    with pytest.raises(embedsearch.NothingIndexed):
        embedsearch.index(tmp_path / "p", store=tmp_path / "s.es", allow_empty=True)
    with served(tmp_path / "s.es") as server:
        groups = server.get("/groups").json
        assert groups["groups"] == []
        assert server.get("/outliers").json["images"] == []
        assert server.get("/copies").json["groups"] == []
        assert server.get("/map").json["images"] == 0
        failed(server.get("/groups/1"), 404)
