"""The files that lie beside an image, by their names; in: keys of a folder, out: sidecars of each.

Beside `a.jpg` these are `a.jpg.json` and `a.json`, likewise .txt and .cls, and those of Google
Takeout: `a.jpg.supplemental-metadata.json`, of which the end may be missing (`a.jpg.suppl.json`)
since Takeout cuts names; `a.jpg(1).json` and `a.jpg.supplemental-metadata(1).json` of `a(1).jpg`;
and those of `a.jpg` for `a-edited.jpg`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from embedsearch.core.names import comparable

SUFFIXES = ("json", "txt", "cls")  # the preferred one first
_WORD = ".supplemental-metadata"
_LONGEST = 46  # characters of a name before .json, where Takeout cuts it
_NUMBERED = re.compile(r"(.*)(\(\d+\))(\.[^./]+)", re.DOTALL)
# How Takeout calls an edited image, in the language of the account.
_EDITED = re.compile(
    r"(.*)-(?:edited|effects|smile|mix|bearbeitet|modifié|editado|ha editado|editada|modificato|"
    r"bewerkt|edytowane|editat|編集済み|редактировано)((?:\(\d+\))?\.[^./]+)",
    re.DOTALL,
)


class SidecarNames:
    """The files of a folder, or of an archive, that may be sidecars, and which nobody took."""

    def __init__(self, there: Iterable[str]) -> None:
        self._there = frozenset(there)
        self._alike: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._there:
            if not name.isascii():
                self._alike[comparable(name)].append(name)
        self._taken: set[str] = set()

    @property
    def left(self) -> list[str]:
        """Return the files that are beside no image."""
        return sorted(self._there - self._taken)

    def of_images(self, keys: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
        """Yield each key of a folder with its sidecars, the preferred one first."""
        cut = _cut_names(keys)
        by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for key in keys:
            by_stem[comparable(key.rpartition(".")[0])].append(key)
        for key in keys:
            found = self._own(key, cut)
            if not any(name.lower().endswith(".json") for name in found):
                found += self._of_original(key, by_stem, cut)
            self._taken.update(found)
            yield key, found

    def _own(self, key: str, cut: frozenset[str]) -> list[str]:
        stem = key.rpartition(".")[0]
        usual = [f"{base}.{suffix}" for suffix in SUFFIXES for base in (key, stem)]
        return self._existing([*usual, *_takeout(key, cut)])

    def _of_original(
        self, key: str, by_stem: dict[str, list[str]], cut: frozenset[str]
    ) -> list[str]:
        """Return the .json of the image that an edited one was made of."""
        if (edited := _EDITED.fullmatch(comparable(key))) is None:
            return []
        original = edited[1] + edited[2]
        stem = original.rpartition(".")[0]
        known = by_stem.get(stem, ())  # perhaps with another suffix, such as .heic
        for name in dict.fromkeys((original, *known)):
            found = self._existing([f"{name}.json", f"{stem}.json", *_takeout(name, cut)])
            if found:
                return found
        return []

    def _existing(self, names: Iterable[str]) -> list[str]:
        """Return the files of these names, each once, or of one that looks the same."""
        found: dict[str, None] = {}
        for name in names:
            if name in self._there:
                found[name] = None
            elif not name.isascii() and len(alike := self._alike.get(comparable(name), [])) == 1:
                found[alike[0]] = None
        return list(found)


def _takeout(key: str, cut: frozenset[str]) -> Iterator[str]:
    """Yield the names that Google Takeout may have given to the sidecar of an image."""
    yield from _with_word(key, "")
    if (numbered := _NUMBERED.fullmatch(key)) is not None:
        base = numbered[1] + numbered[3]
        yield f"{base}{numbered[2]}.json"
        yield from _with_word(base, numbered[2])
    if (short := _cut(key)) in cut:
        yield f"{short}.json"


def _with_word(base: str, number: str) -> Iterator[str]:
    for end in range(len(_WORD), 0, -1):
        yield f"{base}{_WORD[:end]}{number}.json"


def _cut(key: str) -> str:
    folder, slash, name = key.rpartition("/")
    return folder + slash + name[:_LONGEST]


def _cut_names(keys: Sequence[str]) -> frozenset[str]:
    """Return the cut names that can only be those of one image."""
    counts: defaultdict[str, int] = defaultdict(int)
    for key in keys:
        counts[_cut(key)] += 1
    return frozenset(
        _cut(key)
        for key in keys
        if len(key.rpartition("/")[2]) > _LONGEST and counts[_cut(key)] == 1
    )
