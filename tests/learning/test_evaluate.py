"""`evaluate`: the figures against an oracle of the stored rows, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import embedsearch
from embedsearch import Key
from embedsearch.core.config import IndexConfig
from embedsearch.core.errors import UsageError
from embedsearch.core.session import Session
from embedsearch.learning.evaluate import evaluate
from embedsearch.learning.metrics import NAMES
from embedsearch.learning.ranking import Ranking
from embedsearch.learning.reports import Evaluation
from tests.support.library import SAMPLES, paint, run_cli
from tests.support.oracle import units
from tests.support.stores import measured, reranked_by_hand


@pytest.fixture(scope="module")
def evaluation(samples_store: Path) -> Evaluation:
    (found,) = evaluate(store=samples_store)
    return found


def test_against_an_oracle_of_queries(samples_store: Path, evaluation: Evaluation) -> None:
    """The measures, made again from what `query` answers."""
    firsts, averages, reciprocals = [], [], []
    with embedsearch.open_store(samples_store) as searcher:
        paths = sorted(p for p in SAMPLES.rglob("*") if p.suffix in {".jpg", ".png", ".webp"})
        for path, hits in zip(paths, searcher.query_batch(paths, k=len(paths)), strict=True):
            ranked = [hit.key.split("/")[0] for hit in hits if hit.full_path != str(path)]
            relevant = [label == path.parent.name for label in ranked]
            places = [rank for rank, is_it in enumerate(relevant, start=1) if is_it]
            assert len(places) == 5
            firsts.append(relevant[0])
            averages.append(np.mean([(i + 1) / rank for i, rank in enumerate(places)]))
            reciprocals.append(1 / places[0])
    assert evaluation.images == evaluation.queries == 54
    assert len(evaluation.classes) == 9
    assert set(evaluation.measures) == set(NAMES)
    # Queries decode anew in another batch: scores differ in the sixth digit, ranks may swap.
    assert evaluation.measures["recall@1"].value == pytest.approx(np.mean(firsts), abs=0.02)
    assert evaluation.measures["mAP"].value == pytest.approx(np.mean(averages), abs=0.005)
    assert evaluation.measures["MRR"].value == pytest.approx(np.mean(reciprocals), abs=0.01)
    for estimate in evaluation.measures.values():
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert evaluation.served_recall == 1.0


def test_what_expanding_queries_gains(samples_store: Path, evaluation: Evaluation) -> None:
    """Each query is drawn towards what it finds, itself left out; by plain NumPy."""
    plain, expanded = evaluate(store=samples_store, expand=3)
    assert plain == evaluation and expanded.expand == 3
    with embedsearch.open_store(samples_store) as searcher:
        paths = [p for p in sorted(SAMPLES.rglob("*")) if p.suffix in {".jpg", ".png", ".webp"}]
        keys = [Key(str(path)) for path in paths]
        vectors = measured(samples_store, searcher.embed(keys))
    averages = []
    for place, vector in enumerate(vectors):
        others = np.delete(np.arange(len(vectors)), place)
        near = sorted(others, key=lambda other: -vectors[other] @ vector)[:3]
        drawn = vector + sum((vectors[n] @ vector) ** 3 * vectors[n] for n in near)
        ranked = sorted(others, key=lambda other: -vectors[other] @ drawn)
        is_right = [paths[other].parent == paths[place].parent for other in ranked]
        ranks = [rank for rank, right in enumerate(is_right, start=1) if right]
        averages.append(np.mean([(i + 1) / rank for i, rank in enumerate(ranks)]))
    assert expanded.measures["mAP"].value == pytest.approx(np.mean(averages), abs=1e-4)
    assert expanded.measures["mAP"].value > plain.measures["mAP"].value
    done = run_cli("evaluate", "--store", samples_store, "--expand", "3")
    assert [line.split()[0] for line in done.stdout.splitlines()[1:3]] == ["packaged"] * 2
    assert " --expand 3 " in done.stdout.splitlines()[2]
    with pytest.raises(UsageError, match="expand"):
        evaluate(store=samples_store, expand=-1)


def test_what_reranking_gains(samples_store: Path, evaluation: Evaluation) -> None:
    """The same order as `query` gives with each image left out, by plain NumPy, and the groups."""
    plain, reranked = evaluate(store=samples_store, rerank=True)
    assert plain == evaluation and reranked.rerank and not reranked.expand
    with embedsearch.open_store(samples_store) as searcher:
        paths = [p for p in sorted(SAMPLES.rglob("*")) if p.suffix in {".jpg", ".png", ".webp"}]
        keys = [Key(str(path)) for path in paths]
        vectors = measured(samples_store, searcher.embed(keys)).astype(np.float64)
    averages = []
    for place, query in enumerate(vectors):
        others = np.delete(np.arange(len(vectors)), place)
        scores = reranked_by_hand(query, vectors[others])
        ranked = others[np.argsort(-scores)]
        is_right = [paths[other].parent == paths[place].parent for other in ranked]
        ranks = [rank for rank, right in enumerate(is_right, start=1) if right]
        averages.append(np.mean([(i + 1) / rank for i, rank in enumerate(ranks)]))
    assert reranked.measures["mAP"].value == pytest.approx(np.mean(averages), abs=1e-4)
    assert reranked.measures["mAP"].value > plain.measures["mAP"].value
    (group,) = reranked.by_group
    assert (group.least, group.most, group.queries) == (4, 9, 54)
    assert group.mean_ap == reranked.measures["mAP"]
    assert plain.gain is None and reranked.gain is not None
    gain = reranked.measures["mAP"].value - plain.measures["mAP"].value
    assert reranked.gain.value == pytest.approx(gain)
    assert reranked.gain.low < gain < reranked.gain.high < reranked.gain.low + 0.1
    both = evaluate(store=samples_store, rerank=True, expand=2)
    assert [(e.expand, e.rerank) for e in both] == [(0, False), (0, True), (2, False), (2, True)]
    done = run_cli("evaluate", "--store", samples_store, "--rerank", "--expand", "2")
    assert "packaged --expand 2 --rerank" in done.stdout.splitlines()[4]
    assert done.stdout.count(" +-") == 4, "three gains, and the confidence of all measures"


def test_the_hits_of_the_worst_queries_are_those_measured(samples_store: Path) -> None:
    """Their order gives the average precision that stands beside them."""
    for result in evaluate(store=samples_store, rerank=True, expand=3):
        for worst in result.worst:
            is_right = [
                Path(h.full_path).parent == Path(worst.full_path).parent for h in worst.hits
            ]
            ranks = [rank for rank, right in enumerate(is_right, start=1) if right]
            least = sum((i + 1) / rank for i, rank in enumerate(ranks)) / 5
            most = least + (5 - len(ranks)) / 5 / 2  # the others come behind the ten shown
            assert least - 1e-4 <= worst.average_precision <= most + 1e-4
            assert worst.full_path not in {hit.full_path for hit in worst.hits}
            assert all((hit.rank_score is None) != result.rerank for hit in worst.hits)


def test_a_ranking_of_more_than_are_reranked() -> None:
    rng = np.random.default_rng(6)
    rows = units(rng.normal(size=12) + rng.normal(size=(140, 12))).astype(np.float32)
    rows[90] = rows[20]
    for query in (0, 20, 139):
        plain, found = (
            Ranking(rows)(np.array([query]))[0],
            Ranking(rows, 0, True)(np.array([query]))[0],
        )
        assert found[100:].tolist() == plain[100:].tolist()
        vectors = rows[plain[:100]].astype(np.float64)
        scores = reranked_by_hand(rows[query].astype(np.float64), vectors).round(6)
        assert found[:100].tolist() == plain[np.argsort(-scores, kind="stable")].tolist()


def test_groups_of_several_sizes(samples_store: Path, tmp_path: Path) -> None:
    """A query with one image to find, and one with four."""
    found = sorted(path.name for path in (SAMPLES / "boats").iterdir())[:5]
    pairs = [("clocks/clocks_1.jpg", "clocks/clocks_2.jpg")]
    pairs += [(f"boats/{found[0]}", f"boats/{name}") for name in found[1:]]
    listed = tmp_path / "pairs.csv"
    listed.write_text("query,relevant\n" + "".join(f"{a},{b}\n" for a, b in pairs))
    (result,) = evaluate(store=samples_store, relevant=listed)
    assert [(g.least, g.most, g.queries) for g in result.by_group] == [(1, 1, 1), (4, 9, 1)]
    mean = np.mean([group.mean_ap.value for group in result.by_group])
    assert mean == pytest.approx(result.measures["mAP"].value)
    done = run_cli("evaluate", "--store", samples_store, "--relevant", listed)
    header, row, queries = done.stdout.splitlines()[2:5]
    assert header.split()[-4:] == ["1", "4", "to", "9"] and queries.split() == ["queries", "1", "1"]
    assert row.split()[1:] == [f"{group.mean_ap.value:.3f}" for group in result.by_group]


def test_the_worst_queries_are_the_worst(evaluation: Evaluation) -> None:
    values = [worst.average_precision for worst in evaluation.worst]
    assert values == sorted(values) and values[0] < evaluation.measures["mAP"].value
    for worst in evaluation.worst:
        assert worst.full_path not in {hit.full_path for hit in worst.hits}
        assert [hit.rank for hit in worst.hits] == list(range(1, 11))


def test_a_served_index_that_misses_neighbours_is_seen(
    samples_store: Path, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: a search that leaves out every second neighbor."""
    from embedsearch.searching.searcher import Searcher

    whole = Searcher.query

    def lossy(self: Searcher, image: object, k: int = 10, **options: bool) -> list[embedsearch.Hit]:
        return whole(self, image, k=2 * k, **options)[::2]  # type: ignore[arg-type]

    monkeypatch.setattr(Searcher, "query", lossy)
    (found,) = evaluate(store=samples_store)
    assert found.served_recall < 0.7


def test_pairs_of_a_csv(tmp_path: Path) -> None:
    """Copies that differ in a little: each is to find its own."""
    lines = ["query,relevant"]
    for seed in range(8):
        first = paint(tmp_path / "photos" / f"{seed}a.png", seed)
        Image.open(first).save(tmp_path / "photos" / f"{seed}b.jpg", quality=60)
        lines.append(f"{seed}a.png,{seed}b.jpg")
    pairs = tmp_path / "pairs.csv"
    lines.append("0a.png,gone.jpg")
    pairs.write_text("\ufeff" + "\n".join(lines))  # as a spreadsheet begins its files
    said: list[str] = []
    session = Session(notice=said.append)
    (found,) = evaluate(tmp_path / "photos", models=["packaged"], relevant=pairs, session=session)
    assert any("1 names in relevant are not among the images: gone.jpg" in s for s in said)
    assert (found.images, found.queries, found.classes) == (16, 8, [])
    assert found.measures["recall@1"].value == 1.0 and found.measures["mAP"].value == 1.0
    assert found.measures["P@10"].value == pytest.approx(0.1)
    for text, words in (
        ("query,relevant\n0a.png,none.jpg\n", "no picture has another one to find"),
        ("a,b\n0a.png,0b.jpg\n", "no column 'query'; it has a, b"),
        ("query,relevant\n0a.png,0a.png\n", "no picture has another one to find"),
    ):
        pairs.write_text(text)
        with pytest.raises(UsageError, match=words):
            evaluate(tmp_path / "photos", models=["packaged"], relevant=pairs)


def test_what_cannot_be_evaluated(tmp_path: Path) -> None:
    for seed in range(3):
        paint(tmp_path / "one" / "a" / f"{seed}.png", seed)
        paint(tmp_path / "singles" / f"c{seed}" / "x.png", seed)
        paint(tmp_path / "flat" / f"{seed}.png", seed)
    for name, words in (
        ("one", "all pictures in folders are of one class, a"),
        ("singles", "no picture has another one to find"),
        ("flat", "one folder per class"),
        ("none", "does not exist"),
    ):
        with pytest.raises(UsageError, match=words):
            evaluate(tmp_path / name, models=["packaged"])
    with pytest.raises(UsageError, match="not both"):
        evaluate(tmp_path / "one", store=tmp_path)
    for options in ({"models": ["packaged"]}, {"config": IndexConfig(flip=True)}):
        with pytest.raises(UsageError, match="go with a folder"):
            evaluate(store=tmp_path, **options)


def test_the_command_compares_and_draws(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("clocks", "boats"):
        shutil.copytree(SAMPLES / name, photos / name)
    (photos / "boats" / "broken.jpg").write_bytes(b"no picture")
    sheet = tmp_path / "worst.png"
    models = ["--model", "packaged", "--model", "packaged", "--input-side", "64"]
    done = run_cli("evaluate", photos, *models, "--sheet", sheet)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == [
        "model",
        "images",
        *NAMES,
        *["gain", "in", "mAP", "served", "images/s"],
    ]
    assert lines[1].split()[:2] == lines[2].split()[:2] == ["packaged", "12"]
    assert "1 pictures could not be read" in done.stdout
    with Image.open(sheet) as image:
        assert image.width > 1000 and image.height > 1000
    done = run_cli("evaluate", photos, "--model", "packaged", "--json")
    report = json.loads(done.stdout)
    assert report["measures"]["mAP"]["value"] > 0.5 and report["failed"] == 1


def test_the_model_of_the_configuration_counts(samples_store: Path, tmp_path: Path) -> None:
    config = IndexConfig(model="packaged")
    with pytest.raises(UsageError, match="a store has its own"):
        evaluate(store=samples_store, config=config)
    for seed in range(2):
        paint(tmp_path / "a" / f"{seed}.png", seed)
        paint(tmp_path / "b" / f"{seed}.png", seed + 5)
    (found,) = evaluate(tmp_path, config=config)
    assert found.model == "packaged"


def test_centers_are_compared(samples_store: Path) -> None:
    (plain,) = evaluate(SAMPLES, models=["packaged"], config=IndexConfig(center="none"))
    (own,) = evaluate(SAMPLES, models=["packaged"])
    assert (plain.center, own.center) == ("none", "store")
    assert own.measures["mAP"].value > plain.measures["mAP"].value + 0.003
    with pytest.raises(UsageError, match="center go with a folder"):
        evaluate(store=samples_store, config=IndexConfig(center="none"))
