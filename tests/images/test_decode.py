"""Decoding: what a picture becomes, and what is said of one that cannot be used."""

from __future__ import annotations

import csv
import errno
import importlib.util
import io
import struct
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from embedsearch.core.config import DecodeLimits
from embedsearch.core.model_spec import BILINEAR, FIT, SQUASHED, Framing
from embedsearch.core.records import Box, Failure, ImageFacts, ImageRef, Reason
from embedsearch.images.decode import opening as decode_image
from embedsearch.images.decode.image import DecodeError, decode, square
from embedsearch.images.decode.pool import DecodePool
from embedsearch.images.sources.kinds import HEAD_BYTES, starts_an_image
from tests.support.jobs import decode_job
from tests.support.library import GOLDEN, run_cli

LIMITS = DecodeLimits()
NASTY = GOLDEN / "nasty.csv"


def encoded(image: Image.Image, form: str, **save: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, form, **save)
    file.seek(0)
    return file


def gradient(width: int = 64, height: int = 48) -> Image.Image:
    x = np.linspace(0, 255, width)[None, :].repeat(height, axis=0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, axis=1)
    return Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))


def outcomes(folder: Path, names: list[str]) -> dict[str, ImageFacts | Failure]:
    found: dict[str, ImageFacts | Failure] = {}
    with DecodePool(128, LIMITS, workers=2) as pool:
        jobs = (decode_job(ImageRef(0, name, -1, -1), str(folder)) for name in names)
        for batch in pool.run(jobs):
            found |= {r.key: f for r, f in zip(batch.images.refs, batch.images.facts, strict=True)}
            found |= {failure.key: failure for failure in batch.failures}
    return found


def test_every_name_in_the_allow_list_is_one_pillow_knows() -> None:
    """One bad name would make Pillow refuse every file with a KeyError."""
    Image.init()
    assert decode_image._formats(b"\xff\xd8\xff\xe0") == decode_image.FORMATS
    heif = decode_image._formats(b"\0\0\0\x18ftypheic")
    extra = {"HEIF"} if importlib.util.find_spec("pillow_heif") else set()
    assert set(heif) - set(decode_image.FORMATS) == {"AVIF", *extra}
    assert set(heif) <= set(Image.OPEN)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_each_format_gives_the_picture(form: str) -> None:
    picture = decode(encoded(gradient(), form), 32, LIMITS)
    assert (picture.width, picture.height, picture.format) == (64, 48, form)
    wanted = np.asarray(gradient().resize((32, 32), Image.Resampling.BICUBIC), dtype=int)
    assert np.abs(picture.pixels.astype(int) - wanted).mean() < (12 if form == "GIF" else 4)


@pytest.mark.parametrize("where", ["at once", "after the header", "halfway"])
def test_a_disk_that_fails_is_not_the_pictures_fault(where: str) -> None:
    content = encoded(gradient(640, 480), "PNG").getvalue()
    fails_at = {"at once": 0, "after the header": 64, "halfway": len(content) // 2}[where]

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= fails_at:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    with pytest.raises((DecodeError, OSError)) as raised:
        decode(Failing(content), 32, LIMITS)
    error = raised.value
    assert not isinstance(error, DecodeError) or error.reason is Reason.IO_ERROR


def test_nothing_is_imported_while_a_picture_is_open(tmp_path: Path) -> None:
    """An import that fails then would be taken for a picture that can never be decoded."""
    picture = gradient()
    palette = picture.quantize(16)
    palette.save(tmp_path / "p.gif", transparency=3)
    palette.save(tmp_path / "p.png", transparency=3)
    for form in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF"):
        picture.save(tmp_path / f"a.{form.lower()}", form)
    picture.save(tmp_path / "two.jpg", "MPO", save_all=True, append_images=[picture])
    picture.convert("CMYK").save(tmp_path / "c.tiff")
    program = """
import pathlib, sys
from embedsearch.core.config import DecodeLimits
from embedsearch.images.decode.image import decode
before = set(sys.modules)
for path in pathlib.Path(sys.argv[1]).iterdir():
    with path.open("rb") as file:
        decode(file, 32, DecodeLimits())
new = set(sys.modules) - before  # pillow-heif comes with the first AVIF, of its own will
print(*sorted(name for name in new if name.startswith("PIL")))
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_heic(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="HEIC is an optional format")
    pillow_heif.from_pillow(gradient()).save(tmp_path / "p.heic", quality=90)
    with (tmp_path / "p.heic").open("rb") as file:
        picture = decode(file, 32, LIMITS)
    assert (picture.width, picture.height, picture.format) == (64, 48, "HEIC")
    wanted = np.asarray(gradient().resize((32, 32)), dtype=int)
    assert np.abs(picture.pixels.astype(int) - wanted).mean() < 6


@pytest.mark.parametrize("brand", [b"heic", b"hevc", b"hevx", b"mif1", b"mif2", b"avif", b"avis"])
def test_what_is_found_as_heif_is_reported_as_heif(brand: bytes) -> None:
    pytest.importorskip("pillow_heif", reason="HEIC is an optional format")
    head = b"\0\0\0\x18ftyp" + brand + b"\0" * 64
    assert starts_an_image(head[:HEAD_BYTES])
    with pytest.raises(DecodeError, match="damaged HEIF or AVIF") as caught:
        decode(io.BytesIO(head), 32, LIMITS)
    assert caught.value.reason is Reason.CORRUPT


def test_without_its_library_heic_is_refused_and_avif_still_decodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether it is absent or does not load, as without a shared library of its own."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # importing it raises ImportError
    decode_image._has_heif.cache_clear()
    try:
        assert decode(encoded(gradient(), "AVIF"), 32, LIMITS).format == "AVIF"
        with pytest.raises(DecodeError, match="pip install 'pillow-heif>=") as caught:
            decode(io.BytesIO(b"\0\0\0\x18ftypheic" + b"\0" * 64), 32, LIMITS)
        assert caught.value.reason is Reason.UNSUPPORTED_FORMAT
    finally:
        decode_image._has_heif.cache_clear()


@pytest.mark.parametrize("form", ["PNG", "WEBP", "PNG with a palette"])
def test_alpha_is_shown_over_white(form: str) -> None:
    logo = Image.new("RGBA", (40, 40), (0, 0, 0, 0))  # black under full transparency
    logo.paste((0, 0, 0, 255), (10, 10, 30, 30))
    if form.endswith("palette"):
        file = encoded(logo.quantize(4), "PNG")
    else:
        file = encoded(logo, form, lossless=True)
    pixels = decode(file, 40, LIMITS).pixels
    assert pixels[2, 2].min() >= 250 and pixels[20, 20].max() <= 5


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_is_scaled_not_clipped(form: str) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = decode(encoded(Image.fromarray(ramp), form), 64, LIMITS).pixels
    assert pixels[0].max() < 8 and pixels[-1].min() > 247
    assert abs(int(pixels[32, 32, 0]) - 128) < 4


def test_float_tiff_with_nan_and_infinity_is_stretched() -> None:
    values = np.linspace(-3, 5, 64 * 64, dtype=np.float32).reshape(64, 64)
    values[0, 0], values[0, 1] = np.nan, np.inf
    pixels = decode(encoded(Image.fromarray(values), "TIFF"), 64, LIMITS).pixels
    assert pixels[1].max() < 12 and pixels[-1].min() > 243


def test_cmyk_lab_and_one_bit() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    red = decode(encoded(cmyk, "TIFF"), 16, LIMITS).pixels[8, 8]
    assert red[0] > 200 and red[1] < 60 and red[2] < 60
    lab = Image.new("LAB", (16, 16), (255, 128, 128))
    assert decode(encoded(lab, "TIFF"), 16, LIMITS).pixels.min() > 230
    assert decode(encoded(Image.new("1", (9, 9), 1), "PNG"), 9, LIMITS).pixels.min() == 255


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_only_the_first_frame_is_read(form: str) -> None:
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    file = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    assert decode(file, 8, LIMITS).pixels[4, 4, 0] > 200


def test_a_large_jpeg_is_decoded_at_a_reduced_scale() -> None:
    """draft() at 2 × S: a fraction of the full decode's work, nearly the same picture."""
    photo = gradient(4000, 3000)
    file = encoded(photo, "JPEG", quality=90)
    image = Image.open(file, formats=["JPEG"])
    image.draft("RGB", (448, 448))
    assert image.size == (1000, 750)  # the smallest scale with both sides above 448
    file.seek(0)
    pixels = decode(file, 224, LIMITS).pixels.astype(int)
    full = np.asarray(photo.resize((224, 224), Image.Resampling.BICUBIC), dtype=int)
    assert np.abs(pixels - full).mean() < 2


def test_exif_facts() -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Canon\0", "Canon EOS 450D"
    exif.get_ifd(0x8769)[0x9003] = "2021:07:04 12:30:15"
    gps = exif.get_ifd(0x8825)
    gps.update({1: "S", 2: (33.0, 51.0, 24.0), 3: "E", 4: (151.0, 12.0, 36.0)})
    picture = decode(encoded(gradient(), "JPEG", exif=exif), 16, LIMITS)
    assert picture.taken_at == datetime(2021, 7, 4, 12, 30, 15)
    assert picture.camera == "Canon EOS 450D"
    assert picture.gps == pytest.approx((-33.8566667, 151.21))


def test_all_orientations_show_the_same_picture(shared_data: Path) -> None:
    for kind in ("Landscape", "Portrait"):
        pictures = []
        for number in range(9):
            path = shared_data / "exif_orientation" / f"{kind}_{number}.jpg"
            with path.open("rb") as file:
                pictures.append(decode(file, 64, LIMITS))
        upright = pictures[1]
        assert (upright.width > upright.height) == (kind == "Landscape")
        for number, picture in enumerate(pictures[2:], start=2):
            assert (picture.width, picture.height) == (upright.width, upright.height)
            # The photos carry their number as text; the rest of the picture is the same.
            difference = np.abs(picture.pixels.astype(int) - upright.pixels.astype(int))
            assert np.median(difference) <= 6, (kind, number)
        # The mutant: without turning, orientation 3 is upside down.
        turned = np.abs(pictures[3].pixels[::-1, ::-1].astype(int) - upright.pixels.astype(int))
        assert np.median(turned) > 10


def test_pixel_cap_is_checked_before_decoding() -> None:
    file = encoded(Image.new("RGB", (100, 100)), "PNG")
    with pytest.raises(DecodeError) as caught:
        decode(file, 8, DecodeLimits(max_pixels=9_999))
    assert caught.value.reason is Reason.TOO_LARGE
    assert "max_pixels" in caught.value.detail
    file.seek(0)
    assert decode(file, 8, DecodeLimits(max_pixels=10_000)).width == 100


def test_a_jpeg_counts_by_what_its_reduced_scale_leaves() -> None:
    """A phone's 200 megapixels are read at an eighth; a hundredfold bomb still costs its time."""
    file = encoded(gradient(1600, 1200), "JPEG")
    assert decode(file, 32, DecodeLimits(max_pixels=480_000)).width == 1600
    for limit, side in ((479_999, 32), (480_000, 512)):
        file.seek(0)
        with pytest.raises(DecodeError) as caught:
            decode(file, side, DecodeLimits(max_pixels=limit))
        assert caught.value.reason is Reason.TOO_LARGE
    file = encoded(gradient(1600, 1200), "JPEG", progressive=True)  # held as a whole
    with pytest.raises(DecodeError):
        decode(file, 32, DecodeLimits(max_pixels=959_999))
    file.seek(0)
    assert decode(file, 32, DecodeLimits(max_pixels=960_000)).width == 1600
    assert 4 * DecodeLimits().max_pixels > 16384 * 12288


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_part_of_a_large_jpeg_is_read_at_a_reduced_scale(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    large = gradient(1600, 1200)
    file = encoded(large, "JPEG", quality=95, exif=exif.tobytes())
    upright = ImageOps.exif_transpose(Image.open(file))
    file.seek(0)
    box = Box(upright.width // 4, upright.height // 8, upright.width // 2, upright.height // 2)
    corners = (box.x, box.y, box.x + box.width, box.y + box.height)
    wanted = np.asarray(upright.crop(corners).resize((32, 32)), dtype=int)
    found = decode(file, 32, DecodeLimits(max_pixels=480_000), crop=box)
    assert (found.width, found.height) == upright.size
    assert np.abs(found.pixels - wanted).mean() < 2


def test_variants_that_pillow_lacks_are_not_called_damaged() -> None:
    """A BMP with ten bits a color, and a JPEG of twelve; the same JPEG cut is damaged."""
    masks = struct.pack("<3I", 0x3FF00000, 0xFFC00, 0x3FF)
    header = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 32, 3, 64, 0, 0, 0, 0) + masks
    bitmap = b"BM" + struct.pack("<IHHI", 130, 0, 0, 66) + header + bytes(64)
    twelve = bytearray(encoded(gradient(), "JPEG").getvalue())
    place = twelve.index(b"\xff\xc0") + 4
    twelve[place] = 12
    for content, words in ((bitmap, "BMP"), (bytes(twelve), "12 bits")):
        with pytest.raises(DecodeError, match=words) as caught:
            decode(io.BytesIO(content), 32, LIMITS)
        assert caught.value.reason is Reason.UNSUPPORTED_FORMAT
    with pytest.raises(DecodeError) as caught:
        decode(io.BytesIO(bytes(twelve[: place - 4])), 32, LIMITS)
    assert caught.value.reason in {Reason.CORRUPT, Reason.TRUNCATED}


def test_truncated_pictures_need_permission() -> None:
    whole = encoded(gradient(200, 150), "JPEG").getvalue()
    cut = io.BytesIO(whole[: len(whole) // 2])
    with pytest.raises(DecodeError) as caught:
        decode(cut, 16, LIMITS)
    assert caught.value.reason is Reason.TRUNCATED
    cut.seek(0)
    picture = decode(cut, 16, DecodeLimits(allow_truncated=True))
    assert picture.truncated
    cut.seek(0)
    with pytest.raises(DecodeError):  # the permission does not outlive its call
        decode(cut, 16, LIMITS)


def test_square_is_decode_without_a_file() -> None:
    image = gradient(300, 100)
    wanted = decode(encoded(image, "PNG"), 32, LIMITS).pixels
    assert np.array_equal(square(image, 32, SQUASHED), wanted)


def test_fit_keeps_proportions_on_white() -> None:
    black = encoded(Image.new("RGB", (100, 50)), "PNG")
    pixels = decode(black, 40, LIMITS, Framing(FIT, BILINEAR)).pixels
    assert pixels[:9].min() == 255 and pixels[31:].min() == 255 and pixels[11:29].max() == 0


def test_nasty_corpus_verdicts(shared_data: Path) -> None:
    """Every file ends in a picture or a named reason, in bounded time, as recorded."""
    folder = shared_data / "nasty"
    names = sorted(path.name for path in folder.iterdir())
    started = time.monotonic()
    found = outcomes(folder, names)
    assert time.monotonic() - started < 60
    rows = []
    for name in names:
        outcome = found[name]
        if isinstance(outcome, Failure):
            assert outcome.detail and "\n" not in outcome.detail
            rows.append([name, str(outcome.reason), "", "", ""])
        else:
            rows.append([name, "ok", outcome.format, str(outcome.width), str(outcome.height)])
    with NASTY.open(newline="") as file:
        assert rows == list(csv.reader(file))[1:]


def test_our_own_cap_decides_not_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow refuses twice its own limit at opening, whatever --max-pixels allows."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode(encoded(gradient(), "PNG"), 32, LIMITS).width == 64


# A process between: what the tests' own children used before must not count.
PEAK = """
import resource, subprocess, sys
code = subprocess.run([sys.executable, "-m", "embedsearch", *sys.argv[1:]]).returncode
print("peak_kb", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def test_nasty_corpus_through_the_command_line(
    shared_data: Path, photos: Path, tmp_path: Path
) -> None:
    """One folder of all of it: accounted for, finite vectors, no process above 1 GB."""
    converted = run_cli("index", photos, "--store", tmp_path / "c.es", "--model", "packaged")
    assert converted.returncode == 0, converted.stderr
    before = set(Path.cwd().iterdir())
    store = tmp_path / "n.es"
    index = ["index", shared_data / "nasty", "--store", store, "--model", "packaged"]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, index)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "137 images found: 71 added" in done.stdout and "66 failed" in done.stdout
    assert run_cli("check", "--store", store).returncode == 0
    assert set(Path.cwd().iterdir()) == before, "a hostile file wrote something"
    if sys.platform == "linux":  # kB of the largest process; macOS counts bytes
        assert int(done.stderr.split()[-1]) < 1 << 20


def test_light(tmp_path: Path) -> None:
    """Dark, bright, blurred: in that order, whatever the size, and with known values."""
    rng = np.random.default_rng(3)
    noise = Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8))
    found = {}
    stripes = np.array([[[0] * 3], [[255] * 3]], np.uint8)
    for name, image in {
        "black": Image.new("RGB", (50, 40)),
        "white": Image.new("RGB", (50, 40), "white"),
        "half": Image.fromarray(np.tile(stripes, (64, 128, 1))),
        "sharp": noise,
        "blurred": noise.filter(ImageFilter.GaussianBlur(6)),
    }.items():
        image.save(tmp_path / f"{name}.png")
        with (tmp_path / f"{name}.png").open("rb") as file:
            picture = decode(file, 128, DecodeLimits())
        found[name] = picture.look.brightness, picture.look.sharpness
    assert found["black"] == (0.0, 0.0) and found["white"] == (1.0, 0.0)
    # Rows of 0 and 255 in turn: the Laplacian is 510 or -510.
    assert found["half"] == (0.5, 510.0**2)
    assert found["sharp"][1] > 20 * found["blurred"][1] > 0
