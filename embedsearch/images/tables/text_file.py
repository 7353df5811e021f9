"""Text files of users; in: a file, out: its text, by the encoding that its first bytes say."""

from __future__ import annotations

import codecs
import os
from pathlib import Path
from typing import TextIO

MAX_ROW_BYTES = 64 << 20  # of one row of a table, which memory must hold
_MARKS = (  # the mark of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WAY_OUT = "save it as UTF-8 (in Excel: CSV UTF-8), or convert it: iconv -f WINDOWS-1252 -t UTF-8"


def open_text(path: Path) -> TextIO:
    """Open a file as text, ends of lines as they are; bytes that are not UTF-8 stay in it.

    Raises OSError, and ValueError for UTF-16 without a byte order mark.
    """
    with path.open("rb") as file:
        head = file.read(4)
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if encoding is None and b"\0" in head:
        raise ValueError(
            "it holds NUL, as UTF-16 without a byte order mark does: save it as UTF-8, or convert "
            "it: iconv -f UTF-16LE -t UTF-8"
        )
    errors = "surrogateescape" if encoding in {None, "utf-8-sig"} else "strict"
    return path.open(newline="", encoding=encoding or "utf-8", errors=errors)


def no_utf8(text: str, where: str) -> ValueError:
    """Return the error for text with bytes that are not UTF-8, which names the way out."""
    byte = next(os.fsencode(char)[0] for char in text if "\udc80" <= char <= "\udcff")
    return ValueError(f"{where} is not UTF-8 (it holds the byte 0x{byte:02x}): {_WAY_OUT}")
