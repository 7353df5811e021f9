"""RAW files: their preview or their samples are shown, upright; hostile ones cost a row only."""

from __future__ import annotations

import ctypes
import errno
import io
import struct
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedsearch.core.config import DecodeLimits
from embedsearch.core.records import Box, ImageRef, Reason
from embedsearch.images.decode.formats.raw import is_raw
from embedsearch.images.decode.image import DecodeError, decode
from embedsearch.images.decode.pool import DecodePool
from embedsearch.images.sources.kinds import HEAD_BYTES, Kind, kind_of, starts_an_image
from tests.support.jobs import decode_job
from tests.support.pictures import encoded, picture, tiff
from tests.support.raw_files import SIZE, dng

LIMITS = DecodeLimits()
NAMES = (b"a.CR2", b"a.nef", b"a.ARW", b"a.dng", b"a.raf", b"a.cr3")
TURNS = {
    1: None, 3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
SHOWN, OTHER = picture(1, SIZE), picture(2, SIZE)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    turn = TURNS[orientation]
    return image if turn is None else image.transpose(turn)


def apart(data: bytes, image: Image.Image, side: int = 64, crop: Box | None = None) -> float:
    wanted = decode(encoded(image, "PNG"), side, LIMITS).pixels.astype(int)
    return float(np.abs(decode(io.BytesIO(data), side, LIMITS, crop=crop).pixels - wanted).mean())


def likeness(data: bytes, image: Image.Image) -> float:
    """Return how alike the two are, whatever their brightness."""
    wanted = decode(encoded(image, "PNG"), 64, LIMITS).pixels
    found = decode(io.BytesIO(data), 64, LIMITS).pixels
    return float(np.corrcoef(found.ravel(), wanted.ravel())[0, 1])


@pytest.mark.parametrize("orientation", TURNS)
def test_the_preview_is_shown_upright(orientation: int) -> None:
    pytest.importorskip("rawpy", reason="reads RAW")
    # The samples are of another picture: what is shown is the preview.
    data = dng(OTHER, SHOWN.resize((512, 384)), orientation)
    assert apart(data, turned(SHOWN, orientation)) < 3
    found = decode(io.BytesIO(data), 64, LIMITS)
    assert (found.width, found.height) == turned(SHOWN, orientation).size
    assert (found.format, found.camera) == ("RAW", "Maker Camera")
    assert found.taken_at == datetime(2021, 5, 6, 7, 8, 9)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("preview", [None, OTHER.resize((48, 36))], ids=["none", "tiny"])
def test_without_a_preview_of_use_the_samples_are_shown(
    orientation: int, preview: Image.Image | None
) -> None:
    pytest.importorskip("rawpy", reason="reads RAW")
    data = dng(SHOWN, preview, orientation)
    assert likeness(data, turned(SHOWN, orientation)) > 0.9
    assert likeness(data, turned(OTHER, orientation)) < 0.6
    found = decode(io.BytesIO(data), 64, LIMITS)
    assert (found.width, found.height) == turned(SHOWN, orientation).size
    assert (found.format, found.camera) == ("RAW", "Maker Camera")
    assert found.taken_at == datetime(2021, 5, 6, 7, 8, 9)


def with_compression(data: bytes, kind: int) -> bytes:
    """Return a DNG whose samples are said to be compressed, which they are not."""
    plain = struct.pack("<HHII", 259, 3, 1, 1)
    assert data.count(plain) == 1  # that of the preview is JPEG
    return data.replace(plain, struct.pack("<HHII", 259, 3, 1, kind))


def test_where_the_samples_cannot_be_read_a_tiny_preview_is_shown() -> None:
    pytest.importorskip("rawpy", reason="reads RAW")
    data = dng(OTHER, SHOWN.resize((48, 36)), 6)
    assert likeness(data, turned(OTHER, 6)) > 0.9
    assert likeness(with_compression(data, 8), turned(SHOWN, 6)) > 0.9
    with pytest.raises(DecodeError) as caught:
        decode(io.BytesIO(with_compression(dng(OTHER, None), 8)), 64, LIMITS)
    assert caught.value.reason is Reason.CORRUPT


def test_samples_that_cannot_be_read_are_damaged() -> None:
    """LibRaw says nothing of a lossless JPEG that is none, and gives what its memory held."""
    pytest.importorskip("rawpy", reason="reads RAW")
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("only glibc gives memory out again that it did not clear")
    good = dng(OTHER.resize((1200, 900)), None)
    for _ in range(12):  # else nearly all of these are the picture before
        decode(io.BytesIO(good), 64, LIMITS)
        with pytest.raises(DecodeError, match="damaged RAW"):
            decode(io.BytesIO(with_compression(good, 7)), 64, LIMITS)


def test_the_exif_of_a_preview_comes_first() -> None:
    pytest.importorskip("rawpy", reason="reads RAW")
    exif = Image.Exif()
    exif[0x0110], exif[0x0112] = "Preview", 1
    exif.get_ifd(0x8769)[0x9003] = "2001:02:03 04:05:06"
    exif.get_ifd(0x8825).update({1: "S", 2: (10.0, 30.0, 0.0), 3: "E", 4: (20.0, 0.0, 0.0)})
    upright = SHOWN.transpose(Image.Transpose.ROTATE_270)
    data = dng(OTHER, upright, 6, exif=exif)  # a preview that stands already
    found = decode(io.BytesIO(data), 64, LIMITS)
    assert apart(data, upright) < 3
    assert (found.width, found.height) == upright.size
    assert found.taken_at == datetime(2001, 2, 3, 4, 5, 6)
    assert found.gps == (-10.5, 20.0)
    broken = decode(
        io.BytesIO(dng(OTHER, SHOWN, 3, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")), 64, LIMITS
    )
    assert broken.camera == "Maker Camera"


def test_a_part_of_it_is_given_in_its_own_pixels() -> None:
    pytest.importorskip("rawpy", reason="reads RAW")
    box = (320, 120, 600, 400)
    crop = Box(box[0], box[1], box[2] - box[0], box[3] - box[1])
    data = dng(OTHER, SHOWN.resize((512, 384)))
    assert apart(data, SHOWN.crop(box), crop=crop) < 8
    turned_box = Box(0, 0, 240, 300)
    standing = turned(SHOWN, 6)
    data = dng(OTHER, SHOWN.resize((512, 384)), 6)
    assert apart(data, standing.crop((0, 0, 240, 300)), crop=turned_box) < 8


def outcomes(folder: Path, files: list[bytes], limits: DecodeLimits = LIMITS) -> list[str]:
    """Return for each file why a worker refused it, "" where it was shown."""
    for number, data in enumerate(files):
        (folder / f"{number}.dng").write_bytes(data)
    jobs = (decode_job(ImageRef(n, f"{n}.dng", -1, -1), str(folder)) for n in range(len(files)))
    found = dict.fromkeys(range(len(files)), "")
    with DecodePool(64, limits, workers=1) as pool:
        for batch in pool.run(jobs):
            found |= {failure.root: str(failure.reason) for failure in batch.failures}
    return list(found.values())


def test_a_worker_reads_them_within_its_limits(tmp_path: Path) -> None:
    pytest.importorskip("rawpy", reason="reads RAW")
    assert outcomes(tmp_path, [dng(SHOWN, OTHER), dng(SHOWN, None)]) == ["", ""]


def test_hostile_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    pytest.importorskip("rawpy", reason="reads RAW")
    plain = dng(SHOWN, None)
    sides = [struct.pack("<HHI", tag, 4, 1) for tag in (256, 257)]
    huge = plain
    for side in sides:
        assert huge.count(side) == 1
        at = huge.index(side) + len(side)
        huge = huge[:at] + struct.pack("<I", 60_000) + huge[at + 4 :]
    noise = np.random.default_rng(1).bytes(20_000)
    far = b"II+\0\x08\0\0\0" + struct.pack("<QQHHQQ", 16, 1, 330, 16, 9, 2**61)
    assert outcomes(tmp_path, [far]) == [Reason.CORRUPT]  # not its disk's fault
    assert outcomes(tmp_path, [huge, noise, plain[:100], b"", plain[:8] + noise]) == [
        *(Reason.TOO_LARGE, Reason.NOT_AN_IMAGE, Reason.TRUNCATED, Reason.EMPTY, Reason.CORRUPT),
    ]
    small = DecodeLimits(max_pixels=SIZE[0] * SIZE[1] // 4 - 1)
    both = [plain, dng(SHOWN, OTHER)]
    assert outcomes(tmp_path, both, small) == [Reason.TOO_LARGE] * 2
    # The end is missing, or bytes are others: never the end of the run, and mostly a reason.
    random = np.random.default_rng(2)
    cut = [whole[: len(whole) * part // 8] for whole in both for part in range(2, 8)]
    assert all(outcomes(tmp_path, cut[:6]))
    mutants = []
    for number in range(40):
        data = bytearray(both[number % 2])
        for place in random.integers(0, 1500, 12):
            data[place] = random.integers(0, 256)
        mutants.append(bytes(data))
    reasons = set(outcomes(tmp_path, [*cut, *mutants, both[0]]))
    assert "" in reasons and reasons - {""} <= {
        *(Reason.TRUNCATED, Reason.CORRUPT, Reason.UNSUPPORTED_FORMAT, Reason.TOO_LARGE),
        *(Reason.ZERO_SIZE, Reason.MEMORY, Reason.NOT_AN_IMAGE, Reason.DECODER_CRASH),
    }


def test_a_disk_that_fails_is_not_the_pictures_fault() -> None:
    pytest.importorskip("rawpy", reason="reads RAW")

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if size is None or size < 0:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    with pytest.raises(DecodeError) as caught:
        decode(Failing(dng(SHOWN, None)), 32, LIMITS)
    assert caught.value.reason is Reason.IO_ERROR


def test_without_its_library_raw_is_raw(without_rawpy: None) -> None:
    assert {kind_of(name) for name in NAMES} == {Kind.RAW}
    for data in (dng(SHOWN, OTHER), b"FUJIFILMCCD-RAW 0201", b"\0\0\0\x18ftypcrx \0\0\0\1"):
        with pytest.raises(DecodeError, match=r"RAW: pip install '?rawpy") as caught:
            decode(io.BytesIO(data), 32, LIMITS)
        assert caught.value.reason is Reason.UNSUPPORTED_FORMAT


def test_with_its_library_raw_is_an_image_by_its_name() -> None:
    pytest.importorskip("rawpy", reason="reads RAW")
    assert {kind_of(name) for name in NAMES} == {Kind.IMAGE}


RAW_HEADS = (
    b"FUJIFILMCCD-RAW 0201", b"IIRO\x08\0\0\0", b"IIRS\x08\0\0\0", b"MMOR\0\0\0\x08",
    b"IIU\0\x18\0\0\0",
    b"FOVb\0\0\3\0", b"\0MRM\0\0\0\0", b"II\x1a\0\0\0HEAPCCDR", b"\0\0\0\x18ftypcrx ",
    b"II*\0\x10\0\0\0CR\2\0", b"II*\0\x10\0\0\0IIII", b"MM\0*\0\0\0\x10MMMM",
)  # fmt: skip


@pytest.mark.parametrize("head", RAW_HEADS, ids=lambda head: repr(head[:8]))
def test_makers_are_told_by_their_first_bytes(head: bytes) -> None:
    data = head + bytes(200)
    assert starts_an_image(data[:HEAD_BYTES])
    assert is_raw(io.BytesIO(data))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_raw_is_told_from_other_tiffs(order: str, big: bool) -> None:
    def of(photometric: int, tags: dict[int, Sequence[int]]) -> io.BytesIO:
        return tiff([bytes(64 * 48)], (64, 48), [8], photometric, tags, order, big)

    make: dict[int, Sequence[int]] = {271: [0]}
    for file in (
        of(32803, make),
        of(34892, make),
        of(1, {50706: [1, 4]}),
        of(1, {254: [1], **make, 330: [8]}),
    ):
        assert is_raw(file)
    # Scans and exports of cameras, other thumbnails, and the filters of a microscope.
    for file in (of(1, make), of(1, {254: [1], **make}), of(1, {330: [8], **make}), of(32803, {})):
        assert not is_raw(file)
        assert file.tell() == 0


def test_a_directory_that_names_itself_ends() -> None:
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", 2)
    entries = struct.pack("<HHI4s", 271, 2, 4, b"abc") + struct.pack("<HHII", 330, 4, 2**31, 8)
    assert not is_raw(io.BytesIO(head + entries + struct.pack("<I", 8)))
    for cut in range(len(head + entries) + 4):
        assert not is_raw(io.BytesIO((head + entries + struct.pack("<I", 8))[:cut]))
    for place in (2**63, 2**64 - 1):
        big = b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + struct.pack("<Q", 1)
        assert not is_raw(io.BytesIO(big + struct.pack("<HHQQQ", 330, 16, 9, place, place)))
