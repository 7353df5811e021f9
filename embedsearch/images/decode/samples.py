"""Samples of any depth as 8 bits; in: a decoded Pillow image, out: one of L, RGB, RGBA or CMYK.

Samples are scaled by the range that the file states, or else by the one that they use: a file may
hold samples of 10, 12 or 14 bits in 16, and Pillow keeps the upper half of 16 bits only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from embedsearch.core.records import Reason
from embedsearch.images.decode.color import is_cmyk
from embedsearch.images.decode.opening import DecodeError
from embedsearch.images.decode.stated import Stated

_BAND_PIXELS = 1 << 20
_FULL = 0xFFFF
# The layouts of 16-bit samples that Pillow reduces to their upper bytes, and what gives the lower.
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_LOWER_BYTES = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX")
    for order, other in _SWAPPED.items()
}
_SIGNED = {"I;16S", "I;16BS", "I;16NS"}
_GRAY_ALPHA = "LA;16B"
_Array: TypeAlias = "npt.NDArray[Any]"
_Bytes: TypeAlias = "npt.NDArray[np.uint8]"
# Samples in bands of rows, as often as they are asked for.
Bands: TypeAlias = "Callable[[], Iterator[_Array]]"
# The same file decoded once more, as a layout with other bytes of each sample.
Again: TypeAlias = "Callable[[str], Image.Image]"


def simple_mode(image: Image.Image, stated: Stated, again: Again | None = None) -> Image.Image:
    """Return the image as L, RGB or RGBA, or as CMYK if it has a profile for that.

    `again` decodes the same file in another layout. Transparency of all kinds becomes alpha;
    alpha that is 0 everywhere is none, as in BMPs from clipboards: their colors are meant.
    """
    image = _eight_bits(image, stated, again)
    if stated.area is not None:
        image = _on_free_canvas(image.convert("RGBA"), stated.area)
    elif image.mode == "RGBA" and image.getbbox(alpha_only=True) is None:
        colors = image.convert("RGB")
        # One color is no picture: nothing was meant to be seen.
        if any(low != high for low, high in extrema(colors)):
            return colors
    return image


def extrema(image: Image.Image) -> list[tuple[float, float]]:
    """Return the lowest and the highest sample of each band."""
    found: Any = image.getextrema()
    return list(found) if isinstance(found[0], tuple) else [found]


def _eight_bits(image: Image.Image, stated: Stated, again: Again | None) -> Image.Image:
    mode = image.mode
    if mode in {"RGB", "RGBA"} and again is not None:
        deep = _deep_color(image, stated, again)
        if deep is not None:
            return deep
    if mode == "1":
        image, mode = image.convert("L"), "L"
    if mode in {"RGB", "L", "RGBA"}:
        return _keyed(image, stated) if "transparency" in image.info and mode != "RGBA" else image
    if mode.startswith("I;16"):
        return _sixteen_bits(image, stated)
    if mode in {"I", "F"}:
        return _wide(image, stated)
    if mode in {"P", "PA", "LA", "La", "RGBa"}:
        has_alpha = mode != "P" or "transparency" in image.info
        return image.convert("RGBA" if has_alpha else "RGB")
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        if converted is None:
            raise DecodeError(Reason.UNSUPPORTED_MODE, "LAB picture")
        return converted
    if mode == "CMYK" and is_cmyk(stated.icc):
        return image
    return image.convert("RGB")


def _keyed(image: Image.Image, stated: Stated) -> Image.Image:
    """Return RGBA of an image one of whose values is transparent.

    PNG states the value as it is in the file; Pillow compares it with samples of 8 bits.
    """
    key = image.info["transparency"]
    if stated.rawmode in {"L;2", "L;4"} and isinstance(key, int):
        image.info["transparency"] = key * (85 if stated.rawmode == "L;2" else 17)
    if isinstance(key, tuple) and max(key) > 0xFF:  # 16 bits, of which Pillow keeps the upper
        image.info["transparency"] = tuple(value >> 8 for value in key)
    return image.convert("RGBA")


def _on_free_canvas(image: Image.Image, area: tuple[int, int, int, int]) -> Image.Image:
    """Return RGBA, transparent outside the area: browsers show no background color of a GIF."""
    canvas = Image.new("RGBA", image.size, (0, 0, 0, 0))
    canvas.paste(image.crop(area), area)
    return canvas


def top_of_range(high: int, used_bits: int, is_repeated: bool, stated_bits: int | None) -> int:
    """Return the sample that means white, of unsigned samples in 16 bits.

    `high` is the largest sample, `used_bits` has each bit that is set in any sample, `is_repeated`
    says that all samples are 8 bits written twice. Full 16 bits is what nearly all files have, and
    a dark picture must stay dark. Smaller samples are known by these signs:

    * The file states the bits, and no sample needs more. A PNG with samples above that has them
      at the upper end, as the standard wants it.
    * Samples of 8 bits that were scaled up, v × 257 or v × 256, are no smaller ones however dark.
    * No sample has more than 12 bits. As a picture of 16 bits it would be black, without a value
      above 15 of 255: nothing is lost by taking it for the nearest of 8, 10 and 12 bits.
    * The largest sample has exactly 14 bits, as from a sensor of 14 bits. A dark photo of 16 bits
      has that only if its brightest point lies between an eighth and a quarter of white, and any
      lamp or reflection in it is brighter. Its last two bits must be in use: they are 0 in all
      samples that were shifted to the upper end. 13 bits is no sensor's size: it stays dark.
    """
    if stated_bits is not None and high < 1 << stated_bits:
        return (1 << stated_bits) - 1
    if stated_bits is not None or high > 0x3FFF or high == 0:
        return _FULL
    if is_repeated or used_bits & 0xFF == 0:
        return _FULL
    if high > 0xFFF:
        return 0x3FFF if high.bit_length() == 14 and used_bits & 3 else _FULL
    return next(top for top in (0xFF, 0x3FF, 0xFFF) if high <= top)


def _range_of(bands: Bands, stated: Stated) -> tuple[float, float]:
    """Return the samples that mean black and white, of unsigned samples up to 16 bits."""
    high, used, repeated = 0, 0, True
    for band in bands():
        high = max(high, int(band.max(initial=0)))
        if high > 0x3FFF and stated.bits is None and stated.high is None:
            break  # full 16 bits, as nearly always: seen in the first rows
        wide = band.astype(np.uint16, copy=False)
        used |= int(np.bitwise_or.reduce(wide, axis=None))
        repeated = repeated and bool((wide % 257 == 0).all())
    if stated.high is not None and high <= stated.high <= _FULL:
        return 0.0, stated.high
    return 0.0, float(top_of_range(high, used, repeated, stated.bits))


def _table(low: float, high: float, is_inverted: bool = False) -> _Bytes:
    """Return uint8 (65536): a sample of 16 bits as one of 8."""
    samples = np.arange(_FULL + 1)
    if (low, high) == (0.0, float(_FULL)):
        table = (samples >> 8).astype(np.uint8)
    else:
        table = (np.clip((samples - low) / (high - low), 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return 255 - table if is_inverted else table


def _sixteen_bits(image: Image.Image, stated: Stated) -> Image.Image:
    """Return a 16-bit gray image as L, or as RGBA if one of its values is transparent."""
    bands = _bands_of(image)
    table = _table(*_range_of(bands, stated), stated.is_inverted)
    gray = _joined(image.size, "L", (table[band] for band in bands()))
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return gray
    opaque = (np.where(band == key, 0, 255).astype(np.uint8) for band in bands())
    return Image.merge("RGBA", (gray, gray, gray, _joined(image.size, "L", opaque)))


def _deep_color(image: Image.Image, stated: Stated, again: Again) -> Image.Image | None:
    """Return a color image of 16-bit samples that need their lower bytes, None for any other."""
    if stated.rawmode == _GRAY_ALPHA:
        return _deep_gray_alpha(image, stated, again)
    if stated.rawmode not in _LOWER_BYTES:
        return None
    key = image.info.get("transparency")
    brightest = max(high for _, high in extrema(image)[:3])
    if brightest > 0x3F and key is None and stated.high is None:
        return None  # full 16 bits: the upper bytes are enough
    upper, lower = _bands_of(image), _bands_of(again(_LOWER_BYTES[stated.rawmode]))

    def whole(first: int, last: int) -> Bands:
        return lambda: (
            u[..., first:last].astype(np.uint16) << 8 | v[..., first:last]
            for u, v in zip(upper(), lower(), strict=True)
        )

    colors = whole(0, 3)
    table = _table(*_range_of(colors, stated))
    color = _joined(image.size, "RGB", (table[band] for band in colors()))
    if image.mode == "RGBA":
        color.putalpha(_alpha(whole(3, 4), image.size, stated))
    elif isinstance(key, tuple):
        free = ((band == np.array(key)).all(axis=-1) for band in colors())
        opaque = (np.where(band, 0, 255).astype(np.uint8) for band in free)
        color.putalpha(_joined(image.size, "L", opaque))
    return color


def _deep_gray_alpha(image: Image.Image, stated: Stated, again: Again) -> Image.Image | None:
    """Return gray and alpha of 16 bits as RGBA, None if the upper bytes are enough."""
    if extrema(image)[0][1] > 0x3F:
        return None
    bytewise = _bands_of(again("RGBA"))

    def whole(first: int) -> Bands:
        return lambda: (
            band[..., first].astype(np.uint16) << 8 | band[..., first + 1] for band in bytewise()
        )

    table = _table(*_range_of(whole(0), stated))
    gray = _joined(image.size, "L", (table[band] for band in whole(0)()))
    return Image.merge("RGBA", (gray, gray, gray, _alpha(whole(2), image.size, stated)))


def _alpha(bands: Bands, size: tuple[int, int], stated: Stated) -> Image.Image:
    """Return the alpha of 16-bit samples as L: opaque is the top of the range that it uses."""
    table = _table(*_range_of(bands, Stated(bits=stated.bits)))
    return _joined(size, "L", (table[band].reshape(len(band), -1) for band in bands()))


def _wide(image: Image.Image, stated: Stated) -> Image.Image:
    """Return samples of 32 bits, whole or floating, as L."""
    plain = _bands_of(image)
    kind: Any = np.uint32 if stated.is_unsigned and image.mode == "I" else None

    def bands() -> Iterator[_Array]:
        return (band if kind is None else band.view(kind) for band in plain())

    scale = scale_of(bands, stated)
    return _joined(image.size, "L", map(scale, bands()))


def scale_of(bands: Bands, stated: Stated) -> Callable[[_Array], _Bytes]:
    """Return what turns samples of any type into 8 bits: one range for all of them.

    The stated range is taken, else the usual one that holds them (0 to 1 and 0 to 255 of floats,
    the whole type of integers), else the finite ones from lowest to highest. NaN is black.
    """
    low, high = np.inf, -np.inf
    for band in bands():
        finite = band if band.dtype.kind in "iub" else band[np.isfinite(band)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if not np.isfinite(high):
        return lambda band: np.zeros(band.shape, np.uint8)
    bottom, top = _wide_range(bands, low, high, stated)
    if not top > bottom:
        return lambda band: np.full(band.shape, 128, np.uint8)

    def scale(band: _Array) -> _Bytes:
        plain = np.nan_to_num(band.astype(np.float64), nan=bottom, posinf=top, neginf=bottom)
        shares = np.clip((plain - bottom) / (top - bottom), 0.0, 1.0)
        if stated.is_inverted:
            shares = 1.0 - shares
        return (shares * 255.0 + 0.5).astype(np.uint8)

    return scale


def _wide_range(bands: Bands, low: float, high: float, stated: Stated) -> tuple[float, float]:
    """Return the samples that mean black and white; `low` and `high` are those that occur."""
    kind: Any = next(bands()).dtype
    if stated.high is not None and high <= stated.high:
        bottom = min(low, 0.0) if stated.low is None or stated.low > low else stated.low
        return bottom, stated.high
    if low < 0:
        return low, high
    if kind.kind == "f":
        # A picture of the usual range fills a quarter of it; measurements may have any.
        tops = [top for top in (1.0, 255.0, float(_FULL)) if top / 4 <= high <= top]
        return (0.0, tops[0]) if tops else (low, high)
    if high <= _FULL:
        bottom, top = _range_of(bands, stated)
        is_signed = kind == np.int16 or stated.rawmode in _SIGNED
        return bottom, float(_FULL >> 1) if is_signed and top == _FULL else top
    top = float(np.iinfo(kind).max)
    return (0.0, top) if high > top / 4 else (low, high)


def _bands_of(image: Image.Image) -> Bands:
    """Return what yields the samples in bands of rows: no wide copy of the whole is made."""
    width, height = image.size
    rows = max(1, _BAND_PIXELS // width)
    return lambda: (
        np.asarray(image.crop((0, top, width, min(top + rows, height))))
        for top in range(0, height, rows)
    )


def _joined(size: tuple[int, int], mode: str, bands: Iterable[_Bytes]) -> Image.Image:
    """Return uint8 bands of rows, (H, W) or (H, W, 3), as one image."""
    whole = Image.new(mode, size)
    top = 0
    for band in bands:
        whole.paste(Image.fromarray(np.ascontiguousarray(band)), (0, top))
        top += len(band)
    return whole
