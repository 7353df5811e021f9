"""`embedsearch serve` under load: `python -m benchmarks.serving [--seconds 600]`

Vector queries at a fixed rate over 200,000 rows, image queries one by one and by many clients at
once, and what each adapter adds to a query of the plain API. A request's time begins when it was
due, not when a free client came to it. Prints Markdown. Needs the photos and weights of
`../shared` for the image queries.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import embedsearch
from benchmarks.measure import machine
from benchmarks.run import CLI, real_weights, some_photos
from embedsearch.exchange.import_vectors import import_vectors

ROWS, DIM, CENTERS = 200_000, 512, 2_000
PER_SECOND = 50
CLIENTS = 16
IMAGES = 400
ROUNDS = 5
ADAPTER_QUERIES = 600
Row = tuple[str, str, str, bool]
APART = """
import sys
from embedsearch.searching import query_vectors
query_vectors.IMAGES_AT_ONCE = 1
from embedsearch.cli.entry import run
sys.exit(run(sys.argv[1:]))
"""


def main() -> None:
    """Run every measurement and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="of vector queries")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="embedsearch-bench-") as folder:
        base = Path(folder)
        os.environ["EMBEDSEARCH_CACHE"] = str(base / "cache")
        rows = [
            *vector_queries(base, seconds),
            *image_queries(base, "packaged"),
            *image_queries(base, str(real_weights(base))),
            *adapters(base, "packaged"),
            *adapters(base, "resnet50"),
        ]
    print(f"\n{machine()}\n\n| figure | measured | wanted | reached |\n|---|---|---|---|")
    for name, measured, wanted, is_reached in rows:
        print(
            f"| {name} | {measured} | {wanted} | {wanted and ('yes' if is_reached else '**no**')} |"
        )


def vector_queries(base: Path, seconds: int) -> Iterator[Row]:
    """Ask at a fixed rate with vectors near those of the store."""
    rng = np.random.default_rng(5)
    centers = rng.standard_normal((CENTERS, DIM), np.float32)
    vectors = centers[rng.integers(CENTERS, size=ROWS)] + rng.standard_normal(
        (ROWS, DIM), np.float32
    )
    np.save(base / "v.npy", vectors.astype(np.float16))
    (base / "paths.txt").write_text("".join(f"{row:06d}.jpg\n" for row in range(ROWS)))
    store = base / "vectors.es"
    import_vectors(
        base / "v.npy", paths=base / "paths.txt", root=base, model="elsewhere", store=store
    )
    asked = centers[rng.integers(CENTERS, size=500)] + rng.standard_normal((500, DIM), np.float32)
    units = asked / np.linalg.norm(asked, axis=1, keepdims=True)
    requests = [
        request(b'{"k": 10, "vector": %s}' % json.dumps(row.tolist()).encode(), "application/json")
        for row in units
    ]
    with embedsearch.open_store(store) as searcher:
        chosen = searcher.manifest.ann
    with server(store) as (port, process):
        asyncio.run(at_a_rate(port, requests, 15))  # warm-up
        before = resident_mib(process)
        times, errors = asyncio.run(at_a_rate(port, requests, seconds))
        growth = resident_mib(process) - before
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    index = chosen.factory if chosen is not None else "exact search"
    yield (
        f"{PER_SECOND} vector queries/s over {ROWS:,} rows ({index}), {seconds} s",
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms ({p99 / p50:.1f} times), slowest "
        f"{max(times) * 1e3:.0f} ms; {errors} errors of {len(times):,}",
        "p99 <= 3 p50, no error",
        p99 <= 3 * p50 and not errors,
    )
    yield "… growth of memory", f"{growth:+.1f} MiB", "< 50 MB", growth < 50


def image_queries(base: Path, model: str) -> Iterator[Row]:
    """Ask with photos, one after the other, and by many clients at once, in turn."""
    name = Path(model).stem
    photos = some_photos(base / f"photos-{name}", IMAGES)
    store = base / f"{name}.es"
    embedsearch.index(photos, store=store, model=model)
    requests = [request(path.read_bytes(), "image/jpeg") for path in sorted(photos.iterdir())]
    rates: dict[str, list[float]] = {"one": [], "many": [], "apart": []}
    with server(store) as (port, _), server(store, "apart") as (other_port, _):
        for _ in range(ROUNDS):
            rates["one"].append(asyncio.run(at_full_speed(port, requests, 1)))
            rates["many"].append(asyncio.run(at_full_speed(port, requests, CLIENTS)))
            rates["apart"].append(asyncio.run(at_full_speed(other_port, requests, CLIENTS)))
    one, many, apart = (statistics.median(some) for some in rates.values())
    yield (
        f"image queries/s, {name}: {CLIENTS} clients at once / one client",
        f"{shown(rates['many'])} / {shown(rates['one'])}; {many / one:.2f} times",
        ">= 2 times",
        many >= 2 * one,
    )
    yield (
        "… the same clients, of a server that makes no batches",
        f"{shown(rates['apart'])}; {apart / one:.2f} times",
        "",
        False,
    )


def adapters(base: Path, name: str) -> Iterator[Row]:
    """Ask in turn by the plain API and by each adapter, with the path of a photo."""
    photos = sorted((base / f"photos-{name}").iterdir())
    times = asyncio.run(in_turn(base / f"{name}.es", photos))
    plain = statistics.median(times.pop("the plain API"))
    for way, some in sorted(times.items()):
        mine = statistics.median(some)
        yield (
            f"a query by {way} / by the plain API, {name}",
            f"{mine * 1e3:.2f} / {plain * 1e3:.2f} ms; {mine / plain:.3f}",
            "<= 1.10",
            mine <= 1.1 * plain,
        )


async def in_turn(store: Path, photos: list[Path]) -> dict[str, list[float]]:
    """Return the seconds of each query, by the way it was asked."""
    from llama_index.core.schema import QueryBundle
    from mcp.client import Client

    from embedsearch.integrations import haystack, langchain, llama_index, mcp

    times: dict[str, list[float]] = {}
    with embedsearch.open_store(store, follow=True) as searcher, server(store) as (port, _):
        in_langchain = langchain.EmbedSearchRetriever(store=searcher, k=10)
        in_llama = llama_index.EmbedSearchRetriever(searcher, k=10)
        in_haystack = haystack.EmbedSearchImageRetriever(searcher, top_k=10)
        connections = Connections(port)
        async with Client(mcp.create_server({"store": searcher})) as agent:
            tool = "search_similar_images"
            ways: dict[str, Callable[[str], Any]] = {
                "the plain API": lambda path: searcher.query(path, k=10),
                "LangChain": in_langchain.invoke,
                "LlamaIndex": lambda path: in_llama.retrieve(QueryBundle("", image_path=path)),
                "Haystack": lambda path: in_haystack.run(image=path),
                "MCP, in process": lambda path: agent.call_tool(tool, {"image": path, "k": 10}),
                "HTTP, uploaded": lambda path: connections.ask(
                    request(Path(path).read_bytes(), "image/jpeg")
                ),
            }
            names = list(ways)
            for turn in range(ADAPTER_QUERIES):
                # In another order each time, each with a photo that was not just used.
                for place, name in enumerate(random.Random(turn).sample(names, len(names))):
                    photo = photos[(turn * len(names) + place) % len(photos)]
                    started = time.perf_counter()
                    asked = ways[name](str(photo))
                    if asyncio.iscoroutine(asked):
                        await asked
                    times.setdefault(name, []).append(time.perf_counter() - started)
    return times


def shown(rates: list[float]) -> str:
    return f"{statistics.median(rates):.1f} ({min(rates):.1f}–{max(rates):.1f})"


@contextmanager
def server(store: Path, mode: str = "together") -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Serve a store in a process of its own; `apart` decodes and embeds one image at a time."""
    program = [sys.executable, "-c", APART] if mode == "apart" else [*map(str, CLI)]
    command = [*program, "serve", "--store", str(store), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = next(line for line in process.stderr if "http://" in line)
    match = re.search(r":(\d+)/", line)
    assert match is not None, line
    try:
        yield int(match[1]), process
    finally:
        process.terminate()
        process.wait()


def request(body: bytes, kind: str) -> bytes:
    head = f"POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class Connections:
    """Connections that stay open, one a request that is under way."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, asked: bytes) -> bool:
        """Send a request; return whether it was answered with 200."""
        if self._free:
            reader, writer = self._free.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(asked)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None, head
        await reader.readexactly(int(length[1]))
        self._free.append((reader, writer))
        return head.startswith(b"HTTP/1.1 200")


async def at_a_rate(port: int, requests: list[bytes], seconds: int) -> tuple[list[float], int]:
    """Return the seconds of each request from when it was due, and how many failed."""
    connections = Connections(port)
    started = time.perf_counter()
    times: list[float] = []
    failed = 0

    async def ask(number: int) -> None:
        nonlocal failed
        due = started + number / PER_SECOND
        await asyncio.sleep(due - time.perf_counter())
        try:
            failed += not await connections.ask(requests[number % len(requests)])
        except (OSError, EOFError):
            failed += 1
        times.append(time.perf_counter() - due)

    pending: set[asyncio.Task[None]] = set()
    for number in range(seconds * PER_SECOND):
        pending.add(asyncio.create_task(ask(number)))
        if len(pending) >= 2 * PER_SECOND:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait(pending)
    return times, failed


async def at_full_speed(port: int, requests: list[bytes], clients: int) -> float:
    """Return the answered requests a second of that many clients, each one at a time."""
    connections = Connections(port)
    left = iter(requests)

    async def client() -> None:
        for asked in left:
            if not await connections.ask(asked):
                sys.exit("a request failed")

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return len(requests) / (time.perf_counter() - started)


def resident_mib(process: subprocess.Popen[str]) -> float:
    """Return the memory of a process itself: anonymous pages, not the mapped store."""
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    match = re.search(r"Anonymous:\s+(\d+) kB", text)
    assert match is not None, text
    return int(match[1]) / 1024


if __name__ == "__main__":
    main()
