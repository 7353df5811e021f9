"""The driver of a job on Ray: `python -P -m embedsearch.indexing.distributed.ray_driver FD SPEC`.

decode (actors, one CPU each, our own decoder) → embed (actors, one GPU or one machine each) →
parts of units on the disk → units. Ray Data passes chunks between them, and slows decoding down
if the network is slower. It is a separate process, because Ray writes to the terminal freely and
a job ends only with its driver. Out: one JSON line per chunk.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data

from embedsearch.core.config import DecodeLimits
from embedsearch.core.errors import EmbedSearchError
from embedsearch.core.records import ImageBatch
from embedsearch.core.session import Session
from embedsearch.images.decode.pool import DecodePool
from embedsearch.images.decode.process import DecodeJob
from embedsearch.indexing.distributed.parts import Chunk, chunk_refs, chunks_left, pack, write_part
from embedsearch.indexing.distributed.run import open_plan
from embedsearch.indexing.pipeline import embed_images
from embedsearch.indexing.scope import Sources
from embedsearch.network.feed import feed_for
from embedsearch.network.runtime import load_stream_extractor
from embedsearch.store.shards import batch_table


def main() -> None:
    """Do the rest of the open plan, and write one line for each finished chunk."""
    descriptor, spec = int(sys.argv[1]), json.loads(sys.argv[2])
    with os.fdopen(descriptor, "w", buffering=1) as out:
        try:
            # Without RAY_ADDRESS a new local cluster starts, even if another one runs here.
            local = {"address": "local", "include_dashboard": False}
            ray.init(log_to_driver=False, **({} if os.environ.get("RAY_ADDRESS") else local))
        except Exception as error:  # of many classes, all with this meaning
            out.write(json.dumps({"error": f"no Ray cluster: {_error_message(error)}"}) + "\n")
            return
        out.write(json.dumps({"started": True}) + "\n")
        try:
            _run(Path(spec["store"]), spec, out)
        except Exception as error:
            out.write(json.dumps({"error": _error_message(_cause(error))}) + "\n")


def _run(store: Path, spec: dict[str, Any], out: Any) -> None:
    chunks = chunks_left(store, open_plan(store))
    left = Counter(chunk.unit for chunk in chunks)
    packing = []
    for row in _stream(store, spec, chunks).iter_rows():
        out.write(json.dumps({"images": row["images"], "failed": row["failed"]}) + "\n")
        left[row["unit"]] -= 1
        if not left[row["unit"]]:
            # No CPU is requested: the actors may hold all of them until the end.
            task = ray.remote(_pack_number).options(num_cpus=0, scheduling_strategy="SPREAD")
            packing.append(task.remote(str(store), row["unit"]))
    ray.get(packing)
    out.write(json.dumps({"done": True}) + "\n")


def _stream(store: Path, spec: dict[str, Any], chunks: list[Chunk]) -> Any:
    """Return the stream of chunks through the two pools of actors."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    networks = gpus or sum(node["Alive"] for node in ray.nodes())
    max_decoders = spec["workers"] or max(1, cpus - (0 if gpus else networks))
    data = ray.data.from_items([asdict(c) for c in chunks], override_num_blocks=len(chunks))
    data = data.map_batches(
        _Decoder,
        fn_constructor_args=(str(store), spec["limits"]),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max_decoders),
        num_cpus=1,
    )
    return data.map_batches(
        _Embedder,
        fn_constructor_args=(str(store), spec["device"], spec["precision"]),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=networks),
        num_cpus=None if gpus else 1,
        num_gpus=1 if gpus else None,
    )


class _Decoder:
    """An actor that decodes chunks in a child process, as everywhere."""

    def __init__(self, store: str, limits: dict[str, Any]) -> None:
        self._store = Path(store)
        self._plan = open_plan(self._store)
        self._sources = Sources(limits["max_bytes"])
        model = self._plan.model
        self._pool = DecodePool(model.input_side, DecodeLimits(**limits), framing=model.framing)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        chunk = Chunk(*(int(rows[name][0]) for name in ("unit", "number", "images")))
        located = self._sources.places(chunk_refs(self._store, self._plan, chunk), self._plan.roots)
        batches, failures = [], []
        for batch in self._pool.run(DecodeJob(ref, location) for ref, location in located):
            images = batch.images
            self._sources.answered(images, batch.failures)
            batches.append(ImageBatch(images.refs, images.facts, images.pixels.copy()))
            failures += batch.failures
        # One value per chunk, which Ray cannot split; it passes only between our own actors.
        return {"decoded": [pickle.dumps((chunk, batches, failures), protocol=5)]}


class _Embedder:
    """An actor with the network. It writes its results, so a finished part is never lost."""

    def __init__(self, store: str, device: str, precision: str) -> None:
        self._store = Path(store)
        spec = open_plan(self._store).model
        self._extractor = load_stream_extractor(spec, device, precision, Session())
        self._batch = feed_for(device).batch
        self._lanes = ThreadPoolExecutor(self._extractor.lanes, "lane")

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        chunk, batches, failures = pickle.loads(rows["decoded"][0])
        tables = []
        embed = self._lanes.map(lambda b: embed_images(b, self._extractor), self._fitting(batches))
        for embedded, unusable in embed:
            failures += unusable
            if len(embedded.refs):
                tables.append(batch_table(embedded, 0))
        write_part(self._store, chunk, tables, failures)
        counts = {"unit": chunk.unit, "images": chunk.images, "failed": len(failures)}
        return {name: [count] for name, count in counts.items()}

    def _fitting(self, batches: list[ImageBatch]) -> list[ImageBatch]:
        """Return the images in batches of the size that suits the device."""
        refs = [ref for batch in batches for ref in batch.refs]
        facts = [fact for batch in batches for fact in batch.facts]
        if not refs:
            return []
        pixels = np.concatenate([batch.pixels for batch in batches])
        cuts = [slice(start, start + self._batch) for start in range(0, len(refs), self._batch)]
        return [ImageBatch(refs[cut], facts[cut], pixels[cut]) for cut in cuts]


def _pack_number(store: str, number: int) -> None:
    opened = open_plan(Path(store))
    pack(Path(store), opened, opened.units[number])


def _cause(error: BaseException) -> BaseException:
    """Return our own error below an error of Ray, if there is one; else the last cause."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, EmbedSearchError):
        seen = getattr(seen, "cause", None) or seen.__cause__
    return seen or error


def _error_message(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


if __name__ == "__main__":
    main()
