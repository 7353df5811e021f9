"""What a network sees of a picture that is not square, and what is said of the whole of it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from embedsearch.core.config import DecodeLimits
from embedsearch.core.model_spec import (
    BICUBIC,
    BILINEAR,
    CROP,
    FIT,
    MILD_CROP,
    RESIZES,
    SQUASH,
    Framing,
)
from embedsearch.core.records import Box
from embedsearch.images.decode.image import DecodedImage, decode, square
from embedsearch.images.decode.pixels import MOST_STRETCH, scaled_size
from tests.support.library import REPOSITORY
from tests.support.pictures import encoded

LIMITS = DecodeLimits()
MILD, SQUASHED = Framing(MILD_CROP, BILINEAR, 1), Framing(SQUASH, BILINEAR, 1)
SIDE = 64


def bordered(width: int, height: int, shown: int) -> Image.Image:
    """Return a blue picture of which `shown` pixels of the long side are not red."""
    image = Image.new("RGB", (width, height), "red")
    across, down = (shown, height) if width > height else (width, shown)
    image.paste((0, 0, 255), ((width - across) // 2, (height - down) // 2,
                              (width + across) // 2, (height + down) // 2))  # fmt: skip
    return image


def mild(image: Image.Image, form: str = "PNG", side: int = SIDE, **more: object) -> DecodedImage:
    crop = more.pop("crop", None)
    assert crop is None or isinstance(crop, Box)
    return decode(encoded(image, form, **more), side, LIMITS, MILD, crop)


@pytest.mark.parametrize("turned", [False, True], ids=["wide", "tall"])
@pytest.mark.parametrize(("long", "shown"), [(800, 400), (1800, 600), (4000, 894)])
def test_half_of_the_distortion_is_cropped_away(long: int, shown: int, turned: bool) -> None:
    """Of a:1 the middle √a:1 is shown: a red border is cut off exactly, not a column more."""

    def picture(part: int) -> Image.Image:
        return bordered(200, long, part) if turned else bordered(long, 200, part)

    column = long * SIDE**-1 * (200 / long) ** 0.5  # pixels of the picture in one that is shown
    exact = mild(picture(shown)).pixels.astype(int)
    assert exact[..., 0].max() < 48 and exact[..., 2].min() > 207, "some of the border is seen"
    assert exact[2:-2, 2:-2, 0].max() < 3
    narrower = mild(picture(shown - 2 * round(2 * column))).pixels
    edges = (narrower[0], narrower[-1]) if turned else (narrower[:, 0], narrower[:, -1])
    assert all(edge[:, 0].min() > 215 for edge in edges), "two columns of the border are not seen"
    squashed = decode(encoded(picture(shown), "PNG"), SIDE, LIMITS, SQUASHED).pixels
    edges = (squashed[0], squashed[-1]) if turned else (squashed[:, 0], squashed[:, -1])
    assert all(edge[:, 0].min() > 215 for edge in edges), "the whole picture shows its border"


def test_a_square_is_shown_whole() -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 90, 3), np.uint8))
    one, other = mild(image), decode(encoded(image, "PNG"), SIDE, LIMITS, SQUASHED)
    assert np.array_equal(one.pixels, other.pixels) and one.look == other.look


@pytest.mark.parametrize("size", [(300, 187), (187, 300), (400, 20)], ids=str)
def test_all_orientations_show_the_same(size: tuple[int, int]) -> None:
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(columns / 9), 128 + 100 * np.cos(rows / 7), 60 + columns % 90]
    upright = Image.fromarray(np.stack(waves, -1).astype(np.uint8))
    wanted = mild(upright).pixels.astype(int)
    exif = Image.Exif()
    turns = [None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180,
             Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90,
             Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_270]  # fmt: skip
    for orientation, turn in enumerate(turns, start=1):
        exif[ExifTags.Base.Orientation] = orientation
        stored = upright if turn is None else upright.transpose(turn)
        data = encoded(stored, "PNG", exif=exif)
        assert ImageOps.exif_transpose(Image.open(data)).tobytes() == upright.tobytes()
        data.seek(0)
        found = decode(data, SIDE, LIMITS, MILD)
        assert (found.width, found.height) == size
        assert np.abs(found.pixels - wanted).max() <= 1, orientation
        data.seek(0)
        given = square(Image.open(data), SIDE, MILD)
        assert np.array_equal(given, found.pixels), orientation


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_crop_comes_first(orientation: int) -> None:
    """The rule then holds for the part: what is around it is never seen."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = Image.new("RGB", (900, 900), "lime")
    stored.paste(bordered(400, 100, 200), (300, 500))
    upright = ImageOps.exif_transpose(Image.open(encoded(stored, "PNG", exif=exif)))
    left, top, right, bottom = (300, 500, 700, 600)
    box = Box(left, top, 400, 100) if orientation == 1 else Box(900 - bottom, left, 100, 400)
    assert upright.getpixel((box.x, box.y)) == (255, 0, 0)
    found = mild(stored, crop=box, exif=exif).pixels
    assert found[..., 0].max() < 40 and found[..., 1].max() < 40 and found[..., 2].min() > 215
    assert right - left == 400
    given = square(Image.open(encoded(stored, "PNG", exif=exif)), SIDE, MILD, box)
    assert np.array_equal(given, found)


@pytest.mark.parametrize("size", [(4000, 3000), (3000, 4000), (6000, 900), (900, 6000)], ids=str)
def test_a_jpeg_is_decoded_as_finely_as_what_is_shown_needs(size: tuple[int, int]) -> None:
    """No fewer pixels are left on both sides than are wanted, and it is the picture."""
    across, down = np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1])
    rows, columns = np.meshgrid(down, across, indexing="ij")
    image = Image.fromarray(np.stack([columns, rows, 255 - columns], -1).astype(np.uint8))
    long, short = max(size), min(size)
    drafted = Image.open(encoded(image, "JPEG", quality=90))
    drafted.draft("RGB", (SIDE, SIDE))
    assert min(drafted.size) * (long / short) ** 0.5 >= min(drafted.size) >= SIDE
    found = mild(image, "JPEG", quality=90).pixels.astype(int)
    assert np.abs(found - square(image, SIDE, MILD)).mean() < 2


def test_what_is_said_of_a_picture_is_said_of_the_whole() -> None:
    """Copies are found by the signature: it is nearly that of the squashed picture."""
    rng = np.random.default_rng(3)
    for width, height in ((640, 480), (480, 640), (1280, 320)):
        coarse = rng.integers(0, 256, (9, 12, 3), np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        image.paste("red", (0, 0, width // 9, height))  # which the crop does not show
        wanted = decode(encoded(image, "PNG"), 128, LIMITS, SQUASHED).look
        found = mild(image, side=128).look
        far = np.subtract(*(np.frombuffer(look.signature, np.uint8).astype(int)
                            for look in (wanted, found)))  # fmt: skip
        assert np.abs(far).max() <= 8 and np.abs(far).mean() < 1.5
        assert found.brightness == pytest.approx(wanted.brightness, abs=0.004)
        assert found.sharpness == pytest.approx(wanted.sharpness, rel=0.8)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (2, 3), (1, 60_000), (60_000, 1)])
def test_thin_and_tiny_pictures(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (10, 200, 30))
    found = mild(image)
    assert found.pixels.shape == (SIDE, SIDE, 3) and (found.width, found.height) == size
    assert np.abs(found.pixels.astype(int) - (10, 200, 30)).max() == 0
    assert np.array_equal(square(image, SIDE, MILD), found.pixels)


def test_the_size_in_between_is_bounded() -> None:
    """Whatever the shape; and even around the middle: a mirrored picture shows the same."""
    for width in (1, 2, 3, 150, 224, 225, 1000, 60_000, 10**9):
        for height in (1, 7, 224, 1000):
            for side in (16, 31, 224):
                found = scaled_size((width, height), side, MILD)
                assert min(found) == side and max(found) <= MOST_STRETCH * side + 1
                assert (max(found) - side) % 2 == 0
                assert found[::-1] == scaled_size((height, width), side, MILD)
                assert (found[0] >= found[1]) == (width >= height) or max(found) == side
    assert scaled_size((400, 100), 224, MILD) == (448, 224)
    assert scaled_size((100, 2000), 224, MILD) == (224, 1002)  # 20:1
    assert scaled_size((400, 100), 224, SQUASHED) == (224, 224)


def test_a_thin_picture_takes_little_memory() -> None:
    program = f"""
import io, resource
from PIL import Image
from embedsearch.core.config import DecodeLimits
from embedsearch.core.model_spec import Framing
from embedsearch.images.decode.image import decode
file = io.BytesIO()
Image.new("RGBA", (1, 60000), "red").save(file, "PNG")
file.seek(0)
decode(file, 224, DecodeLimits())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
file.seek(0)
decode(file, 224, DecodeLimits(), Framing({MILD_CROP!r}, {BILINEAR!r}))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          check=True, cwd=REPOSITORY)  # fmt: skip
    unit = 1024 if sys.platform == "linux" else 1
    assert int(done.stdout) * unit < 48 << 20


def test_a_rule_that_is_not_known_is_refused() -> None:
    assert RESIZES == (SQUASH, MILD_CROP, CROP, FIT)
    with pytest.raises(ValueError, match="unknown resize 'fisheye'"):
        square(Image.new("RGB", (8, 9)), 8, Framing("fisheye"))


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (224, 224), (100, 90), (1800, 400)])
def test_crop_is_what_torchvision_shows(size: tuple[int, int]) -> None:
    """The shorter side to S / shown by Pillow's bicubic, then the middle."""
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    picture = coarse.resize(size, Image.Resampling.BICUBIC)
    shorter = round(224 / 0.875)
    width, height = (int(shorter * length / min(size)) for length in size)
    whole = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - 224) // 2, (height - 224) // 2
    wanted = np.asarray(whole.crop((left, top, left + 224, top + 224)), np.int16)
    found = square(picture, 224, Framing(CROP, BICUBIC, shown=0.875)).astype(np.int16)
    assert np.abs(found - wanted).max() <= 2


def test_crop_of_a_very_long_picture_takes_no_more_memory() -> None:
    long = Image.new("RGB", (60_000, 3), "red")
    long.paste("blue", (29_990, 0, 30_010, 3))
    found = square(long, 32, Framing(CROP, BILINEAR, 1))
    assert found.shape == (32, 32, 3)
    assert found[16, 16, 2] > 200 and found[16, 0, 2] > 200, "the middle, not squashed"


def test_fit_has_its_ground() -> None:
    wide = Image.new("RGB", (100, 20), "white")
    found = square(wide, 50, Framing(FIT, BICUBIC, fill=0))
    assert not found[:19].any() and found[25].min() == 255
