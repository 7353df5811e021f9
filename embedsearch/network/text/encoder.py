"""Texts to unit vectors; in: texts, out: float32 (N, D), to be compared with those of pictures."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from embedsearch.core.errors import MissingLibrary, UsageError, WeightsUnavailable
from embedsearch.core.install import install_command
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.network.converted import BrokenConversion
from embedsearch.network.openvino_runtime import converted_folder
from embedsearch.network.text.converted import TextNote, Vector, answer, open_text, tokenizer_json
from embedsearch.network.text.tokens import Tokenizer, TokenizerError

_TRIES = 2


class TextEncoder:
    """Callable: texts to float32 (N, D), unit rows. One thread at a time."""

    def __init__(self, spec: ModelSpec, session: Session) -> None:
        """Load the network of a model for texts, converting the model first if that is due.

        Raises MissingLibrary and WeightsUnavailable.
        """
        for library in ("tokenizers", "openvino"):
            if find_spec(library) is None:
                raise MissingLibrary(
                    f"comparing text with pictures needs {library}: {install_command(library)}; "
                    "by=words does without",
                    "by",
                )
        self.note, self._network, self._tokenizer = _loaded(spec, session)

    def __call__(self, texts: Sequence[str]) -> Vector:
        """Return the vectors of texts; of a long one, of its beginning. Raises UsageError."""
        vectors = [answer(self._network, self.note.feed(self.tokens(text))) for text in texts]
        return np.array(vectors, np.float32)

    def tokens(self, text: str) -> list[int]:
        """Return the numbers of a text's tokens, at most as many as the network reads.

        Raises UsageError.
        """
        try:
            return self._tokenizer.numbers(text, self.note.length)
        except TokenizerError as error:
            raise UsageError(f"the text cannot be read: {error}", "text") from error


def _loaded(spec: ModelSpec, session: Session) -> tuple[TextNote, Any, Tokenizer]:
    """Return what is read, the network and its tokenizer; a damaged one is converted again."""
    for attempt in range(_TRIES):
        folder = converted_folder(spec, session)
        try:
            note, network = open_text(folder, session)
            return note, network, Tokenizer(tokenizer_json(folder, note), note)
        except BrokenConversion as error:
            if attempt == _TRIES - 1:
                raise WeightsUnavailable(f"{error}: delete {folder}") from error
            session.notice(f"{error}: {spec.name} is converted again")
            shutil.rmtree(folder, ignore_errors=True)
        except TokenizerError as error:
            raise WeightsUnavailable(f"{spec.name}: {error}") from error
    raise AssertionError("unreachable: the last try returns or raises")
