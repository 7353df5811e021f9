"""Words for values; in: an error or the record of a model, out: what is shown of it.

Field names in messages become the options that set them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from embedsearch.core.config import MODEL_CENTER, STORE_CENTER
from embedsearch.core.model_spec import CROP, FIT, MILD_CROP, SQUASH

if TYPE_CHECKING:
    from embedsearch.store.manifest import Manifest

# Options whose name differs from their field.
_NAMES = {
    "latency_s": "--latency",
    "memory_bytes": "--memory",
    "poll_s": "--poll",
    "quiet_s": "--quiet",
    "wait_s": "--wait",
    "from_scratch": "--weights none",
}
_RESIZES = {
    **{SQUASH: "whole, squashed", MILD_CROP: "mildly cropped"},
    **{CROP: "the middle", FIT: "whole, fitted in"},
}
SETUP_FIELDS = ("workers", "precision", "input_side")  # that speed advice may name


def with_options(message: str, fields: Iterable[str]) -> str:
    """Return a message in which fields are options: `workers=8` becomes `--workers 8`.

    A field that stands there without a value is replaced once: what follows may be the user's.
    """
    for field in fields:
        option = _NAMES.get(field, "--" + field.replace("_", "-"))
        shown = re.sub(rf"(?<![\w./-]){field}=True\b", option, message)
        shown = re.sub(rf"(?<![\w./-]){field}=", f"{option} ", shown)
        if shown == message:
            bare = rf"(?<![\w./-]){field}(?![\w./-]*[\w/-])"
            shown = re.sub(bare, option, message, count=1)
        message = shown
    return message


def remarks(manifest: Manifest, store: str | None) -> list[str]:
    """Return what to know of the answers of a store: images that are not in, a weaker network."""
    found, suffix = [], "" if store is None else f" --store {shlex.quote(store)}"
    if manifest.pending:
        noun, are = ("image", "is") if manifest.pending == 1 else ("images", "are")
        found.append(
            f"{manifest.pending:,} {noun} {are} not in the store yet: embedsearch index{suffix}"
        )
    if wanted := manifest.model.stands_in_for:
        found.append(
            f"the store was made with the small packaged network, as {wanted} could not be had; "
            f"to re-embed with {wanted}: embedsearch index --rebuild --model {wanted}{suffix}; to "
            f"keep it: embedsearch index --model packaged{suffix}"
        )
    return found


def center_words(kind: str, images: int) -> str:
    """Return what vectors are measured from."""
    if kind == STORE_CENTER:
        return f"the mean of {images:,} images"
    return "an estimate from the weights" if kind == MODEL_CENTER else "none"


def input_words(model: Mapping[str, Any]) -> str:
    """Return what a model sees of a picture and how it pools, of the fields of its record."""
    words = [_RESIZES.get(model["resize"], model["resize"])]
    if model["pooling"]:
        words.append(model["pooling"])
    if model["takes_texts"]:
        words.append("reads texts")
    if sigma := model["gaussian"]:
        words.append(f"middle weighted, sigma {sigma:g}")
    return ", ".join(words)
