"""Facts about an image; in: a Pillow image, out: its appearance and its EXIF facts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from embedsearch.core.records import SIGNATURE_SIDE, Appearance

_APPEARANCE_SIDE = 128


def appearance_of(picture: Image.Image) -> Appearance:
    """Return the appearance of an RGB image.

    The sharpness is that of Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy"
    (2000). A large, slightly blurred image is sharp at 128 × 128.
    """
    middle = picture.convert("L").resize((_APPEARANCE_SIDE, _APPEARANCE_SIDE), Image.Resampling.BOX)
    luma = np.asarray(middle, dtype=np.float32)
    sides = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    # Whole numbers, of which float64 sums are exact: the same on every processor.
    edges = (sides - 4.0 * luma[1:-1, 1:-1]).ravel().astype(np.float64)
    variance = float(edges @ edges) / edges.size - float(edges.mean()) ** 2
    return Appearance(
        brightness=round(float(luma.mean(dtype=np.float64)) / 255.0, 4),
        sharpness=round(max(0.0, variance), 2),
        signature=middle.reduce(_APPEARANCE_SIDE // SIGNATURE_SIDE).tobytes(),
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
    inner = tags.get_ifd(ExifTags.IFD.Exif)
    text = inner.get(ExifTags.Base.DateTimeOriginal) or tags.get(ExifTags.Base.DateTime)
    if not isinstance(text, str):
        return None
    return datetime.strptime(text.strip("\0 ")[:19], "%Y:%m:%d %H:%M:%S")


def _camera(tags: Image.Exif) -> str | None:
    make, model = (str(tags.get(tag) or "") for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
    make, model = (re.sub(r"[^\x20-\x7e]+", " ", text).strip() for text in (make, model))
    joined = model if model.lower().startswith(make.lower()) else f"{make} {model}"
    return joined.strip()[:100] or None


def _gps(tags: dict[int, Any]) -> tuple[float, float] | None:
    if ExifTags.GPS.GPSLatitude not in tags or ExifTags.GPS.GPSLongitude not in tags:
        return None
    latitude = _degrees(tags[ExifTags.GPS.GPSLatitude])
    longitude = _degrees(tags[ExifTags.GPS.GPSLongitude])
    if str(tags.get(ExifTags.GPS.GPSLatitudeRef, "N")).upper().startswith("S"):
        latitude = -latitude
    if str(tags.get(ExifTags.GPS.GPSLongitudeRef, "E")).upper().startswith("W"):
        longitude = -longitude
    inside = -90 <= latitude <= 90 and -180 <= longitude <= 180
    return (latitude, longitude) if inside else None


def _degrees(parts: tuple[Fraction, ...]) -> float:
    degrees, minutes, seconds = (float(part) for part in parts)
    return degrees + minutes / 60 + seconds / 3600
