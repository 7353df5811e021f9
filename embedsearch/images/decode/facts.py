"""Facts about an image; in: a Pillow image, out: its appearance and its EXIF facts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from embedsearch.core.records import SIGNATURE_SIDE, Appearance
from embedsearch.images.decode.scaling import interpolated, luma

_APPEARANCE_SIDE = 128
# Years that a photo, a scan of one, or a clock that is somewhat wrong can have. Others are damage,
# and the first and last ones that exist cannot be converted to other time zones.
_FIRST_YEAR, _LAST_YEAR = 1800, 2199


def appearance_of(pixels: npt.NDArray[np.uint8]) -> Appearance:
    """Return the appearance of RGB pixels, uint8 (H, W, 3), as if they were squashed to a square.

    The sharpness is that of Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy"
    (2000). A large, slightly blurred image is sharp at 128 × 128.
    """
    gray = luma(pixels)
    light = interpolated(gray, (_APPEARANCE_SIDE, _APPEARANCE_SIDE)).astype(np.int16)
    sides = light[:-2, 1:-1] + light[2:, 1:-1] + light[1:-1, :-2] + light[1:-1, 2:]
    # Whole numbers, of which float64 sums are exact: the same on every processor.
    edges = (sides - 4 * light[1:-1, 1:-1]).ravel().astype(np.float64)
    variance = float(edges @ edges) / edges.size - float(edges.mean()) ** 2
    size = (SIGNATURE_SIDE, SIGNATURE_SIDE)
    return Appearance(
        brightness=round(float(light.mean(dtype=np.float64)) / 255.0, 4),
        sharpness=round(max(0.0, variance), 2),
        signature=Image.fromarray(gray).resize(size, Image.Resampling.BOX).tobytes(),
    )


@dataclass(frozen=True)
class Exif:
    """What the EXIF block says. The orientation is one of EXIF's eight, 1 is upright."""

    orientation: int = 1
    taken_at: datetime | None = None
    camera: str | None = None
    gps: tuple[float, float] | None = None


def read_exif(image: Image.Image) -> Exif:
    """Return what the EXIF block says; of a broken block nothing is used."""
    try:
        tags = image.getexif()
        orientation = tags.get(ExifTags.Base.Orientation)
    except Exception:  # noisy EXIF raises anything from struct.error to RecursionError
        return Exif()
    upright = image.format == "HEIF"  # libheif has already turned the picture
    valid = isinstance(orientation, int) and 1 <= orientation <= 8 and not upright
    return Exif(
        orientation=orientation if valid and orientation is not None else 1,
        taken_at=_quietly(lambda: _taken_at(tags)),
        camera=_quietly(lambda: _camera(tags)),
        gps=_quietly(lambda: _gps(tags.get_ifd(ExifTags.IFD.GPSInfo))),
    )


def _quietly(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception:  # one damaged tag loses that tag only
        return None


def _taken_at(tags: Image.Exif) -> datetime | None:
    """Return when the picture was taken: the first date that photos can have."""
    inner = tags.get_ifd(ExifTags.IFD.Exif)
    stated = inner.get(ExifTags.Base.DateTimeOriginal), tags.get(ExifTags.Base.DateTime)
    return next(filter(None, map(_date, stated)), None)


def _date(text: Any) -> datetime | None:
    try:
        date = datetime.strptime(text.strip("\0 ")[:19], "%Y:%m:%d %H:%M:%S")
    except (AttributeError, TypeError, ValueError):  # no text, or another form
        return None
    return date if _FIRST_YEAR <= date.year <= _LAST_YEAR else None


def _camera(tags: Image.Exif) -> str | None:
    make, model = (str(tags.get(tag) or "") for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
    make, model = (re.sub(r"[^\x20-\x7e]+", " ", text).strip() for text in (make, model))
    joined = model if model.lower().startswith(make.lower()) else f"{make} {model}"
    return joined.strip()[:100] or None


def _gps(tags: dict[int, Any]) -> tuple[float, float] | None:
    """Return latitude and longitude; None without a hemisphere, which is then half the position."""
    latitude = _signed(tags, ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, "NS")
    longitude = _signed(tags, ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, "EW")
    if latitude is None or longitude is None:
        return None
    return (latitude, longitude) if abs(latitude) <= 90 and abs(longitude) <= 180 else None


def _signed(tags: dict[int, Any], tag: int, reference: int, letters: str) -> float | None:
    """Return an angle, negative in the south and west; None where nothing says which it is.

    The hemisphere is a letter, of any type and with blanks, or a negative angle.
    """
    if tag not in tags:
        return None
    angle, is_negative = _degrees(tags[tag])
    stated = tags.get(reference, "")
    if isinstance(stated, int):
        stated = chr(stated)
    text = stated.decode("latin-1") if isinstance(stated, bytes) else str(stated)
    letter = text.strip("\0 \t").upper()[:1]
    if is_negative or (letter and letter == letters[1]):
        return -angle
    return angle if letter and letter == letters[0] else None


def _degrees(parts: Any) -> tuple[float, bool]:
    """Return the size of an angle of up to three parts in degrees, and whether it is negative.

    The sign of one part is that of the whole. Parts of 0/0 after the degrees are none. Raises
    ValueError for what is no angle.
    """
    numbers = [float(part) for part in (parts if isinstance(parts, tuple) else (parts,))]
    degrees, *smaller = numbers
    rest = [0.0 if math.isnan(number) else abs(number) for number in smaller]
    if len(rest) > 2 or not math.isfinite(degrees) or any(number > 60 for number in rest):
        raise ValueError(f"{parts} is no angle")
    minutes, seconds = (*rest, 0.0, 0.0)[:2]
    size = abs(degrees) + minutes / 60 + seconds / 3600
    return size, any(number < 0 for number in numbers)
