"""Files to embeddings, all stages at once; in: DecodeJobs, out: Embedded batches in order.

read and decode (worker processes) → a ring of pixels → embed (one thread per lane of the network).
Every queue is bounded: the slowest stage keeps the others waiting, and the busy seconds show
which one that is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedsearch.core.config import IndexConfig
from embedsearch.core.model_spec import SQUASHED, Framing
from embedsearch.core.records import (
    EmbeddingBatch,
    Failure,
    ImageBatch,
    Reason,
    Stage,
    check_unit_rows,
)
from embedsearch.images.decode.pool import DecodedBatch, DecodePool
from embedsearch.images.decode.process import DecodeJob
from embedsearch.network.feed import Feed, feed_for
from embedsearch.network.runtime import PixelExtractor


@dataclass(frozen=True)
class Embedded:
    """The results of one batch of jobs."""

    images: EmbeddingBatch
    failures: list[Failure]


class Pipeline:
    """Decodes at once, embeds as soon as it has the network; use as a context manager."""

    def __init__(
        self,
        side: int,
        config: IndexConfig,
        jobs: Iterator[DecodeJob],
        count: int,
        stop: Callable[[], int] = lambda: 0,
        *,
        framing: Framing = SQUASHED,
        feed: Feed | None = None,
    ) -> None:
        """`count` is the number of jobs; `stop` ends the stream early, see Session.
        Without a feed it is that of the device."""
        self._closed = threading.Event()
        self._lock = threading.Lock()  # protects the busy seconds
        self._read_s = self._decode_s = self._embed_s = self._decode_cpu_s = 0.0
        self._cpu_since = time.process_time()
        self._lanes: _Lanes | None = None
        feed = feed or feed_for(config.device)
        self._ahead = feed.ahead
        workers, max_workers = config.worker_range(on_gpu=feed.on_gpu)
        self._pool = DecodePool(
            side,
            config.limits,
            workers=min(workers, count),
            max_workers=min(max_workers, count),
            batch=feed.batch,
            in_flight=feed.lanes,
            framing=framing,
        )
        self._batches = self._pool.lease(jobs, lambda: stop() or self._closed.is_set())

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._lanes is not None:
            self._lanes.close()
        self._pool.close()

    def embed(self, extractor: PixelExtractor) -> Iterator[Embedded]:
        """Return an iterator over the results of all jobs; it raises what a lane raised."""
        self._cpu_since = time.process_time()
        self._lanes = _Lanes(
            extractor.lanes, self._ahead, self._batches, lambda b: self._embed(b, extractor)
        )
        return iter(self._lanes)

    @property
    def workers(self) -> int:
        """Return the current number of decoding processes."""
        return self._pool.workers

    def busy_s(self) -> dict[str, float]:
        """Return how long each stage was busy so far, per worker or lane."""
        workers = max(1, self._pool.workers)
        lanes = 1 if self._lanes is None else self._lanes.count
        with self._lock:
            return {
                Stage.READ: self._read_s / workers,
                Stage.DECODE: self._decode_s / workers,
                Stage.EMBED: self._embed_s / lanes,
            }

    def cpu_s(self) -> dict[str, float]:
        """Return the seconds of processors so far: of decoding, and of this process."""
        with self._lock:
            decode_s = self._decode_cpu_s
        return {Stage.DECODE: decode_s, Stage.EMBED: time.process_time() - self._cpu_since}

    def _embed(self, batch: DecodedBatch, extractor: PixelExtractor) -> Embedded:
        started = time.monotonic()
        embedded, unusable = embed_images(batch.images, extractor)
        seconds = time.monotonic() - started
        with self._lock:
            self._read_s += batch.read_s
            self._decode_s += batch.decode_s
            self._decode_cpu_s += batch.cpu_s
            self._embed_s += seconds
        return Embedded(embedded, [*batch.failures, *unusable])


class _Lanes:
    """Threads that each take the next batch, process it, and store the result by batch number."""

    def __init__(
        self,
        count: int,
        ahead: int,
        batches: Iterator[DecodedBatch],
        work: Callable[[DecodedBatch], Embedded],
    ) -> None:
        self.count = count
        self._max_open = count + ahead
        self._batches = batches
        self._work = work
        self._taking = threading.Lock()
        self._changed = threading.Condition()
        self._results: dict[int, Embedded | BaseException | None] = {}
        self._taken = 0  # batches that a lane took
        self._given = 0  # results that were returned
        self._over = False
        self._threads = [
            threading.Thread(target=self._run, name=f"lane-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads after their current batches."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __iter__(self) -> Iterator[Embedded]:
        while True:
            with self._changed:
                while self._given not in self._results:
                    self._changed.wait()
                result = self._results.pop(self._given)
                self._given += 1
                self._changed.notify_all()
            if result is None:
                return
            if isinstance(result, BaseException):
                raise result
            yield result

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            number, batch = taken
            result: Embedded | BaseException
            try:
                result = self._work(batch)
            except BaseException as error:  # every error must reach the caller's thread
                result = error
            finally:
                batch.release()
            self._put(number, result)

    def _take(self) -> tuple[int, DecodedBatch] | None:
        """Return the next batch and its number, None once there are no more."""
        with self._taking:
            with self._changed:
                while self._taken - self._given >= self._max_open and not self._over:
                    self._changed.wait()
                if self._over:
                    return None
            batch, failure = None, None
            try:
                batch = next(self._batches, None)
            except BaseException as error:  # as in _run
                failure = error
            if batch is None:
                self._over = True
                self._put(self._taken, failure)
                return None
            self._taken += 1
            return self._taken - 1, batch

    def _put(self, number: int, result: Embedded | BaseException | None) -> None:
        with self._changed:
            self._results[number] = result
            self._changed.notify_all()


def embed_images(
    images: ImageBatch, extractor: PixelExtractor
) -> tuple[EmbeddingBatch, list[Failure]]:
    """Return the embeddings, and failures for images without a valid vector."""
    if not len(images.refs):
        return EmbeddingBatch([], [], np.empty((0, 0), dtype=np.float32)), []
    vectors = extractor(images.pixels)
    try:
        return EmbeddingBatch(images.refs, images.facts, vectors), []
    except ValueError:
        good = [_is_unit(vectors[i : i + 1]) for i in range(len(vectors))]
    detail = "the network gave no finite unit vector"
    failures = [
        Failure(r.root, r.key, Stage.EMBED, Reason.NOT_FINITE, detail, r.size, r.mtime_ns)
        for r, usable in zip(images.refs, good, strict=True)
        if not usable
    ]
    refs = [ref for ref, usable in zip(images.refs, good, strict=True) if usable]
    facts = [fact for fact, usable in zip(images.facts, good, strict=True) if usable]
    return EmbeddingBatch(refs, facts, vectors[np.array(good)]), failures


def _is_unit(vectors: Any) -> bool:
    try:
        check_unit_rows(vectors)
    except ValueError:
        return False
    return True
