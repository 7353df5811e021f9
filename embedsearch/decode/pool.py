"""Decoding processes under a watch; in: jobs in order, out: batches of pixels in that order.

One pump thread feeds the workers and gathers their answers, so that decoding goes on while the
caller embeds. Pixels come through a shared ring of batches: nothing is copied on the way.
A worker that crashes, hangs or eats memory costs the file it was working on.
"""

from __future__ import annotations

import mmap
import os
import queue
import selectors
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsearch.config import DecodeLimits
from embedsearch.decode.process import DecodeJob, Task, Worker, outcome
from embedsearch.errors import EmbedSearchError
from embedsearch.records import Failure, ImageBatch, ImageFacts, ImageRef, Reason, Stage

RING_BATCHES = 4
JOBS_AHEAD = 2  # a worker never waits for its next job, and a crash re-queues at most one

_STOP_POLL_S = 0.2

_RETRY_CRASH = 1  # a worker killed from outside must not cost a good file


@dataclass(frozen=True)
class DecodedBatch:
    """What became of the next jobs: `images` in job order, and the failures among them.

    The pixels are a view of the shared ring and valid until the next batch is asked for.
    """

    images: ImageBatch
    failures: list[Failure]
    read_s: float  # busy seconds, summed over the workers
    decode_s: float


@dataclass
class _Batch:
    first_slot: int
    tasks: int
    outcomes: dict[int, ImageFacts | Failure] = field(default_factory=dict)
    refs: dict[int, ImageRef] = field(default_factory=dict)
    read_s: float = 0.0
    decode_s: float = 0.0


class DecodePool:
    """Worker processes for one stream of jobs; use as a context manager."""

    def __init__(
        self,
        side: int,
        limits: DecodeLimits,
        *,
        workers: int = 1,
        batch: int = 32,
        fit: bool = False,
    ) -> None:
        self._side = side
        self._limits = limits
        self._batch = batch
        self._ring_bytes = RING_BATCHES * batch * side * side * 3
        self._ring_fd = _anonymous_file(self._ring_bytes)
        self._pixels = _map_pixels(self._ring_fd, RING_BATCHES * batch, side)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._spec = {
            "side": side,
            "fit": fit,
            "limits": asdict(limits),
            "slots": RING_BATCHES * batch,
        }
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._workers: list[Worker] = []
        self._start_failures = 0
        self._closing = threading.Event()
        self._pump: threading.Thread | None = None
        try:
            for _ in range(workers):
                self._start_worker()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers and release the ring. A second call does nothing."""
        if self._closing.is_set():
            return
        self._closing.set()
        os.write(self._wake_write, b".")
        if self._pump is not None:
            self._pump.join()
        for worker in self._workers:
            worker.close()
        self._selector.close()
        for descriptor in (self._ring_fd, self._wake_read, self._wake_write):
            os.close(descriptor)
        self._errors.close()

    def run(
        self, jobs: Iterator[DecodeJob], stop: Callable[[], int] = lambda: 0
    ) -> Iterator[DecodedBatch]:
        """Start on the jobs at once and return an iterator over their outcome, in their order.

        It yields `batch` jobs at a time and ends early once `stop` says so. One stream at a time:
        call it again only after the last one came to its end.
        """
        free: deque[int] = deque(range(RING_BATCHES))
        done: queue.Queue[_Batch | BaseException | None] = queue.Queue()
        self._pump = threading.Thread(
            target=self._guarded_pump, args=(jobs, free, done), name="decode-pump", daemon=True
        )
        self._pump.start()
        return self._outcomes(free, done, stop)

    def _outcomes(
        self,
        free: deque[int],
        done: queue.Queue[_Batch | BaseException | None],
        stop: Callable[[], int],
    ) -> Iterator[DecodedBatch]:
        while not stop():
            try:
                batch = done.get(timeout=_STOP_POLL_S)
            except queue.Empty:
                continue
            if batch is None:
                return
            if isinstance(batch, BaseException):
                raise batch
            yield self._finish(batch)
            free.append(batch.first_slot // self._batch)
            os.write(self._wake_write, b".")

    def _finish(self, batch: _Batch) -> DecodedBatch:
        """Return the batch as records; failures leave holes, which are cut out of the pixels."""
        slots = range(batch.first_slot, batch.first_slot + batch.tasks)
        good = [slot for slot in slots if isinstance(batch.outcomes[slot], ImageFacts)]
        facts = [fact for s in good if isinstance(fact := batch.outcomes[s], ImageFacts)]
        failures = [f for s in slots if isinstance(f := batch.outcomes[s], Failure)]
        whole = len(good) == batch.tasks
        pixels = self._pixels[slots.start : slots.stop] if whole else self._pixels[good]
        images = ImageBatch([batch.refs[slot] for slot in good], facts, pixels)
        return DecodedBatch(images, failures, batch.read_s, batch.decode_s)

    def _guarded_pump(
        self,
        jobs: Iterator[DecodeJob],
        free: deque[int],
        done: queue.Queue[_Batch | BaseException | None],
    ) -> None:
        try:
            self._pump_jobs(jobs, free, done)
        except BaseException as error:  # must reach the caller's thread, whatever it is
            done.put(error)
        else:
            done.put(None)

    def _pump_jobs(
        self,
        jobs: Iterator[DecodeJob],
        free: deque[int],
        done: queue.Queue[_Batch | BaseException | None],
    ) -> None:
        waiting: deque[Task] = deque()
        open_batches: deque[_Batch] = deque()
        more = True
        while not self._closing.is_set():
            while more and free and len(waiting) < self._batch:
                batch, tasks = self._next_batch(jobs, free[0] * self._batch)
                more = len(tasks) == self._batch
                if not tasks:
                    break
                free.popleft()
                open_batches.append(batch)
                waiting.extend(tasks)
            self._hand_out(waiting)
            while open_batches and len(open_batches[0].outcomes) == open_batches[0].tasks:
                done.put(open_batches.popleft())
            if not more and not open_batches:
                return
            self._wait(waiting, open_batches)

    def _next_batch(self, jobs: Iterator[DecodeJob], first_slot: int) -> tuple[_Batch, list[Task]]:
        tasks = []
        for slot in range(first_slot, first_slot + self._batch):
            job = next(jobs, None)
            if job is None:
                break
            tasks.append(Task(job, slot))
        batch = _Batch(first_slot, len(tasks))
        batch.refs = {task.slot: task.job.ref for task in tasks}
        return batch, tasks

    def _hand_out(self, waiting: deque[Task]) -> None:
        for ahead in range(JOBS_AHEAD):
            for worker in self._workers:
                if waiting and len(worker.tasks) <= ahead:
                    worker.send(waiting.popleft())

    def _wait(self, waiting: deque[Task], open_batches: deque[_Batch]) -> None:
        """Sleep until a worker answers, dies or overruns its time, and note what it did."""
        for key, _ in self._selector.select(timeout=self._seconds_left()):
            worker = key.data
            if worker is None:
                os.read(self._wake_read, 1024)
                continue
            answers = worker.answers()
            if answers is None:
                self._bury(worker, waiting, open_batches)
                continue
            for answer in answers:
                if "ready" in answer:
                    worker.ready = True
                    self._start_failures = 0
                    worker.since = time.monotonic()
                else:
                    _note(worker.tasks.popleft(), answer, open_batches)
                    worker.since = time.monotonic()
        for worker in list(self._workers):
            if worker.tasks and time.monotonic() - worker.since > self._limit(worker):
                self._time_out(worker, waiting, open_batches)

    def _limit(self, worker: Worker) -> float:
        # A worker's own start is no fault of its first file.
        return self._limits.image_timeout_s + (0.0 if worker.ready else 60.0)

    def _seconds_left(self) -> float | None:
        deadlines = [w.since + self._limit(w) for w in self._workers if w.tasks]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _time_out(self, worker: Worker, waiting: deque[Task], open_batches: deque[_Batch]) -> None:
        detail = f"more than {self._limits.image_timeout_s:g} s"
        _note(worker.tasks.popleft(), _failed(Reason.TIMEOUT, detail), open_batches)
        self._replace(worker, waiting)

    def _bury(self, worker: Worker, waiting: deque[Task], open_batches: deque[_Batch]) -> None:
        """Replace a worker that died; its oldest task is at fault if it dies of it twice."""
        status = worker.process.wait()
        if not worker.ready:
            self._start_failures += 1
            if self._start_failures > len(self._workers):
                self._errors.seek(0)
                lines = self._errors.read()[-2000:].decode(errors="replace").split("\n")
                words = next((line for line in reversed(lines) if line), f"status {status}")
                raise EmbedSearchError(f"the decoding process does not start: {words}")
        elif worker.tasks:
            task = worker.tasks.popleft()
            task.crashes += 1
            if task.crashes <= _RETRY_CRASH:
                waiting.appendleft(task)
            else:
                how = f"signal {-status}" if status < 0 else f"exit status {status}"
                detail = f"the decoder ended by {how}"
                _note(task, _failed(Reason.DECODER_CRASH, detail), open_batches)
        self._replace(worker, waiting)

    def _replace(self, worker: Worker, waiting: deque[Task]) -> None:
        waiting.extendleft(reversed(worker.tasks))
        self._selector.unregister(worker.results)
        self._workers.remove(worker)
        worker.close()
        self._start_worker()

    def _start_worker(self) -> None:
        worker = Worker(self._spec, self._ring_fd, self._errors.fileno())
        self._workers.append(worker)
        self._selector.register(worker.results, selectors.EVENT_READ, worker)


def _failed(reason: Reason, detail: str) -> dict[str, Any]:
    return {"stage": Stage.DECODE, "reason": reason, "detail": detail}


def _note(task: Task, answer: dict[str, Any], open_batches: deque[_Batch]) -> None:
    """Enter a worker's answer into the batch that holds the task's slot."""
    batch = next(b for b in open_batches if 0 <= task.slot - b.first_slot < b.tasks)
    batch.outcomes[task.slot] = outcome(task.job.ref, answer)
    batch.read_s += answer.get("read_s", 0.0)
    batch.decode_s += answer.get("decode_s", 0.0)


def _anonymous_file(size: int) -> int:
    """Return a descriptor of `size` zero bytes that child processes can map; no /dev/shm used."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("embedsearch-ring")
    else:
        descriptor, path = tempfile.mkstemp()
        os.unlink(path)
    os.ftruncate(descriptor, size)
    return descriptor


def _map_pixels(descriptor: int, slots: int, side: int) -> npt.NDArray[np.uint8]:
    ring = mmap.mmap(descriptor, slots * side * side * 3)
    return np.frombuffer(ring, dtype=np.uint8).reshape(slots, side, side, 3)
