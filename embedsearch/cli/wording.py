"""Field names in messages as the options that set them; in: an error, out: its line on stderr."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Options whose name differs from their field.
_NAMES = {
    "latency_s": "--latency",
    "memory_bytes": "--memory",
    "quiet_s": "--quiet",
    "wait_s": "--wait",
    "from_scratch": "--weights none",
}
SETUP_FIELDS = ("workers", "precision", "input_side")  # that speed advice may name


def with_options(message: str, fields: Iterable[str]) -> str:
    """Return a message in which fields are options: `workers=8` becomes `--workers 8`."""
    for field in fields:
        option = _NAMES.get(field, "--" + field.replace("_", "-"))
        message = re.sub(rf"(?<![\w./-]){field}=True\b", option, message)
        message = re.sub(rf"(?<![\w./-]){field}=", f"{option} ", message)
        message = re.sub(rf"(?<![\w./-]){field}(?![\w./-]*[\w/-])", option, message)
    return message
