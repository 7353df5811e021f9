"""Measures of rankings, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from embedsearch.learning.metrics import NAMES, estimate, measure, rank_others


@pytest.fixture
def ranking() -> tuple[np.ndarray, np.ndarray]:
    """Scores (Q, N) without ties, and which items are relevant: at least one a query."""
    rng = np.random.default_rng(3)
    scores = rng.permuted(np.linspace(-1, 1, 40 * 30).reshape(40, 30), axis=1)
    relevant = rng.random((40, 30)) < rng.uniform(0.02, 0.6, (40, 1))
    relevant[np.arange(40), rng.integers(0, 30, 40)] = True
    return scores, relevant


def test_against_scikit_learn(ranking: tuple[np.ndarray, np.ndarray]) -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="needs the test extra")
    scores, relevant = ranking
    order = np.argsort(-scores, axis=1)
    found = measure(np.take_along_axis(relevant, order, axis=1), relevant.sum(axis=1))
    for q in range(len(scores)):
        truth = relevant[q].astype(int)
        wanted = sklearn.average_precision_score(truth, scores[q])
        assert found["mAP"][q] == pytest.approx(wanted, abs=1e-12)
        gain = sklearn.ndcg_score([truth], [scores[q]], k=10)
        assert found["nDCG@10"][q] == pytest.approx(gain, abs=1e-12)
        for k in (1, 5, 10):
            assert found[f"recall@{k}"][q] == truth[order[q, :k]].max()
        assert found["P@10"][q] == truth[order[q, :10]].mean()
        assert found["MRR"][q] == 1 / (1 + np.argmax(truth[order[q]]))
    # The mutant: the ranking turned round is another one.
    turned = measure(np.take_along_axis(relevant, order[:, ::-1], axis=1), relevant.sum(axis=1))
    assert abs(turned["mAP"] - found["mAP"]).max() > 0.1


def test_by_hand() -> None:
    values = measure(np.array([[False, True, False, True]]), np.array([3]))
    assert values["recall@1"][0] == 0 and values["recall@5"][0] == 1
    assert values["mAP"][0] == pytest.approx((1 / 2 + 2 / 4) / 3)  # one was not ranked at all
    assert values["MRR"][0] == 0.5
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert values["nDCG@10"][0] == pytest.approx((1 / np.log2(3) + 1 / np.log2(5)) / ideal)
    nothing = measure(np.zeros((1, 4), dtype=bool), np.array([1]))
    assert all(nothing[name][0] == 0 for name in NAMES)


def test_a_query_is_not_its_own_answer() -> None:
    vectors = np.eye(4, dtype=np.float32)
    vectors[3] = vectors[0]  # a copy of the first, and of equal score
    order = rank_others(vectors, np.array([0, 1]))
    assert order.shape == (2, 3)
    assert order[0].tolist() == [3, 1, 2]
    assert order[1].tolist() == [0, 2, 3]  # ties in the order of the rows


def test_the_confidence_interval_covers() -> None:
    """Of 200 samples of a known mean, about 95 % of the intervals hold it."""
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(200):
        found = estimate((rng.random(300) < 0.7).astype(np.float64), seed)
        assert found.low <= found.value <= found.high
        covered += found.low <= 0.7 <= found.high
    assert 180 <= covered <= 199
