"""A text to numbers of tokens, as a network was trained to read it."""

from __future__ import annotations

import string
from typing import Any

from embedsearch.network.text.converted import TextNote

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_PROBE = "a red clock, 12:30"


class TokenizerError(ValueError):
    """A tokenizer that cannot be read, or a text that it cannot take."""


class Tokenizer:
    """A tokenizer of the library `tokenizers`, without its own padding and length."""

    def __init__(self, text: str | None, note: TextNote) -> None:
        """Read a tokenizer.json, or take CLIP's. Raises TokenizerError."""
        self._note = note
        if text is None:
            from embedsearch.network.text.clip_tokenizer import clip_tokenizer

            self._tokenizer = clip_tokenizer()
        else:
            self._tokenizer = _guarded("the tokenizer cannot be used", _read, text)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tail = self._ends()

    def numbers(self, text: str, length: int) -> list[int]:
        """Return the numbers of a text's tokens, `length` at most, with those that end a text.

        Raises TokenizerError.
        """
        numbers = self._encoded(written(text, self._note))
        if len(numbers) <= length:
            return numbers
        return [*numbers[: length - len(self._tail)], *self._tail]

    def _ends(self) -> list[int]:
        """Return the tokens that end every text. Raises TokenizerError."""
        whole = self._encoded(_PROBE)
        plain = _guarded("the tokenizer cannot be used", self._plain, _PROBE)
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return whole[start + len(plain) :]
        return []

    def _plain(self, text: str) -> list[int]:
        numbers: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return numbers

    def _encoded(self, text: str) -> list[int]:
        numbers: list[int] = _guarded(
            "its tokenizer does not take it", lambda taken: self._tokenizer.encode(taken).ids, text
        )
        return numbers


def written(text: str, note: TextNote) -> str:
    """Return a text as a network was trained to read it."""
    text = " ".join(text.split())
    if note.without_punctuation:
        text = " ".join(text.translate(_PUNCTUATION).split())
    return note.template.replace("{}", text.lower() if note.lower_case else text)


def _read(text: str) -> Any:
    import tokenizers

    return tokenizers.Tokenizer.from_str(text)


def _guarded(problem: str, work: Any, text: str) -> Any:
    """Return what a call of the library gives. Raises TokenizerError for whatever it raises."""
    try:
        return work(text)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # Rust code of the library may panic, which is no Exception
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise TokenizerError(f"{problem} ({words})") from error
