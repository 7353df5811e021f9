"""Depth and transparency: a deep picture is its own copy of 8 bits, and what is dark stays dark."""

from __future__ import annotations

import io
import struct

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from embedsearch.core.config import DecodeLimits
from embedsearch.images.decode.image import decode
from embedsearch.images.decode.samples import top_of_range
from tests.support.pictures import chunk, encoded, picture, png, tiff

LIMITS = DecodeLimits()


def shown(file: io.BytesIO, side: int = 48) -> npt.NDArray[np.int64]:
    return decode(file, side, LIMITS).pixels.astype(np.int64)


def apart(one: io.BytesIO, other: io.BytesIO) -> float:
    return float(np.abs(shown(one) - shown(other)).mean())


def deep(number: int, bits: int, share: float = 1.0) -> npt.NDArray[np.uint16]:
    shares: npt.NDArray[np.float64] = np.asarray(picture(number)) / 255 * share
    samples: npt.NDArray[np.uint16] = np.round(shares * (2**bits - 1)).astype(np.uint16)
    return samples


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("form", ["gray png", "gray tiff", "rgb png", "rgba png", "la png", "tiff"])
def test_deep_samples_in_16_bits_are_the_picture(bits: int, form: str) -> None:
    samples = deep(1, bits)
    opaque = np.full((*samples.shape[:2], 1), 2**bits - 1, np.uint16)
    color = Image.fromarray((samples / (2**bits - 1) * 255 + 0.5).astype(np.uint8))
    gray = samples[..., :1]
    file, wanted = {
        "gray png": lambda: (png(gray, 16), color.getchannel("R")),
        "gray tiff": lambda: (tiff([gray.tobytes()], (64, 48), [16], 1), color.getchannel("R")),
        "rgb png": lambda: (png(samples, 16), color),
        "rgba png": lambda: (png(np.concatenate([samples, opaque], 2), 16), color),
        "la png": lambda: (png(np.concatenate([gray, opaque], 2), 16), color.getchannel("R")),
        "tiff": lambda: (tiff([samples.tobytes()], (64, 48), [16] * 3, 2), color),
    }[form]()
    assert apart(file, encoded(wanted, "PNG")) < 1.5
    other = shown(png(deep(2, bits), 16))
    assert np.abs(shown(png(samples, 16)) - other).mean() > 20


@pytest.mark.parametrize("share", [0.03, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("scale", [256, 257])
def test_a_dark_picture_of_16_bits_stays_dark(share: float, scale: int) -> None:
    """Samples of 8 bits that were scaled up, as image programs do."""
    eight = (np.asarray(picture(1)) * share).astype(np.uint8)
    file = png(eight.astype(np.uint16) * scale, 16)
    assert apart(file, encoded(Image.fromarray(eight), "PNG")) < 1.0


@pytest.mark.parametrize(
    ("high", "used", "repeated", "stated", "top"),
    [
        (65535, 0xFFFF, False, None, 65535),
        (20000, 0x7FFF, False, None, 65535),  # dark
        (6000, 0x1FFF, False, None, 65535),  # 13 bits: dark
        (16383, 0x3FFF, False, None, 16383),
        (9702, 0x3FFF, False, None, 16383),
        (9702, 0x3FFC, False, None, 65535),  # shifted to the upper end
        (4000, 0xFFF, False, None, 4095),
        (604, 0x3FF, False, None, 1023),
        (151, 0xFF, False, None, 255),
        (3 * 257, 0x303, True, None, 65535),
        (0, 0, True, None, 65535),
        (5000, 0x1FFF, False, 14, 16383),  # stated
        (5000, 0x1FFF, False, 12, 65535),  # at the upper end, as PNG wants it
        (3000, 0xFFF, False, 16, 65535),
    ],
)
def test_white_of_unsigned_samples(
    high: int, used: int, repeated: bool, stated: int | None, top: int
) -> None:
    assert top_of_range(high, used, repeated, stated) == top


def test_the_range_that_a_file_states() -> None:
    dark = deep(1, 14, share=0.4)  # 13 bits, of 14
    bright = (np.asarray(picture(1)) * 0.4).astype(np.uint8)
    stated = [
        png(dark, 16, chunk(b"sBIT", b"\x0e\x0e\x0e")),
        tiff([dark.tobytes()], (64, 48), [16] * 3, 2, {341: [16383] * 3}),
    ]
    for file in stated:
        assert apart(file, encoded(Image.fromarray(bright), "PNG")) < 1.5
    # A statistic of the samples is no range: TIFF 6.0 says so.
    largest = int(dark.max())
    plain = tiff([dark.tobytes()], (64, 48), [16] * 3, 2)
    counted = tiff([dark.tobytes()], (64, 48), [16] * 3, 2, {281: [largest] * 3})
    assert apart(plain, counted) == 0


def test_packed_samples_of_12_bits() -> None:
    values = deep(1, 12)[..., 0].astype(int).ravel()
    first, second = values[0::2], values[1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1)
    file = tiff([packed.astype(np.uint8).tobytes()], (64, 48), [12], 1)
    assert apart(file, encoded(picture(1).getchannel("R"), "PNG")) < 1.5


def test_white_is_zero_at_16_bits() -> None:
    inverted = 65535 - deep(1, 16)[..., 0]
    file = tiff([inverted.astype("<u2").tobytes()], (64, 48), [16], 0)
    assert apart(file, encoded(picture(1).getchannel("R"), "PNG")) < 1.5


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_gray_of_a_png_is_shown_as_ground(bits: int) -> None:
    y, x = np.mgrid[0:64, 0:64]
    inside = ((x - 32) ** 2 + (y - 32) ** 2 < 400)[..., None]
    # A black disk on what is transparent; of 16 bits both have the same upper byte.
    key = 2**bits - 1 if bits == 1 else 1
    samples = np.where(inside, 0, key)
    pixels = shown(png(samples, bits, chunk(b"tRNS", struct.pack(">H", key))), 64)
    assert pixels[2, 2].min() == 255 and pixels[32, 32].max() <= 1


def test_the_transparent_color_of_16_bits_is_compared_in_full() -> None:
    samples = np.full((32, 32, 3), 0x1234, np.uint16)
    samples[8:24, 8:24] = 0x1235  # the same upper byte
    samples[10:12, 10:12] = 0xFFFF
    pixels = shown(png(samples, 16, chunk(b"tRNS", struct.pack(">3H", *[0x1234] * 3))), 32)
    assert pixels[2, 2].min() == 255 and pixels[18, 18].max() < 0x20


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "BMP"])
def test_alpha_that_is_zero_everywhere_is_none(form: str) -> None:
    image = picture(1).convert("RGBA")
    image.putalpha(0)
    if form == "BMP":
        data = np.asarray(image)[::-1][..., [2, 1, 0, 3]].tobytes()
        header = struct.pack("<IiiHHIIiiII", 108, 64, 48, 1, 32, 3, len(data), 0, 0, 0, 0)
        header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
        file = io.BytesIO(b"BM" + struct.pack("<IHHI", 0, 0, 0, 122) + header + data)
    else:
        more = {"lossless": True, "exact": True} if form == "WEBP" else {}
        file = encoded(image, form, **more)
    assert apart(file, encoded(picture(1), "PNG")) < 1.0


def test_alpha_of_16_bits_that_is_zero_everywhere_is_none() -> None:
    samples = np.concatenate([deep(1, 16), np.zeros((48, 64, 1), np.uint16)], axis=2)
    assert apart(png(samples, 16), encoded(picture(1), "PNG")) < 1.5


def test_a_transparent_picture_without_a_drawing_stays_white() -> None:
    assert shown(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "PNG"), 8).min() == 255


@pytest.mark.parametrize("level", [255, 245, 230])
def test_light_drawings_on_transparency_differ(level: int) -> None:
    """On white they would all be the same picture; black ones are shown on white."""

    def drawing(number: int, color: int) -> io.BytesIO:
        pixels = np.full((48, 64, 4), color, np.uint8)
        pixels[..., 3] = np.where(np.asarray(picture(number).convert("L")) > 110, 255, 0)
        return encoded(Image.fromarray(pixels), "PNG")

    assert apart(drawing(1, level), drawing(2, level)) > 0.5 * apart(drawing(1, 0), drawing(2, 0))
    assert shown(drawing(1, 0)).max() == 255
