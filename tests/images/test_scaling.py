"""A picture at another size: with and without the fast libraries, and as a smaller copy."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from embedsearch.core.config import DecodeLimits
from embedsearch.core.model_spec import BILINEAR, MILD_CROP, SQUASH, Framing
from embedsearch.images.decode import scaling
from embedsearch.images.decode.formats import jpeg
from embedsearch.images.decode.image import decode
from embedsearch.images.decode.scaling import luma, scaled
from tests.support.library import SAMPLES
from tests.support.pictures import encoded

MILD, SQUASHED = Framing(MILD_CROP, BILINEAR, 1), Framing(SQUASH, BILINEAR, 1)
# Shrunk, enlarged, both, hardly changed, of odd sizes, of one pixel, left to Pillow.
SIZES = [((500, 375), (258, 224)), ((60, 40), (224, 224)), ((300, 90), (224, 224)),
         ((240, 230), (224, 224)), ((187, 301), (101, 157)), ((1, 1), (16, 16)),
         ((1, 20), (16, 16)), ((3, 2), (2, 1)), ((224, 224), (224, 224)),
         ((900, 500), (224, 224))]  # fmt: skip


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    samples = np.random.default_rng(width * height).integers(0, 256, shape, np.uint8)
    return Image.fromarray(samples, mode)


@pytest.mark.parametrize(("size", "wanted"), SIZES, ids=str)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBa", "CMYK"])
def test_without_opencv_the_samples_are_the_same(
    size: tuple[int, int], wanted: tuple[int, int], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = noise(*size, mode)
    assert find_spec("cv2"), "it is among the dependencies"
    fast = scaled(image, wanted).astype(int)
    assert np.array_equal(fast, scaled(np.asarray(image), wanted)) or mode in {"RGBa", "CMYK"}
    monkeypatch.setattr(scaling, "cv2", None)
    slow = scaled(image, wanted)
    assert slow.dtype == np.uint8 and slow.shape == fast.shape and slow.shape[1::-1] == wanted
    assert np.abs(fast - slow).max() <= 2  # one of the softening, one of the interpolation


def test_luma_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.asarray(noise(200, 90))
    fast = luma(samples).astype(int)
    monkeypatch.setattr(scaling, "cv2", None)
    assert np.abs(fast - luma(samples)).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("save", [{}, {"subsampling": 0}, {"progressive": True}], ids=str)
def test_a_plain_jpeg_is_what_pillow_reads(
    mode: str, save: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = noise(301, 207, mode).filter(ImageFilter.GaussianBlur(3))
    file = encoded(smooth, "JPEG", quality=90, **save)
    with Image.open(file) as image:
        samples = jpeg.plain_samples(image, file)
        assert samples is not None and np.array_equal(samples, np.asarray(image))
    fast = decode(file, 128, DecodeLimits(), MILD)
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    file.seek(0)
    slow = decode(file, 128, DecodeLimits(), MILD)
    assert np.array_equal(fast.pixels, slow.pixels) and fast.look == slow.look


def test_what_is_no_plain_jpeg_is_left_to_pillow() -> None:
    """CMYK, another format, a cut one, one with garbage for scans, and one that is too large."""
    good = encoded(noise(64, 64), "JPEG").getvalue()
    late = good[: len(good) // 2] + b"\xff\xd9"
    for data, wanted in (
        (encoded(noise(64, 64, "CMYK"), "JPEG").getvalue(), False),
        (encoded(noise(64, 64), "PNG").getvalue(), False),
        (good[: len(good) // 2], False),
        (late, False),
        (good + bytes(9 << 20), False),
        (good, True),
    ):
        file = io.BytesIO(data)
        with Image.open(file) as image:
            assert (jpeg.plain_samples(image, file) is not None) == wanted


def test_fine_patterns_do_not_turn_into_coarse_ones() -> None:
    """Stripes too fine for the small picture become gray, whatever lies between the two sizes."""
    for period, width in ((2, 440), (2, 400), (3, 440), (2, 900)):
        stripes = np.zeros((300, width, 3), np.uint8)
        stripes[:, ::period] = 255
        small = scaled(Image.fromarray(stripes), (224, 224)).astype(int)
        assert np.ptp(small[50:-50, 50:-50]) < 100, (period, width)


def test_a_smaller_copy_is_nearly_the_same_picture() -> None:
    """What makes duplicates findable; a bare interpolation has 4 times the error of these."""
    errors = []
    for path in sorted(SAMPLES.rglob("*.jpg"))[:12]:
        photo = Image.open(path).convert("RGB")
        whole = decode(encoded(photo, "PNG"), 96, DecodeLimits(), SQUASHED).pixels.astype(int)
        for share in (0.8, 0.6):
            size = round(photo.width * share), round(photo.height * share)
            copy = encoded(photo.resize(size, Image.Resampling.LANCZOS), "PNG")
            found = decode(copy, 96, DecodeLimits(), SQUASHED).pixels
            errors.append(np.abs(found - whole).mean())
    assert np.mean(errors) < 3 and max(errors) < 6


def test_alpha_is_weighed_in_when_a_picture_shrinks() -> None:
    """What is transparent has no say in the color beside it."""
    drawing = Image.new("RGBA", (100, 100), (255, 0, 0, 0))
    drawing.paste((0, 0, 255, 255), (0, 0, 51, 100))
    pixels = decode(encoded(drawing, "PNG"), 64, DecodeLimits(), SQUASHED).pixels.astype(int)
    assert (pixels[..., 2] >= 250).all(), "blue, white, and what is between them"
    assert (pixels[..., 0] <= pixels[..., 1] + 1).all(), "no red"


def test_every_sample_photo_is_read_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(SAMPLES.rglob("*.jpg"))
    assert len(files) > 20

    def read(path: Path) -> np.ndarray:
        with path.open("rb") as file:
            return decode(file, 64, DecodeLimits(), MILD).pixels.astype(int)

    fast = [read(path) for path in files]
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    monkeypatch.setattr(scaling, "cv2", None)
    for path, pixels in zip(files, fast, strict=True):
        assert np.abs(read(path) - pixels).max() <= 2, path
