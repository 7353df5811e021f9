"""Words: building, size and answers over made captions: `python -m benchmarks.words`.

Captions have ten words of 20,000, as often as words are in a language (Zipf). Questions are words
of captions: what is frequent there is asked often. Vectors are noise of 16 numbers.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

import embedsearch
from benchmarks.measure import machine, run, spread
from embedsearch.core.session import Session
from embedsearch.searching.columns import RowColumns
from embedsearch.searching.words.documents import write_documents
from embedsearch.store.snapshot import open_snapshot

WORDS, LENGTH, DIM = 20_000, 10, 16
QUERIES, COLD_ROUNDS = 200, 15
VOCABULARY = np.array([f"word{number}" for number in range(WORDS)])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=1_000_000)
    parser.add_argument("--cold", type=int, default=200_000, help="captions for cold processes")
    options = parser.parse_args()
    print(f"{machine()}\n\n| figure | measured | wanted |\n|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="embedsearch-words-") as folder:
        base = Path(folder)
        warm(base, options.captions)
        cold(base, options.cold)


def warm(base: Path, count: int) -> None:
    """Build the words of a store, and ask it."""
    store = captioned(base / "warm", count)
    started = time.monotonic()
    with open_snapshot(store) as snapshot, RowColumns(snapshot) as columns:
        write_documents(base / "words.sqlite", snapshot, columns, Session(), more=False)
        seconds = time.monotonic() - started
    size = (base / "words.sqlite").stat().st_size
    row(f"words of {count:,} captions, made", f"{seconds:.0f} s", "<= 60 s")
    row("bytes a caption", f"{size / count:.0f}", "<= 150")
    rng = np.random.default_rng(1)
    with embedsearch.open_store(store) as searcher:
        searcher.query(text="word1")
        vector = unit(rng.standard_normal(DIM))
        for words in (1, 2, 3):
            asked = [" ".join(VOCABULARY[drawn(rng, words)]) for _ in range(QUERIES)]
            found = timed(lambda text: searcher.query(text=text), asked)
            row(f"{words} words, ten hits", milliseconds(found), "<= 20 ms")
        parts = timed(lambda text: searcher.query(text=text), asked)
        pictures = timed(lambda _: searcher.query(vector), asked)
        both = timed(lambda text: searcher.query(vector, text=text), asked)
        row("picture alone", milliseconds(pictures), "")
        total = 1000 * (statistics.median(parts) + statistics.median(pictures)) + 2
        row("both, fused", milliseconds(both), f"<= {total:.1f} ms, the sum and 2")


def cold(base: Path, count: int) -> None:
    """Ask a store by whole processes."""
    store = captioned(base / "cold", count)
    command = [sys.executable, "-m", "embedsearch", "query", "--store", store, "--text", "word100"]
    seconds = [run(command, {}).seconds for _ in range(COLD_ROUNDS + 1)][1:]
    row(f"`query --text` over {count:,}, a process, s", spread(seconds), "<= 0.5")


def captioned(folder: Path, count: int) -> Path:
    """Return a store of random vectors with captions."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    schema = pa.schema(
        {"path": pa.string(), "vector": pa.list_(pa.float32(), DIM), "caption": pa.string()}
    )
    with pq.ParquetWriter(folder / "in.parquet", schema) as writer:
        for start in range(0, count, 10_000):
            numbers = range(start, min(start + 10_000, count))
            captions = VOCABULARY[drawn(rng, len(numbers) * LENGTH)].reshape(-1, LENGTH)
            vectors = rng.standard_normal((len(numbers), DIM)).astype(np.float32)
            values: dict[str, Any] = {
                "path": [f"{n // 1000:04d}/{n:07d}.jpg" for n in numbers],
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM),
                "caption": [" ".join(words) for words in captions.tolist()],
            }
            writer.write_table(pa.table(values, schema))
    store = folder / "s.es"
    embedsearch.import_vectors(folder / "in.parquet", model="made", root=folder, store=store)
    (folder / "in.parquet").unlink()
    return store


def drawn(rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
    """Return numbers of words, frequent ones often."""
    chances = 1 / np.arange(1, WORDS + 1)
    return rng.choice(WORDS, count, p=chances / chances.sum())


def unit(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return a vector of length 1."""
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def timed(ask: Callable[[str], object], asked: list[str]) -> list[float]:
    """Return the seconds of each answer."""
    seconds = []
    for text in asked:
        started = time.perf_counter()
        ask(text)
        seconds.append(time.perf_counter() - started)
    return seconds


def milliseconds(seconds: list[float]) -> str:
    """Return the median, and what 95 % stay below."""
    late = float(np.quantile(seconds, 0.95))
    return f"{1000 * statistics.median(seconds):.1f} ms, 95 % below {1000 * late:.1f}"


def row(name: str, measured: str, wanted: str) -> None:
    """Print a line of the table."""
    print(f"| {name} | {measured} | {wanted} |", flush=True)


if __name__ == "__main__":
    main()
