"""Images decoded in worker processes; in: jobs in order, out: batches of pixels.

One pump thread feeds the workers and gathers their answers, so that decoding goes on while the
caller embeds. Batches come in the order of their jobs, but for files that take long: those come
later, alone, and delay no other. While the caller has to wait, workers are added.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from embedsearch.core.config import DecodeLimits
from embedsearch.core.model_spec import SQUASHED, Framing
from embedsearch.core.records import Failure, ImageBatch, ImageFacts, ImageLocation, ImageRef
from embedsearch.images.decode.crew import GROW_EVERY_S, Crew, system_errors
from embedsearch.images.decode.process import DecodeJob, Task, outcome
from embedsearch.images.decode.ring import Ring
from embedsearch.images.temporary import discard

BATCH = 32
SPARE_REGIONS = 4  # one being filled, one ready, two that files which take long may block

_STOP_POLL_S = 0.2
_GROW_AT = 0.1  # of the time the caller waited, with every worker busy


@dataclass(frozen=True)
class DecodedBatch:
    """The outcome of some jobs: `images` in job order, and the failures among them.

    The pixels are a view of the shared ring, valid until `release` is called.
    """

    images: ImageBatch
    failures: list[Failure]
    read_s: float  # busy seconds, summed over the workers
    decode_s: float
    cpu_s: float  # of processors, reading and decoding
    release: Callable[[], None]


@dataclass
class _Batch:
    region: int
    refs: dict[int, ImageRef]  # by slot, in job order
    outcomes: dict[int, ImageFacts | Failure] = field(default_factory=dict)
    read_s: float = 0.0
    decode_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def open_slots(self) -> set[int]:
        return self.refs.keys() - self.outcomes.keys()

    def split(self) -> _Batch:
        """Take what is still open out of this batch and return it as one of its own."""
        return _Batch(self.region, {slot: self.refs.pop(slot) for slot in sorted(self.open_slots)})

    def note(self, task: Task, answer: dict[str, Any]) -> None:
        """Enter a worker's answer; a file of our own is removed."""
        place = task.job.place
        if isinstance(place, ImageLocation):
            discard(place)
        self.outcomes[task.slot] = outcome(task.job.ref, answer)
        self.read_s += answer.get("read_s", 0.0)
        self.decode_s += answer.get("decode_s", 0.0)
        self.cpu_s += answer.get("cpu_s", 0.0)


class _CallerWait:
    """How long the caller waits for batches. The caller's thread writes, the pump reads."""

    def __init__(self) -> None:
        self.batches = 0  # given to the caller
        self._waited_s = 0.0
        self._since: float | None = None
        self._looked_at, self._waited_then = 0.0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._waited_s += time.monotonic() - self._since
            self._since = None

    def give(self) -> None:
        """Count a batch."""
        if not self.batches:  # its wait was everybody's start
            self._looked_at, self._waited_then = time.monotonic(), self._waited_s
        self.batches += 1

    def is_long(self) -> bool:
        """Return whether the caller waited for a good part of the time since the last look."""
        now = time.monotonic()
        if now - self._looked_at < GROW_EVERY_S:
            return False
        since = self._since
        waited = self._waited_s + (0.0 if since is None else now - since)
        share = (waited - self._waited_then) / (now - self._looked_at)
        self._looked_at, self._waited_then = now, waited
        return share > _GROW_AT


_Done = queue.SimpleQueue[_Batch | BaseException | None]


class DecodePool:
    """The batches of one stream of jobs, in order; use as a context manager.

    It starts with `workers` and adds more, up to `max_workers`, while the caller waits for them.
    """

    def __init__(
        self,
        side: int,
        limits: DecodeLimits,
        *,
        workers: int = 1,
        max_workers: int | None = None,
        batch: int = BATCH,
        in_flight: int = 1,
        framing: Framing = SQUASHED,
    ) -> None:
        """`in_flight` is how many batches the caller holds at a time. Raises StorageError."""
        with system_errors():
            self._ring = Ring(in_flight + SPARE_REGIONS, batch, side)
            ring = self._ring.descriptor, self._ring.slots
            self.crew = Crew(side, limits, max_workers or workers, ring, framing)
        self._released: deque[int] = deque()
        self._wait = _CallerWait()
        self._closing = threading.Event()
        self._pump: threading.Thread | None = None
        try:
            self.grow_to(workers)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def workers(self) -> int:
        """Return how many workers there are now."""
        return len(self.crew.workers)

    def grow_to(self, workers: int) -> None:
        """Have at least this many workers; to be called between two streams."""
        with system_errors():
            self.crew.grow_to(workers)

    def close(self) -> None:
        """Kill the workers and release the ring. A second call does nothing."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._pump is not None:
            self.crew.wake()
            self._pump.join()
        self.crew.close()
        self._ring.close()

    def run(
        self, jobs: Iterator[DecodeJob], stop: Callable[[], int] = lambda: 0
    ) -> Iterator[DecodedBatch]:
        """Start on the jobs at once and return an iterator over their outcome.

        A batch is released when the next one is asked for.
        """
        leased = self.lease(jobs, stop)

        def released() -> Iterator[DecodedBatch]:
            for batch in leased:
                yield batch
                batch.release()

        return released()

    def lease(
        self, jobs: Iterator[DecodeJob], stop: Callable[[], int] = lambda: 0
    ) -> Iterator[DecodedBatch]:
        """Start on the jobs at once and return an iterator over batches that the caller releases.

        It yields `batch` jobs at a time, fewer where files take long, and ends early once `stop`
        says so. One stream at a time: call it again only after the last one came to its end.
        """
        self._ring.reset()
        self._released.clear()
        self.crew.waiting.clear()
        self._wait.batches = 0
        done: _Done = queue.SimpleQueue()
        self._pump = threading.Thread(
            target=self._guarded_pump, args=(jobs, done), name="decode-pump", daemon=True
        )
        self._pump.start()
        return self._outcomes(done, stop)

    def _outcomes(self, done: _Done, stop: Callable[[], int]) -> Iterator[DecodedBatch]:
        while not stop():
            try:
                with self._wait.waiting():
                    batch = done.get(timeout=_STOP_POLL_S)
            except queue.Empty:
                continue
            if batch is None:
                return
            if isinstance(batch, BaseException):
                raise batch
            self._wait.give()
            yield self._finish(batch)

    def _finish(self, batch: _Batch) -> DecodedBatch:
        """Return the batch as records; failures leave holes, which are cut out of the pixels."""
        slots = list(batch.refs)
        good = [slot for slot in slots if isinstance(batch.outcomes[slot], ImageFacts)]
        facts = [fact for s in good if isinstance(fact := batch.outcomes[s], ImageFacts)]
        failures = [f for s in slots if isinstance(f := batch.outcomes[s], Failure)]
        in_a_row = bool(good) and good[-1] - good[0] + 1 == len(good)
        pixels = self._ring.pixels[slice(good[0], good[-1] + 1) if in_a_row else good]
        images = ImageBatch([batch.refs[slot] for slot in good], facts, pixels)

        def release() -> None:
            self._released.append(batch.region)
            self.crew.wake()

        busy = batch.read_s, batch.decode_s, batch.cpu_s
        return DecodedBatch(images, failures, *busy, release)

    def _guarded_pump(self, jobs: Iterator[DecodeJob], done: _Done) -> None:
        try:
            with system_errors():
                self._pump_jobs(jobs, done)
            done.put(None)
        except BaseException as error:  # must reach the caller's thread, whatever it is
            done.put(error)

    def _pump_jobs(self, jobs: Iterator[DecodeJob], done: _Done) -> None:
        batches: deque[_Batch] = deque()  # started, in order
        late: list[_Batch] = []  # left behind by their batches
        more = True
        while not self._closing.is_set():
            while self._released:
                self._ring.let_go(self._released.popleft())
            while more and self._ring.has_free and len(self.crew.waiting) < self._ring.batch:
                first = self._ring.next_region * self._ring.batch
                slots = range(first, first + self._ring.batch)
                tasks = [Task(job, slot) for slot, job in zip(slots, jobs, strict=False)]
                more = len(tasks) == self._ring.batch
                if not tasks:
                    break
                batch = _Batch(self._ring.take(), {t.slot: t.job.ref for t in tasks})
                batches.append(batch)
                for task in tasks:
                    if isinstance(task.job.place, Failure):
                        batch.outcomes[task.slot] = task.job.place
                    else:
                        self.crew.waiting.append(task)
            self.crew.hand_out()
            self._pass_on(batches, late, done)
            if not more and not batches and not late:
                return
            for task, answer in self.crew.wait():
                next(b for b in (*batches, *late) if task.slot in b.refs).note(task, answer)
            if self._wait.is_long():
                self.crew.grow(is_starting=not self._wait.batches)

    def _pass_on(self, batches: deque[_Batch], late: list[_Batch], done: _Done) -> None:
        """Give the caller what is ready, in order; a batch does not wait for a slow file."""
        while batches:
            first = batches[0]
            if first.open_slots:
                if not first.open_slots <= self.crew.slow_slots():
                    break
                late.append(first.split())
                self._ring.hold(first.region)
            batches.popleft()
            if first.refs:
                done.put(first)
            else:
                self._ring.let_go(first.region)
        for batch in [batch for batch in late if not batch.open_slots]:
            late.remove(batch)
            done.put(batch)
