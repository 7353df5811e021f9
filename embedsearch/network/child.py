"""Work in a short-lived child process; in: a task of prepare.py, out: files in the cache."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from embedsearch.core.errors import WeightsUnavailable
from embedsearch.core.session import Session
from embedsearch.core.system import (
    cache_folder,
    child_environment,
    python_command,
    writable_cache_folder,
)

_STOP_POLL_S = 0.2
_DOING = {
    "import": "reading the weights",
    "towers": "reading the model",
    "convert": "converting the network",
    "quantize": "quantizing the network",
}


def noted_cache_folder(session: Session) -> Path:
    """Return the folder to cache something in, with a notice if it is not the usual one.

    Raises StorageError.
    """
    if (folder := writable_cache_folder()) != (usual := cache_folder()):
        session.notice(
            f"{usual} cannot be written: what is converted is kept in {folder}, perhaps not for "
            "long; EMBEDSEARCH_CACHE sets another folder"
        )
    return folder


def run_prepare(task: str, values: dict[str, Any], session: Session) -> None:
    """Run a task of `prepare.py` in a short-lived child, which may load torch.

    Raises WeightsUnavailable with the child's last line where it fails, and Interrupted.
    """
    doing = _DOING[task]
    command = [*python_command("embedsearch.network.prepare"), task]
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            env=child_environment(),
        )
    except OSError as error:
        message = f"{doing} failed: {command[0]} cannot be started ({error.strerror or error})"
        raise WeightsUnavailable(message) from error
    request: str | None = json.dumps(values)
    with child:
        try:
            while child.returncode is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    errors = child.communicate(request, timeout=_STOP_POLL_S)[1]
                request = None  # a second communicate() continues the first
                session.check()
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        why = _why(child.returncode, errors)
        raise WeightsUnavailable(f"{doing} failed in {command[0]}: {why}")


def _why(code: int, errors: str) -> str:
    """Return why a child ended: its last line, unless a signal killed it."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = "out of memory? " if code == -signal.SIGKILL else ""
        return f"the process was killed ({name}); {hint}run the same command again"
    return (errors.strip().splitlines() or [f"it ended with status {code}"])[-1]
