"""Published weights from their servers; in: a catalog entry, out: a file and its sha256."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

from embedsearch.core.errors import WeightsUnavailable
from embedsearch.core.session import Session
from embedsearch.network.catalog import PACKAGED, CatalogEntry

CONNECT_TIMEOUT_S = 3.0  # after twice this time the server counts as unreachable
READ_TIMEOUT_S = 30.0  # for a download that has begun and stalls


def download(entry: CatalogEntry, target: Path, session: Session) -> str:
    """Fetch a catalog entry's weights into `target` and return their sha256."""
    import http.client  # imported here: with ssl it takes a query a twentieth of a second

    assert entry.url is not None
    digest = hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _connect(entry.url) as answer, target.open("wb") as file:
            session.notice(f"downloading {entry.url} ({entry.megabytes:.0f} MB, once)")
            while chunk := answer.read(1 << 20):
                session.check()
                digest.update(chunk)
                file.write(chunk)
    except (OSError, http.client.HTTPException) as error:
        raise WeightsUnavailable(
            f"the weights of {entry.name} cannot be downloaded "
            f"({getattr(error, 'reason', error)}): download {entry.url} into "
            f"{hub_file(entry).parent} yourself, or take another model, such as {PACKAGED}, or a "
            "file of weights",
        ) from error
    check_prefix(entry, digest.hexdigest(), target)
    return digest.hexdigest()


def _connect(url: str) -> Any:
    """Return the opened answer of a server. Raises OSError or HTTPException.

    In a thread: without a name server the look-up can take half a minute, and no time-out of a
    socket bounds it.
    """
    import queue
    import threading
    import urllib.request

    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def connect() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=READ_TIMEOUT_S))
        except Exception as error:  # raised below, in the caller's thread
            answers.put(error)

    threading.Thread(target=connect, name="connect", daemon=True).start()
    try:
        answer = answers.get(timeout=2 * CONNECT_TIMEOUT_S)
    except queue.Empty:
        raise TimeoutError("no answer") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def check_prefix(entry: CatalogEntry, sha256: str, path: Path) -> None:
    if not sha256.startswith(entry.sha256_prefix):
        raise WeightsUnavailable(
            f"{path} is not what is published as {entry.file_name} (sha256 "
            f"{sha256[:8]}…): delete it if it is still there, and try again"
        )


def hub_file(entry: CatalogEntry) -> Path:
    """Return where torchvision itself would keep this download."""
    home = os.environ.get("TORCH_HOME")
    base = Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
    with contextlib.suppress(RuntimeError):  # without a home folder the path is only shown
        base = base.expanduser()
    return base / "hub" / "checkpoints" / entry.file_name
