"""An open file as a Pillow image; in: a seekable binary file, out: the image, or why there is none.

`check_pixels` compares the size with the limits before anything is allocated.
"""

from __future__ import annotations

import errno
import re
from functools import cache
from typing import BinaryIO

from PIL import (
    AvifImagePlugin,  # noqa: F401  what Pillow would import while it decodes, see below
    Image,
    ImageFile,
    ImageFilter,  # noqa: F401
    ImagePalette,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from embedsearch.core.config import DecodeLimits
from embedsearch.core.install import install_command
from embedsearch.core.records import Reason
from embedsearch.images.sources.kinds import is_avif, is_heif

# MPO (two-picture JPEGs of phones) is opened by the JPEG plugin; naming it raises KeyError.
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]
# Pillow imports nothing later, while an image is open: a module that cannot be read then would
# count as the image's own fault, and the image would never be tried again.
Image.preinit()

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
_MAX_SEGMENTS = 1000  # of a JPEG before its picture


class DecodeError(Exception):
    """A picture that cannot be used, with its reason from the closed set."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def open_image(file: BinaryIO) -> Image.Image:
    """Return the first image of a file, its pixels not yet decoded. Raises DecodeError."""
    head = file.read(64)
    file.seek(0)
    if not head:
        raise DecodeError(Reason.EMPTY, "the file has no bytes")
    Image.MAX_IMAGE_PIXELS = None  # max_pixels decides; Pillow's own limit is a lower one
    try:
        image = Image.open(file, formats=_formats(head))
    except Exception as error:  # Pillow raises eight classes here, and any is this file's fault
        raise _open_failure(error, head, file) from error
    width, height = image.size
    if width < 1 or height < 1:
        raise DecodeError(Reason.ZERO_SIZE, f"the picture is {width} x {height} pixels")
    return image


def check_pixels(image: Image.Image, size: tuple[int, int], limits: DecodeLimits) -> None:
    """Raise DecodeError if a picture of `size` has too many pixels at the scale of `image`.

    The reduced scale of a JPEG leaves a 64th at best, but each of its pixels still costs time: it
    counts as a quarter at least. A progressive one is held in memory as a whole: as half at least.
    """
    width, height = size
    saving = 2 if image.info.get("progressive") else 4
    if max(image.width * image.height, width * height // saving) > limits.max_pixels:
        raise DecodeError(
            Reason.TOO_LARGE,
            f"{width} x {height} pixels are more than max_pixels {limits.max_pixels}",
        )


def load_pixels(image: Image.Image, limits: DecodeLimits) -> bool:
    """Decode the pixels and return whether the end of the picture was missing."""
    try:
        image.load()
        return False
    except MemoryError:
        raise
    except Exception as error:
        reason = _load_reason(error)
        if reason is not Reason.TRUNCATED or not limits.allow_truncated:
            raise DecodeError(reason, message_of(error)) from error
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise DecodeError(Reason.TRUNCATED, message_of(error)) from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    return True


def _formats(head: bytes) -> list[str]:
    """Return the formats that a file may have, by its first bytes.

    The libraries for AVIF and HEIF are loaded for the first such file only: loading them is a fifth
    of a worker's start, which a query waits for.
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


def _open_failure(error: Exception, head: bytes, file: BinaryIO) -> DecodeError:
    """Return the DecodeError for a file that could not even be opened."""
    message = message_of(error)
    if isinstance(error, MemoryError):
        return DecodeError(Reason.MEMORY, message)
    if is_disk_error(error):
        return DecodeError(Reason.IO_ERROR, message)
    if isinstance(error, ValueError) and "too" in message.lower():  # zTXt, iTXt and iCCP limits
        return DecodeError(Reason.METADATA_BOMB, message)
    if is_heif(head) or is_avif(head):
        if is_heif(head) and not _has_heif():
            return DecodeError(Reason.UNSUPPORTED_FORMAT, f"HEIC: {install_command('pillow-heif')}")
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
    if "unsupported" in message.lower():  # a sound file in a variant that Pillow lacks
        return DecodeError(Reason.UNSUPPORTED_FORMAT, message)
    if head.startswith(b"\xff\xd8") and (bits := _jpeg_bits(file)) > 8:
        return DecodeError(Reason.UNSUPPORTED_FORMAT, f"JPEG with samples of {bits} bits")
    if head.startswith(_SIGNATURES):
        if not isinstance(error, UnidentifiedImageError) and "trunc" in message.lower():
            return DecodeError(Reason.TRUNCATED, message)
        return DecodeError(Reason.CORRUPT, "the header of the picture is damaged or cut")
    if not head.strip(b"\0"):
        return DecodeError(Reason.NOT_AN_IMAGE, "the file begins with zeros: lost blocks?")
    return DecodeError(Reason.NOT_AN_IMAGE, "no known picture format")


def _jpeg_bits(file: BinaryIO) -> int:
    """Return the bits of a sample in a JPEG, 0 where its header does not come to say so."""
    offset = 2
    for _ in range(_MAX_SEGMENTS):
        file.seek(offset)
        segment = file.read(5)
        if len(segment) < 5 or segment[0] != 0xFF:
            break
        if 0xC0 <= segment[1] <= 0xCF and segment[1] not in {0xC4, 0xC8, 0xCC}:
            return segment[4]
        offset += 2 + int.from_bytes(segment[2:4], "big")
    return 0


def _load_reason(error: Exception) -> Reason:
    """Return why pixels could not be decoded, from the decoder's exception."""
    if is_disk_error(error):
        return Reason.IO_ERROR
    message = str(error).lower()
    if "trunc" in message or isinstance(error, EOFError):
        return Reason.TRUNCATED
    if isinstance(error, ValueError) and "too" in message:
        return Reason.METADATA_BOMB
    return Reason.CORRUPT


def is_disk_error(error: Exception) -> bool:
    """Return whether the system could not read the file: EINVAL is what a damaged offset gives."""
    return isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}


def message_of(error: Exception) -> str:
    """Return the error's message on one line, without addresses of Python objects."""
    text = re.sub(r"<_?io\.[^>]*>", "the file", str(error))
    return " ".join(text.split())[:200] or type(error).__name__
