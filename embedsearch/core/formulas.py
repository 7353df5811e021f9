"""Texts in CSV that a spreadsheet would take for a formula; out and in again.

Only the CSV for spreadsheets marks them; what other programs read has texts as they are.
"""

from __future__ import annotations

import re

# Columns by which the CSV for spreadsheets is known again.
MARKED_BY = frozenset({"full_path", "key", "size_bytes"})
_MARK = "'"
_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # marked before, or not


def guarded(text: str) -> str:
    """Return a text with a `'` before it if a spreadsheet would run it, or if it has such marks."""
    return _MARK + text if _FORMULA.match(text) else text


def unguarded(text: str) -> str:
    """Return the text that `guarded` was given."""
    return text[1:] if text[:1] == _MARK and _FORMULA.match(text) else text
