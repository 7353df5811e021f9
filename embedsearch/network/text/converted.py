"""The network for texts among the files of a converted model; in: its folder, out: it, compiled.

`text.xml` and `text.bin` are the network, `text.json` says what it reads, `tokenizer.json` how a
text becomes numbers.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsearch.core.atomic import write_atomically
from embedsearch.core.session import Session
from embedsearch.network.converted import (
    BrokenConversion,
    compile_checked,
    place_model,
    read_note,
    write_note,
)

NAME = "text"
TOKENIZER_NAME = "tokenizer.json"
_KNOWN_LENGTH = 8  # of the known text, in tokens
_LEAST_COSINE = 0.999

Numbers = npt.NDArray[np.int64]
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TextNote:
    """What a network for texts reads."""

    ids: str  # its input of tokens
    mask: str | None  # its input that says which tokens are not padding
    length: int
    pad_id: int
    lower_case: bool
    without_punctuation: bool
    template: str
    tokenizer_sha256: str | None = None  # None: it is CLIP's

    def feed(self, tokens: list[int]) -> dict[str, Numbers]:
        """Return the inputs for a text, each (1, length); what is too long is cut off before."""
        padding = self.length - len(tokens)
        feed = {self.ids: np.array([tokens + [self.pad_id] * padding], np.int64)}
        if self.mask is not None:
            feed[self.mask] = np.array([[1] * len(tokens) + [0] * padding], np.int64)
        return feed


def place_text(model: Any, note: TextNote, tokenizer: bytes | None, folder: Path) -> None:
    """Write a network for texts into a folder; without `tokenizer` it is CLIP's. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        write_atomically(folder / TOKENIZER_NAME, tokenizer)
        note = replace(note, tokenizer_sha256=hashlib.sha256(tokenizer).hexdigest())
    shutil.rmtree(folder / f"compiled-{NAME}", ignore_errors=True)  # from the former files
    place_model(model, folder, NAME)
    known = _answer(compile_checked(folder, NAME, lambda _: None, Session()), note)
    values = {**asdict(note), "known": [round(float(value), 6) for value in known]}
    write_note(folder / f"{NAME}.json", values)


def open_text(folder: Path, session: Session) -> tuple[TextNote, Any]:
    """Return the network for texts in a folder, compiled, and what it reads.

    Raises BrokenConversion and MissingLibrary.
    """
    values = read_note(folder / f"{NAME}.json")
    if not values:
        raise BrokenConversion(f"{folder} lacks the network for texts")
    known = np.array(values.pop("known"), np.float32)
    note = TextNote(**values)

    def check(compiled: Any) -> None:
        if not float(_answer(compiled, note) @ known) >= _LEAST_COSINE:
            raise BrokenConversion("the converted network gives other vectors of texts")

    return note, compile_checked(folder, NAME, check, session)


def tokenizer_json(folder: Path, note: TextNote) -> str | None:
    """Return the tokenizer in a folder, None for CLIP's. Raises BrokenConversion."""
    if note.tokenizer_sha256 is None:
        return None
    try:
        data = (folder / TOKENIZER_NAME).read_bytes()
    except OSError:
        data = b""
    if hashlib.sha256(data).hexdigest() != note.tokenizer_sha256:
        raise BrokenConversion(f"{folder / TOKENIZER_NAME} is damaged")
    return data.decode()


def answer(compiled: Any, feed: dict[str, Numbers]) -> Vector:
    """Return the vector of a text, float32 (D,)."""
    typed = {
        port.get_any_name(): feed[name].astype(port.get_element_type().to_dtype())
        for port in compiled.inputs
        for name in feed
        if name in port.get_names()
    }
    vector: Vector = np.array(compiled(typed)[0][0], np.float32)
    return vector


def _answer(compiled: Any, note: TextNote) -> Vector:
    """Return the vector of a text that is the same everywhere."""
    tokens = [1 + number for number in range(min(_KNOWN_LENGTH, note.length))]
    return answer(compiled, note.feed(tokens))
