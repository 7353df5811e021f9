"""What a store is asked: an image, a part of one, a key, a vector, words, or several of these."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Inside:
    """The image file `path` below a folder. No link below the folder is followed."""

    folder: str
    path: str

    def __post_init__(self) -> None:
        if not self.path or {"", ".", ".."} & set(self.path.split("/")) or "\0" in self.path:
            raise UsageError(f"{self.path!r} is not a path inside a folder")


# A path, the bytes of an image file, a PIL image, or uint8 (H, W, 3).
ImageLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | Inside | Image.Image | npt.NDArray[np.uint8]"
)
Vector: TypeAlias = npt.NDArray[np.float32]
# The weight of an unlike image relative to a like image: Rocchio's gamma over beta.
UNLIKE_WEIGHT = 0.5


@dataclass(frozen=True)
class Crop:
    """A part of an image: x, y of its top left corner, width and height, in upright pixels.

    For a `Key`, its file is decoded, while it is the one that was indexed.
    """

    image: ImageLike | Key
    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        numbers = (self.x, self.y, self.width, self.height)
        if not all(isinstance(n, Integral) and abs(n) < 1 << 31 for n in numbers):
            raise UsageError(f"a crop is four whole numbers, not {numbers}")
        if self.width < 1 or self.height < 1:
            raise UsageError(f"a crop is at least 1 x 1, not {self.width} x {self.height}")


@dataclass(frozen=True)
class Key:
    """An image of the store: its key or row, or its full path if two folders have the key."""

    key: str | int

    def __str__(self) -> str:
        return self.key if isinstance(self.key, str) else f"the image of row {self.key}"


@dataclass(frozen=True)
class Text:
    """Words to look for in the user's columns of text, in paths and in names of cameras.

    `red shoes` finds images with either word, `"red shoes"` the phrase, `sho*` the beginning of a
    word, `caption:red` one in a column; `-blue` leaves images out. Case and accents do not matter.
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise UsageError(f"text is a text, not {type(self.text).__name__}", "text")
        if not self.text.strip():
            raise UsageError("the text is empty", "text")

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Mix:
    """One query of several images: what all of `like` have in common, and none of `unlike`.

    The mean of the like vectors minus UNLIKE_WEIGHT times the mean of the unlike ones, after
    Rocchio, "Relevance feedback in information retrieval" (1971), where the first query is one
    of `like`. With a `text`, its words are looked for too, and the two rankings become one.
    """

    like: Sequence[Single]
    unlike: Sequence[Single] = ()
    text: Text | None = None

    def __post_init__(self) -> None:
        for name, images in (("like", self.like), ("unlike", self.unlike)):
            if not isinstance(images, list | tuple):
                raise UsageError(f"{name} must be a list of images, not {type(images).__name__}")
        if not self.like and (self.unlike or self.text is None):
            raise UsageError("a query needs an image, one in like, or a text to look for")
        if any(isinstance(part, Mix | Text) for part in (*self.like, *self.unlike)):
            raise UsageError("a Mix cannot hold another Mix: only images, and one text")


# One image: a unit vector is float (D,).
Single: TypeAlias = "ImageLike | Crop | Key | npt.NDArray[Any]"
Query: TypeAlias = "Single | Text | Mix"


def query_of(
    image: Query | None,
    *,
    crop: Sequence[int] | None = None,
    like: Sequence[Single] = (),
    unlike: Sequence[Single] = (),
    text: str | None = None,
) -> Query:
    """Return one query of its parts: an image or its crop, images to be like or not, and words.

    Raises UsageError.
    """
    if crop is not None:
        is_vector = isinstance(image, np.ndarray) and image.ndim == 1
        if image is None or is_vector or isinstance(image, Crop | Text | Mix):
            raise UsageError("only an image can be cropped")
        image = Crop(image, *crop)
    words = None if text is None else Text(text)
    if image is not None and not (like or unlike or words):
        return image
    if words is not None and image is None and not (like or unlike):
        return words
    first: list[Any] = [] if image is None else [image]
    return Mix([*first, *like], list(unlike), words)


@dataclass(frozen=True)
class Sought:
    """A query as it is searched for: a measured unit vector, float32 (D,), a text, or both.

    `reads` says that the vector is of the text alone: no cosine of pictures is like its own.
    """

    vector: Vector | None
    text: str | None = None
    reads: bool = False
