"""What a page shows to choose from: values of columns, months, folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import embedsearch
from tests.support.answers import failed
from tests.support.library import paint
from tests.support.serving import Served, served

pytest.importorskip("fastapi", reason="needs the extra `serve`")


@pytest.mark.parametrize("where", [None, "width > 500"])
def test_values_are_those_of_python(
    server: Served, searcher: embedsearch.Searcher, where: str | None
) -> None:
    query = "" if where is None else "?where=width%20%3E%20500"
    generation = {"generation": searcher.manifest.generation}
    for column in searcher.columns:
        wanted = searcher.values(column, where=where).to_dict() | generation
        assert server.get(f"/values/{column}{query}").json == wanted
    wanted = searcher.folders(where=where).to_dict() | generation
    assert server.get(f"/folders{query}").json == wanted
    assert {"root", "folder", "images"} == set(wanted["folders"][0])


def test_answers_are_as_described(server: Served) -> None:
    from embedsearch.web.routes.browse import FoldersAnswer, ValuesAnswer

    values = ValuesAnswer.model_validate(server.get("/values/format").json)
    assert values.total == 54 == sum(each.images for each in values.values)
    folders = FoldersAnswer.model_validate(server.get("/folders").json)
    assert sum(each.images for each in folders.folders) == 54


@pytest.mark.parametrize(
    "column", ["", "nothing", "Width", "digest", "vector", "width/", "../info", "%00", "%ff", "%2e"]
)
def test_columns_that_are_not_there(server: Served, column: str) -> None:
    answer = server.get(f"/values/{column}")
    failed(answer, 404)
    assert answer.json["code"] == "no_such_column"


@pytest.mark.parametrize("path", ["/values/width", "/folders"])
@pytest.mark.parametrize("query", ["?where=", "?where=nothing>1", "?k=1", "?where=a&where=b"])
def test_questions_that_cannot_be(server: Served, path: str, query: str) -> None:
    failed(server.get(path + query), 400)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("odd")
    paint(folder / "photos" / "a.png", 1)
    (folder / "t.csv").write_text("name,a/b,é ?#,100%\na.png,1,2,3\n")
    store: Path = folder / "s.es"
    embedsearch.index(
        folder / "photos", store=store, model="packaged", metadata=str(folder / "t.csv")
    )
    with served(store) as server:
        yield server


@pytest.mark.parametrize(("name", "value"), [("a%2Fb", 1), ("a/b", 1), ("%C3%A9%20%3F%23", 2)])
def test_names_of_columns_that_are_no_part_of_an_address(
    odd: Served, name: str, value: int
) -> None:
    assert odd.get(f"/values/{name}").json["values"] == [{"value": value, "images": 1}]
    assert odd.get("/values/100%25").json["column"] == "100%"
