"""One open file to upright RGB pixels; in: a seekable binary file, out: uint8 (S, S, 3) and facts.

Runs in a worker process (`worker.py`). The order of steps bounds memory: the size is compared
with the cap before anything is allocated, JPEGs are read at the DCT scale that S needs, and
alpha and orientation are applied to the small picture.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from functools import cache
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import (
    AvifImagePlugin,  # noqa: F401  what Pillow would import while it decodes, see below
    ExifTags,
    Image,
    ImageCms,
    ImageFile,
    ImageFilter,  # noqa: F401
    ImagePalette,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from embedsearch.core.config import DecodeLimits
from embedsearch.core.records import SIGNATURE_SIDE, Box, Look, Reason

# MPO (two-picture JPEGs of phones) is opened by the JPEG plugin; naming it raises KeyError.
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]
# Nothing is left to be imported while a picture is open: a module that cannot be read then would
# be taken for the picture's own fault, and the picture never be tried again.
Image.preinit()

DRAFT_SCALE = 2
BAND_ROWS = 256
_LOOK_SIDE = 128

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class DecodeError(Exception):
    """A picture that cannot be used, with its reason from the closed set."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Picture:
    """A decoded picture: pixels uint8 (S, S, 3) upright, sizes of the upright original."""

    pixels: npt.NDArray[np.uint8]
    look: Look
    width: int
    height: int
    format: str
    taken_at: datetime | None
    camera: str | None
    gps: tuple[float, float] | None
    truncated: bool


def decode(
    file: BinaryIO,
    side: int,
    limits: DecodeLimits,
    *,
    fit: bool = False,
    crop: Box | None = None,
) -> Picture:
    """Decode the first picture of `file` to side × side pixels.

    The whole picture, or what of it lies in `crop`, is squashed to the square; with `fit` it
    keeps its proportions, centred on white. Raises DecodeError, whatever the decoder raised.
    """
    head = file.read(64)
    file.seek(0)
    if not head:
        raise DecodeError(Reason.EMPTY, "the file has no bytes")
    Image.MAX_IMAGE_PIXELS = None  # --max-pixels decides; Pillow's own limit is a lower one
    try:
        image = Image.open(file, formats=_formats(head))
    except Exception as error:  # Pillow raises eight classes here, and any is this file's fault
        raise _open_failure(error, head) from error
    width, height = image.size
    if width < 1 or height < 1:
        raise DecodeError(Reason.ZERO_SIZE, f"the picture is {width} x {height} pixels")
    if width * height > limits.max_pixels:
        raise DecodeError(
            Reason.TOO_LARGE,
            f"{width} x {height} pixels are more than --max-pixels {limits.max_pixels}",
        )
    if crop is None:
        image.draft("RGB", (DRAFT_SCALE * side, DRAFT_SCALE * side))
    truncated = _load(image, limits)
    exif = _read_exif(image)
    orientation = exif.orientation
    try:
        box = None if crop is None else _stored_box(crop, image.size, orientation)
        small = _resize(_simple_mode(image), side, fit=fit, box=box)
    except (DecodeError, MemoryError):
        raise
    except Exception as error:
        raise DecodeError(Reason.UNSUPPORTED_MODE, _words(error)) from error
    if orientation >= 5:
        width, height = height, width
    upright = _upright(small, orientation)
    return Picture(
        pixels=np.asarray(upright, dtype=np.uint8),
        look=_look(upright),
        width=width,
        height=height,
        format=image.format or "",
        taken_at=exif.taken_at,
        camera=exif.camera,
        gps=exif.gps,
        truncated=truncated,
    )


def _formats(head: bytes) -> list[str]:
    """Return the formats that a file may have, by its first bytes.

    The libraries for AVIF and HEIF are loaded by the first such file: they are a fifth of the
    start of a worker, which a query waits for.
    """
    if head[4:8] != b"ftyp":
        return FORMATS

    return [*FORMATS, "AVIF", "HEIF"] if _has_heif() else [*FORMATS, "AVIF"]


@cache
def _has_heif() -> bool:
    """Return whether HEIF can be decoded, and register its decoder."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:  # absent, or without a library that it needs
        return False
    register_heif_opener(thumbnails=False)
    return True


def square(image: Image.Image, side: int, crop: Box | None = None) -> npt.NDArray[np.uint8]:
    """Return a Pillow image as uint8 (side, side, 3), upright, like `decode`."""
    orientation = _read_exif(image).orientation
    box = None if crop is None else _stored_box(crop, image.size, orientation)
    small = _resize(_simple_mode(image), side, fit=False, box=box)
    return np.asarray(_upright(small, orientation), dtype=np.uint8)


def _stored_box(crop: Box, size: tuple[int, int], orientation: int) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom in the stored picture of a box in the upright one.

    What lies outside the picture is cut off. Raises DecodeError where nothing is left.
    """
    width, height = size if orientation < 5 else size[::-1]
    left, top = max(crop.x, 0), max(crop.y, 0)
    right, bottom = min(crop.x + crop.width, width), min(crop.y + crop.height, height)
    if left >= right or top >= bottom:
        words = f"{crop} holds nothing of a picture of {width} x {height} pixels"
        raise DecodeError(Reason.ZERO_SIZE, words)
    if orientation in {2, 3, 7, 6}:  # mirrored sideways once it stands
        left, right = width - right, width - left
    if orientation in {3, 4, 7, 8}:
        top, bottom = height - bottom, height - top
    return (left, top, right, bottom) if orientation < 5 else (top, left, bottom, right)


def _look(picture: Image.Image) -> Look:
    """Return the look of an RGB picture.

    The sharpness is that of Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy"
    (2000). A big picture that is a little blurred is sharp at 128 × 128.
    """
    middle = picture.convert("L").resize((_LOOK_SIDE, _LOOK_SIDE), Image.Resampling.BOX)
    luma = np.asarray(middle, dtype=np.float32)
    sides = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    edges = (sides - 4.0 * luma[1:-1, 1:-1]).ravel()
    variance = float(edges @ edges) / edges.size - float(edges.mean()) ** 2
    return Look(
        brightness=round(float(luma.mean()) / 255.0, 4),
        sharpness=round(max(0.0, variance), 2),
        signature=middle.reduce(_LOOK_SIDE // SIGNATURE_SIDE).tobytes(),
    )


def _upright(small: Image.Image, orientation: int) -> Image.Image:
    return small.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else small


def _load(image: Image.Image, limits: DecodeLimits) -> bool:
    """Decode the pixels and return whether the end of the picture was missing."""
    try:
        image.load()
        return False
    except MemoryError:
        raise
    except Exception as error:
        reason = _load_reason(error)
        if reason is not Reason.TRUNCATED or not limits.allow_truncated:
            raise DecodeError(reason, _words(error)) from error
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise DecodeError(Reason.TRUNCATED, _words(error)) from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    return True


def _simple_mode(image: Image.Image) -> Image.Image:
    """Return the image as L, RGB or RGBA; deep and float samples are scaled, not clipped."""
    mode = image.mode
    if mode in {"RGB", "L", "RGBA"}:
        if mode != "RGBA" and "transparency" in image.info:
            return image.convert("RGBA")
        return image
    if mode.startswith("I;16"):
        return _by_bands(image, lambda band: (np.asarray(band) >> 8).astype(np.uint8))
    if mode in {"I", "F"}:
        return _stretch(image)
    if mode in {"P", "PA", "LA", "La", "RGBa"}:
        has_alpha = mode != "P" or "transparency" in image.info
        return image.convert("RGBA" if has_alpha else "RGB")
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        if converted is None:
            raise DecodeError(Reason.UNSUPPORTED_MODE, "LAB picture")
        return converted
    return image.convert("L" if mode == "1" else "RGB")


def _by_bands(
    image: Image.Image, convert: Callable[[Image.Image], npt.NDArray[np.uint8]]
) -> Image.Image:
    """Return an L image, converted a band of rows at a time so that no wide copy is made."""
    gray = Image.new("L", image.size)
    for top in range(0, image.height, BAND_ROWS):
        band = image.crop((0, top, image.width, min(top + BAND_ROWS, image.height)))
        gray.paste(Image.fromarray(convert(band)), (0, top))
    return gray


def _stretch(image: Image.Image) -> Image.Image:
    """Return 32-bit samples as L: finite minimum to maximum become 0 to 255, NaN becomes 0.

    16-bit pictures that a decoder gave as 32-bit integers keep their fixed scale.
    """
    low, high = np.inf, -np.inf
    for top in range(0, image.height, BAND_ROWS):
        band = image.crop((0, top, image.width, min(top + BAND_ROWS, image.height)))
        samples = np.asarray(band, dtype=np.float64)
        finite = samples[np.isfinite(samples)]
        if finite.size:
            low, high = min(low, finite.min()), max(high, finite.max())
    if image.mode == "I" and low >= 0 and high <= 0xFFFF:
        low, high = 0.0, float(0xFFFF)
    if not high > low:  # constant, or nothing finite
        return Image.new("L", image.size, 0 if not np.isfinite(high) else 128)

    def scale(band: Image.Image) -> npt.NDArray[np.uint8]:
        samples = np.nan_to_num(np.asarray(band, dtype=np.float64), nan=low, posinf=high)
        return (np.clip((samples - low) / (high - low), 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)

    return _by_bands(image, scale)


def _resize(
    image: Image.Image, side: int, *, fit: bool, box: tuple[int, int, int, int] | None
) -> Image.Image:
    """Return RGB, side × side. Alpha is weighed in while reducing, then shown over white."""
    if box is not None:
        image = image.crop(box)
    width, height = side, side
    if fit:
        scale = min(side / image.width, side / image.height)
        width = max(1, round(image.width * scale))
        height = max(1, round(image.height * scale))
    small = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    if small.mode == "RGBA":
        white = Image.new("RGBA", small.size, "white")
        small = Image.alpha_composite(white, small)
    small = small.convert("RGB")
    if not fit:
        return small
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(small, ((side - width) // 2, (side - height) // 2))
    return canvas


@dataclass(frozen=True)
class _Exif:
    orientation: int = 1
    taken_at: datetime | None = None
    camera: str | None = None
    gps: tuple[float, float] | None = None


def _read_exif(image: Image.Image) -> _Exif:
    """Return what the EXIF block says; a broken block says nothing and costs no picture."""
    try:
        tags = image.getexif()
        orientation = tags.get(ExifTags.Base.Orientation)
    except Exception:  # noisy EXIF raises anything from struct.error to RecursionError
        return _Exif()
    upright = image.format == "HEIF"  # libheif has already turned the picture
    valid = isinstance(orientation, int) and 1 <= orientation <= 8 and not upright
    return _Exif(
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


_NOT_IMAGES: tuple[tuple[bytes, int, str], ...] = (
    (b"version https://git-lfs", 0, "a Git LFS pointer: run git lfs pull"),
    (b"%PDF", 0, "a PDF"),
    (b"ftyp", 4, "a video or an unknown HEIF file"),
    (b"\x00\x05\x16\x07", 0, "a macOS AppleDouble side file"),
    (b"\xd0\xcf\x11\xe0", 0, "an OLE2 file, such as Thumbs.db"),
    (b"PK\x03\x04", 0, "a ZIP archive"),
    (b"{", 0, "JSON"),
    (b"[", 0, "JSON"),
)
_OTHER_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"8BPS", "Photoshop"),
    (b"SIMPLE", "FITS"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"icns", "ICNS"),
    (b"\x01\xda", "SGI"),
    (b"BLP", "BLP"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP", "JPEG 2000"),
    (b"qoif", "QOI"),
)
_SIGNATURES = (
    b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"RIFF",
)  # fmt: skip
_HEIF_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"heim", b"heis", b"hevc", b"avif", b"avis")


def _open_failure(error: Exception, head: bytes) -> DecodeError:
    """Return the DecodeError for a file that could not even be opened."""
    words = _words(error)
    if isinstance(error, MemoryError):
        return DecodeError(Reason.MEMORY, words)
    if _is_disk(error):
        return DecodeError(Reason.IO_ERROR, words)
    if isinstance(error, ValueError) and "too" in words.lower():  # zTXt, iTXt and iCCP limits
        return DecodeError(Reason.METADATA_BOMB, words)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        if not _has_heif() and not head[8:12].startswith(b"avi"):
            return DecodeError(Reason.UNSUPPORTED_FORMAT, "HEIC: pip install pillow-heif")
        return DecodeError(Reason.CORRUPT, "damaged HEIF or AVIF")
    sides = (head[16:20], head[20:24]) if head.startswith(b"\x89PNG") else ()
    if head[12:16] == b"IHDR" and b"\0" * 4 in sides:
        return DecodeError(Reason.ZERO_SIZE, "a side of the picture is 0 pixels")
    for magic, name in _OTHER_FORMATS:
        if head.startswith(magic):
            return DecodeError(Reason.UNSUPPORTED_FORMAT, name)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")):
        return DecodeError(Reason.UNSUPPORTED_FORMAT, "looks like SVG or XML")
    if text.startswith((b"<!doctype", b"<html")):
        return DecodeError(Reason.NOT_AN_IMAGE, "looks like a web page saved under this name")
    for magic, offset, what in _NOT_IMAGES:
        if head[offset : offset + len(magic)] == magic:
            return DecodeError(Reason.NOT_AN_IMAGE, f"looks like {what}")
    if head.startswith(_SIGNATURES):
        if not isinstance(error, UnidentifiedImageError) and "trunc" in words.lower():
            return DecodeError(Reason.TRUNCATED, words)
        return DecodeError(Reason.CORRUPT, "the header of the picture is damaged or cut")
    if not head.strip(b"\0"):
        return DecodeError(Reason.NOT_AN_IMAGE, "the file begins with zeros: lost blocks?")
    return DecodeError(Reason.NOT_AN_IMAGE, "no known picture format")


def _load_reason(error: Exception) -> Reason:
    """Return why pixels could not be decoded, from the decoder's exception."""
    if _is_disk(error):
        return Reason.IO_ERROR
    words = str(error).lower()
    if "trunc" in words or isinstance(error, EOFError):
        return Reason.TRUNCATED
    if isinstance(error, ValueError) and "too" in words:
        return Reason.METADATA_BOMB
    return Reason.CORRUPT


def _is_disk(error: Exception) -> bool:
    """Return whether the system could not read the file: EINVAL is what a damaged offset gives."""
    return isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}


def _words(error: Exception) -> str:
    """Return the error's message on one line, without addresses of Python objects."""
    text = re.sub(r"<_?io\.[^>]*>", "the file", str(error))
    return " ".join(text.split())[:200] or type(error).__name__
