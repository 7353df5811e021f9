"""The pictures that a training held out, as its model file names them; in: labels, out: a record.

Each is known by its key and the sha256 of its file: pictures that came or changed since are told
apart, whatever a new split would draw.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedsearch.core.errors import UsageError
from embedsearch.core.paths import local_path, printable
from embedsearch.learning.labels import Labels, main_of
from embedsearch.network.weights import is_file_name, metadata_of

HELD_OUT_RECORD = "embedsearch_held_out"  # the metadata of a model file that holds a HeldOut
_DIGITS = 32  # of a sha256 in hexadecimal: enough to tell files apart
_NAMED = 3


@dataclass(frozen=True)
class HeldOut:
    """Pictures by key, with the first digits of their sha256 and with their classes."""

    digests: dict[str, str]
    classes: dict[str, str]

    @classmethod
    def of(cls, labels: Labels, digests: Sequence[bytes]) -> HeldOut:
        """Return the record of labeled pictures; those without a class are measured by nothing."""
        if (main := main_of(labels.targets)) is None:
            return cls({}, {})
        known = np.flatnonzero(main.known).tolist()
        keys = [labels.refs[index].key for index in known]
        names = [main.classes[int(main.values[index])] for index in known]
        hexes = [digests[index].hex()[:_DIGITS] for index in known]
        return cls(dict(zip(keys, hexes, strict=True)), dict(zip(keys, names, strict=True)))

    def to_json(self) -> str:
        """Return it as text; a byte of a key that is not UTF-8 is an escape of JSON."""
        return json.dumps([[key, self.digests[key], self.classes[key]] for key in self.digests])

    @classmethod
    def from_json(cls, text: str) -> HeldOut:
        """Return what `to_json` wrote down. Raises ValueError for other text."""
        rows: Any = json.loads(text)
        if not isinstance(rows, list) or not all(
            isinstance(row, list) and len(row) == 3 and all(isinstance(x, str) for x in row)
            for row in rows
        ):
            raise ValueError("it does not list keys, digests and classes")
        return cls({key: digest for key, digest, _ in rows}, {key: name for key, _, name in rows})

    def check_there(self, folder: str) -> None:
        """Raise UsageError where a folder lacks some of the pictures."""
        lacking = [key for key in self.digests if not os.path.isfile(os.path.join(folder, key))]
        self._refuse(lacking, f"not in {folder}")

    def check_same(self, found: dict[str, bytes]) -> None:
        """Raise UsageError where pictures, by key and sha256, are other ones by now."""
        changed = [
            key
            for key, digest in self.digests.items()
            if key not in found or found[key].hex()[:_DIGITS] != digest
        ]
        self._refuse(changed, "unreadable or have changed since")

    def _refuse(self, keys: list[str], why: str) -> None:
        if keys:
            shown = ", ".join(map(printable, keys[:_NAMED])) + (", …" if len(keys) > _NAMED else "")
            raise UsageError(
                f"{len(keys):,} of the {len(self.digests):,} pictures that were held out are {why} "
                f"({shown}): give the folder that the model was trained on, as it was",
                "held_out",
            )


def held_out_of(models: Sequence[str]) -> HeldOut:
    """Return the pictures that were held out when one of the models was trained.

    Raises UsageError where no model names any, or two name different ones.
    """
    for model in models:
        if is_file_name(model) and not Path(local_path(model)).exists():
            raise UsageError(f"model {printable(model)}: there is no such file", "model")
    records = {model: found for model in models if (found := _read(model)) is not None}
    if not records:
        raise UsageError(
            f"{', '.join(map(printable, models))}: no record of pictures that were held out; "
            "held_out needs a model that embedsearch train has written, and older versions wrote "
            "none: train it again",
            "held_out",
        )
    first, *others = records.values()
    if any(other != first for other in others):
        raise UsageError(
            f"{' and '.join(map(printable, records))} were trained with different pictures held "
            "out: measure them one by one",
            "held_out",
        )
    if not first.digests:
        raise UsageError(
            f"{printable(next(iter(records)))} has learned numbers only, and held_out measures by "
            "classes: train with classify, or measure without held_out",
            "held_out",
        )
    return first


def _read(model: str) -> HeldOut | None:
    """Return the record of a model file, None for another model and one without a record."""
    path = Path(local_path(model))
    if not path.is_file():
        return None
    try:
        text = metadata_of(path).get(HELD_OUT_RECORD)
        return None if text is None else HeldOut.from_json(text)
    except OSError as error:
        why = error.strerror or error
        raise UsageError(f"model {printable(model)} cannot be read: {why}", "model") from error
    except ValueError as error:
        raise UsageError(
            f"{printable(model)}: its record is damaged: {error}", "held_out"
        ) from error
