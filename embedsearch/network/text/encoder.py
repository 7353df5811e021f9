"""Texts to unit vectors; in: texts, out: float32 (N, D), to be compared with those of pictures."""

from __future__ import annotations

import string
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from embedsearch.core.errors import MissingLibrary, WeightsUnavailable
from embedsearch.core.install import pip_install
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.network.openvino_runtime import converted_folder
from embedsearch.network.text.converted import TOKENIZER_NAME, TextNote, Vector, answer, open_text

_PUNCTUATION = str.maketrans("", "", string.punctuation)


class TextEncoder:
    """Callable: texts to float32 (N, D), unit rows. One thread at a time."""

    def __init__(self, spec: ModelSpec, session: Session) -> None:
        """Load the network of a model for texts, converting the model first if that is due.

        Raises MissingLibrary and WeightsUnavailable.
        """
        if find_spec("openvino") is None:
            message = f"text needs OpenVINO with this model: {pip_install('openvino')}"
            raise MissingLibrary(message, "text")
        folder = converted_folder(spec, session)
        self._tokenizer = _tokenizer(folder)
        if (opened := open_text(folder, session)) is None:
            raise WeightsUnavailable(f"{folder} lacks the network for texts: delete that folder")
        self.note, self._network = opened

    def __call__(self, texts: Sequence[str]) -> Vector:
        """Return the vectors of texts; of a long one, of its beginning."""
        vectors = [answer(self._network, self.note.feed(self.tokens(text))) for text in texts]
        return np.array(vectors, np.float32)

    def tokens(self, text: str) -> list[int]:
        """Return the numbers of a text's tokens, at most as many as the network reads."""
        numbers: list[int] = self._tokenizer.encode(written(text, self.note)).ids
        # What ends a text is read where the text ends.
        return (
            numbers
            if len(numbers) <= self.note.length
            else [
                *numbers[: self.note.length - 1],
                numbers[-1],
            ]
        )


def written(text: str, note: TextNote) -> str:
    """Return a text as a network was trained to read it."""
    text = " ".join(text.split())
    if note.without_punctuation:
        text = " ".join(text.translate(_PUNCTUATION).split())
    return note.template.replace("{}", text.lower() if note.lower_case else text)


def _tokenizer(folder: Path) -> Any:
    """Return the tokenizer in a folder, else CLIP's, without its own padding and length."""
    try:
        import tokenizers
    except ImportError as error:
        raise MissingLibrary(
            f"text needs tokenizers with this model: {pip_install('tokenizers')}", "text"
        ) from error
    if (path := folder / TOKENIZER_NAME).exists():
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no narrower one
            raise WeightsUnavailable(f"{path} is no tokenizer that can be read: {error}") from error
    else:
        from embedsearch.network.text.clip_tokenizer import clip_tokenizer

        tokenizer = clip_tokenizer()
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
