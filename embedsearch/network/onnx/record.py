"""What an ONNX network takes and gives, in one file beside it; in: JSON, out: a checked record.

Nothing is guessed: a value that the record does not say is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from embedsearch.core.config import MAX_SIDE, MIN_SIDE
from embedsearch.core.model_spec import BICUBIC, BILINEAR, CROP, DECODING, FIT, SQUASH, ModelSpec

RECORD_NAME = "embedsearch_model.json"
VERSION_KEY, VERSION = "embedsearch_model", 1
RESIZES = {"squash": SQUASH, "crop": CROP, "pad": FIT}
DRAFTS = {BICUBIC: 2, BILINEAR: 1}  # as Pillow resizes: what a smaller JPEG would lose
LAYOUTS, COLORS = ("NCHW", "NHWC"), ("RGB", "BGR")
POOLINGS = ("first", "mean", "gem")
_MAX_LENGTH, _MAX_DIM, _MAX_NUMBER = 8192, 16384, 1e6
_MAX_NAME = 200


@dataclass(frozen=True)
class ImageTower:
    """The network for pictures: its file, what it sees and what it gives.

    A sample x of 0 to 255 is given as (x * scale - mean) / std, or as it is where `scale` is null.
    """

    file: str
    side: int  # pictures of side × side
    resize: str  # squash, crop (the middle, the shorter side at side / shown) or pad (with `fill`)
    interpolation: str  # bicubic or bilinear
    scale: float | None
    dim: int | None = None  # components of a vector, as the graph has it
    mean: tuple[float, float, float] | None = None  # in the order of `colors`
    std: tuple[float, float, float] | None = None
    shown: float = 1.0
    fill: int = 0  # level of gray, 0 to 255
    layout: str = "NCHW"
    colors: str = "RGB"
    input: str | None = None  # by name, where the graph has several
    output: str | None = None
    pooling: str | None = None  # of maps or of a row of vectors: first, mean, gem (p = 3)
    sha256: str | None = None


@dataclass(frozen=True)
class TextTower:
    """The network for texts: its file, its tokenizer and what it gives, (N, dim)."""

    file: str
    tokenizer: str  # a tokenizer.json
    length: int  # tokens of a text, the rest is cut off
    pad_id: int
    input: str | None = None
    mask: str | None = None  # the input that says which tokens are not padding
    lower_case: bool = False
    without_punctuation: bool = False
    output: str | None = None
    template: str = "{}"  # around a text: a photo of {}
    sha256: str | None = None


@dataclass(frozen=True)
class TowersRecord:
    """One or two networks whose vectors can be compared."""

    name: str
    image: ImageTower
    text: TextTower | None = None
    licence: str = ""
    source: str = ""
    files: Mapping[str, str] = field(default_factory=dict)  # sha256 of each, external data too

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        return {VERSION_KEY: VERSION, **asdict(self)}

    def spec(self, sha256: str, source: str) -> ModelSpec:
        """Return the model, whose record and files have this sha256 in all."""
        image = self.image
        return ModelSpec(
            name=self.name,
            architecture=ModelSpec.TOWERS,
            weights_sha256=sha256,
            dim=image.dim or 0,
            input_side=image.side,
            resize=RESIZES[image.resize],
            interpolation=image.interpolation,
            draft=DRAFTS[image.interpolation],
            pooling="",
            mean=image.mean or (0.0, 0.0, 0.0),
            std=image.std or (1.0, 1.0, 1.0),
            licence=self.licence or "as the owner of its files says",
            source=self.source or source,
            decoding=DECODING,
            shown=image.shown,
            fill=image.fill,
            takes_texts=self.text is not None,
        )


def towers_record(values: Any) -> TowersRecord:
    """Return the record of JSON values. Raises ValueError, which says what is wrong and where."""
    taken = _Values(values, "")
    if (version := taken.get(VERSION_KEY, lambda v: type(v) is int)) != VERSION:
        raise ValueError(f"{VERSION_KEY} is {version}: a newer version is needed to read it")
    text = taken.get("text", lambda v: isinstance(v, dict) or v is None, None)
    record = TowersRecord(
        name=taken.get("name", _is_word),
        image=_image_tower(_Values(taken.get("image", lambda v: isinstance(v, dict)), "image.")),
        text=None if text is None else _text_tower(_Values(text, "text.")),
        licence=taken.get("licence", _is_text, ""),
        source=taken.get("source", _is_text, ""),
        files=taken.get("files", lambda v: isinstance(v, dict), {}),
    )
    taken.check_all_taken()
    return record


def empty_record(name: str, image: str, text: str | None, tokenizer: str | None) -> str:
    """Return a record to fill in, as JSON: what nobody knows but the owner is null."""
    record: dict[str, Any] = {
        **{VERSION_KEY: VERSION, "name": name, "licence": "", "source": ""},
        "image": {
            **{"file": image, "side": None, "resize": "squash | crop | pad"},
            **{"interpolation": "bicubic | bilinear", "scale": 1 / 255},
            **{"mean": [None] * 3, "std": [None] * 3},
        },
    }
    if text is not None:
        record["text"] = {"file": text, "tokenizer": tokenizer, "length": None, "pad_id": None}
    return re.sub(
        r"\[\s+null,\s+null,\s+null\s+\]", "[null, null, null]", json.dumps(record, indent=2)
    )


def _image_tower(values: _Values) -> ImageTower:
    scale = values.get("scale", lambda v: v is None or (_is_number(v) and v > 0))
    plain = (lambda v: v is None) if scale is None else _is_triple
    missing = None if scale is None else _REQUIRED
    tower = ImageTower(
        file=values.get("file", _is_place),
        sha256=values.get("sha256", _is_digest_or_none, None),
        side=values.get("side", lambda v: _is_whole(v, MIN_SIDE, MAX_SIDE)),
        resize=values.get("resize", _one_of(RESIZES)),
        interpolation=values.get("interpolation", _one_of(DRAFTS)),
        scale=scale,
        mean=_triple(values.get("mean", plain, missing)),
        std=_triple(values.get("std", plain, missing)),
        dim=values.get("dim", lambda v: v is None or _is_whole(v, 1, _MAX_DIM), None),
        shown=values.get("shown", lambda v: _is_number(v) and 0.25 <= v <= 1.0, 1.0),
        fill=values.get("fill", lambda v: _is_whole(v, 0, 255), 0),
        layout=values.get("layout", _one_of(LAYOUTS), LAYOUTS[0]),
        colors=values.get("colors", _one_of(COLORS), COLORS[0]),
        input=values.get("input", _is_word_or_none, None),
        output=values.get("output", _is_word_or_none, None),
        pooling=values.get("pooling", lambda v: v is None or _one_of(POOLINGS)(v), None),
    )
    if tower.std is not None and min(tower.std) <= 0:
        raise ValueError("image.std must be above 0")
    values.check_all_taken()
    return tower


def _text_tower(values: _Values) -> TextTower:
    tower = TextTower(
        file=values.get("file", _is_place),
        sha256=values.get("sha256", _is_digest_or_none, None),
        tokenizer=values.get("tokenizer", _is_place),
        length=values.get("length", lambda v: _is_whole(v, 2, _MAX_LENGTH)),
        pad_id=values.get("pad_id", lambda v: _is_whole(v, 0, 2**31 - 1)),
        input=values.get("input", _is_word_or_none, None),
        mask=values.get("mask", _is_word_or_none, None),
        lower_case=values.get("lower_case", _is_truth, False),
        without_punctuation=values.get("without_punctuation", _is_truth, False),
        output=values.get("output", _is_word_or_none, None),
        template=values.get("template", lambda v: _is_text(v) and v.count("{}") == 1, "{}"),
    )
    values.check_all_taken()
    return tower


_REQUIRED = object()
_WANTED = {
    "file": "the path of a file in the folder",
    "tokenizer": "the path of a file in the folder",
    "side": f"a number of pixels, {MIN_SIDE} to {MAX_SIDE}",
    "resize": ", ".join(RESIZES),
    "interpolation": ", ".join(DRAFTS),
    "scale": "a number above 0, such as 1/255, or null for a graph that takes bytes",
    "mean": "three numbers, or null where scale is null",
    "std": "three numbers, or null where scale is null",
    "layout": ", ".join(LAYOUTS),
    "colors": ", ".join(COLORS),
    "pooling": f"null, {', '.join(POOLINGS)}",
    "shown": "a number from 0.25 to 1",
    "fill": "a level of gray, 0 to 255",
    "length": "a number of tokens",
    "pad_id": "the number of a token",
    "template": "a text with {} in it",
}


class _Values:
    """The values of a JSON object, each taken once."""

    def __init__(self, values: Any, place: str) -> None:
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON object")
        self._left = dict(values)
        self._place = place

    def get(self, name: str, is_right: Callable[[Any], bool], default: Any = _REQUIRED) -> Any:
        """Return a value. Raises ValueError for one that is missing or not right."""
        value = self._left.pop(name, default)
        wanted = f": it is {_WANTED[name]}" if name in _WANTED else ""
        if value is _REQUIRED:
            raise ValueError(f"{self._place}{name} is missing{wanted}")
        if not is_right(value):
            raise ValueError(f"{self._place}{name} cannot be {json.dumps(value)[:80]}{wanted}")
        return value

    def check_all_taken(self) -> None:
        """Raise ValueError for a value that means nothing here."""
        if self._left:
            raise ValueError(f"{self._place}{min(self._left)} is not known")


def _one_of(choices: Collection[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in choices


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_word(value: Any) -> bool:
    is_short = isinstance(value, str) and len(value.strip()) > 0 and len(value) <= _MAX_NAME
    return is_short and value.isprintable()


def _is_word_or_none(value: Any) -> bool:
    return value is None or _is_word(value)


def _is_place(value: Any) -> bool:
    """Return whether a value is a path in the folder."""
    parts = PurePosixPath(value).parts if _is_word(value) else ()
    return bool(parts) and not value.startswith("/") and ".." not in parts


def _is_digest_or_none(value: Any) -> bool:
    return value is None or (
        isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
    )


def _is_whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and abs(value) <= _MAX_NUMBER


def _is_triple(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value))


def _triple(value: Any) -> tuple[float, float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]), float(value[2]))
