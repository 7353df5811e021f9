"""A model as a record: architecture, weights, preprocessing and fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from embedsearch.core.errors import UsageError
from embedsearch.core.unknown_fields import record_of, values_of

# How a file becomes pixels: raised with each change of `images/decode` that changes some vectors.
DECODING = 2

# What the network sees of a picture, S × S: see `images/decode/pixels.py`.
SQUASH = "squash"  # the whole picture, its sides scaled apart
MILD_CROP = "mild-crop"  # half of the distortion is cropped away, half squashed
CROP = "crop"  # the middle, in its proportions
FIT = "fit"  # the whole picture in its proportions, centered on `fill`: what people see
RESIZES = (SQUASH, MILD_CROP, CROP, FIT)
BICUBIC = "bicubic"  # Pillow's
BILINEAR = "bilinear"  # of a picture that was softened first: see `images/decode/scaling.py`
INTERPOLATIONS = (BICUBIC, BILINEAR)
DRAFTS = (1, 2)


@dataclass(frozen=True)
class Framing:
    """What S × S pixels show of a picture, and how they are computed from it."""

    resize: str = SQUASH  # one of RESIZES
    interpolation: str = BICUBIC  # one of INTERPOLATIONS
    draft: int = 2  # JPEGs are decoded at the smallest DCT scale of at least draft × S
    shown: float = 1.0  # of the shorter side, by CROP
    fill: int = 255  # beside the picture, by FIT: a level of gray


SQUASHED = Framing()  # of the models of version 0.1


@dataclass(frozen=True)
class ModelSpec:
    """A model: architecture, weights and preprocessing, in one record.

    The fingerprint covers everything that changes a vector, but not name, license and source.
    """

    name: str
    architecture: str
    weights_sha256: str
    dim: int
    input_side: int
    resize: str = SQUASH  # one of RESIZES
    interpolation: str = BICUBIC  # one of INTERPOLATIONS
    draft: int = 2  # one of DRAFTS, see Framing
    pooling: str = "gem3"  # "" where the network's own output is the vector
    center: float = 0.0  # how much of the network's expected features is subtracted
    flip: bool = False  # the mean of the picture's vector and its mirror image's
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    licence: str = ""
    source: str = ""
    decoding: int = 1  # DECODING of the program that made the vectors; older records have none
    gaussian: float = 0.0  # weights of the map's cells: sigma as a share of its side; 0: all alike
    shown: float = 1.0  # see Framing
    fill: int = 255
    takes_texts: bool = False  # whether a second network makes vectors of texts to compare
    stands_in_for: str = ""  # the model that was wanted and could not be had

    TEXTS: ClassVar[str] = "texts"  # the source of vectors of texts
    FOREIGN: ClassVar[str] = "foreign"  # the architecture of vectors that were made elsewhere
    TOWERS: ClassVar[str] = "onnx"  # the architecture of ONNX files with a record

    _DESCRIPTIVE: ClassVar[frozenset[str]] = frozenset(
        {"name", "licence", "source", "takes_texts", "stands_in_for"}
    )
    # Older records have none of these.
    _LATER: ClassVar[dict[str, Any]] = {
        **{"decoding": 1, "gaussian": 0.0},
        **{"shown": 1.0, "fill": 255},
    }

    @classmethod
    def foreign(cls, name: str, dim: int, source: str = "imported") -> ModelSpec:
        """Return the spec of vectors made elsewhere; only the name of their model identifies it."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        return cls(name, cls.FOREIGN, digest, dim, input_side=0, pooling="", source=source)

    @property
    def is_foreign(self) -> bool:
        """Return whether no network here can compute such vectors."""
        return self.architecture == self.FOREIGN

    @property
    def is_of_towers(self) -> bool:
        """Return whether the network is an ONNX file, as it was exported."""
        return self.architecture == self.TOWERS

    @property
    def is_of_pooled_maps(self) -> bool:
        """Return whether vectors are pooled maps of a residual network, not its own output."""
        return bool(self.pooling)

    @property
    def framing(self) -> Framing:
        """Return how a picture becomes the pixels that the network sees."""
        return Framing(self.resize, self.interpolation, self.draft, self.shown, self.fill)

    @property
    def fingerprint(self) -> str:
        """Return 64 hex digits over every field that changes a vector."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """Return the fields that change a vector."""
        # The fingerprint of older stores has no later fields: nor has one that is as if without.
        later = {name for name, default in self._LATER.items() if getattr(self, name) == default}
        left_out = self._DESCRIPTIVE | later
        return {name: value for name, value in self._values().items() if name not in left_out}

    def asked(self, input_side: int | None, flip: bool = False) -> ModelSpec:
        """Return the model with another input side or with mirror images, if requested.

        Raises UsageError where the network takes one side only, or gives its own vectors.
        """
        if not self.is_of_pooled_maps and input_side not in {None, self.input_side}:
            words = f"{self.name} takes pictures of {self.input_side} px only"
            raise UsageError(f"input_side={input_side}: {words}", "input_side")
        if flip and not self.is_of_pooled_maps:
            raise UsageError(f"flip=True: {self.name} gives vectors of its own", "flip")
        return replace(self, input_side=input_side or self.input_side, flip=flip or self.flip)

    def differences(self, other: ModelSpec) -> list[str]:
        """Return `field: value != other's value` for each field of the identity that differs."""
        return [
            f"{name}: {value} != {getattr(other, name)}"
            for name, value in self._values().items()
            if name not in self._DESCRIPTIVE and value != getattr(other, name)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-ready values."""
        values: dict[str, Any] = values_of(self)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """Rebuild the record from `to_dict`; TypeError or ValueError if it is malformed."""
        mean, std = (tuple(float(x) for x in values[name]) for name in ("mean", "std"))
        return record_of(cls, {**values, "mean": mean, "std": std})

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}
