"""Original files: only what was indexed; names that any system holds; a ZIP as it is sent."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedsearch.core.errors import UnreadableImage
from embedsearch.core.records import ByteRange
from embedsearch.images.archive_part import BrokenPart, part_pieces, read_part
from embedsearch.images.original_file import NoFile, OriginalFiles
from embedsearch.images.original_zip import Wanted, zip_pieces
from embedsearch.images.safe_name import UniqueNames, safe_name, safe_path
from tests.support.archives import make_zip


@pytest.fixture
def originals() -> Iterator[OriginalFiles]:
    opener = OriginalFiles(1 << 20)
    yield opener
    opener.close()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_the_bytes_of_the_digest_only(originals: OriginalFiles, tmp_path: Path) -> None:
    data = os.urandom(600_000)
    (tmp_path / "a").write_bytes(data)
    with originals.open(str(tmp_path), "a", sha256(data)) as file:
        assert (file.size, file.digest) == (len(data), sha256(data))
        pieces = list(file.pieces())
        assert b"".join(pieces) == data and len(pieces) == 3
        assert b"".join(file.pieces(5, 300_000)) == data[5:300_000]
        assert list(file.pieces(7, 7)) == []
    with pytest.raises(UnreadableImage, match="another file than"):
        originals.open(str(tmp_path), "a", sha256(b"another"))
    with pytest.raises(NoFile):
        originals.open(str(tmp_path), "a", None)
    for key in ("none", "", ".", "a/b", "../" + tmp_path.name + "/none"):
        with pytest.raises(UnreadableImage):
            originals.open(str(tmp_path), key, sha256(data))


def test_it_is_read_once_while_it_is_the_same(
    originals: OriginalFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(1000)
    (tmp_path / "a").write_bytes(data)
    originals.open(str(tmp_path), "a", sha256(data)).close()
    read: list[int] = []
    pread = os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        read.append(size)
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    originals.open(str(tmp_path), "a", sha256(data)).close()
    assert read == []
    os.utime(tmp_path / "a", ns=(1, 1))
    originals.open(str(tmp_path), "a", sha256(data)).close()
    assert read == [1000]


def test_a_change_on_the_way_is_an_error(originals: OriginalFiles, tmp_path: Path) -> None:
    data = os.urandom(600_000)
    (tmp_path / "a").write_bytes(data)
    with originals.open(str(tmp_path), "a", sha256(data)) as file:
        pieces = file.pieces()
        next(pieces)
        (tmp_path / "a").write_bytes(data[:300_000])
        with pytest.raises(UnreadableImage, match="changed"):
            next(pieces)


def test_too_large_ones_are_not_given(tmp_path: Path) -> None:
    data = bytes(2000)
    (tmp_path / "a").write_bytes(data)
    opener = OriginalFiles(1999)
    with pytest.raises(UnreadableImage, match="2,000"):
        opener.open(str(tmp_path), "a", sha256(data))
    opener.close()


def test_members_leave_nothing_behind(originals: OriginalFiles, tmp_path: Path) -> None:
    data = bytes(500_000)
    archive = make_zip(tmp_path / "a.zip", [("x.png", data)])
    before = len(os.listdir("/proc/self/fd"))
    with originals.open(str(archive), "x.png", sha256(data)) as file:
        assert b"".join(file.pieces(10, 20)) == bytes(10)
        folder = originals._temporary._place()
        assert os.listdir(folder) == []
    with pytest.raises(UnreadableImage):
        originals.open(str(archive), "x.png", sha256(b"another"))
    assert os.listdir(folder) == []
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("size", [1, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20])
def test_parts_come_in_pieces(tmp_path: Path, size: int) -> None:
    data = (os.urandom(1000) + bytes(9000)) * (size // 10_000 + 1)
    data = data[:size]
    make_zip(tmp_path / "a.zip", [("x", data)])
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        info = archive.getinfo("x")
    start = info.header_offset + 30 + 1
    with (tmp_path / "a.zip").open("rb") as file:
        part = ByteRange(start, info.compress_size, size, info.CRC, is_deflated=True)
        pieces = list(part_pieces(file.fileno(), part))
        assert b"".join(pieces) == data == read_part(file.fileno(), part)
        assert max(map(len, pieces)) <= 1 << 20
        for wrong in (
            ByteRange(start, info.compress_size, size + 1, None, is_deflated=True),
            ByteRange(start, info.compress_size, max(0, size - 1), None, is_deflated=True),
            ByteRange(start, info.compress_size, size, info.CRC ^ 1, is_deflated=True),
            ByteRange(start, 1 << 40, size, None),
            ByteRange(1 << 63, 10, 10, None),
        ):
            with pytest.raises(BrokenPart):
                sum(map(len, part_pieces(file.fileno(), wrong)))


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.jpg", "a.jpg"),
        ("größe 日本.jpg", "größe 日本.jpg"),
        ("a/b", "a_b"),
        ('a\\b:c*?"<>|.png', "a_b_c______.png"),
        ("a\0\n\x1b\x7f\u202e\u2028.png", "a______.png"),
        ("", "_"),
        (".", "_"),
        ("..", "_"),
        ("...", "_"),
        (" a .png. ", "a .png"),
        ("CON", "_CON"),
        ("com1.tar.gz", "_com1.tar.gz"),
        ("console.png", "console.png"),
        (".hidden", ".hidden"),
        ("b\udce9.png", "b_xe9.png"),
    ],
)
def test_names_that_any_system_holds(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_long_names_keep_their_ending() -> None:
    for name in ("x" * 300 + ".jpeg", "é" * 200 + ".jpeg", "日" * 99 + ".jpeg"):
        cut = safe_name(name)
        assert 250 <= len(cut.encode()) <= 255 and cut.endswith(".jpeg")
    assert len(safe_name("x." + "y" * 300).encode()) == 255


@pytest.mark.parametrize(
    ("key", "safe"),
    [
        ("a/b.png", "a/b.png"),
        ("/etc/passwd", "etc/passwd"),
        ("../../x", "x"),
        ("a//./../b", "a/b"),
        ("..", "_"),
        ("", "_"),
        ("/", "_"),
        ("https://host/x.png?a=1", "https_/host/x.png_a=1"),
        ("C:\\x", "C__x"),
    ],
)
def test_keys_as_relative_paths(key: str, safe: str) -> None:
    assert safe_path(key) == safe


def test_each_path_comes_once() -> None:
    names = UniqueNames()
    given = [
        "a.png",
        "A.PNG",
        "a.png",
        "a-2.png",
        "\u212a",
        "k",
        "ﬁ.png",
        "fi.png",
        "f",
        "f/x",
        "d/x",
        "d",
        "D/X",
    ]
    found = [names.of(key) for key in given]
    assert found[:4] == ["a.png", "A-2.PNG", "a-3.png", "a-2-2.png"]
    assert found[4:8] == ["\u212a", "k-2", "ﬁ.png", "fi-2.png"]
    assert found[8:] == ["f", "f-2/x", "d/x", "d-2", "D/X-2"]
    assert len({name.casefold() for name in found}) == len(given)


def test_many_of_one_long_name() -> None:
    names = UniqueNames()
    found = [names.of("x" * 400 + ".png") for _ in range(20)]
    assert len(set(found)) == 20 and all(len(name) <= 255 for name in found)


def test_a_zip_in_pieces(originals: OriginalFiles, tmp_path: Path) -> None:
    contents = {"a.png": os.urandom(900_000), "b/ü.png": b"b", "c.png": os.urandom(5000)}
    for key, data in contents.items():
        path = tmp_path / key
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    files = [
        Wanted(key, lambda key=key, data=data: originals.open(str(tmp_path), key, sha256(data)))  # type: ignore[misc]
        for key, data in contents.items()
    ]
    pieces = list(zip_pieces(files, 1 << 30))
    assert all(pieces) and max(map(len, pieces)) < 300_000
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == contents
    with zipfile.ZipFile(io.BytesIO(b"".join(zip_pieces(files, 900_001, ["row 9"])))) as archive:
        assert archive.namelist() == ["a.png", "b/ü.png", "not_included.txt"]
        text = archive.read("not_included.txt").decode()
        assert "row 9\n" in text and "c.png: the archive would be too large" in text
    halfway = zip_pieces(files, 1 << 30)
    next(halfway)
    halfway.close()  # type: ignore[attr-defined]
    assert not [fd for fd in os.listdir("/proc/self/fd") if str(tmp_path) in _target(fd)]


def _target(descriptor: str) -> str:
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return ""
