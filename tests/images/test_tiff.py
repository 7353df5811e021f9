"""TIFFs that Pillow does not read, or reads wrongly: shown, or refused with their layout."""

from __future__ import annotations

import errno
import io
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from embedsearch.core.config import DecodeLimits
from embedsearch.core.records import ImageRef, Reason
from embedsearch.images.decode.formats import tiff as decode_tiff
from embedsearch.images.decode.image import DecodeError, decode
from embedsearch.images.decode.pool import DecodePool
from tests.support.jobs import decode_job
from tests.support.pictures import encoded, picture, tiff

LIMITS = DecodeLimits()
SIZE = (64, 48)
RGB = np.asarray(picture(1)) / 255
GRAY = RGB[..., 0]


def apart(file: io.BytesIO, image: Image.Image) -> float:
    wanted = decode(encoded(image, "PNG"), 32, LIMITS).pixels.astype(int)
    return float(np.abs(decode(file, 32, LIMITS).pixels - wanted).mean())


def layout(
    samples: npt.NDArray[np.generic], photometric: int, order: str = "<", **more: object
) -> io.BytesIO:
    """Return a TIFF of samples (H, W, C), with the SampleFormat of their type."""
    bands, kind = samples.shape[2], samples.dtype.kind
    tags = {339: [{"u": 1, "i": 2, "f": 3}[kind]] * bands, **more.pop("tags", {})}  # type: ignore[dict-item]
    data = samples.astype(np.dtype(f"{order}{samples.dtype.str[1:]}")).tobytes()
    bits = [samples.dtype.itemsize * 8] * bands
    return tiff([data], SIZE, bits, photometric, tags, order, **more)  # type: ignore[arg-type]


def whole(kind: str, values: npt.NDArray[np.float64]) -> npt.NDArray[np.generic]:
    """Return values of 0 to 1 as samples of a type, over its whole range."""
    if np.dtype(kind).kind == "f":
        return values.astype(kind)
    top = np.iinfo(kind).max >> 8  # so that no float is above the range
    return (np.round(values * top).astype(kind) << 8).astype(kind)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("bands", [1, 3])
def test_samples_of_any_type(kind: str, bands: int, order: str) -> None:
    pytest.importorskip("tifffile", reason="such TIFFs are an optional format")
    values = RGB if bands == 3 else GRAY[..., None]
    file = layout(whole(kind, values), 2 if bands == 3 else 1, order)
    wanted = picture(1) if bands == 3 else picture(1).getchannel("R")
    assert apart(file, wanted) < (4 if kind in {"i2", "u2"} else 2)


def test_a_worker_reads_them_too(tmp_path: Path) -> None:
    """Its files are descriptors without a name, and its memory is limited."""
    pytest.importorskip("tifffile", reason="such TIFFs are an optional format")
    (tmp_path / "a.tif").write_bytes(layout(RGB.astype("f4"), 2).getvalue())
    job = decode_job(ImageRef(0, "a.tif", -1, -1), str(tmp_path))
    with DecodePool(32, LIMITS, workers=1) as pool:
        (batch,) = pool.run(iter([job]))
        wanted = decode(encoded(picture(1), "PNG"), 32, LIMITS).pixels.astype(int)
        assert not batch.failures
        assert np.abs(batch.images.pixels[0] - wanted).mean() < 2


def test_layouts_that_pillow_lacks() -> None:
    pytest.importorskip("tifffile", reason="such TIFFs are an optional format")
    eight = np.asarray(picture(1))
    opaque = np.full((48, 64, 1), 65535, np.uint16)
    files = {
        "gray and alpha": layout(
            np.concatenate([whole("u2", GRAY[..., None]), opaque], 2), 1, tags={338: [2]}
        ),
        "RGB marked BlackIsZero": layout(eight, 1),
        "five bands": layout(np.concatenate([eight, eight[..., :2]], 2), 1),
        "big-endian BigTIFF": layout(eight, 2, ">", big=True),
        "planes of 16 bits": tiff(
            [whole("u2", RGB[..., band]).tobytes() for band in range(3)], SIZE, [16] * 3, 2
        ),
    }
    for name, file in files.items():
        wanted = picture(1).getchannel("R") if name == "gray and alpha" else picture(1)
        assert apart(file, wanted) < 2, name


@pytest.mark.parametrize(("across", "down"), [(2, 2), (2, 1), (4, 2)])
def test_uncompressed_chroma_of_fewer_samples(across: int, down: int) -> None:
    pytest.importorskip("tifffile", reason="such TIFFs are an optional format")
    full = np.asarray(picture(1).convert("YCbCr"))
    rows, units = 48 // down, 64 // across
    luma = full[..., 0].reshape(rows, down, units, across).swapaxes(1, 2).reshape(rows, units, -1)
    chroma = full[..., 1:].reshape(rows, down, units, across, 2).mean((1, 3)).astype(np.uint8)
    data = np.concatenate([luma, chroma], 2).tobytes()
    file = tiff([data], SIZE, [8] * 3, 6, {530: [across, down]})
    assert apart(file, picture(1)) < 8
    with pytest.raises(DecodeError) as caught:
        decode(io.BytesIO(file.getvalue()[:-500]), 32, LIMITS)
    assert caught.value.reason is Reason.TRUNCATED


def test_compressed_samples_in_the_other_byte_order() -> None:
    """Pillow takes what libtiff has already turned round for big-endian samples."""
    tifffile = pytest.importorskip("tifffile", reason="writes the file")
    file = io.BytesIO()
    tifffile.imwrite(file, GRAY.astype("f4"), byteorder=">", compression="zlib")
    file.seek(0)
    assert apart(file, picture(1).getchannel("R")) < 2


def test_metadata_of_a_layout_that_pillow_lacks() -> None:
    tifffile = pytest.importorskip("tifffile", reason="writes the file")
    file = io.BytesIO()
    tags = [(274, 3, 1, 6, True), (272, 2, 0, "Scanner 3", True), (271, 2, 0, "Maker", True)]
    extra = {"extratags": tags, "datetime": "2021:05:06 07:08:09", "metadata": None}
    tifffile.imwrite(file, RGB.astype("f4"), photometric="rgb", **extra)
    file.seek(0)
    found = decode(file, 32, LIMITS)
    assert (found.width, found.height, found.format) == (48, 64, "TIFF")
    assert (found.camera, str(found.taken_at)) == ("Maker Scanner 3", "2021-05-06 07:08:09")


def test_what_nothing_reads_is_unsupported_with_its_layout_and_damage_is_damage() -> None:
    pytest.importorskip("tifffile", reason="such TIFFs are an optional format")
    complex_one = tiff([bytes(64 * 48 * 8)], SIZE, [64], 1, {339: [6]})
    with pytest.raises(DecodeError, match="1 sample of 64 bits, complex") as caught:
        decode(complex_one, 32, LIMITS)
    assert caught.value.reason is Reason.UNSUPPORTED_FORMAT
    sound = layout(RGB.astype("f4"), 2).getvalue()
    for damaged, reason in ((sound[:-400], Reason.TRUNCATED), (sound[:60], Reason.CORRUPT)):
        with pytest.raises(DecodeError) as caught:
            decode(io.BytesIO(damaged), 32, LIMITS)
        assert caught.value.reason is reason
    with pytest.raises(DecodeError, match="max_pixels") as caught:
        decode(io.BytesIO(sound), 32, DecodeLimits(max_pixels=64 * 48 - 1))
    assert caught.value.reason is Reason.TOO_LARGE


def test_a_disk_that_fails_is_not_the_pictures_fault() -> None:
    pytest.importorskip("tifffile", reason="such TIFFs are an optional format")

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 300:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

        def readinto(self, buffer: object) -> int:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(DecodeError) as caught:
        decode(Failing(layout(RGB.astype("f4"), 2).getvalue()), 32, LIMITS)
    assert caught.value.reason is Reason.IO_ERROR


def test_without_its_library_a_sound_tiff_is_not_called_damaged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    decode_tiff._tifffile.cache_clear()
    try:
        sound = layout(RGB.astype("f4"), 2)
        for file in (sound, layout(np.asarray(picture(1)), 2, ">", big=True)):
            with pytest.raises(DecodeError, match=r"pip install '?tifffile") as caught:
                decode(file, 32, LIMITS)
            assert caught.value.reason is Reason.UNSUPPORTED_FORMAT
        with pytest.raises(DecodeError) as caught:
            decode(io.BytesIO(sound.getvalue()[:60]), 32, LIMITS)
        assert caught.value.reason is Reason.CORRUPT
        assert apart(encoded(picture(1), "TIFF"), picture(1)) == 0
    finally:
        decode_tiff._tifffile.cache_clear()
