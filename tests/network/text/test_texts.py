"""Pictures by words: texts become vectors that equal onnxruntime's, in every form of a query."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import embedsearch
from embedsearch import Text
from embedsearch.core.errors import MissingLibrary, UsageError
from embedsearch.core.session import Session
from embedsearch.network.text.converted import TextNote
from embedsearch.network.text.encoder import TextEncoder
from embedsearch.network.text.tokens import written
from embedsearch.network.weights import resolve
from embedsearch.searching.words.terms import plain_text
from tests.support.library import CLOCK, SAMPLES, run_cli

pytest.importorskip("onnx", reason="needs the test extra")
pytest.importorskip("onnxruntime", reason="needs the test extra")
pytest.importorskip("tokenizers", reason="needs the test extra")
import onnxruntime

from tests.support import towers as made

CLOSE = 1e-3


def read_by_onnxruntime(folder: Path, tokens: list[int]) -> npt.NDArray[np.float32]:
    """Return the unit vector of tokens, padded here."""
    session = onnxruntime.InferenceSession(str(folder / "text.onnx"))
    padding = made.LENGTH - len(tokens)
    feed = {"input_ids": np.array([tokens + [0] * padding], np.int64)}
    if len(session.get_inputs()) > 1:
        feed["attention_mask"] = np.array([[1] * len(tokens) + [0] * padding], np.int64)
    vector: npt.NDArray[np.float32] = session.run(None, feed)[0][0]
    return vector / np.linalg.norm(vector)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.towers(tmp_path_factory.mktemp("towers") / "model")


@pytest.fixture(scope="module")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples with captions of some, by the made networks."""
    base = tmp_path_factory.mktemp("store")
    names = sorted(path.name for path in CLOCK.parent.iterdir())
    captions = base / "captions.csv"
    captions.write_text(
        "path,caption\n" + "".join(f"clocks/{name},red clock {n}\n" for n, name in enumerate(names))
    )
    embedsearch.index(
        SAMPLES, store=base / "s.es", model=str(folder), metadata=str(captions), precision="fp32"
    )
    return base / "s.es"


@pytest.fixture(scope="module")
def photos(store: Path) -> Iterator[embedsearch.Searcher]:
    with embedsearch.open_store(store, precision="fp32") as searcher:
        yield searcher


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("red clock", [2, 5]),
        ("Red  CLOCK", [2, 5]),
        ("red something", [2, 1]),
        ("cafe\u0301", [8]),  # as one letter in the vocabulary
        ("red " * 20, [2] * made.LENGTH),
    ],
)
def test_a_text_has_the_vector_of_onnxruntime(
    text: str, tokens: list[int], folder: Path, photos: embedsearch.Searcher
) -> None:
    (found,) = photos.embed([Text(text)])
    assert np.abs(found - read_by_onnxruntime(folder, tokens)).max() < CLOSE


def test_a_network_without_a_mask(tmp_path: Path) -> None:
    folder = made.towers(tmp_path / "model")
    made.text_tower(folder / "text.onnx", with_mask=False)
    encoder = TextEncoder(resolve(str(folder), Session()), Session())
    wanted = read_by_onnxruntime(folder, [2, 5])
    assert np.abs(encoder(["red clock"])[0] - wanted).max() < CLOSE


def test_hits_are_the_nearest_pictures(folder: Path, photos: embedsearch.Searcher) -> None:
    asked = read_by_onnxruntime(folder, [2, 7])
    rows = photos.images(k=100).images
    vectors = photos.embed([embedsearch.Key(row.full_path) for row in rows])
    nearest = sorted(zip(-(vectors @ asked), (row.full_path for row in rows), strict=True))
    hits = photos.query(text="red shoes", by="picture", k=5)
    assert [hit.full_path for hit in hits] == [path for _, path in nearest[:5]]
    assert [hit.score for hit in hits] == pytest.approx([-s for s, _ in nearest[:5]], abs=2e-3)
    assert all(hit.matched == ("picture",) and hit.words_score is None for hit in hits)


def test_words_and_pictures_are_fused(photos: embedsearch.Searcher) -> None:
    words = photos.query(text="red clock", by="words", k=100)
    assert {hit.key.split("/")[0] for hit in words} == {"clocks"}
    assert all(hit.score is None for hit in words)
    both = photos.query(text="red clock", k=100)
    assert len(both) == len(photos)
    assert both[0].matched == ("picture", "caption")
    ranks = {hit.key: 1 / (60 + hit.rank) for hit in words}
    for hit in photos.query(text="red clock", by="picture", k=100):
        ranks[hit.key] = ranks.get(hit.key, 0.0) + 1 / (60 + hit.rank)
    assert [hit.key for hit in both[:20]] == sorted(ranks, key=lambda key: (-ranks[key], key))[:20]


def test_a_word_that_is_left_out_is_in_no_ranking(photos: embedsearch.Searcher) -> None:
    everything = photos.query(text="red", k=100)
    some = photos.query(text="red -clock", k=100)
    assert len(everything) - len(some) == len(photos.query(text="clock", by="words", k=100)) > 0
    assert not any(hit.key.startswith("clocks/") for hit in some)
    pages = [photos.query(text="red -clock", k=7, offset=at) for at in range(0, 56, 7)]
    assert [hit.key for page in pages for hit in page] == [hit.key for hit in some]


def test_a_text_and_a_picture_ask_together(photos: embedsearch.Searcher) -> None:
    mixed = photos.query(CLOCK, text="blue boat", by="picture", k=5)
    first, second = photos.embed([CLOCK, Text("blue boat")])
    total = (first + second) / np.linalg.norm(first + second)
    assert mixed[0].score == pytest.approx(photos.query(total, k=1)[0].score, abs=1e-4)


@pytest.mark.parametrize("text", ["-red", "-red -clock", " "])
def test_a_text_without_words_is_refused(text: str, photos: embedsearch.Searcher) -> None:
    with pytest.raises(UsageError, match="text"):
        photos.query(text=text, by="picture")


@pytest.mark.parametrize(
    "text", ["🕰️ clock", "ساعة red", "clock " * 5000, 'a "quote', "a AND b OR NEAR(c)", "'; DROP"]
)
def test_any_text_is_only_text(text: str, photos: embedsearch.Searcher) -> None:
    assert len(photos.query(text=text, by="picture", k=3)) == 3


def test_every_door_gives_one_list(store: Path, photos: embedsearch.Searcher) -> None:
    wanted = [hit.key for hit in photos.query(text="red clock", k=5)]
    done = run_cli(
        *("query", "--store", store, "--text", "red clock", "-k", 5, "--json"),
        *("--precision", "fp32"),
    )
    assert [json.loads(line)["key"] for line in done.stdout.splitlines()] == wanted
    info = run_cli("info", "--store", store)
    assert "reads texts" in info.stdout


def test_what_is_written_as_a_network_was_trained() -> None:
    note = TextNote("ids", None, 77, 0, True, True, "a photo of {}.")
    assert written("  The RED,\tcar!? ", note) == "a photo of the red car."


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ('"red shoes" -blue sho*', "red shoes sho"),
        ("caption:red 12:30", "red 12:30"),
        ('Caption:"a dog" Re:Zero cat:dog', "a dog Re:Zero cat:dog"),
        ("-a -b", ""),
        ("“curly” quotes", "curly quotes"),
    ],
)
def test_a_model_reads_what_is_asked_for(typed: str, read: str) -> None:
    assert plain_text(typed, ["path", "caption"]) == read


def test_without_the_library(
    store: Path, photos: embedsearch.Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with embedsearch.open_store(store) as searcher:
        with pytest.raises(
            MissingLibrary,
            match=r"comparing text with pictures needs tokenizers: pip install.*by=words",
        ):
            searcher.query(text="red clock")
        assert searcher.query(text="red clock", by="words")
        assert searcher.query(CLOCK, k=1)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.write_text("{}"), "tokenizer.json is not a tokenizer"),
        (
            lambda path: path.write_text(
                json.dumps({"model": {"vocab": {"a": 0, "b": 30000}}, "added_tokens": []})
            ),
            "tokenizer.json has 30001 tokens, but text.onnx knows 9: it is of another model",
        ),
    ],
)
def test_a_tokenizer_of_another_model(harm: Any, message: str, tmp_path: Path) -> None:
    folder = made.towers(tmp_path / "model")
    harm(folder / "tokenizer.json")
    with pytest.raises(embedsearch.EmbedSearchError, match=message):
        resolve(str(folder), Session())


def test_a_text_alone_has_no_percentile(photos: embedsearch.Searcher) -> None:
    """Cosines of texts and pictures are lower than those between pictures."""
    assert all(hit.percentile is None for hit in photos.query(text="red shoes", k=3))
    assert photos.query(CLOCK, text="red shoes", k=1, by="picture")[0].percentile is not None


def test_a_word_that_is_left_out_holds_for_pictures_alone(photos: embedsearch.Searcher) -> None:
    hits = photos.query(text="red -clock", by="picture", k=100)
    assert hits and not any(hit.key.startswith("clocks/") for hit in hits)
    assert all(hit.matched == ("picture",) and hit.rank_score is None for hit in hits)
    scores = [hit.score or 0.0 for hit in hits]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"text": "captoin:red"}, "there is no column captoin; did you mean caption"),
        ({"text": "red", "weight": ["captoin=2"]}, "'captoin' is none of path, camera, caption"),
    ],
)
def test_slips_are_named(asked: dict[str, Any], message: str, photos: embedsearch.Searcher) -> None:
    with pytest.raises(UsageError, match=message):
        photos.query(**asked)


def test_a_weight_of_0_leaves_a_column_out(photos: embedsearch.Searcher) -> None:
    hits = photos.query(text="clocks", by="words", weight=("path=0",), k=9)
    assert not any("path" in hit.matched for hit in hits)


def test_many_threads_ask_one_store(photos: embedsearch.Searcher) -> None:
    texts = ["red clock", "blue boat", "green shoes", "café"] * 8
    alone = {text: [hit.key for hit in photos.query(text=text, k=5)] for text in set(texts)}
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda text: [h.key for h in photos.query(text=text, k=5)], texts)
    assert list(found) == [alone[text] for text in texts]
    copied = pickle.loads(pickle.dumps(photos))
    assert [hit.key for hit in copied.query(text="red clock", k=5)] == alone["red clock"]
    copied.close()
