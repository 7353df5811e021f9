"""The units of a plan on a Ray cluster; in: folders and a store that all its machines see.

decode (actors, a CPU each, our own decoder) → embed (actors, a GPU each, or a machine) → parts of
units on the disk → units. Ray Data passes chunks of images between them and holds decoding back
where the network is slower. A part that is on the disk is not made again: a job that failed goes
on from there.
"""

from __future__ import annotations

import io
import json
import os
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedsearch.config import DecodeLimits, IndexConfig
from embedsearch.decode.pool import DecodePool
from embedsearch.decode.process import DecodeJob
from embedsearch.errors import EmbedSearchError, Interrupted, MissingLibrary, StorageError
from embedsearch.network.runtime import feed_for, load_stream_extractor
from embedsearch.pipeline import embed_images
from embedsearch.records import CommitReport, Failure, ImageBatch, Progress, Reason, Stage
from embedsearch.scope import Sources
from embedsearch.session import Session
from embedsearch.store.files import replace
from embedsearch.store.shards import batch_table
from embedsearch.store.units import UNITS_NAME, Unit, UnitPlan, read_record, read_refs
from embedsearch.units import (
    UnitOutcome,
    check_same,
    commit,
    finish_unit,
    open_plan,
    taken_up,
)

try:
    import ray
    import ray.data
    from ray.exceptions import RayError
except ImportError as error:
    raise MissingLibrary("--engine ray needs Ray: pip install 'embedsearch[ray]'") from error

CHUNK = 256  # images that pass between machines together: 38 MB of pixels at 224
STALL_S = 240.0  # without any image done, after which a job is given up
_POLL_S = 0.2
_PARTS = "parts"


def index_on_ray(
    folders: list[str],
    *,
    store: Path,
    config: IndexConfig | None = None,
    session: Session | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    stall_s: float = STALL_S,
) -> CommitReport | None:
    """Index folders on the cluster that RAY_ADDRESS names, or on this machine; then commit.

    Returns None where nothing was to be embedded. Raises what `plan` and `commit` raise, and
    StorageError for a cluster that fails, or does nothing for `stall_s` seconds: the same call
    goes on from there.
    """
    config, session = config or IndexConfig(), session or Session()
    opened = taken_up(store, folders, 1, config, session)
    if opened is None:
        return None
    check_same(opened, config, session)
    chunks = list(_chunks(store, opened))
    if chunks:
        with _cluster():
            job = _Job(store, opened, config, chunks)
            job.run(session, on_progress, stall_s)
    for unit in opened.units:
        _pack(store, opened, unit)  # what a machine that was lost had left to do
    return commit(store, wait_s=config.wait_s, session=session)


@contextmanager
def _cluster() -> Iterator[None]:
    """Connect to Ray for as long as the block lasts; a session that is there is used and left."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # an error is one line, and ours
    if ray.is_initialized():
        yield
        return
    try:
        # A cluster has its settings; one that is started for this machine gets ours.
        own: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
        with _hushed():
            ray.init(log_to_driver=False, logging_level="ERROR", **own)
    except (RayError, OSError, RuntimeError, ValueError) as error:
        raise StorageError(f"no Ray cluster: {_words(error)}") from error
    try:
        # A node that dies leaves a page of its state on our stdout; Ray's own logs have it, too.
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        ray.shutdown()


def _chunks(store: Path, opened: UnitPlan) -> Iterator[dict[str, int]]:
    """Yield (unit, chunk) for all that is not on the disk yet."""
    for unit in opened.units:
        if read_record(store, opened, unit.number) is None:
            for chunk in range(_count(unit)):
                if not _part(store, unit.number, chunk).exists():
                    yield {"unit": unit.number, "chunk": chunk}


def _count(unit: Unit) -> int:
    return -(-unit.images // CHUNK)


class _Job:
    """One run over the chunks that are left."""

    def __init__(
        self, store: Path, opened: UnitPlan, config: IndexConfig, chunks: list[dict[str, int]]
    ) -> None:
        self._store = store
        self._plan = opened
        self._config = config
        self._chunks = chunks
        left = Counter(chunk["unit"] for chunk in chunks)
        self._left = dict(left)
        self._packing: list[Any] = []
        sizes = {unit.number: unit.images for unit in opened.units}
        self._total = sum(min(CHUNK, sizes[c["unit"]] - c["chunk"] * CHUNK) for c in chunks)

    def run(
        self,
        session: Session,
        on_progress: Callable[[Progress], None] | None,
        stall_s: float,
    ) -> None:
        """Have all chunks embedded and their units packed. Raises as `index_on_ray` says."""
        rows: queue.SimpleQueue[dict[str, int] | BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self._consume, args=(rows,), daemon=True).start()
        started = heard = time.monotonic()
        done = failed = 0
        while True:
            if number := session.stop():
                raise Interrupted("interrupted; the same command goes on from there", number)
            try:
                row = rows.get(timeout=_POLL_S)
            except queue.Empty:
                if time.monotonic() - heard > stall_s:
                    raise StorageError(
                        f"the cluster has done nothing for {stall_s:.0f} s ({_resources()}); the "
                        "same command goes on from there"
                    ) from None
                continue
            if row is None:
                break
            if isinstance(row, BaseException):
                raise _plain(row)
            heard = time.monotonic()
            done += row["images"]
            failed += row["failed"]
            self._finish(row["unit"])
            if on_progress is not None:
                on_progress(Progress(done, self._total, failed, heard - started))
        try:
            ray.get(self._packing, timeout=stall_s)
        except RayError as error:
            raise _plain(error) from error

    def _consume(self, rows: queue.SimpleQueue[Any]) -> None:
        try:
            for row in self._dataset().iter_rows():
                rows.put(row)
            rows.put(None)
        except BaseException as error:  # must reach the caller's thread, whatever it is
            rows.put(error)

    def _dataset(self) -> Any:
        """Return the stream of chunks through the two pools of actors."""
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        _quiet()
        made = (str(self._store), asdict(self._config.limits))
        alive = [node for node in ray.nodes() if node["Alive"]]
        gpus = int(ray.cluster_resources().get("GPU", 0))
        cpus = int(ray.cluster_resources().get("CPU", 1))
        networks = gpus or len(alive)
        decoders = max(1, cpus - (0 if gpus else networks))
        asked = self._config.workers
        most = decoders if asked is None else max(1, asked)
        data = ray.data.from_items(self._chunks, override_num_blocks=len(self._chunks))
        data = data.map_batches(
            _Decoder,
            fn_constructor_args=made,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
            num_cpus=1,
        )
        return data.map_batches(
            _Embedder,
            fn_constructor_args=(str(self._store), self._config.device, self._config.precision),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=networks),
            num_cpus=None if gpus else 1,
            num_gpus=1 if gpus else None,
        )

    def _finish(self, unit: int) -> None:
        self._left[unit] -= 1
        if not self._left[unit]:
            # No CPU is asked for: the actors may hold them all until the end.
            task = ray.remote(_pack_number).options(num_cpus=0, scheduling_strategy="SPREAD")
            self._packing.append(task.remote(str(self._store), unit))


@dataclass(frozen=True)
class _Decoded:
    """A chunk between the two pools."""

    unit: int
    chunk: int
    images: ImageBatch
    failures: list[Failure]


class _Decoder:
    """An actor that decodes chunks, in a process of its own below it, as everywhere."""

    def __init__(self, store: str, limits: dict[str, Any]) -> None:
        self._store = Path(store)
        self._plan = open_plan(self._store)
        self._sources = Sources(DecodeLimits(**limits).max_bytes)
        self._pool = DecodePool(self._plan.model.input_side, DecodeLimits(**limits))

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        unit, chunk = int(rows["unit"][0]), int(rows["chunk"][0])
        listed = read_refs(self._store, self._plan.units[unit])
        mine = [ref for ref, _ in listed[chunk * CHUNK : (chunk + 1) * CHUNK]]
        places = self._sources.places(mine, self._plan.roots)
        batches, failures = [], []
        for batch in self._pool.run(DecodeJob(ref, place) for ref, place in places):
            images = batch.images
            batches.append(ImageBatch(images.refs, images.facts, images.pixels.copy()))
            failures += batch.failures
        side = self._plan.model.input_side
        images = ImageBatch(
            [ref for batch in batches for ref in batch.refs],
            [fact for batch in batches for fact in batch.facts],
            np.concatenate([np.empty((0, side, side, 3), np.uint8), *(b.pixels for b in batches)]),
        )
        return {"decoded": [_Decoded(unit, chunk, images, failures)]}


class _Embedder:
    """An actor with the network. It writes what it makes: a part that is done is never lost."""

    def __init__(self, store: str, device: str, precision: str) -> None:
        self._store = Path(store)
        self._plan = open_plan(self._store)
        self._extractor = load_stream_extractor(self._plan.model, device, precision, Session())
        self._batch = feed_for(device).batch
        self._lanes = ThreadPoolExecutor(self._extractor.lanes, "lane")

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        (decoded,) = rows["decoded"]
        images, step = decoded.images, self._batch
        pieces = [
            ImageBatch(
                images.refs[start : start + step],
                images.facts[start : start + step],
                images.pixels[start : start + step],
            )
            for start in range(0, len(images.refs), step)
        ]
        tables, failures = [], list(decoded.failures)
        for embedded, lost in self._lanes.map(
            lambda piece: embed_images(piece, self._extractor), pieces
        ):
            failures += lost
            if len(embedded.refs):
                tables.append(batch_table(embedded, 0))
        _write_part(self._store, decoded.unit, decoded.chunk, tables, failures)
        count = len(images.refs) + len(decoded.failures)
        return {
            "unit": [decoded.unit],
            "images": [count],
            "failed": [len(failures)],
        }


def _part(store: Path, unit: int, chunk: int) -> Path:
    return store / UNITS_NAME / _PARTS / f"p-{unit:08d}-{chunk:08d}.arrow"


def _write_part(
    store: Path, unit: int, chunk: int, tables: list[pa.Table], failures: list[Failure]
) -> None:
    """Write what became of a chunk, whole or not at all. Raises StorageError."""
    sink = io.BytesIO()
    table = pa.concat_tables(tables) if tables else pa.table({})
    said = json.dumps([asdict(failure) for failure in failures])
    with pa.ipc.new_file(sink, table.schema.with_metadata({"failures": said})) as writer:
        writer.write_table(table)
    path = _part(store, unit, chunk)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    replace(store / UNITS_NAME, f"{_PARTS}/{path.name}", sink.getvalue())


def _read_part(path: Path) -> tuple[pa.Table, list[Failure]]:
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    said = json.loads(table.schema.metadata[b"failures"])
    failures = [
        Failure(**{**item, "stage": Stage(item["stage"]), "reason": Reason(item["reason"])})
        for item in said
    ]
    return table.replace_schema_metadata(None), failures


def _pack_number(store: str, number: int) -> None:
    opened = open_plan(Path(store))
    _pack(Path(store), opened, opened.units[number])


def _pack(store: Path, opened: UnitPlan, unit: Unit) -> None:
    """Make a unit of its parts, if they are all there and it is not done. Raises StorageError."""
    paths = [_part(store, unit.number, chunk) for chunk in range(_count(unit))]
    if read_record(store, opened, unit.number) is not None or not all(p.exists() for p in paths):
        return
    started = time.monotonic()
    old_rows = {(r.root, os.fsencode(r.key)): old for r, old in read_refs(store, unit) if old >= 0}
    made = UnitOutcome([], [], [])
    row = unit.first_row
    for path in paths:
        table, failures = _read_part(path)
        if len(table):
            numbers = range(row, row + len(table))
            place = table.schema.get_field_index("row")
            table = table.set_column(place, table.schema.field(place), pa.array(numbers))
            made.tables.append(table)
            names = zip(
                table.column("root").to_pylist(), table.column("key").to_pylist(), strict=True
            )
            made.pairs.extend(
                (old_rows[name], number)
                for name, number in zip(names, numbers, strict=True)
                if name in old_rows
            )
            row += len(table)
        made.failures.extend(failures)
    made.pairs.extend(
        (old_rows[name], -1)
        for failure in made.failures
        if (name := (failure.root, os.fsencode(failure.key))) in old_rows
    )
    finish_unit(store, opened, unit, made, time.monotonic() - started, "ray")
    for path in paths:
        with suppress(OSError):  # it goes with the folder
            path.unlink()


def _plain(error: BaseException) -> BaseException:
    """Return what an error of Ray's is about, as one of ours."""
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None) or seen.__cause__
        if isinstance(seen, EmbedSearchError):
            return seen
        seen = cause if isinstance(cause, BaseException) else None
    return StorageError(f"the cluster failed: {_words(error)}; the same command goes on from there")


def _words(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).strip()[:300]


def _resources() -> str:
    with suppress(RayError, RuntimeError):
        free, all_ = ray.available_resources(), ray.cluster_resources()
        return f"{free.get('CPU', 0):.0f} of {all_.get('CPU', 0):.0f} CPUs are free"
    return "it does not answer"


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep what Ray's C++ core says when it starts off stderr; what fails raises."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _quiet() -> None:
    """Keep Ray's own account of a job off the terminal: errors come as one line."""
    import logging

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
