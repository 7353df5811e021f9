"""What a user typed, as terms; in: text, out: words and phrases to look for.

`red shoes` finds either, and rows with both first; `"red shoes"` is a phrase, `sho*` the beginning
of a word, `-blue` leaves rows out, and `caption:red` looks into one column.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from embedsearch.core.errors import UsageError
from embedsearch.searching.words.tokens import words_of

MAX_TERMS = 64
_CLOSE = 0.75  # how much a name must be like a column to be a slip
_SHOWN = 80  # characters of a text in a message
_QUOTES = str.maketrans(dict.fromkeys("“”„‟«»＂", '"'))
_TERM = re.compile(r'(-)?(?:([^\s":]+):)?(?:"([^"]*)"?|([^\s"]+))(\*)?')


@dataclass(frozen=True)
class Term:
    """Words that follow each other, in one column or in any."""

    words: tuple[str, ...]
    column: str | None = None
    is_prefix: bool = False  # the last word is the beginning of one
    is_excluded: bool = False


def terms_of(text: str, columns: Iterable[str]) -> list[Term]:
    """Return what a text asks for. Raises UsageError if there is no word to look for.

    `name:` is a column only where there is one of that name; `12:30` is a phrase.
    """
    named = {_folded(column): column for column in columns}
    found = []
    for minus, name, phrase, word, star in _TERM.findall(text.translate(_QUOTES)):
        column = named.get(_folded(name)) if name else None
        body = phrase or word
        if name and column is None:
            if close := get_close_matches(_folded(name), named, n=1, cutoff=_CLOSE):
                message = f"text: there is no column {name}; did you mean {named[close[0]]}?"
                raise UsageError(message, "text")
            body = f"{name} {body}"
        if words := words_of(body):
            is_prefix = bool(star) or word.endswith("*")
            found.append(Term(tuple(words), column, is_prefix, bool(minus)))
    terms = list(dict.fromkeys(found))
    if all(term.is_excluded for term in terms):
        shown = " ".join(text.split())[:_SHOWN]
        problem = "only leaves out: add a word to look for" if terms else "has no word to look for"
        raise UsageError(f"the text {shown!r} {problem}", "text")
    if len(terms) > MAX_TERMS:
        message = f"the text has {len(terms):,} different words; at most {MAX_TERMS} are looked for"
        raise UsageError(message, "text")
    return terms


def excludes(text: str) -> bool:
    """Return whether a text leaves rows out."""
    return any(minus for minus, *_ in _TERM.findall(text.translate(_QUOTES)))


def plain_text(text: str, columns: Iterable[str]) -> str:
    """Return what a text asks for as a model reads it: no word that is excluded, no marks.

    The name of one of the columns is no part of the text; any other before a colon is.
    """
    named = set(map(_folded, columns))
    parts = []
    for minus, name, phrase, word, _ in _TERM.findall(text.translate(_QUOTES)):
        if not minus:
            before = f"{name}:" if name and _folded(name) not in named else ""
            parts.append(before + (phrase or word.rstrip("*")))
    return " ".join(" ".join(parts).split())


def _folded(name: str) -> str:
    return " ".join(words_of(name))
