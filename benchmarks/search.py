"""Search at 70,000 and 1,000,000 images, beside usearch and LanceDB: `python -m benchmarks.search`

The vectors are those of the 70,000 pictures of tiny_imagenet by ResNet-18 with real weights, made
by `index`, or those of a store that is named (pictures in a folder a class). More lie between two
pictures of a class; how far the nearest and the tenth are apart is compared with the real.
Queries are pictures that were held out. Building and serving are processes of their own, whose
memory is measured. Truth is NumPy. Prints Markdown. `--rows` is how large the large store is;
`--no-peers` leaves usearch and LanceDB out, of which one takes hours beyond some millions.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

import embedsearch
from benchmarks.measure import machine, run
from benchmarks.peers import install
from benchmarks.run import CLI, SHARED, real_weights
from embedsearch.store.current import read_current
from embedsearch.store.info import info
from embedsearch.store.snapshot import open_snapshot

QUERIES = 400
K = 10
BLOCK_ROWS = 100_000
TIE = 1e-4
SHARES = {"50 %": 2, "5 %": 20, "0.5 %": 200, "0.01 %": 10_000}  # a filter: every n-th row

Vectors = npt.NDArray[np.float32]
Row = tuple[str, str, str]

# Each serving process prints one JSON object: ids (Q, K), seconds a query, anonymous memory.
COMMON = """
import json, sys, time
import numpy as np
started = time.perf_counter()
queries = np.load(sys.argv[1]).astype(np.float32)
def anonymous():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024
def serve(ask):
    ids, seconds = [], []
    ask(queries[0])
    first = time.perf_counter() - started
    for query in queries[:100]:
        ask(query)
    for query in queries:
        before = time.perf_counter()
        ids.append(ask(query))
        seconds.append(time.perf_counter() - before)
    return dict(ids=ids, seconds=seconds, first=first, anonymous=anonymous())
"""
OURS = """
import embedsearch
searcher = embedsearch.open_store(sys.argv[2])
options = json.loads(sys.argv[3])
def ask(query):
    return [int(hit.key.rpartition("/")[2]) for hit in searcher.query(query, 10, **options)]
print(json.dumps(serve(ask)))
"""
OURS_BATCH = """
import embedsearch
searcher = embedsearch.open_store(sys.argv[2])
searcher.query_batch(list(queries), 10)
many = list(np.tile(queries, (10, 1)))
before = time.perf_counter()
found = searcher.query_batch(many, 10)
print(json.dumps(dict(rate=len(found) / (time.perf_counter() - before))))
"""
USEARCH_BUILD = """
from usearch.index import Index
vectors = np.load(sys.argv[2], mmap_mode="r")
index = Index(ndim=vectors.shape[1], metric="ip", dtype=sys.argv[4])
for start in range(0, len(vectors), 50_000):
    some = np.asarray(vectors[start:start + 50_000], np.float32)
    index.add(np.arange(start, start + len(some)), some)
index.save(sys.argv[3])
"""
USEARCH = """
from usearch.index import Index
index = Index.restore(sys.argv[2], view=True)
print(json.dumps(serve(lambda query: index.search(query, 10).keys.tolist())))
"""
LANCE_BUILD = """
import lancedb, pyarrow as pa
vectors = np.load(sys.argv[2], mmap_mode="r")
schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), vectors.shape[1]))])
def batches():
    for start in range(0, len(vectors), 50_000):
        some = np.asarray(vectors[start:start + 50_000], np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(some.reshape(-1)), vectors.shape[1])
        ids = pa.array(np.arange(start, start + len(some)))
        yield pa.RecordBatch.from_arrays([ids, column], schema=schema)
reader = pa.RecordBatchReader.from_batches(schema, batches())
table = lancedb.connect(sys.argv[3]).create_table("t", reader)
table.create_index(metric="cosine", index_type="IVF_RQ")
"""
LANCE = """
import lancedb
table = lancedb.connect(sys.argv[2]).open_table("t")
def ask(query):
    found = table.search(query).distance_type("cosine").nprobes(20).refine_factor(5).limit(10)
    return found.select(["id"]).to_arrow().column("id").to_pylist()
print(json.dumps(serve(ask)))
"""


def main() -> None:
    """Make the vectors, measure, print the table as it grows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="embedsearch-search-") as folder:
        base = Path(folder)
        python = install(base / "venv", "usearch", "lancedb") if arguments.peers else None
        store = arguments.store or real_store(base)
        real = Set.of_store(base / "real", store)
        large = real.grown(base / "large", arguments.rows)
        print(f"{machine()}; {len(real):,} and {len(large):,} × {real.dim}\n")
        print("| figure | measured | wanted |\n|---|---|---|")
        for name, measured, wanted in rows(real, large, base, python):
            print(f"| {name} | {measured} | {wanted} |", flush=True)


def real_store(base: Path) -> Path:
    """Index the pictures of tiny_imagenet, one folder a class."""
    photos = base / "photos"
    number = 0
    for file in sorted((SHARED / "data" / "tiny_imagenet").glob("train-*.parquet")):
        table = pq.read_table(file)
        for jpeg, label in zip(table.column("jpeg"), table.column("label"), strict=True):
            folder = photos / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.jpg").write_bytes(jpeg.as_py())
            number += 1
    store = base / "tiny.es"
    embedsearch.index(photos, store=store, model=str(real_weights(base, "resnet18")))
    return store


@dataclass
class Set:
    """Vectors with their names on disk, queries held out of them, and what is true of both."""

    folder: Path
    vectors: npt.NDArray[np.float16]  # of vectors.npy, mapped
    classes: npt.NDArray[np.int64]
    queries: Vectors
    known: dict[int, Vectors] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    @classmethod
    def of_store(cls, folder: Path, store: Path) -> Set:
        """Take the vectors of a store, but for some that are the queries."""
        folder.mkdir()
        with open_snapshot(store) as snapshot:
            alive = snapshot.live_mask()
            vectors = np.concatenate([v for s in snapshot.shards for v in s.vectors()])[alive]
            images = snapshot.images(np.flatnonzero(alive))
        names = [os.fsdecode(image.key).partition("/")[0] for image in images]
        classes = np.unique(names, return_inverse=True)[1].astype(np.int64)
        order = np.random.default_rng(0).permutation(len(vectors))
        held, kept = order[:QUERIES], np.sort(order[QUERIES:])
        queries = vectors[held].astype(np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        made = file_of(folder, len(kept), vectors.shape[1])
        made[:] = vectors[kept]
        return cls(folder, made, classes[kept], queries).saved()

    def grown(self, folder: Path, rows: int) -> Set:
        """Return these and what lies between two of a class, up to that many rows."""
        folder.mkdir()
        rng = np.random.default_rng(1)
        vectors = file_of(folder, rows, self.dim)
        vectors[: len(self)] = self.vectors
        classes = np.concatenate([self.classes, rng.choice(self.classes, rows - len(self))])
        for number in np.unique(self.classes):
            members = np.flatnonzero(self.classes == number)
            new = len(self) + np.flatnonzero(classes[len(self) :] == number)
            one, other = self.vectors[rng.choice(members, (2, len(new)))].astype(np.float32)
            way = rng.uniform(0.4, 0.6, (len(new), 1)).astype(np.float32)
            between = one + way * (other - one)
            vectors[new] = between / np.linalg.norm(between, axis=1, keepdims=True)
        return Set(folder, vectors, classes, self.queries).saved()

    def saved(self) -> Set:
        """Write the queries and names for those who build from files."""
        np.save(self.folder / "queries.npy", self.queries)
        names = (f"{label}/{number}" for number, label in enumerate(self.classes))
        (self.folder / "names.txt").write_text("\n".join(names) + "\n")
        return self

    def truth(self, every: int = 1) -> Vectors:
        """Return the ten highest cosines of each query among every n-th row, (Q, K)."""
        if every not in self.known:
            best = np.full((QUERIES, K), -2, np.float32)
            chosen = self.vectors[::every]
            for start in range(0, len(chosen), BLOCK_ROWS):
                block = chosen[start : start + BLOCK_ROWS].astype(np.float32)
                block /= np.linalg.norm(block, axis=1, keepdims=True)
                both = np.concatenate([best, self.queries @ block.T], axis=1)
                best = -np.sort(-np.partition(both, -K, axis=1)[:, -K:], axis=1)
            self.known[every] = best
        return self.known[every]

    def recall(self, ids: list[list[int]], every: int = 1) -> float:
        """Return the share of the ten nearest that ids name; what is as near counts as one."""
        least = self.truth(every)[:, -1] - TIE
        right = wanted = 0
        for query, limit, mine in zip(self.queries, least, ids, strict=True):
            assert len(set(mine)) == len(mine) and not any(i % every for i in mine)
            found = self.vectors[mine].astype(np.float32)
            scores = found @ query / np.linalg.norm(found, axis=1)
            right += int((scores >= limit).sum())
            wanted += K
        return right / wanted

    def ratio(self) -> float:
        """Return the median of nearest over tenth-nearest distance."""
        distances = np.sqrt(np.maximum(0, 2 - 2 * self.truth()))
        return float(np.median(distances[:, 0] / distances[:, -1]))


def file_of(folder: Path, rows: int, dim: int) -> npt.NDArray[np.float16]:
    """Return room for vectors in a file, mapped."""
    return np.lib.format.open_memmap(
        folder / "vectors.npy", mode="w+", dtype=np.float16, shape=(rows, dim)
    )


def rows(real: Set, large: Set, base: Path, python: Path | None) -> Iterator[Row]:
    """Yield each figure with what was wanted of it."""
    first, tenth = real.ratio(), large.ratio()
    yield "nearest / tenth distance, real and large", f"{first:.3f}, {tenth:.3f}", "within 10 %"
    yield from served(f"{len(real):,}, exact", real, build(real, base / "exact.es"), "4")
    fast = build(real, base / "fast.es", latency_s=0.0005)
    yield from served(f"{len(real):,}, --latency 0.5ms", real, fast, "recall 0.98; 0.5")
    store, seconds, peak = build(large, base / "large.es")
    yield (
        f"{len(large):,}: build",
        f"{seconds:.0f} s, peak {peak:,.0f} MiB",
        "600 s, 3,000 MiB",
    )
    yield from served(f"{len(large):,}, chosen", large, (store, seconds, peak), "recall 0.97; 5")
    for share, every in SHARES.items():
        where = json.dumps({"where": f"row % {every} = 0"})
        found = serve(sys.executable, OURS, large, store, where)
        measured = large.recall(found["ids"], every)
        yield f"… --where that {share} meet", f"recall@10 {measured:.3f}, {times(found)}", "0.95"
    batch = serve(sys.executable, OURS_BATCH, large, store)
    yield "… queries at once", f"{batch['rate']:,.0f} /s", ""
    if python is not None:
        yield from peers(large, base, python)


def peers(large: Set, base: Path, python: Path) -> Iterator[Row]:
    """Yield what usearch and LanceDB do with the same vectors."""
    for name, script, serving, options in (
        ("usearch, f16", USEARCH_BUILD, USEARCH, ["f16"]),
        ("usearch, i8", USEARCH_BUILD, USEARCH, ["i8"]),
        ("LanceDB, IVF_RQ", LANCE_BUILD, LANCE, []),
    ):
        out = base / re.sub(r"\W", "", name)
        arguments = [large.folder / "queries.npy", large.folder / "vectors.npy", out, *options]
        done = run([python, "-c", COMMON + script, *arguments], dict(os.environ), memory=True)
        found = serve(python, serving, large, out)
        yield f"{name}: build", f"{done.seconds:.0f} s, peak {done.peak_mib:,.0f} MiB", ""
        yield f"{name}", figures(large, found, size_of(out)), ""


def build(mine: Set, store: Path, **options: Any) -> tuple[Path, float, float]:
    """Import vectors; return the store, seconds, and peak memory in MiB."""
    source = [mine.folder / "vectors.npy", "--paths", mine.folder / "names.txt"]
    command = [*CLI, "import", *source, "--model", "resnet18 elsewhere", "--store", store]
    done = run(command, dict(os.environ), memory=True)
    if options:
        empty = store.parent / "empty"
        empty.mkdir(exist_ok=True)
        embedsearch.index(empty, store=store, **options)
    return store, done.seconds, done.peak_mib


def served(name: str, mine: Set, built: tuple[Path, float, float], wanted: str) -> Iterator[Row]:
    """Yield what a store of ours does when it is asked."""
    store = built[0]
    found = serve(sys.executable, OURS, mine, store, "{}")
    facts = info(store).to_dict()
    sizes = figures(mine, found, size_of(store))
    index = sum(file.bytes for file in read_current(store).faiss) / len(mine)
    yield f"{name}: {facts['search']}", f"{sizes}, of them FAISS {index:.0f}", f"{wanted} ms"


def serve(python: str | Path, script: str, mine: Set, *arguments: Any) -> dict[str, Any]:
    """Ask in a process of its own; return what it says of it."""
    command = [python, "-c", COMMON + script, mine.folder / "queries.npy", *arguments]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def figures(mine: Set, found: dict[str, Any], size: int) -> str:
    """Return recall, latency, memory and size in words."""
    return (
        f"recall@10 {mine.recall(found['ids']):.3f}, {times(found)}, open and one answer "
        f"{found['first']:.2f} s, {found['anonymous']:.0f} MiB anonymous, "
        f"{size / len(mine):.0f} bytes a vector"
    )


def times(found: dict[str, Any]) -> str:
    """Return the median and the 95th percentile."""
    middle, late = np.percentile(found["seconds"], [50, 95]) * 1000
    return f"{middle:.2f} ms (95 %: {late:.2f})"


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


if __name__ == "__main__":
    main()
