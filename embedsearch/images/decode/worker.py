"""The child process that decodes: `python -P -m embedsearch.images.decode.worker JOBS RESULTS`.

Imports Pillow, pillow-heif and NumPy only. Learns from the socket of jobs what to decode, and the
shared ring; then reads one JSON job a line, writes pixels into its slot of the ring and one JSON
line to the pipe of results. Exits when the socket closes, which the parent's death does, too.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import socket
import sys
import time
from typing import IO, Any

from embedsearch.core.config import DecodeLimits
from embedsearch.core.messages import receive
from embedsearch.core.model_spec import Framing
from embedsearch.core.paths import open_regular, size_and_time
from embedsearch.core.records import Box, ByteRange, Reason, Stage
from embedsearch.images.archive_part import BrokenPart, read_part
from embedsearch.images.decode.image import DecodeError, decode
from embedsearch.images.decode.ring import map_pixels


def main() -> None:
    """Serve jobs until their socket closes."""
    told = socket.socket(fileno=int(sys.argv[1]))
    if (received := receive(told)) is None:
        return  # nothing was to be decoded
    spec, ring = received
    assert ring is not None, "it comes with what to decode"
    limits = DecodeLimits(**spec["limits"])
    if sys.platform == "linux":  # macOS accepts the call and enforces nothing
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limits.worker_memory_bytes,) * 2)
    side, framing = spec["side"], Framing(**spec["framing"])
    shown = {"side": side, "framing": framing}
    slots = map_pixels(ring, spec["slots"], side)
    with told.makefile("rb") as jobs, os.fdopen(int(sys.argv[2]), "wb") as results:
        _answer(results, {"ready": True})
        for line in jobs:
            job = json.loads(line)
            _answer(results, _work(job, slots[job["slot"]], limits, shown))


def _answer(results: IO[bytes], answer: dict[str, Any]) -> None:
    results.write(json.dumps(answer).encode() + b"\n")
    results.flush()


def _work(
    job: dict[str, Any], slot: Any, limits: DecodeLimits, shown: dict[str, Any]
) -> dict[str, Any]:
    """Decode an image into its slot, as `shown` says, and return the answer."""
    started, since = time.perf_counter(), time.process_time()
    try:
        descriptor = open_regular(
            job["folder"], job["key"], follow=job["follows"] or job["digest"] is not None
        )
    except OSError as error:
        return _failure(Stage.READ, _read_reason(error), error.strerror or str(error))
    with os.fdopen(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        if job["size"] is not None and size_and_time(before) != (job["size"], job["mtime_ns"]):
            return _failure(Stage.READ, Reason.CHANGED, "changed since it was listed")
        part = job["part"] and ByteRange(**job["part"])
        size = max(part.size, part.length) if part else before.st_size
        if size > limits.max_bytes:
            detail = f"{size} bytes are more than max_bytes {limits.max_bytes}"
            return _failure(Stage.READ, Reason.TOO_BIG, detail)
        try:
            image = io.BytesIO(read_part(descriptor, part)) if part else file
            digest = hashlib.file_digest(image, "sha256").hexdigest()
            if job["digest"] not in {None, digest}:
                detail = "another file than the one indexed: index again"
                return _failure(Stage.READ, Reason.CHANGED, detail)
            image.seek(0)
            read_s = time.perf_counter() - started
            crop = job["crop"] and Box(**job["crop"])
            picture = decode(image, limits=limits, crop=crop, **shown)
        except BrokenPart as error:
            return _failure(Stage.READ, error.reason, str(error))
        except DecodeError as error:
            return _failure(Stage.DECODE, error.reason, error.detail)
        except MemoryError:
            detail = f"more than {limits.worker_memory_bytes >> 20} MB of memory"
            return _failure(Stage.DECODE, Reason.MEMORY, detail)
        except OSError as error:
            return _failure(Stage.READ, _read_reason(error), error.strerror or str(error))
        after = os.fstat(descriptor)
        if size_and_time(after) != size_and_time(before):
            return _failure(Stage.READ, Reason.CHANGED, "changed while it was read")
    slot[:] = picture.pixels
    return {
        "width": picture.width,
        "height": picture.height,
        "format": picture.format,
        "brightness": picture.look.brightness,
        "sharpness": picture.look.sharpness,
        "signature": picture.look.signature.hex(),
        "digest": digest,
        "taken_at": picture.taken_at and picture.taken_at.isoformat(),
        "camera": picture.camera,
        "gps": picture.gps,
        "truncated": picture.truncated,
        "has_more": picture.has_more,
        "read_s": read_s,
        "decode_s": time.perf_counter() - started - read_s,
        "cpu_s": time.process_time() - since,
    }


def _failure(stage: Stage, reason: Reason, detail: str) -> dict[str, Any]:
    return {"stage": stage, "reason": reason, "detail": detail}


def _read_reason(error: OSError) -> Reason:
    if isinstance(error, PermissionError):
        return Reason.PERMISSION
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Reason.VANISHED
    if isinstance(error, IsADirectoryError) or error.errno in {errno.ELOOP, errno.ENXIO}:
        return Reason.NOT_REGULAR
    return Reason.IO_ERROR


if __name__ == "__main__":
    main()
