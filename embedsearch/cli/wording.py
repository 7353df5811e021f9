"""Field names in messages as the options that set them; in: an error, out: its line on stderr."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Options whose name differs from their field.
_NAMES = {
    "latency_s": "--latency",
    "memory_bytes": "--memory",
    "poll_s": "--poll",
    "quiet_s": "--quiet",
    "wait_s": "--wait",
    "from_scratch": "--weights none",
}
SETUP_FIELDS = ("workers", "precision", "input_side")  # that speed advice may name


def with_options(message: str, fields: Iterable[str]) -> str:
    """Return a message in which fields are options: `workers=8` becomes `--workers 8`.

    A field that stands there without a value is replaced once: what follows may be the user's.
    """
    for field in fields:
        option = _NAMES.get(field, "--" + field.replace("_", "-"))
        shown = re.sub(rf"(?<![\w./-]){field}=True\b", option, message)
        shown = re.sub(rf"(?<![\w./-]){field}=", f"{option} ", shown)
        if shown == message:
            bare = rf"(?<![\w./-]){field}(?![\w./-]*[\w/-])"
            shown = re.sub(bare, option, message, count=1)
        message = shown
    return message
