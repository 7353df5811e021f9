"""Text as words; in: any text, out: the words that are stored and searched for.

Case, accents and forms of width are folded. Scripts without spaces between words give one word a
character, so that a part of a sentence is found as a phrase; an emoji is a word.
"""

from __future__ import annotations

import re
import unicodedata

RULES = 1  # raised with each change that gives some text other words
_LONGEST = 64  # characters of a word; what follows is not looked at

_ASCII = re.compile(r"[0-9a-z]+")
# Thai, Lao, Tibetan, Myanmar, Khmer, Hangul, kana, Bopomofo, Han.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# Accents of Latin, Greek and Cyrillic, points of Hebrew and Arabic, what is not seen.
_ACCENTS = re.compile(
    "[\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
    "\u00ad\u200b-\u200f\u2060\ufe00-\ufe0f\ufeff]"
)


def words_of(text: str) -> list[str]:
    """Return the words of a text, folded, in order."""
    return [word[:_LONGEST] for word in _split(text)]


def _split(text: str) -> list[str]:
    if text.isascii():
        return _ASCII.findall(text.lower())
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    found, word = [], ""
    for character in unicodedata.normalize("NFKC", _ACCENTS.sub("", folded)):
        category = unicodedata.category(character)
        is_alone = category == "So" or _UNSPACED.match(character) is not None
        if category[0] in "LNM" and not is_alone:
            word += character
            continue
        if word:
            found.append(word)
            word = ""
        if is_alone and category[0] in "LNMS":
            found.append(character)
    return [*found, word] if word else found
