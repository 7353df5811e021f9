"""A flat file asked for some of its rows: gathered or passed over, the answer is the same."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedsearch.searching.ann import search
from embedsearch.searching.ann.build import flat_bytes
from embedsearch.searching.ann.search import FlatFile

ROWS, DIM, K = 20_000, 24, 7


@pytest.fixture(scope="module")
def file() -> Iterator[FlatFile]:
    vectors = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float16)
    content = np.frombuffer(b"".join(flat_bytes(DIM, [vectors])), np.uint8).copy()
    yield FlatFile(content, DIM, ROWS)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.2, 0.34, 0.6])
@pytest.mark.parametrize("queries", [1, 3])
def test_rows_of_a_mask(file: FlatFile, share: float, queries: int) -> None:
    rng = np.random.default_rng(1)
    asked = rng.standard_normal((queries, DIM)).astype(np.float32)
    mask = rng.random(ROWS) < share
    mask[[4_000, 15_000]] = True
    for start, stop in ((0, ROWS), (3_999, 15_001)):
        inside = np.flatnonzero(mask[start:stop]) + start
        products = asked @ file.vectors[inside].astype(np.float32).T
        for query, found in zip(products, file.search(asked, K, mask, start, stop), strict=True):
            best = np.argsort(-query)[: min(K, len(inside))]
            assert found.positions.tolist() == inside[best].tolist()
            assert np.allclose(found.products, query[best], atol=1e-5)


def test_both_ways_agree_bit_for_bit(file: FlatFile, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    asked = rng.standard_normal((1, DIM)).astype(np.float32)
    mask = rng.random(ROWS) < 0.3
    (gathered,) = file.search(asked, K, mask, 0, ROWS)
    monkeypatch.setattr(search, "_FEW_SHARE", 0.0)
    (passed,) = file.search(asked, K, mask, 0, ROWS)
    assert gathered.positions.tolist() == passed.positions.tolist()
    assert gathered.products.tobytes() == passed.products.tobytes()


def test_threads_gather_for_themselves(file: FlatFile) -> None:
    rng = np.random.default_rng(3)
    asked = rng.standard_normal((64, 1, DIM)).astype(np.float32)
    masks = rng.random((64, ROWS)) < 0.2

    def answer(number: int) -> list[int]:
        (found,) = file.search(asked[number], K, masks[number], 0, ROWS)
        return [int(position) for position in found.positions]

    alone = [answer(number) for number in range(64)]
    with ThreadPoolExecutor(8) as threads:
        assert [*threads.map(answer, range(64))] == alone
