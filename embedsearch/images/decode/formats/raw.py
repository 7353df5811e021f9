"""RAW files of cameras; in: a file that is one by its content, out: its picture.

Read by rawpy, which is optional: the preview that the camera made, or the samples where there is
none that is large enough. Names do not count: what is in archives, in buckets and uploaded comes
here without one.
"""

from __future__ import annotations

import ctypes
import io
import struct
from collections.abc import Iterator
from functools import cache
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from embedsearch.core.config import DecodeLimits
from embedsearch.core.install import install_command
from embedsearch.core.records import Reason
from embedsearch.images.decode.opening import DecodeError, is_disk_error, message_of, open_image
from embedsearch.images.sources.kinds import HEAD_BYTES, is_raw as starts_as_raw, is_tiff

RAW = "RAW"  # the format in the rows
_LIBRARY = "rawpy"  # the feature `raw`
_LIBRAW = b"dcraw v"  # the software that it names
_MAX_DIRECTORIES, _MAX_TAGS, _MAX_VALUES = 16, 512, 8  # that are looked at
_SUBFILE, _PHOTOMETRIC, _MAKE, _BELOW, _DNG_VERSION = 254, 262, 271, 330, 50706
_REDUCED = 1  # a kind of subfile
_MOSAICS = (32803, 34892)  # photometrics: of color filters, and DNG's linear samples
_PHASE_ONE = (b"IIII", b"MMMM")  # at byte 8
_INTEGERS = {3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # types of tags
_REMAINS = 0.03  # of the samples, which may lie in memory that is not cleared
_ORIENTATIONS = (1, 2, 4, 3, 5, 8, 6, 7)  # of EXIF, by LibRaw's flip
_OF_MAKING = (ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.DateTime)

_Tags: TypeAlias = dict[int, tuple[int, ...]]


def is_raw(file: BinaryIO) -> bool:
    """Return whether a file is RAW, and not an ordinary TIFF, as which most of them begin.

    Of these Pillow would show the thumbnail in the first directory.
    """
    file.seek(0)
    head = file.read(HEAD_BYTES)
    found = starts_as_raw(head) or (is_tiff(head) and _is_raw_tiff(file, head))
    file.seek(0)
    return found


def open_raw(
    file: BinaryIO, side: int, limits: DecodeLimits
) -> tuple[Image.Image, tuple[int, int]]:
    """Return the picture of a RAW file, as it is stored, and the size of the whole one.

    The pixels of a JPEG are not yet decoded. Raises DecodeError.
    """
    library = _rawpy()
    if library is None:
        raise DecodeError(Reason.UNSUPPORTED_FORMAT, f"RAW: {install_command(_LIBRARY)}")
    try:
        with library.imread(file) as raw:
            sizes = raw.sizes
            _check_size(sizes, limits)
            image, block = _preview(library, raw)
            if image is None or _is_small(image, side, sizes):
                image = _samples(library, raw, image)
    except (DecodeError, MemoryError):
        raise
    except Exception as error:  # LibRaw's, and what rawpy's own code raises for broken data
        raise _failure(library, error) from error
    _keep_metadata(image, file, block, _ORIENTATIONS[sizes.flip & 7])
    size = sizes.width, sizes.height
    is_turned = (image.width > image.height) != (size[0] > size[1])
    return image, size[::-1] if is_turned else size  # a preview may be upright already


def _check_size(sizes: Any, limits: DecodeLimits) -> None:
    """Raise DecodeError for too many samples: each counts as a quarter, as in `check_pixels`."""
    width, height = max(sizes.raw_width, sizes.width), max(sizes.raw_height, sizes.height)
    if min(sizes.width, sizes.height) < 1:
        raise DecodeError(Reason.ZERO_SIZE, f"the picture is {sizes.width} x {sizes.height} pixels")
    if width * height // 4 > limits.max_pixels:
        detail = f"{width} x {height} pixels are more than max_pixels {limits.max_pixels}"
        raise DecodeError(Reason.TOO_LARGE, detail)


def _preview(library: Any, raw: Any) -> tuple[Image.Image | None, bytes]:
    """Return the largest preview that can be opened, if any, and the EXIF that LibRaw gives it."""
    try:
        found = raw.extract_thumb()
    except (library.LibRawNoThumbnailError, library.LibRawUnsupportedThumbnailError):
        return None, b""
    if found.format is library.ThumbFormat.BITMAP:
        return Image.fromarray(found.data), b""
    jpeg, block = _parted(found.data)
    try:
        return open_image(io.BytesIO(jpeg)), block
    except DecodeError:  # not the picture's fault: its samples are in the file
        return None, block


def _samples(library: Any, raw: Any, preview: Image.Image | None) -> Image.Image:
    """Return the samples at half the size, the preview where LibRaw cannot read them."""
    try:
        return Image.fromarray(_developed(library, raw))
    except library.LibRawError:
        if preview is None:
            raise
        return preview


def _developed(library: Any, raw: Any) -> npt.NDArray[np.uint8]:
    """Return the picture that the samples make as (H/2, W/2, 3). Raises LibRawError.

    Of compressed samples that are damaged LibRaw says nothing, and gives what its memory held, such
    as the picture before. So the memory is cleared first, but for parts of two pages.
    """
    _clear_free_memory()
    samples = raw.raw_image_visible
    is_empty = np.count_nonzero(samples) <= samples.size * _REMAINS
    shown: npt.NDArray[np.uint8] = raw.postprocess(
        half_size=True, use_camera_wb=True, output_bps=8, user_flip=0
    )
    if is_empty or shown.min() == shown.max():
        raise library.LibRawDataError
    return shown


def _clear_free_memory() -> None:
    """Give the pages that were freed back to the system, which hands them out as zeros."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:  # of glibc alone; others take memory of this size from the system
        return
    trim(0)


def _parted(jpeg: bytes) -> tuple[bytes, bytes]:
    """Return a preview as the camera made it, and the EXIF that LibRaw put before it, if it did.

    It does so where the camera's own EXIF is not the very first segment, and would hide that.
    """
    end = 4 + int.from_bytes(jpeg[4:6], "big")
    block = jpeg[6:end]
    is_put = jpeg[2:4] == b"\xff\xe1" and _LIBRAW in block
    return (jpeg[:2] + jpeg[end:], block) if is_put else (jpeg, b"")


def _is_small(image: Image.Image, side: int, sizes: Any) -> bool:
    """Return whether the samples show more than a preview does, of what is asked for."""
    longest = max(image.size)
    return longest < side and longest < max(sizes.width, sizes.height) // 2


@cache
def _rawpy() -> Any:
    """Return the library rawpy, None where it is absent."""
    try:
        import rawpy
    except ImportError:
        return None
    return rawpy


def _failure(library: Any, error: Exception) -> DecodeError:
    """Return why LibRaw could not read a file."""
    if is_disk_error(error):
        return DecodeError(Reason.IO_ERROR, message_of(error))
    kinds = {
        library.LibRawFileUnsupportedError: (
            Reason.UNSUPPORTED_FORMAT,
            "a RAW variant that LibRaw does not read, or a damaged header",
        ),
        library.LibRawNotImplementedError: (Reason.UNSUPPORTED_FORMAT, "a RAW variant"),
        library.LibRawUnsufficientMemoryError: (Reason.MEMORY, "LibRaw needs more memory"),
        library.LibRawMemPoolOverflowError: (Reason.MEMORY, "LibRaw needs more memory"),
        library.LibRawTooBigError: (Reason.TOO_LARGE, "more pixels than LibRaw reads"),
        library.LibRawIOError: (Reason.TRUNCATED, "parts of the picture are missing"),
    }
    found = (why for kind, why in kinds.items() if isinstance(error, kind))
    return DecodeError(*next(found, (Reason.CORRUPT, "damaged RAW")))


def _keep_metadata(image: Image.Image, file: BinaryIO, block: bytes, orientation: int) -> None:
    """Give the image what the RAW file says of its making, where its preview does not.

    That is in its tags if it is a TIFF, else in `block`, which LibRaw made of it.
    """
    try:
        exif = image.getexif()
    except Exception:  # a broken block raises anything from struct.error to RecursionError
        image.info.pop("exif", None)
        exif = image.getexif()
    if ExifTags.Base.Orientation not in exif:
        exif[ExifTags.Base.Orientation] = orientation
    file.seek(0)
    has_tags = is_tiff(file.read(HEAD_BYTES))
    file.seek(0)
    stated = Image.Exif()
    try:
        if has_tags:
            stated.load_from_fp(file)
        else:
            stated.load(block)
        for tag in _OF_MAKING:
            if tag in stated:
                exif.setdefault(tag, stated[tag])
        for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            inner = exif.get_ifd(part)
            for number, value in stated.get_ifd(part).items():
                inner.setdefault(number, value)
    except Exception as error:  # a damaged directory raises as a broken block does
        if is_disk_error(error):
            raise DecodeError(Reason.IO_ERROR, message_of(error)) from error


def _is_raw_tiff(file: BinaryIO, head: bytes) -> bool:
    """Return whether what begins as TIFF is RAW: DNG, or samples of a camera in it."""
    directories = _directories(file, head)
    first = next(directories, {})
    if _DNG_VERSION in first or head[8:12] in _PHASE_ONE:
        return True
    if _MAKE not in first:
        return False
    if _BELOW in first and first.get(_SUBFILE) == (_REDUCED,):
        return True
    return any(
        photometric in _MOSAICS
        for tags in (first, *directories)
        for photometric in tags.get(_PHOTOMETRIC, ())
    )


def _directories(file: BinaryIO, head: bytes) -> Iterator[_Tags]:
    """Yield the first directories of a TIFF: each before those below it and the one behind it."""
    order = "<" if head[:2] == b"II" else ">"
    is_big = b"+" in head[2:4]
    at = 8 if is_big else 4
    waiting = list(struct.unpack_from(order + ("Q" if is_big else "I"), head.ljust(16, b"\0"), at))
    end = file.seek(0, 2)
    for _ in range(_MAX_DIRECTORIES):
        if not waiting:
            return
        if 0 < (start := waiting.pop(0)) < end:
            file.seek(start)
            tags, behind = _directory(file, order, is_big=is_big)
            yield tags
            waiting += [*tags.get(_BELOW, ()), *behind]


def _directory(file: BinaryIO, order: str, *, is_big: bool) -> tuple[_Tags, tuple[int, ...]]:
    """Return the first values of the tags here, () of those that are no integers; and what is next.

    Of a directory that is cut off, what is there.
    """
    number, entry = (order + "Q", order + "HHQ8s") if is_big else (order + "H", order + "HHI4s")
    count = _unpacked(number, file.read(struct.calcsize(number)))
    if not count or count[0] > _MAX_TAGS:
        return {}, ()
    length = struct.calcsize(entry)
    data = file.read(count[0] * length)
    behind = _unpacked(number if is_big else order + "I", file.read(8 if is_big else 4))
    tags: _Tags = {}
    for offset in range(0, len(data) - length + 1, length):
        tag, kind, values, slot = struct.unpack_from(entry, data, offset)
        tags[tag] = ()
        if kind in _INTEGERS and values > 0:
            form = f"{order}{min(values, _MAX_VALUES)}{_INTEGERS[kind]}"
            size = struct.calcsize(form)
            if values * struct.calcsize(order + _INTEGERS[kind]) > len(slot):
                (place,) = struct.unpack(order + ("Q" if is_big else "I"), slot)
                slot = _at(file, place, size)
            tags[tag] = _unpacked(form, slot[:size])
    return tags, behind


def _at(file: BinaryIO, place: int, size: int) -> bytes:
    """Return bytes of a file, none of a place behind its end."""
    if place >= file.seek(0, 2):
        return b""
    file.seek(place)
    return file.read(size)


def _unpacked(form: str, data: bytes) -> tuple[int, ...]:
    """Return the numbers in data, none where it is cut off."""
    return struct.unpack(form, data) if len(data) == struct.calcsize(form) else ()
