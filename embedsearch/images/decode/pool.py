"""Decoding processes under a watch; in: jobs in order, out: batches of pixels.

One pump thread feeds the workers and gathers their answers, so that decoding goes on while the
caller embeds. Batches come in the order of their jobs, but for files that take long: those follow
later, alone, and hold up nobody. A worker that crashes, hangs or eats memory costs the file it
was working on. While the caller has to wait, workers are added.
"""

from __future__ import annotations

import contextlib
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

from embedsearch.core.config import DecodeLimits
from embedsearch.core.errors import EmbedSearchError, StorageError
from embedsearch.core.records import Failure, ImageBatch, ImageFacts, ImageRef, Place, Reason, Stage
from embedsearch.images.decode.process import DecodeJob, Task, Worker, outcome
from embedsearch.images.decode.ring import Ring

BATCH = 32
SPARE_REGIONS = 4  # one being filled, one ready, two that files which take long may block
JOBS_AHEAD = 2  # a worker never waits for its next job, and a crash re-queues at most one
SLOW_S = 1.0  # a file that takes longer is left behind by its batch

_STOP_POLL_S = 0.2
_GROW_EVERY_S = 0.25
_GROW_AT = 0.1  # of that time the caller waited, with every worker busy
# A worker killed from outside must not cost a good file. The next try is in a worker that is
# started for it: the others may just be dying of the same.
_RETRY_CRASH = 1


@dataclass(frozen=True)
class DecodedBatch:
    """What became of some jobs: `images` in job order, and the failures among them.

    The pixels are a view of the shared ring, valid until `release` is called.
    """

    images: ImageBatch
    failures: list[Failure]
    read_s: float  # busy seconds, summed over the workers
    decode_s: float
    release: Callable[[], None]


@dataclass
class _Batch:
    region: int
    refs: dict[int, ImageRef]  # by slot, in job order
    outcomes: dict[int, ImageFacts | Failure] = field(default_factory=dict)
    read_s: float = 0.0
    decode_s: float = 0.0

    @property
    def open_slots(self) -> set[int]:
        return self.refs.keys() - self.outcomes.keys()

    def split(self) -> _Batch:
        """Take what is still open out of this batch and return it as one of its own."""
        return _Batch(self.region, {slot: self.refs.pop(slot) for slot in sorted(self.open_slots)})


_Done = queue.SimpleQueue[_Batch | BaseException | None]


class DecodePool:
    """Worker processes for one stream of jobs; use as a context manager.

    It starts with `workers` and adds more, up to `most`, while the caller waits for them.
    """

    def __init__(
        self,
        side: int,
        limits: DecodeLimits,
        *,
        workers: int = 1,
        most: int | None = None,
        batch: int = BATCH,
        in_flight: int = 1,
        fit: bool = False,
    ) -> None:
        """`in_flight` is how many batches the caller holds at a time. Raises StorageError."""
        self._limits = limits
        self._most = workers if most is None else most
        with _said():
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
            self._ring = Ring(in_flight + SPARE_REGIONS, batch, side)
            self._selector = selectors.DefaultSelector()
            self._wake_read, self._wake_write = os.pipe()
        self._spec = {
            "side": side,
            "fit": fit,
            "limits": asdict(limits),
            "slots": self._ring.slots,
        }
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._workers: list[Worker] = []
        self._start_failures = 0
        self._released: deque[int] = deque()
        self._given = 0  # batches
        self._waited_s = 0.0  # of the caller, for batches
        self._waiting_since: float | None = None
        self._looked_at, self._waited_then = 0.0, 0.0
        self._closing = threading.Event()
        self._waking = threading.Lock()  # nobody writes to a pipe that was closed meanwhile
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
        return len(self._workers)

    def grow_to(self, workers: int) -> None:
        """Have at least so many workers; to be called between two streams."""
        with _said():
            while len(self._workers) < workers:
                self._start_worker()

    def close(self) -> None:
        """Kill the workers and release the ring. A second call does nothing."""
        if self._closing.is_set():
            return
        with self._waking:
            self._closing.set()
            os.close(self._wake_write)  # which wakes the pump, too
        if self._pump is not None:
            self._pump.join()
        for worker in self._workers:
            worker.close()
        self._selector.close()
        self._ring.close()
        os.close(self._wake_read)
        self._errors.close()

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
        self._given = 0
        done: _Done = queue.SimpleQueue()
        self._pump = threading.Thread(
            target=self._guarded_pump, args=(jobs, done), name="decode-pump", daemon=True
        )
        self._pump.start()
        return self._outcomes(done, stop)

    def _outcomes(self, done: _Done, stop: Callable[[], int]) -> Iterator[DecodedBatch]:
        while not stop():
            self._waiting_since = time.monotonic()
            try:
                batch = done.get(timeout=_STOP_POLL_S)
            except queue.Empty:
                continue
            finally:
                self._waited_s += time.monotonic() - self._waiting_since
                self._waiting_since = None
            if batch is None:
                return
            if isinstance(batch, BaseException):
                raise batch
            if not self._given:  # its wait was everybody's start
                self._looked_at, self._waited_then = time.monotonic(), self._waited_s
            self._given += 1
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
            self._wake()

        return DecodedBatch(images, failures, batch.read_s, batch.decode_s, release)

    def _wake(self) -> None:
        with self._waking, _said():
            if not self._closing.is_set():
                os.write(self._wake_write, b".")

    def _guarded_pump(self, jobs: Iterator[DecodeJob], done: _Done) -> None:
        try:
            with _said():
                self._pump_jobs(jobs, done)
        except BaseException as error:  # must reach the caller's thread, whatever it is
            done.put(error)
        else:
            done.put(None)

    def _pump_jobs(self, jobs: Iterator[DecodeJob], done: _Done) -> None:
        waiting: deque[Task] = deque()
        batches: deque[_Batch] = deque()  # begun, in order
        late: list[_Batch] = []  # left behind by their batches
        more = True
        while not self._closing.is_set():
            while self._released:
                self._ring.let_go(self._released.popleft())
            while more and self._ring.has_free and len(waiting) < self._ring.batch:
                tasks = self._next_tasks(jobs)
                more = len(tasks) == self._ring.batch
                if not tasks:
                    break
                batch = _Batch(self._ring.take(), {t.slot: t.job.ref for t in tasks})
                batches.append(batch)
                for task in tasks:
                    if isinstance(task.job.place, Failure):
                        batch.outcomes[task.slot] = task.job.place
                    else:
                        waiting.append(task)
            self._hand_out(waiting)
            self._pass_on(batches, late, done)
            if not more and not batches and not late:
                return
            self._wait(waiting, [*batches, *late])
            self._grow(waiting)

    def _next_tasks(self, jobs: Iterator[DecodeJob]) -> list[Task]:
        """Return tasks for the slots of the region that is taken next."""
        first = self._ring.next_region * self._ring.batch
        tasks = []
        for slot in range(first, first + self._ring.batch):
            job = next(jobs, None)
            if job is None:
                break
            tasks.append(Task(job, slot))
        return tasks

    def _hand_out(self, waiting: deque[Task]) -> None:
        for ahead in range(JOBS_AHEAD):
            for worker in self._workers:
                if (
                    waiting
                    and len(worker.tasks) <= ahead
                    and worker.started >= waiting[0].last_crash
                ):
                    worker.send(waiting.popleft())

    def _pass_on(self, batches: deque[_Batch], late: list[_Batch], done: _Done) -> None:
        """Give the caller what is ready, in order; a batch does not wait for a slow file."""
        while batches:
            first = batches[0]
            if first.open_slots:
                if not first.open_slots <= self._slow_slots():
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

    def _slow_slots(self) -> set[int]:
        """Return the slots whose worker has been busy with one file for long."""
        return {task.slot for worker in self._slow_workers() for task in worker.tasks}

    def _slow_workers(self) -> list[Worker]:
        now = time.monotonic()
        return [w for w in self._workers if w.ready and w.tasks and now - w.since > SLOW_S]

    def _grow(self, waiting: deque[Task]) -> None:
        """Start more workers while the caller waits and every worker is busy.

        Workers that sit on a slow file do not count: others take their place for the time.
        """
        now = time.monotonic()
        if now - self._looked_at < _GROW_EVERY_S:
            return
        since = self._waiting_since
        waited = self._waited_s + (0.0 if since is None else now - since)
        share = (waited - self._waited_then) / (now - self._looked_at)
        self._looked_at, self._waited_then = now, waited
        busy = all(worker.ready and worker.tasks for worker in self._workers)
        slow = len(self._slow_workers())
        room = min(self._most + slow, 2 * self._most) - len(self._workers)
        starting = not self._given and not slow  # the caller waits for the first batch
        if share > _GROW_AT and busy and waiting and not starting:
            for _ in range(min(room, max(1, len(self._workers) // 2))):
                self._start_worker()

    def _wait(self, waiting: deque[Task], batches: list[_Batch]) -> None:
        """Sleep until a worker answers, dies or overruns its time, and note what it did."""
        for key, _ in self._selector.select(timeout=self._seconds_left()):
            worker = key.data
            if worker is None:
                os.read(self._wake_read, 1024)
                continue
            answers = worker.answers()
            if answers is None:
                self._bury(worker, waiting, batches)
                continue
            for answer in answers:
                if "ready" in answer:
                    worker.ready = True
                    self._start_failures = 0
                    worker.since = time.monotonic()
                else:
                    _note(worker.tasks.popleft(), answer, batches)
                    worker.since = time.monotonic()
        for worker in list(self._workers):
            if worker.tasks and time.monotonic() - worker.since > self._limit(worker):
                self._time_out(worker, waiting, batches)

    def _limit(self, worker: Worker) -> float:
        # A worker's own start is no fault of its first file.
        return self._limits.image_timeout_s + (0.0 if worker.ready else 60.0)

    def _seconds_left(self) -> float | None:
        """Return when to look again at the latest, None while there is nothing to watch."""
        deadlines = [w.since + self._limit(w) for w in self._workers if w.tasks]
        if not deadlines:
            return None
        return min(_GROW_EVERY_S, max(0.0, min(deadlines) - time.monotonic()))

    def _time_out(self, worker: Worker, waiting: deque[Task], batches: list[_Batch]) -> None:
        detail = f"more than {self._limits.image_timeout_s:g} s"
        _note(worker.tasks.popleft(), _failed(Reason.TIMEOUT, detail), batches)
        self._replace(worker, waiting)

    def _bury(self, worker: Worker, waiting: deque[Task], batches: list[_Batch]) -> None:
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
            task.last_crash = time.monotonic()
            if task.crashes <= _RETRY_CRASH:
                waiting.appendleft(task)
            else:
                how = f"signal {-status}" if status < 0 else f"exit status {status}"
                detail = f"the decoder ended by {how}"
                _note(task, _failed(Reason.DECODER_CRASH, detail), batches)
        self._replace(worker, waiting)

    def _replace(self, worker: Worker, waiting: deque[Task]) -> None:
        waiting.extendleft(reversed(worker.tasks))
        self._selector.unregister(worker.results)
        self._workers.remove(worker)
        worker.close()
        self._start_worker()

    def _start_worker(self) -> None:
        worker = Worker(self._spec, self._ring.descriptor, self._errors.fileno())
        self._workers.append(worker)
        self._selector.register(worker.results, selectors.EVENT_READ, worker)


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Name an error of the system that is no image's: no descriptor, no process, no folder left."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"decoding cannot go on: {error}") from error


def _failed(reason: Reason, detail: str) -> dict[str, Any]:
    return {"stage": Stage.DECODE, "reason": reason, "detail": detail}


def _note(task: Task, answer: dict[str, Any], batches: list[_Batch]) -> None:
    """Enter a worker's answer into the batch that holds the task's slot."""
    batch = next(b for b in batches if task.slot in b.refs)
    place = task.job.place
    if isinstance(place, Place) and place.is_ours:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(place.folder, place.key))
    batch.outcomes[task.slot] = outcome(task.job.ref, answer)
    batch.read_s += answer.get("read_s", 0.0)
    batch.decode_s += answer.get("decode_s", 0.0)
