"""Whatever a user passes to a public function ends as an answer or as one of our errors."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import embedsearch
from embedsearch.core.errors import EmbedSearchError
from tests.support.library import paint

# What waits for something, or needs a server or a cluster; their arguments have tests of their own.
LEFT_OUT = {"watch", "index_on_ray", "upload", "pull", "bench", "train", "evaluate"}
ODD: list[Any] = [
    *(object(), 3.7, -1, 10**30, float("nan"), True, b"\xff", "\ud800", "a\0b", "", "*", {}),
    *([1], (), [object()], {"a": 1}, np.array([1, 2]), np.array(["a"]), lambda *_: None, 1j, ...),
    *(Path("none"), np.int64(2), np.float32("nan"), [["a"]], Image.new("La", (3, 3)), range(3)),
]
QUERIES: list[Any] = [
    *ODD,
    *(np.zeros((0, 0, 3), np.uint8), np.zeros((4, 4), np.uint8), np.ones(512, complex)),
    *(np.full(512, np.nan, np.float32), np.ones((2, 512), np.float32), Image.new("RGB", (0, 0))),
    *(embedsearch.Key(10**30), embedsearch.Key("\ud800"), embedsearch.Key("a\0b")),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    for seed in range(4):
        paint(folder / "p" / f"{seed}.png", seed)
    embedsearch.index(folder / "p", store=folder / "s.es", model="packaged")
    return folder / "s.es"


def ends_well(function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = function(*arguments, **options)
            if isinstance(found, Iterator):
                list(found)
    except EmbedSearchError as error:
        assert str(error)
    except Exception as error:
        what = f"{getattr(function, '__name__', function)}(*{arguments!r}, **{options!r})"
        pytest.fail(f"{what}: {type(error).__name__}: {error}")


def functions() -> list[str]:
    names = [n for n in embedsearch.__all__ if inspect.isfunction(getattr(embedsearch, n))]
    return sorted(set(names) - LEFT_OUT)


@pytest.mark.parametrize("name", functions())
def test_of_a_function(
    store: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a store or an output of any name may be made
    function = getattr(embedsearch, name)
    plain: dict[str, Any] = {
        "store": store,
        "folders": [store.parent / "p"],
        "folder": store.parent / "p",
        "out": tmp_path / "o.csv",
        "source": store.parent / "p" / "0.png",
        "model": "m",
        "old": store.parent / "none",
        "new": store.parent / "p",
        "share": (1, 2),
        "shares": 2,
        "numbers": [1],
        "path": tmp_path / "s.sh",
        "groups": [],
        "texts": tmp_path / "captions.csv",
    }
    plain["texts"].write_text("path,caption\n0.png,a picture\n")
    parameters = inspect.signature(function).parameters
    needed = {n: plain[n] for n in parameters if n in plain and n != "folder"}
    if "folder" in parameters and name not in {"duplicates", "evaluate_texts"}:
        needed["folder"] = plain["folder"]
    for parameter in parameters:
        if parameter in {"options", "extractor_factory"}:
            continue
        for value in ODD:
            if (parameter, name) == ("store", "index") or parameter == "shares":
                continue  # a folder of any name may be made
            ends_well(function, **{**needed, parameter: value})


METHODS = (
    *("query", "query_batch", "get", "images", "thumbnail", "embed"),
    *("original", "records", "answers", "values", "folders", "thumbnail_version"),
)


@pytest.mark.parametrize("name", METHODS)
def test_of_a_searcher(store: Path, name: str) -> None:
    with embedsearch.open_store(store) as searcher:
        method = getattr(searcher, name)
        for value in QUERIES:
            if name in METHODS_OF_ONE:
                ends_well(method, value)
            if name in {"query_batch", "embed", "records"}:
                ends_well(method, [value])
                ends_well(method, value)
            if name == "query":
                mixed = {"like": [value]}, {"like": value}, {"unlike": [value]}
                for options in (*mixed, *({option: value} for option in OPTIONS)):
                    ends_well(method, embedsearch.Key(0), **options)
            if name == "images":
                for option in ("k", "where", "offset", "order"):
                    ends_well(method, **{option: value})
            if name in {"thumbnail", "thumbnail_version"}:
                ends_well(method, 0, value)
                ends_well(method, 0, fill=value)
            if name in {"values", "folders"}:
                ends_well(method, *(("width",) if name == "values" else ()), where=value)
            if name == "answers":
                for option in ("counts", "histogram"):
                    ends_well(method, [embedsearch.Key(0)], **{option: value})


METHODS_OF_ONE = {"query", "get", "thumbnail", "thumbnail_version", "original", "records", "values"}
OPTIONS = ("k", "offset", "where", "min_score", "collapse", "diverse", "expand", "rerank")


def test_of_an_embedder() -> None:
    with embedsearch.ImageEmbedder("packaged") as embedder:
        for value in QUERIES:
            ends_well(embedder.embed, [value])
            ends_well(embedder.embed, value)
    for option in ("model", "device", "precision", "limits"):
        for value in ODD:
            ends_well(embedsearch.ImageEmbedder, **{option: value})
