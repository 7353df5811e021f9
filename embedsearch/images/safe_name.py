"""Names for other systems; in: a key, as the disk has it, out: a name that any system can hold."""

from __future__ import annotations

import re
import unicodedata

from embedsearch.core.names import unicode_text

MAX_NAME_BYTES = 255  # of a part of a path, as most file systems have it
_FORBIDDEN = frozenset('\\/:*?"<>|')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE | re.DOTALL)
_MAX_PARTS = 32


def safe_name(name: str) -> str:
    """Return a part of a path without what is special on some system, at most 255 bytes.

    Control characters, those that turn the direction of writing, and `\\ / : * ? " < > |` become
    `_`. It is never empty, `.` or `..`.
    """
    plain = "".join(map(_plain, unicode_text(name))).rstrip(". ").lstrip(" ")
    if not plain.strip("."):
        plain = f"_{plain}"
    if _RESERVED.fullmatch(plain):  # a device on Windows
        plain = f"_{plain}"
    stem, dot, suffix = plain.rpartition(".")
    if not stem or len(suffix) > 10:
        stem, dot, suffix = plain, "", ""
    return _cut(stem, MAX_NAME_BYTES - len((dot + suffix).encode())) + dot + suffix


def safe_path(key: str) -> str:
    """Return a key as a relative path of safe names, without `.` and `..`, with `/` between."""
    parts = [part for part in key.split("/") if part not in {"", ".", ".."}]
    return "/".join(map(safe_name, parts[-_MAX_PARTS:])) or "_"


class UniqueNames:
    """Gives each path once, for systems that do not tell upper from lower case too."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def of(self, key: str) -> str:
        """Return a safe path for a key that none had before; a second one gets a number."""
        folder, slash, name = safe_path(key).rpartition("/")
        # A folder must not have the name of a file.
        folder = "/".join(self._folder(folder)) if folder else ""
        stem, dot, suffix = name.rpartition(".")
        if not stem:
            stem, dot, suffix = name, "", ""
        number, found = 1, folder + slash + name
        while _folded(found) in self._files | self._folders:
            number += 1
            tail = f"-{number}{dot}{suffix}"
            cut = _cut(stem, MAX_NAME_BYTES - len(tail.encode()))
            found = folder + slash + cut + tail
        self._files.add(_folded(found))
        return found

    def _folder(self, folder: str) -> list[str]:
        made: list[str] = []
        for part in folder.split("/"):
            number, name = 1, part
            while _folded("/".join([*made, name])) in self._files:
                number += 1
                name = _cut(part, MAX_NAME_BYTES - 8) + f"-{number}"
            made.append(name)
            self._folders.add(_folded("/".join(made)))
        return made


def _plain(char: str) -> str:
    is_odd = char in _FORBIDDEN or unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return "_" if is_odd else char


def _cut(text: str, most: int) -> str:
    """Return the beginning of a text, at most so many bytes, without half a character."""
    return text.encode()[:most].decode(errors="ignore")


def _folded(path: str) -> str:
    """Return what is the same for names that some system takes for one."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())
