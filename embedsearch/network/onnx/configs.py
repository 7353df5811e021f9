"""Records of ONNX networks from what exporters left beside them; in: a folder, out: a record.

Read are open_clip's `preprocess_cfg.json` and `open_clip_config.json`, Hugging Face's
`preprocessor_config.json`, and Immich's folders `visual/` and `textual/`. What none of them says is
not known.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedsearch.core.strict_json import strict_json
from embedsearch.network.onnx.record import VERSION, VERSION_KEY, TowersRecord, towers_record

_IMAGE_FILES = (
    *("visual/model.onnx", "visual.onnx", "image.onnx", "vision_model.onnx"),
    *("onnx/vision_model.onnx", "model.onnx", "onnx/model.onnx"),
)
_TEXT_FILES = (
    *("textual/model.onnx", "textual.onnx", "text.onnx", "text_model.onnx"),
    "onnx/text_model.onnx",
)
_TOKENIZERS = ("textual/tokenizer.json", "tokenizer.json")
_RESAMPLED = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_OPEN_CLIP_RESIZES = {"shortest": "crop", "squash": "squash", "longest": "pad"}
_OPEN_CLIP_LENGTH = 77  # where its configuration says nothing
_MAX_BYTES = 64 << 20  # of a tokenizer


class NotSaid(ValueError):
    """The files beside a network do not say what it takes."""


@dataclass(frozen=True)
class Found:
    """The files of a folder that seem to be its networks."""

    image: str | None
    text: str | None
    tokenizer: str | None

    @classmethod
    def of(cls, folder: Path) -> Found:
        """Look for them by their usual names."""
        image, text, tokenizer = (
            _first(folder, names) for names in (_IMAGE_FILES, _TEXT_FILES, _TOKENIZERS)
        )
        others = [path.name for path in folder.glob("*.onnx")]
        return cls(image or (others[0] if len(others) == 1 else None), text, tokenizer)


def record_beside(folder: Path, found: Found) -> TowersRecord:
    """Return the record that other files of a folder make up.

    Raises NotSaid, which names what is not said, and ValueError for files that cannot be read.
    """
    if found.image is None:
        raise NotSaid("it has no ONNX file with a usual name")
    values: dict[str, Any] = {VERSION_KEY: VERSION, "name": folder.resolve().name}
    values["image"] = {"file": found.image, **_seen(folder)}
    if found.text is not None:
        values["text"] = {"file": found.text, **_read(folder, found)}
    return towers_record(values)


def _seen(folder: Path) -> dict[str, Any]:
    """Return what the network for pictures sees."""
    for name in ("visual/preprocess_cfg.json", "preprocess_cfg.json"):
        if (values := json_of(folder / name)) is not None:
            return _of_open_clip(values, values.get("size"), name)
    name = "open_clip_config.json"
    if (values := json_of(folder / name)) is not None:
        vision = _part(_part(values, "model_cfg"), "vision_cfg")
        return _of_open_clip(_part(values, "preprocess_cfg"), vision.get("image_size"), name)
    for name in ("preprocessor_config.json", "visual/preprocessor_config.json"):
        if (values := json_of(folder / name)) is not None:
            return _of_hugging_face(values, name)
    raise NotSaid("no file beside it says what its network sees")


def _of_open_clip(values: Mapping[str, Any], size: Any, name: str) -> dict[str, Any]:
    resize, fill = values.get("resize_mode", "shortest"), values.get("fill_color", 0)
    if not isinstance(resize, str) or resize not in _OPEN_CLIP_RESIZES:
        raise NotSaid(f"{name}: resize_mode {resize!r} is not known")
    return {
        "side": _square(size, name),
        "resize": _OPEN_CLIP_RESIZES[resize],
        "fill": fill,
        "interpolation": _said(values, "interpolation", name),
        "scale": 1 / 255,
        "mean": _said(values, "mean", name),
        "std": _said(values, "std", name),
    }


def _of_hugging_face(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    resample, size = _said(values, "resample", name), _said(values, "size", name)
    if resample not in (2, 3):
        raise NotSaid(f"{name}: resample {resample!r} is neither bilinear (2) nor bicubic (3)")
    seen: dict[str, Any] = {"interpolation": _RESAMPLED[resample]}
    if values.get("do_flip_channel_order"):
        seen["colors"] = "BGR"
    shortest = size.get("shortest_edge") if isinstance(size, dict) else size
    crops = bool(values.get("do_center_crop"))
    side = _square(_said(values, "crop_size", name) if crops else size, name)
    is_whole = crops or not shortest
    if not values.get("do_resize", True) or not is_whole or type(side) is not int:
        raise NotSaid(f"{name}: it does not say how pictures become squares")
    if shortest:
        if type(shortest) is not int or shortest < side:
            raise NotSaid(f"{name}: pictures of {shortest} px have no middle of {side}")
        seen |= {"resize": "crop", "side": side, "shown": side / shortest}
    elif crops and _square(size, name) != side:
        raise NotSaid(f"{name}: pictures are squashed and cropped")
    else:
        seen |= {"resize": "squash", "side": side}
    seen["scale"] = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0
    if values.get("do_normalize", True):
        seen |= {"mean": _said(values, "image_mean", name), "std": _said(values, "image_std", name)}
    else:
        seen |= {"mean": [0.0] * 3, "std": [1.0] * 3}
    return seen


def _read(folder: Path, found: Found) -> dict[str, Any]:
    """Return what the network for texts reads."""
    if found.tokenizer is None:
        raise NotSaid(f"{found.text} has no tokenizer.json beside it")
    model = json_of(folder / "open_clip_config.json")
    config = _part(model, "model_cfg") if model else json_of(folder / "config.json") or {}
    text: dict[str, Any] = {"tokenizer": found.tokenizer}
    clean = None
    if "text_cfg" in config:
        part = _part(config, "text_cfg")
        text["length"] = part.get("context_length", _OPEN_CLIP_LENGTH)
        clean = _part(part, "tokenizer_kwargs").get("clean")
    elif "text_config" in config:
        text["length"] = _part(config, "text_config").get("max_position_embeddings")
    if text.get("length") is None:
        raise NotSaid("no file beside it says how many tokens a text may have")
    if clean == "canonicalize":
        text |= {"lower_case": True, "without_punctuation": True}
    elif clean == "lower":
        text["lower_case"] = True
    elif clean not in (None, "whitespace"):
        raise NotSaid(f"texts are cleaned by {clean!r}, which is not known")
    return {**text, "pad_id": _pad_id(folder, found.tokenizer)}


def _pad_id(folder: Path, name: str) -> int:
    """Return the number of the token behind a text that is short."""
    tokenizer = json_of(folder / name) or {}
    padding = tokenizer.get("padding")
    if isinstance(padding, dict) and type(padding.get("pad_id")) is int:
        return int(padding["pad_id"])
    config = json_of((folder / name).with_name("tokenizer_config.json")) or {}
    token = config.get("pad_token")
    token = token.get("content") if isinstance(token, dict) else token
    if isinstance(token, str):
        for number, content in _added(tokenizer):
            if content == token:
                return number
        vocabulary = _part(tokenizer, "model").get("vocab")
        if isinstance(vocabulary, dict) and type(vocabulary.get(token)) is int:
            return int(vocabulary[token])
    raise NotSaid(f"{name} and its tokenizer_config.json do not say with what texts are padded")


def largest_token(path: Path) -> int:
    """Return the largest number of a token in a tokenizer.json. Raises ValueError."""
    values = json_of(path) or {}
    vocabulary: Any = _part(values, "model").get("vocab")
    numbers: list[Any] = [number for number, _ in _added(values)]
    if isinstance(vocabulary, dict):
        numbers += vocabulary.values()
    elif isinstance(vocabulary, list):  # in order, with their scores
        numbers.append(len(vocabulary) - 1)
    if not numbers or not all(type(number) is int for number in numbers):
        raise ValueError(f"{path.name} is not a tokenizer")
    return int(max(numbers))


def _added(tokenizer: Mapping[str, Any]) -> list[tuple[int, Any]]:
    """Return the numbers and texts of tokens beside a vocabulary. Raises ValueError."""
    added = tokenizer.get("added_tokens") or []
    if not isinstance(added, list) or not all(
        isinstance(token, dict) and type(token.get("id")) is int for token in added
    ):
        raise ValueError("the tokens that a tokenizer adds cannot be read")
    return [(token["id"], token.get("content")) for token in added]


def _square(size: Any, name: str) -> Any:
    sides = size
    if isinstance(size, dict):
        sides = [size.get("height"), size.get("width")]
    if not isinstance(sides, list):
        return sides
    if len(sides) != 2 or sides[0] != sides[1]:
        raise NotSaid(f"{name}: pictures of {sides} are no squares")
    return sides[0]


def _said(values: Mapping[str, Any], key: str, name: str) -> Any:
    if values.get(key) is None:
        raise NotSaid(f"{name} has no {key}")
    return values[key]


def _part(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = values.get(key)
    return part if isinstance(part, dict) else {}


def json_of(path: Path) -> Any:
    """Return the object in a JSON file, None where there is none. Raises ValueError."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > _MAX_BYTES:
            raise ValueError(f"{path.name} is not a file, or has more than {_MAX_BYTES >> 20} MB")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    try:
        values = strict_json(data)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object")
    return values


def _first(folder: Path, names: Iterable[str]) -> str | None:
    return next((name for name in names if (folder / name).is_file()), None)
