"""What EXIF says: dates and positions are bounded where they are read."""

from __future__ import annotations

import io
import struct
from datetime import datetime

import pytest

from embedsearch.core.config import DecodeLimits
from embedsearch.images.decode.image import DecodedImage, decode
from tests.support.pictures import encoded, picture

ASCII, BYTE, RATIONAL, UNDEFINED, SIGNED = 2, 1, 5, 7, 10
_Entry = tuple[int, int, int, bytes]


def rationals(*pairs: tuple[int, int], kind: str = "I") -> bytes:
    return b"".join(struct.pack(f">2{kind}", *pair) for pair in pairs)


def exif(dates: dict[int, bytes], gps: list[_Entry]) -> bytes:
    """Return an EXIF block; Pillow would not write tags of odd types. Dates: tag to text."""

    def directory(entries: list[_Entry], start: int) -> bytes:
        out, later = struct.pack(">H", len(entries)), b""
        for tag, kind, count, data in sorted(entries):
            out += struct.pack(">HHI", tag, kind, count)
            place = start + 6 + 12 * len(entries) + len(later)
            out += data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(">I", place)
            later += data + bytes(len(data) % 2) if len(data) > 4 else b""
        return out + bytes(4) + later

    plain = [(306, ASCII, len(text), text) for tag, text in dates.items() if tag == 306]
    inner = [(tag, ASCII, len(text), text) for tag, text in dates.items() if tag != 306]
    size = len(directory([*plain, (0x8769, 4, 1, bytes(4)), (0x8825, 4, 1, bytes(4))], 8))
    taken = directory(inner, 8 + size)
    links = [
        (0x8769, 4, 1, struct.pack(">I", 8 + size)),
        (0x8825, 4, 1, struct.pack(">I", 8 + size + len(taken))),
    ]
    first = directory([*plain, *links], 8)
    head = b"Exif\0\0MM\0*" + struct.pack(">I", 8)
    return head + first + taken + directory(gps, 8 + size + len(taken))


def read(dates: dict[int, bytes] | None = None, gps: list[_Entry] | None = None) -> DecodedImage:
    file: io.BytesIO = encoded(picture(1), "JPEG", exif=exif(dates or {}, gps or []))
    return decode(file, 32, DecodeLimits())


def position(
    latitude: bytes, letter: tuple[int, bytes] | None, kind: int = RATIONAL
) -> tuple[float, float] | None:
    """Return the position of a latitude, with a longitude of the same making."""
    entries = [(2, kind, len(latitude) // 8, latitude), (4, kind, len(latitude) // 8, latitude)]
    if letter is not None:
        west = letter[1].replace(b"S", b"W").replace(b"N", b"E")
        entries += [(1, letter[0], len(west), letter[1]), (3, letter[0], len(west), west)]
    return read(gps=entries).gps


PLAIN = rationals((33, 1), (52, 1), (0, 1))
THERE = pytest.approx(-33.866667, abs=1e-5)


@pytest.mark.parametrize(
    "letter",
    [(ASCII, b"S\0"), (UNDEFINED, b"S"), (BYTE, b"S"), (ASCII, b" S\0"), (ASCII, b"S \0"),
     (ASCII, b"South\0")],
)  # fmt: skip
def test_the_south_and_the_west_in_any_writing(letter: tuple[int, bytes]) -> None:
    if letter[1].startswith(b"South"):
        entries = [(1, ASCII, 6, letter[1]), (2, RATIONAL, 3, PLAIN)]
        entries += [(3, ASCII, 5, b"West\0"), (4, RATIONAL, 3, PLAIN)]
        found = read(gps=entries).gps
    else:
        found = position(PLAIN, letter)
    assert found is not None and found[0] == THERE and found[1] == THERE


@pytest.mark.parametrize("letter", [None, (ASCII, b"\0"), (ASCII, b"X\0"), (ASCII, b" \0")])
def test_without_a_hemisphere_there_is_no_position(letter: tuple[int, bytes] | None) -> None:
    assert position(PLAIN, letter) is None


@pytest.mark.parametrize("letter", [None, (ASCII, b"S\0")])
def test_the_sign_of_the_degrees_is_that_of_the_whole(letter: tuple[int, bytes] | None) -> None:
    negative = rationals((-33, 1), (52, 1), (0, 1), kind="i")
    found = position(negative, letter, SIGNED)
    assert found is not None and found[0] == THERE


@pytest.mark.parametrize(
    "parts",
    [[(33, 1), (5200, 100)], [(33, 1), (52, 1), (0, 0)], [(33866667, 1000000)],
     [(33866667, 1000000), (0, 0), (0, 0)]],
)  # fmt: skip
def test_parts_that_are_left_out(parts: list[tuple[int, int]]) -> None:
    found = position(rationals(*parts), (ASCII, b"S\0"))
    assert found is not None and found[0] == THERE


@pytest.mark.parametrize(
    "parts",
    [[(0, 0), (52, 1), (0, 1)], [(95, 1), (0, 1), (0, 1)], [(33, 1), (520, 1), (0, 1)],
     [(1, 1)] * 4],
)  # fmt: skip
def test_what_is_no_angle_is_no_position(parts: list[tuple[int, int]]) -> None:
    assert position(rationals(*parts), (ASCII, b"S\0")) is None


@pytest.mark.parametrize(
    ("original", "changed", "wanted"),
    [
        (b"2021:05:06 07:08:09\0", None, datetime(2021, 5, 6, 7, 8, 9)),
        (b"1826:01:01 00:00:00\0", None, datetime(1826, 1, 1)),
        (b"0001:01:01 00:00:00\0", None, None),
        (b"9999:12:31 23:59:59\0", None, None),
        (b"2262:12:31 23:59:59\0", None, None),
        (b"0000:00:00 00:00:00\0", b"2021:05:06 07:08:09\0", datetime(2021, 5, 6, 7, 8, 9)),
        (b"    :  :     :  :  \0", None, None),
        (b"2021:02:30 00:00:00\0", None, None),
    ],
)
def test_only_dates_that_photos_can_have(
    original: bytes, changed: bytes | None, wanted: datetime | None
) -> None:
    dates = {0x9003: original} | ({} if changed is None else {306: changed})
    assert read(dates).taken_at == wanted
