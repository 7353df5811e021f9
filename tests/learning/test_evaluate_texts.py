"""`evaluate --text`: how well captions find their pictures, compared with a count by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import embedsearch
from embedsearch.core.config import IndexConfig
from embedsearch.core.errors import UsageError
from tests.support.library import SAMPLES, Library, run_cli


@pytest.fixture
def captions(library: Library, tmp_path: Path) -> Path:
    """A store with captions, and a file of other captions of its pictures."""
    own = tmp_path / "own.csv"
    own.write_text(
        "path,caption\nclocks/clocks_1.jpg,a red clock\nclocks/clocks_2.jpg,a red boat\n"
        "boats/boats_1.jpg,a red red clock\n"
    )
    library.index(SAMPLES, metadata=str(own))
    path = tmp_path / "captions.csv"
    path.write_text(
        "path,caption\n"
        "clocks/clocks_1.jpg,red clock\n"  # second to boats_1, whose caption has red twice
        "clocks/clocks_2.jpg,caption:boat\n"  # the first
        "boats/boats_1.jpg,zebra\n"  # not found
        "boats/boats_1.jpg,!!!\n"  # no word
        "boats/boats_2.jpg,  \n"  # no caption
        "gone.jpg,red\n"
    )
    return path


def test_ranks_are_those_of_the_hits(captions: Path, library: Library) -> None:
    (found,) = embedsearch.evaluate_texts(captions, store=library.store)
    assert (found.by, found.queries, found.images) == ("words", 4, 54)
    with embedsearch.open_store(library.store) as photos:
        ranks = []
        for name, text in (
            ("clocks/clocks_1.jpg", "red clock"),
            ("clocks/clocks_2.jpg", "caption:boat"),
        ):
            hits = photos.query(text=text, k=100)
            ranks.append(next(hit.rank for hit in hits if hit.key == name))
    assert found.measures["recall@1"].value == np.mean([rank <= 1 for rank in ranks] + [False] * 2)
    assert found.measures["recall@10"].value == 0.5
    assert found.measures["MRR"].value == pytest.approx(sum(1 / rank for rank in ranks) / 4)


def test_the_command(captions: Path, library: Library) -> None:
    done = run_cli("evaluate", "--text", captions, "--store", library.store)
    assert done.returncode == 0 and "not in the store, or not one: 1 (gone.jpg)" in done.stderr
    assert done.stdout.splitlines()[0].split() == [
        *("model", "by", "images", "captions", "recall@1", "recall@5", "recall@10", "MRR")
    ]
    done = run_cli("evaluate", "--text", captions, "--store", library.store, "--json")
    assert json.loads(done.stdout)["measures"]["recall@10"]["value"] == 0.5


@pytest.mark.parametrize("more", [["--rerank"], ["--expand", "2"], ["--relevant", "x.csv"]])
def test_what_goes_not_together(more: list[str], captions: Path, library: Library) -> None:
    done = run_cli("evaluate", "--text", captions, "--store", library.store, *more)
    assert done.returncode == 2 and "--text goes without" in done.stderr


def test_wrong_files_and_stores(captions: Path, library: Library, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("path,words\na.jpg,red\n")
    with pytest.raises(UsageError, match="no column 'caption'"):
        embedsearch.evaluate_texts(other, store=library.store)
    other.write_text("path,caption\na.jpg,red\n")
    with pytest.raises(UsageError, match=r"no picture of the captions is in the store.* a\.jpg"):
        embedsearch.evaluate_texts(other, store=library.store)
    with pytest.raises(UsageError, match="not both"):
        embedsearch.evaluate_texts(captions, SAMPLES, store=library.store)
    with pytest.raises(UsageError, match="a store has its own"):
        embedsearch.evaluate_texts(captions, store=library.store, models=["packaged"])
    for config in (IndexConfig(model="resnet50"), IndexConfig(flip=True)):
        with pytest.raises(UsageError, match="a store has its own"):
            embedsearch.evaluate_texts(captions, store=library.store, config=config)
