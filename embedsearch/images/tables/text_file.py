"""Text files of users; in: a file, out: its text, by the encoding that its first bytes say."""

from __future__ import annotations

import codecs
import os
import string
from pathlib import Path
from typing import TextIO

MAX_ROW_BYTES = 64 << 20  # of one row of a table, which memory must hold
_ASCII_LETTERS = string.ascii_letters.encode()
_MARKS = (  # the mark of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WAY_OUT = "save it as UTF-8 (in Excel: CSV UTF-8), or convert it: iconv -f WINDOWS-1252 -t UTF-8"
WINDOWS = "Windows-1252"  # what Excel writes in Western Europe and America
_CODEC = "cp1252"
_MOST_FOREIGN = 0.3  # of the letters: more are of another script, in an encoding of its own
_CHUNK = 1 << 20


def guessed_encoding(path: Path) -> str:
    """Return WINDOWS for a file of that encoding, "" for UTF-8 and what a mark says.

    A file with letters in UTF-8 is damaged where it is not UTF-8, and one in which most letters
    are beyond ASCII is of another script: neither is guessed. Raises OSError.
    """
    letters = foreign = 0
    is_other = False
    with path.open("rb") as file:
        if any(file.peek(4).startswith(mark) for mark, _ in _MARKS):
            return ""
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        while data := file.read(_CHUNK):
            if data.isascii() and not decoder.getstate()[0]:
                letters += len(data) - len(data.translate(None, _ASCII_LETTERS))
                continue
            text = decoder.decode(data)
            if any(char > "\x7f" and not "\udc80" <= char <= "\udcff" for char in text):
                return ""
            try:
                read = data.decode(_CODEC)
            except UnicodeDecodeError:
                return ""
            is_other = True
            letters += sum(char.isalpha() for char in read)
            foreign += sum(char > "\x7f" for char in read)
    return WINDOWS if is_other and foreign <= _MOST_FOREIGN * letters else ""


def open_text(path: Path, guess: str = "") -> TextIO:
    """Open a file as text, ends of lines as they are; bytes that are not UTF-8 stay in it.

    `guess` is what `guessed_encoding` said. Raises OSError, and ValueError for UTF-16 without a
    byte order mark.
    """
    with path.open("rb") as file:
        head = file.read(4)
    if guess:
        return path.open(newline="", encoding=_CODEC)
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
    return ValueError(f"{where} is not UTF-8 (it holds the byte 0x{byte:02x}): {WAY_OUT}")
