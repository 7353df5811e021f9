"""Vector databases beside FAISS: `python -m benchmarks.vectordb [--rows 50000] [--dim 512]`

A store of clustered unit vectors is sent to a Milvus server and to PostgreSQL with pgvector, both
on this machine, and queried with held-out vectors, one at a time, once their indexes are built.
Recall is of the ten nearest by exact search. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.measure import machine, spread
from embedsearch.exchange.upload import upload
from embedsearch.searching.searcher import Searcher, open_store
from tests.support.engines import MILVUS_TOKEN, milvus_server, postgres_server
from tests.support.stores import imported

QUERIES, WARM_UP = 200, 20
WANTED_RATE, WANTED_RECALL = 5000, 0.98
BUILD_S = 300.0  # what a server may take to build its index
os.environ.setdefault("MILVUS_TOKEN", MILVUS_TOKEN)


def main() -> None:
    """Run both servers, one after the other, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=512)
    arguments = parser.parse_args()
    rows, dim = arguments.rows, arguments.dim
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedsearch-bench-")))
        os.environ["EMBEDSEARCH_CACHE"] = str(base / "cache")
        made = clustered(rows + QUERIES, dim)
        store = imported(base, made[:rows], (f"{n:07d}.jpg" for n in range(rows)))
        queries = made[rows:]
        with open_store(store) as searcher:
            wanted, exact_ms = asked(searcher, queries)
        print(f"\n{machine()}, {rows:,} × {dim}, {QUERIES} queries\n")
        print(
            "| | vectors/s sent | all, s | again, s | query, ms: median (least–most) | recall@10 |"
        )
        print("|---|---|---|---|---|---|")
        print(f"| FAISS, exact | | | | {spread(exact_ms)} | 1.000 |", flush=True)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        (base / "milvus").mkdir()
        for server in (milvus_server(base / "milvus", patch), postgres_server()):
            with server as engine:
                print(row_of(engine.name, store, engine.url(), queries, wanted), flush=True)
    print(f"\nwanted: Milvus >= {WANTED_RATE:,} vectors/s; recall >= {WANTED_RECALL}")


def row_of(name: str, store: Path, url: str, queries: Any, wanted: list[set[int]]) -> str:
    """Fill a database and ask it; return its line of the table."""
    first = upload(store, url)
    again = upload(store, url)
    assert again.uploaded == 0, again
    with open_store(store, serve_from=url) as searcher:
        wait_for_index(searcher)
        found, ms = asked(searcher, queries)
    shares = [len(a & b) / len(a) for a, b in zip(wanted, found, strict=True)]
    rate, recall = f"{first.rate:,.0f}", f"{statistics.fmean(shares):.3f}"
    seconds = f"{first.elapsed_s:.1f} | {again.elapsed_s:.1f}"
    return f"| {name} | {rate} | {seconds} | {spread(ms)} | {recall} |"


def wait_for_index(searcher: Searcher) -> None:
    """Return once Milvus, which builds its index after the upload, has built it."""
    database: Any = searcher._generations._database
    deadline = time.monotonic() + BUILD_S
    while hasattr(database, "_client") and time.monotonic() < deadline:
        index = database._client.describe_index(database.place.table, "vector")
        if index.get("pending_index_rows", 0) == 0:
            return
        time.sleep(1)


def asked(
    searcher: Searcher, queries: npt.NDArray[np.float32]
) -> tuple[list[set[int]], list[float]]:
    """Return the rows found for each query, and the milliseconds each took."""
    for query in queries[:WARM_UP]:
        searcher.query(query)
    found, ms = [], []
    for query in queries:
        started = time.perf_counter()
        hits = searcher.query(query)
        ms.append(1e3 * (time.perf_counter() - started))
        found.append({hit.row for hit in hits})
    return found, ms


def clustered(count: int, dim: int) -> npt.NDArray[np.float32]:
    """Return unit vectors about one center for each hundred, float32 (count, dim)."""
    rng = np.random.default_rng(1)
    centers = rng.standard_normal((count // 100, dim), np.float32)
    made = np.concatenate(list(_blocks(rng, centers, count)))
    unit: npt.NDArray[np.float32] = made / np.linalg.norm(made, axis=1, keepdims=True)
    return unit


def _blocks(
    rng: np.random.Generator, centers: npt.NDArray[np.float32], count: int
) -> Iterator[npt.NDArray[np.float32]]:
    for start in range(0, count, 10_000):
        size = min(10_000, count - start)
        noise = rng.standard_normal((size, centers.shape[1]), np.float32)
        yield centers[rng.integers(0, len(centers), size)] + 0.7 * noise


if __name__ == "__main__":
    main()
