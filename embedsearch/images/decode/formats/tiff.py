"""TIFFs in layouts that Pillow does not know; in: a file that it refused, out: an image.

Read by tifffile, which is optional, and turned into 8 bits here. A whole file that nothing reads
is an unsupported format, and only one whose parts are missing or broken is damaged.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, TiffImagePlugin

from embedsearch.core.config import DecodeLimits
from embedsearch.core.install import install_command
from embedsearch.core.records import Reason
from embedsearch.images.decode.opening import DecodeError, is_disk_error, message_of
from embedsearch.images.decode.samples import scale_of
from embedsearch.images.decode.stated import Stated

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_EXIF_TAGS = (
    ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Orientation, ExifTags.Base.DateTime,
)  # fmt: skip
_WHITE_IS_ZERO, _PALETTE, _SEPARATED, _YCBCR, _CIELAB = 0, 3, 5, 6, 8
_UNCOMPRESSED = 1
_LIBRARIES = ("tifffile", "imagecodecs")  # the feature `tiff`
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}  # Pillow's words
_MENDABLE = {Reason.CORRUPT, Reason.TRUNCATED, Reason.UNSUPPORTED_FORMAT}
_PARTS = ((273, 279), (324, 325))  # offsets and lengths of strips, of tiles
_ALPHA = (1, 2)  # kinds of extra samples

_Array: TypeAlias = "npt.NDArray[Any]"


def is_misread(image: Image.Image) -> bool:
    """Return whether Pillow opens a TIFF whose samples it would take for others.

    These are deep samples in planes of their own, and YCbCr with fewer chroma samples that are not
    compressed.
    """
    if image.format != "TIFF":
        return False
    bits, planes = _tag(image, 258, (1,)), _tag(image, 284, (1,))
    if planes[0] == 2 and max(bits) > 8:
        return True
    is_plain = _tag(image, 259, (1,))[0] == _UNCOMPRESSED
    return is_plain and _tag(image, 262, (1,))[0] == _YCBCR and _tag(image, 530, (2, 2)) != (1, 1)


def _tag(image: Image.Image, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    try:
        value = image.tag_v2.get(tag, default)  # type: ignore[attr-defined]
    except Exception:  # a damaged tag raises anything from struct.error to RecursionError
        return default
    values = value if isinstance(value, tuple) else (value,)
    return values if values and all(isinstance(number, int) for number in values) else default


def in_native_order(image: Image.Image) -> None:
    """Let compressed samples of 32 bits be taken as libtiff gives them, in this machine's order."""
    if image.format == "TIFF":
        image.tile = [  # type: ignore[attr-defined]
            tile._replace(args=(_NATIVE.get(tile.args[0], tile.args[0]), *tile.args[1:]))
            if tile.codec_name == "libtiff"
            else tile
            for tile in image.tile  # type: ignore[attr-defined]
        ]


def read_tiff(file: BinaryIO, limits: DecodeLimits, refusal: DecodeError) -> Image.Image:
    """Return the first image of a TIFF that Pillow refused, its pixels decoded.

    Raises DecodeError: `refusal` for a file of another kind, or a damaged one.
    """
    file.seek(0)
    head = file.read(16)
    if refusal.reason not in _MENDABLE or head[:4] not in _SIGNATURES:
        raise refusal
    library = _tifffile()
    if library is None:
        raise _without_library(file, head, refusal)
    file.seek(0)
    try:
        with library.TiffFile(file, name="image") as opened:
            page = opened.pages[0]
            end = file.seek(0, 2)
            parts = zip(page.dataoffsets, page.databytecounts, strict=True)
            is_whole = all(start > 0 and start + length <= end for start, length in parts)
            has_more = len(opened.pages) > 1
            has_size = page.imagewidth > 0 and page.imagelength > 0 and page.dataoffsets
    except MemoryError:
        raise
    except Exception as error:  # a damaged directory makes it raise anything
        raise _of_disk(error) or refusal from error
    if not has_size:
        raise refusal
    if not is_whole:
        raise DecodeError(Reason.TRUNCATED, "parts of the picture are behind the end of the file")
    pixels = page.imagewidth * page.imagelength * page.imagedepth
    if pixels > limits.max_pixels:
        size = f"{page.imagewidth} x {page.imagelength}"
        detail = f"{size} pixels are more than max_pixels {limits.max_pixels}"
        raise DecodeError(Reason.TOO_LARGE, detail)
    try:
        image = _eight_bits(_samples(page, file), page)
    except MemoryError:
        raise
    except (NotImplementedError, KeyError, ValueError, TypeError, ImportError) as error:
        raise _failure(error, page, refusal) from error
    except Exception as error:  # what its codecs raise for broken data has many classes
        raise _of_disk(error) or refusal from error
    image.format = "TIFF"
    image.is_animated = has_more  # type: ignore[attr-defined]
    _keep_metadata(image, page)
    return image


@cache
def _tifffile() -> Any:
    """Return the library tifffile, None where it is absent. Its log is not ours to show."""
    try:
        import tifffile
    except ImportError:
        return None
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    return tifffile


def _without_library(file: BinaryIO, head: bytes, refusal: DecodeError) -> DecodeError:
    """Return why a TIFF cannot be read where tifffile is absent: only a sound one needs it."""
    hint = DecodeError(Reason.UNSUPPORTED_FORMAT, f"TIFF layout: {install_command(*_LIBRARIES)}")
    if head.startswith(b"MM\0+"):  # BigTIFF in the byte order that Pillow does not know
        return hint
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(head if head[2:3] == b"+" else head[:8])
        file.seek(tags.next)
        tags.load(file)
        starts, lengths = next((tags[a], tags[b]) for a, b in _PARTS if a in tags)
        end = file.seek(0, 2)
        has_size = min(tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength]) > 0
        parts = zip(starts, lengths, strict=True)
        is_sound = has_size and all(start > 0 and start + length <= end for start, length in parts)
    except Exception:  # a damaged directory raises anything from struct.error to StopIteration
        return refusal
    return hint if is_sound else refusal


def _of_disk(error: Exception) -> DecodeError | None:
    """Return the failure of a disk that cannot be read, which is not the picture's fault."""
    return DecodeError(Reason.IO_ERROR, message_of(error)) if is_disk_error(error) else None


def _failure(error: Exception, page: Any, refusal: DecodeError) -> DecodeError:
    """Return why samples could not be read: an unknown layout, or a damaged file."""
    message = message_of(error)
    layout = _words_for(page)
    if "imagecodecs" in message:
        return DecodeError(Reason.UNSUPPORTED_FORMAT, f"{layout}: {install_command(*_LIBRARIES)}")
    if isinstance(error, NotImplementedError | TypeError) or "not supported" in message:
        return DecodeError(Reason.UNSUPPORTED_FORMAT, layout)
    return refusal


def _words_for(page: Any) -> str:
    """Return the layout of a page in words."""
    kinds = {1: "unsigned", 2: "signed", 3: "floating", 5: "complex", 6: "complex"}
    kind = kinds.get(int(page.sampleformat), "other")
    samples = "1 sample" if page.samplesperpixel == 1 else f"{page.samplesperpixel} samples"
    photometric, compression = (
        getattr(value, "name", str(value)) for value in (page.photometric, page.compression)
    )
    return (
        f"TIFF of {samples} of {page.bitspersample} bits, {kind}, "
        f"photometric {photometric}, compression {compression}"
    )


def _samples(page: Any, file: BinaryIO) -> _Array:
    """Return (H, W, C) of a page, of the type that the file has."""
    is_raw = page.photometric == _YCBCR and page.compression == _UNCOMPRESSED
    if is_raw and tuple(page.subsampling or (1, 1)) != (1, 1):
        return _subsampled(page, file)
    array: _Array = page.asarray(maxworkers=1)
    axes = page.axes
    if "Z" in axes:  # a volume: its first plane
        array = np.take(array, 0, axis=axes.index("Z"))
        axes = axes.replace("Z", "")
    if axes not in {"YX", "YXS", "SYX"}:
        raise NotImplementedError(f"axes {axes}")
    array = np.moveaxis(array, 0, -1) if axes == "SYX" else array
    return array[..., None] if array.ndim == 2 else array


def _subsampled(page: Any, file: BinaryIO) -> _Array:
    """Return (H, W, 3) of uncompressed YCbCr, whose units have several Y and one Cb and Cr each."""
    if page.bitspersample != 8 or page.samplesperpixel != 3 or page.is_tiled:
        raise NotImplementedError("subsampled")
    across, down = page.subsampling
    height, width = page.imagelength, page.imagewidth
    units = -(-width // across)
    strips = []
    for number, offset in enumerate(page.dataoffsets):
        rows = min(page.rowsperstrip, height - number * page.rowsperstrip)
        lines = -(-rows // down)
        file.seek(offset)
        data = np.frombuffer(file.read(lines * units * (across * down + 2)), np.uint8)
        block = data.reshape(lines, units, across * down + 2)
        luma = block[..., :-2].reshape(lines, units, down, across).swapaxes(1, 2)
        rows_of_luma = luma.reshape(lines * down, units * across, 1)
        chroma = block[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
        strips.append(np.concatenate([rows_of_luma, chroma], axis=2)[:rows, :width])
    return np.concatenate(strips)


def _eight_bits(samples: _Array, page: Any) -> Image.Image:
    """Return samples (H, W, C) as a Pillow image of 8 bits."""
    if samples.dtype.kind not in "uifb" or page.photometric in {_PALETTE, _CIELAB}:
        raise NotImplementedError(str(samples.dtype))
    bands = samples.shape[2]
    has_alpha = any(int(kind) in _ALPHA for kind in page.extrasamples[:1])
    if page.photometric == _SEPARATED and bands >= 4:
        return Image.fromarray(_scaled(samples[..., :4], page), "CMYK")
    colors = 3 if bands - has_alpha >= 3 else 1
    # Of five bands, say of a satellite, the first three are shown, as all viewers do.
    color = _scaled(samples[..., :colors], page)
    mode = "YCbCr" if page.photometric == _YCBCR and colors == 3 else None
    image = Image.fromarray(color if colors == 3 else color[..., 0], mode)
    if mode is not None:
        image = image.convert("RGB")
    if has_alpha and bands > colors:
        alpha = samples[..., colors]
        full = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1.0
        shares = np.clip(np.nan_to_num(alpha.astype(np.float64)) / full, 0.0, 1.0)
        image = image.convert("RGB")
        image.putalpha(Image.fromarray((shares * 255.0 + 0.5).astype(np.uint8)))
    return image


def _scaled(samples: _Array, page: Any) -> npt.NDArray[np.uint8]:
    """Return samples as uint8, by one range for all bands of an image."""
    inverted = page.photometric == _WHITE_IS_ZERO
    if samples.dtype == np.uint8 and page.bitspersample == 8:
        return 255 - samples if inverted else np.ascontiguousarray(samples)
    if samples.dtype.kind == "b" or samples.dtype == np.uint8:
        samples = samples.astype(np.uint16)
    bits = page.bitspersample if samples.dtype.kind == "u" and page.bitspersample < 16 else None
    limits = [_stated(page, name) for name in ("SMinSampleValue", "SMaxSampleValue")]
    stated = Stated(bits=bits, low=limits[0], high=limits[1], is_inverted=inverted)
    rows = [samples[top : top + 256] for top in range(0, len(samples), 256)]
    scale = scale_of(lambda: iter(rows), stated)
    return np.concatenate([scale(band) for band in rows])


def _stated(page: Any, name: str) -> float | None:
    """Return the largest value of a numeric tag, None where it is absent or no number."""
    tag = page.tags.get(name)
    values = np.atleast_1d(np.asarray(None if tag is None else tag.value))
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        return None
    return float(values.max())


def _keep_metadata(image: Image.Image, page: Any) -> None:
    """Give the image what its file says of its colors and its making."""
    profile = page.tags.get("InterColorProfile")
    if profile is not None and isinstance(profile.value, bytes):
        image.info["icc_profile"] = profile.value
    exif = Image.Exif()
    for tag in _EXIF_TAGS:
        found = page.tags.get(int(tag))
        if found is not None and isinstance(found.value, str | int):
            exif[tag] = int(found.value) if isinstance(found.value, int) else found.value
    if exif:
        image.info["exif"] = exif.tobytes()
