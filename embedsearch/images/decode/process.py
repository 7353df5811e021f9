"""One decoding process and what it was sent; in: tasks, out: its answers, as records.

Tasks and answers are lines of JSON; pixels do not pass here but through a shared ring.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections import deque
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from embedsearch.core.records import (
    Appearance,
    Box,
    Failure,
    ImageFacts,
    ImageLocation,
    ImageRef,
    Reason,
    Stage,
)
from embedsearch.images.decode.child import started


@dataclass(frozen=True)
class DecodeJob:
    """An image to decode: where its bytes are, or why they cannot be read."""

    ref: ImageRef
    place: ImageLocation | Failure
    crop: Box | None = None


@dataclass
class Task:
    """A job with the ring slot for its pixels, and how many workers have died of it."""

    job: DecodeJob
    slot: int
    crashes: int = 0
    last_crash: float = -math.inf  # on the monotonic clock


class Worker:
    """One child process and the tasks sent to it, oldest first."""

    def __init__(self, spec: dict[str, Any], ring: int) -> None:
        """Start one that decodes into a ring as `spec` says. Raises OSError."""
        self.child = started()
        self.child.tell(spec, ring)
        self.program, self.results = self.child.program, self.child.results
        self.tasks: deque[Task] = deque()
        self.started = time.monotonic()
        self.since = self.started  # when it began its oldest task
        self.ready = False
        self._buffer = b""

    def send(self, task: Task) -> None:
        """Queue a task; a worker that has died is noticed at its result pipe."""
        if not self.tasks:
            self.since = time.monotonic()
        self.tasks.append(task)
        place = task.job.place
        assert isinstance(place, ImageLocation), "a failure is not sent to a worker"
        job = {
            "folder": place.folder,
            "key": place.key,
            "slot": task.slot,
            "size": None if place.size < 0 else place.size,
            "mtime_ns": place.mtime_ns,
            "part": place.part and asdict(place.part),
            "follows": place.follows,
            "digest": place.digest and place.digest.hex(),
            "crop": task.job.crop and asdict(task.job.crop),
        }
        with contextlib.suppress(ConnectionError):
            self.child.jobs.sendall(json.dumps(job).encode() + b"\n")

    def answers(self) -> list[dict[str, Any]] | None:
        """Return the answers that have arrived, or None once the worker is gone."""
        try:
            data = os.read(self.results, 1 << 16)
        except BlockingIOError:
            return []
        if not data:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def ended(self) -> tuple[int, str]:
        """Wait for the end of the process; return its status and the last of its errors."""
        status = self.child.process.wait()
        self.child.errors.seek(0)
        lines = self.child.errors.read()[-2000:].decode(errors="replace").split("\n")
        return status, next((line for line in reversed(lines) if line), f"status {status}")

    def close(self) -> None:
        """End the process at once and release what is open."""
        self.child.close()


def outcome(ref: ImageRef, answer: dict[str, Any]) -> ImageFacts | Failure:
    """Return a worker's answer about a file as a record."""
    if "reason" in answer:
        stage, reason = Stage(answer["stage"]), Reason(answer["reason"])
        return Failure(ref.root, ref.key, stage, reason, answer["detail"], ref.size, ref.mtime_ns)
    taken_at, gps, signature = answer["taken_at"], answer["gps"], bytes.fromhex(answer["signature"])
    return ImageFacts(
        width=answer["width"],
        height=answer["height"],
        format=answer["format"],
        look=Appearance(answer["brightness"], answer["sharpness"], signature),
        digest=bytes.fromhex(answer["digest"]),
        taken_at=taken_at and datetime.fromisoformat(taken_at),
        camera=answer["camera"],
        gps=gps and (gps[0], gps[1]),
        truncated=answer["truncated"],
        has_more=answer["has_more"],
    )
