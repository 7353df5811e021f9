"""Names of files as data: exact bytes on a disk, Unicode text in an exchange, and comparable forms.

Python keeps a byte of a name that is not UTF-8 as a lone surrogate, which JSON, Arrow and SQL do
not hold. In what programs read, such a byte is `\\xe9`, and the exact bytes stand beside it.
"""

from __future__ import annotations

import base64
import os
import unicodedata
from collections.abc import Iterable

FULL_PATH = "full_path"  # the field with the whole path or URL; `path` is the part inside a folder
# The fields beside `path` and `full_path` with their exact bytes, where the texts are not exact.
EXACT = "path_bytes"
FULL_EXACT = "full_path_bytes"
PATHS = ("path", EXACT, FULL_PATH, FULL_EXACT)
SHA256 = "sha256"  # of the file, in hexadecimal


def unicode_text(name: str) -> str:
    r"""Return a name as valid Unicode: exact, but for bytes that are not UTF-8, as `\xe9`."""
    if name.isascii():
        return name
    try:
        name.encode()
    except UnicodeEncodeError:
        return "".join(map(_valid, name))
    return name


def exact_bytes(name: str) -> str | None:
    """Return the bytes of a name as Base64, None where `unicode_text` is exact."""
    if unicode_text(name) == name:
        return None
    try:
        return base64.b64encode(os.fsencode(name)).decode()
    except UnicodeEncodeError:  # it never was the name of a file
        return None


class HasKey:
    """A record of a file that has the exact name `key` in its folder, archive or bucket."""

    key: str

    @property
    def path(self) -> str:
        """Return the path inside the folder, archive or bucket, as filters compare it."""
        return unicode_text(self.key)


def path_fields(key: str, full_path: str) -> dict[str, str | None]:
    """Return both paths of a file as texts, each with its bytes where the text is not exact."""
    return {
        "path": unicode_text(key),
        EXACT: exact_bytes(key),
        FULL_PATH: unicode_text(full_path),
        FULL_EXACT: exact_bytes(full_path),
    }


def from_exact_bytes(text: str) -> str:
    """Return the name that `exact_bytes` wrote down. Raises ValueError."""
    return os.fsdecode(base64.b64decode(text, validate=True))


def comparable(name: str) -> str:
    """Return the form in which names that look the same are equal (NFC)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def meant(name: str, there: Iterable[str]) -> str | None:
    """Return the one of the names that is meant: the exact one, else the only one that looks so."""
    names = list(there)
    if name in names:
        return name
    wanted = comparable(name)
    found = [one for one in names if comparable(one) == wanted]
    return found[0] if len(found) == 1 else None


def existing(path: str) -> str:
    """Return a path with each name as the disk has it, where that looks the same.

    macOS, Samba and archives decompose letters with accents; people and tables do not.
    """
    if path.isascii() or os.path.lexists(path):
        return path
    above, name = os.path.split(path)
    if not name or above == path:
        return path
    folder = existing(above)
    try:
        found = meant(name, os.listdir(folder or "."))
    except OSError:
        found = None
    return os.path.join(folder, found or name)


def _valid(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as os.fsdecode keeps it
        return f"\\x{code - 0xDC00:02x}"
    return "\ufffd" if 0xD800 <= code <= 0xDFFF else char
