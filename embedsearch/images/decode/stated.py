"""What a file states of its samples and colors; in: an image before its pixels, out: a record.

Decoders drop much of it. What a file states twice counts once, and a damaged statement counts as
none: the pixels are then shown as they are.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import Image

# More chunks than any encoder writes before the pixels; a file of a million is left half read.
_MAX_CHUNKS = 256
_MAX_BOXES = 1024
_MAX_META_BYTES = 1 << 20
_INTEGERS = {1, None}  # TIFF's SampleFormat of unsigned samples
_BITS, _PHOTOMETRIC, _MAX_SAMPLE = 258, 262, 281
_SAMPLE_FORMAT, _LOW, _HIGH = 339, 340, 341


@dataclass(frozen=True)
class Stated:
    """What a file states beside its pixels; None and "" where it does not.

    `rawmode` is Pillow's word for the layout of the samples in the file. `area` is the part of the
    canvas that a GIF's first frame covers. `cicp` are the numbers of ITU-T H.273 for primaries and
    transfer. `gamma` and `primaries` are those of PNG: exponent, and xy of white, red, green, blue.
    """

    rawmode: str = ""
    bits: int | None = None  # that samples of a larger size really have
    low: float | None = None  # smallest and largest sample
    high: float | None = None
    is_unsigned: bool = False  # though the decoder gives signed samples
    is_inverted: bool = False  # 0 is white, and the decoder leaves that to us
    area: tuple[int, int, int, int] | None = None
    cicp: tuple[int, int] | None = None
    icc: bytes | None = None
    gamma: float | None = None
    primaries: tuple[float, ...] | None = None

    @property
    def has_colors(self) -> bool:
        """Return whether the file states what its colors are: else they are those of sRGB."""
        return (self.cicp, self.icc, self.gamma, self.primaries) != (None, None, None, None)


def stated_by(image: Image.Image, file: BinaryIO | None = None) -> Stated:
    """Return what is stated by an opened image, whose pixels are not yet decoded."""
    tile = getattr(image, "tile", [])
    args = tile[0][3] if tile else ""
    rawmode = args[0] if isinstance(args, tuple) and args else args
    icc = image.info.get("icc_profile")
    found: dict[str, Any] = {"rawmode": rawmode if isinstance(rawmode, str) else ""}
    if isinstance(icc, bytes) and icc:
        found["icc"] = icc
    if image.format == "PNG":
        found |= _of_png(image, found["rawmode"], file)
    elif image.format == "TIFF":
        found |= _of_tiff(image)
    elif image.format in {"AVIF", "HEIF"} and "icc" not in found and file is not None:
        found["cicp"] = _nclx(file)
    elif image.format == "GIF" and tile and tuple(tile[0][1]) != (0, 0, *image.size):
        found["area"] = tuple(tile[0][1])
    return Stated(**found)


def _of_png(image: Image.Image, rawmode: str, file: BinaryIO | None) -> dict[str, Any]:
    """Return what a PNG states. cICP is above iCCP, which is above sRGB, above gAMA and cHRM."""
    chunks = {} if file is None else _png_chunks(file)
    found: dict[str, Any] = {}
    significant = chunks.get(b"sBIT", b"")
    if ";16" in rawmode and significant:
        colors = significant[: 3 if len(significant) > 2 else 1]  # without that of the alpha
        if 1 <= max(colors) <= 16:
            found["bits"] = max(colors)
    if len(chunks.get(b"cICP", b"")) == 4:
        found["cicp"] = (chunks[b"cICP"][0], chunks[b"cICP"][1])
    if "icc_profile" not in image.info and "srgb" not in image.info:
        found["gamma"] = image.info.get("gamma")
        found["primaries"] = image.info.get("chromaticity")
    return found


def _png_chunks(file: BinaryIO) -> dict[bytes, bytes]:
    """Return the small chunks before the pixels that Pillow does not keep."""
    place, found = file.tell(), {}
    offset = 8
    for _ in range(_MAX_CHUNKS):
        file.seek(offset)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IDAT":
            break
        length, kind = struct.unpack(">I4s", head)
        if kind in {b"sBIT", b"cICP"} and length <= 4:
            found[kind] = file.read(length)
        offset += 12 + length
    file.seek(place)
    return found


def _of_tiff(image: Image.Image) -> dict[str, Any]:
    """Return what a TIFF states of the range of its samples."""
    unsigned = _number(image, _SAMPLE_FORMAT) in _INTEGERS
    deep = image.mode in {"I", "F"} or image.mode.startswith("I;16")
    bits = _number(image, _BITS)
    found = {
        "is_unsigned": unsigned and bits == 32,
        "is_inverted": deep and _number(image, _PHOTOMETRIC, default=1) == 0,
        "low": _number(image, _LOW),
        "high": _number(image, _HIGH),
    }
    # MaxSampleValue is a statistic, not to be used for brightness, unless it is a size in bits.
    largest = int(_number(image, _MAX_SAMPLE) or 0)
    if unsigned and largest & (largest + 1) == 0 and 0xFF < largest < 0xFFFF:
        found["bits"] = largest.bit_length()
    if unsigned and bits is not None and 8 < bits < 16:
        found["bits"] = int(bits)
    return found


def _number(image: Image.Image, tag: int, default: float | None = None) -> float | None:
    """Return the largest value of a numeric TIFF tag, or `default`."""
    try:
        value = image.tag_v2.get(tag)  # type: ignore[attr-defined]
        values = value if isinstance(value, tuple) else (value,)
        largest = default if value is None else max(float(v) for v in values)
    except Exception:  # a damaged tag raises anything from struct.error to RecursionError
        return default
    return largest if largest is None or math.isfinite(largest) else default


def _nclx(file: BinaryIO) -> tuple[int, int] | None:
    """Return primaries and transfer of the first color box of an AVIF or HEIF file, if any."""
    place = file.tell()
    file.seek(0, 2)
    end = file.tell()
    found = None
    for kind, start, stop in _file_boxes(file, end):
        if kind == b"meta":
            file.seek(start)
            meta = file.read(min(stop - start, _MAX_META_BYTES))
            found = _color_box(meta)
            break
    file.seek(place)
    return found


def _file_boxes(file: BinaryIO, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of the content of each box of a file."""
    offset = 0
    for _ in range(_MAX_BOXES):
        file.seek(offset)
        head = file.read(16)
        if len(head) < 8:
            return
        size, start = struct.unpack(">I", head[:4])[0], offset + 8
        if size == 1 and len(head) == 16:
            size, start = struct.unpack(">Q", head[8:])[0], offset + 16
        stop = end if size == 0 else offset + size
        if stop < start:
            return
        yield head[4:8], start, stop
        offset = stop


def _color_box(meta: bytes) -> tuple[int, int] | None:
    """Return primaries and transfer stated inside a meta box: iprp, in it ipco, in it colr."""
    content = meta[4:]  # version and flags
    for wanted in (b"iprp", b"ipco"):
        content = next((body for kind, body in _boxes(content) if kind == wanted), b"")
    for kind, body in _boxes(content):
        if kind == b"colr" and body[:4] == b"nclx" and len(body) >= 8:
            primaries, transfer = struct.unpack(">HH", body[4:8])
            return primaries, transfer
    return None


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of each box inside another."""
    offset = 0
    for _ in range(_MAX_BOXES):
        if offset + 8 > len(content):
            return
        size = struct.unpack(">I", content[offset : offset + 4])[0] or len(content) - offset
        if size < 8:
            return
        yield content[offset + 4 : offset + 8], content[offset + 8 : offset + size]
        offset += size
