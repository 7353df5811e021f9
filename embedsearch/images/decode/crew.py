"""The decoding processes; in: tasks, out: each task with its answer.

A worker that crashes, hangs or eats memory costs the file it was working on, and is replaced.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, TypeAlias

from embedsearch.core.config import DecodeLimits
from embedsearch.core.errors import EmbedSearchError, StorageError
from embedsearch.core.model_spec import Framing
from embedsearch.core.records import Reason, Stage
from embedsearch.images.decode.process import Task, Worker

GROW_EVERY_S = 0.25
JOBS_AHEAD = 2  # a worker never waits for its next job, and a crash re-queues at most one
SLOW_S = 1.0  # a file that takes longer is left behind by its batch
# A worker killed from outside must not cost a good file. The next try is in a worker that is
# started for it: the old ones may be crashing for the same reason.
_RETRY_CRASH = 1
_START_S = 60.0  # a slow start of a worker does not count against its first file

Finished: TypeAlias = list[tuple[Task, dict[str, Any]]]


class Crew:
    """Worker processes and the tasks that wait for one. One thread at a time calls it."""

    def __init__(
        self,
        side: int,
        limits: DecodeLimits,
        max_workers: int,
        ring: tuple[int, int],
        framing: Framing,
    ) -> None:
        """`ring` is the descriptor of the shared ring and its number of slots."""
        self._ring_fd, slots = ring
        self.workers: list[Worker] = []
        self.waiting: deque[Task] = deque()
        self._limits = limits
        self._max_workers = max_workers
        self._spec = {
            "side": side,
            "framing": vars(framing),
            "limits": vars(limits),
            "slots": slots,
        }
        self._start_failures = 0
        self._wake_read, self._wake_write = os.pipe()
        self._waking = threading.Lock()  # nobody writes to a pipe that was closed meanwhile
        self._is_closed = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)

    def close(self) -> None:
        """Kill the workers. A second call does nothing."""
        with self._waking:
            if self._is_closed:
                return
            self._is_closed = True
            os.close(self._wake_write)
        for worker in self.workers:
            worker.close()
        self._selector.close()
        os.close(self._wake_read)

    def wake(self) -> None:
        """End a `wait` early; any thread may call it."""
        with self._waking, system_errors():
            if not self._is_closed:
                os.write(self._wake_write, b".")

    def grow_to(self, workers: int) -> None:
        """Have at least this many workers."""
        while len(self.workers) < workers:
            self._start_worker()

    def grow(self, *, is_starting: bool) -> None:
        """Start more workers if every worker is busy and tasks wait.

        Workers that are busy with a slow file are replaced by others meanwhile. While the
        first batch `is_starting`, only those are replaced.
        """
        slow = len(self._slow_workers())
        room = min(self._max_workers + slow, 2 * self._max_workers) - len(self.workers)
        busy = all(worker.ready and worker.tasks for worker in self.workers)
        if busy and self.waiting and (slow or not is_starting):
            for _ in range(min(room, max(1, len(self.workers) // 2))):
                self._start_worker()

    def hand_out(self) -> None:
        """Send waiting tasks to workers that have few."""
        for ahead in range(JOBS_AHEAD):
            for worker in self.workers:
                is_free = len(worker.tasks) <= ahead
                if self.waiting and is_free and worker.started >= self.waiting[0].last_crash:
                    worker.send(self.waiting.popleft())

    def slow_slots(self) -> set[int]:
        """Return the slots whose worker has been busy with one file for long."""
        return {task.slot for worker in self._slow_workers() for task in worker.tasks}

    def wait(self) -> Finished:
        """Sleep until a worker answers, dies or overruns its time; return the finished tasks."""
        finished: Finished = []
        for key, _ in self._selector.select(timeout=self._seconds_left()):
            worker = key.data
            if worker is None:
                os.read(self._wake_read, 1024)
                continue
            answers = worker.answers()
            if answers is None:
                self._bury(worker, finished)
                continue
            for answer in answers:
                if "ready" in answer:
                    worker.ready = True
                    self._start_failures = 0
                else:
                    finished.append((worker.tasks.popleft(), answer))
                worker.since = time.monotonic()
        for worker in list(self.workers):
            if worker.tasks and time.monotonic() - worker.since > self._limit(worker):
                if worker.ready:
                    detail = f"more than {self._limits.image_timeout_s:g} s"
                    finished.append((worker.tasks.popleft(), _failed(Reason.TIMEOUT, detail)))
                else:  # no image is at fault
                    self._count_start(worker, f"not within {self._limit(worker):g} s")
                self._replace(worker)
        return finished

    def _slow_workers(self) -> list[Worker]:
        now = time.monotonic()
        return [w for w in self.workers if w.ready and w.tasks and now - w.since > SLOW_S]

    def _limit(self, worker: Worker) -> float:
        return self._limits.image_timeout_s + (0.0 if worker.ready else _START_S)

    def _seconds_left(self) -> float | None:
        """Return when to look again at the latest, None while there is nothing to watch."""
        deadlines = [w.since + self._limit(w) for w in self.workers if w.tasks]
        return min(GROW_EVERY_S, max(0.0, min(deadlines) - time.monotonic())) if deadlines else None

    def _bury(self, worker: Worker, finished: Finished) -> None:
        """Replace a worker that died; its oldest task is at fault if it dies of it twice."""
        status, error = worker.ended()
        if not worker.ready:
            self._count_start(worker, error)
        elif worker.tasks:
            task = worker.tasks.popleft()
            task.crashes += 1
            task.last_crash = time.monotonic()
            if task.crashes <= _RETRY_CRASH:
                self.waiting.appendleft(task)
            else:
                how = f"signal {-status}" if status < 0 else f"exit status {status}"
                detail = f"the decoder ended by {how}"
                finished.append((task, _failed(Reason.DECODER_CRASH, detail)))
        self._replace(worker)

    def _count_start(self, worker: Worker, error: str) -> None:
        """Count a worker that did not start. Raises EmbedSearchError where none does."""
        self._start_failures += 1
        if self._start_failures > len(self.workers):
            program = worker.program
            raise EmbedSearchError(f"the decoding process, {program}, does not start: {error}")

    def _replace(self, worker: Worker) -> None:
        self.waiting.extendleft(reversed(worker.tasks))
        self._selector.unregister(worker.results)
        self.workers.remove(worker)
        worker.close()
        self._start_worker()

    def _start_worker(self) -> None:
        worker = Worker(self._spec, self._ring_fd)
        self.workers.append(worker)
        self._selector.register(worker.results, selectors.EVENT_READ, worker)


@contextlib.contextmanager
def system_errors() -> Iterator[None]:
    """Raise StorageError for an error of the system, such as no free descriptor or process."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"decoding cannot go on: {error}") from error


def _failed(reason: Reason, detail: str) -> dict[str, Any]:
    return {"stage": Stage.DECODE, "reason": reason, "detail": detail}
