"""Files of few bytes that state or unpack to many, and a run that is watched."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MB = 1 << 20
_ENDS = bytes(1024)


@dataclass(frozen=True)
class Watched:
    """How a command ended, and the most memory that one of its processes had."""

    code: int
    seconds: float
    peak_mb: int
    out: str


def watched(*arguments: object, seconds: float = 120.0) -> Watched:
    """Run the command line and look at its processes meanwhile."""
    command = [sys.executable, "-m", "embedsearch", *map(str, arguments)]
    began, peak_kb = time.monotonic(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while process.poll() is None and time.monotonic() - began < seconds:
            for pid in _tree(process.pid):
                with contextlib.suppress(OSError):
                    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                        if line.startswith("VmHWM"):
                            peak_kb = max(peak_kb, int(line.split()[1]))
            time.sleep(0.03)
        process.kill()
        assert process.stdout is not None
        out = process.stdout.read().decode()
    return Watched(process.returncode, time.monotonic() - began, peak_kb >> 10, out)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                yield from _tree(int(child))


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return the header of a member of a tar file."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)[-512:]


def _packed(path: Path, pieces: Iterator[bytes]) -> None:
    opened: dict[str, Callable[..., Any]]
    opened = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    with opened[path.suffix](path, "wb") as file:
        for piece in pieces:
            file.write(piece)


def _zeros(path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield header("a.png", 600 * MB)
        yield from (bytes(MB) for _ in range(600))
        yield _ENDS

    _packed(path, pieces())


def _long_header(kind: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        def pieces() -> Iterator[bytes]:
            yield header("long", 400 * MB, kind)
            yield from (b"a" * MB for _ in range(400))
            yield header("a.png", 0) + _ENDS

        _packed(path, pieces())

    return make


def _digits(path: Path) -> None:
    records = (header("x", MB, tarfile.XHDTYPE) + b"1" * MB for _ in range(50))
    _packed(path, (record for record in [*records, header("a.png", 0), _ENDS]))


def _chain(path: Path) -> None:
    long = header("l", 2, tarfile.GNUTYPE_LONGNAME) + b"a\0" + bytes(510)
    path.write_bytes(long * 5000 + header("a.png", 0) + _ENDS)


def _empty_members(path: Path) -> None:
    _packed(path, (header(f"{number:07}.png", 0) for number in range(400_000)))


def _holes(path: Path) -> None:
    block = bytearray(header("a.png", 0, tarfile.GNUTYPE_SPARSE))
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    more = bytes(504) + b"\1" + bytes(7)
    _packed(path, iter([bytes(block), more * 400_000]))


def _xz_dictionary(path: Path) -> None:
    data = bytearray(lzma.compress(header("a.png", 0) + _ENDS))
    end = 12 + (data[12] + 1) * 4  # of the header of the first block
    data[16] = 38  # 2 GB
    data[end - 4 : end] = struct.pack("<I", zlib.crc32(data[12 : end - 4]))
    path.write_bytes(data)


def _zip(name: str, content: bytes) -> bytearray:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return bytearray(out.getvalue())


def _many(data: bytearray, count: int, change: Callable[[bytearray, int], None]) -> bytes:
    """Return a zip file with the one entry of another so many times, each changed."""
    start, end = data.find(b"PK\1\2"), data.find(b"PK\5\6")
    entry = data[start:end]
    directory = bytearray()
    for number in range(count):
        change(entry, number)
        directory += entry
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count & 65535, count & 65535, 0, 0, 0)
    last = last[:12] + struct.pack("<LL", len(directory), start) + last[20:]
    return bytes(data[:start] + directory + last)


def _many_entries(path: Path) -> None:
    def renamed(entry: bytearray, number: int) -> None:
        entry[46:57] = b"%07d.txt" % number

    path.write_bytes(_many(_zip("0000000.txt", b"x"), 600_000, renamed))


def _same_place(path: Path) -> None:
    def renamed(entry: bytearray, number: int) -> None:
        entry[46:57] = b"%07d.png" % number

    path.write_bytes(_many(_zip("0000000.png", b"x"), 600_000, renamed))


def _same_name(path: Path) -> None:
    path.write_bytes(_many(_zip("a.png", b"x"), 300_000, lambda entry, number: None))


def _deflated(path: Path) -> None:
    path.write_bytes(_zip("a.png", bytes(400 * MB)))


def _overlapping(path: Path) -> None:
    def renamed(entry: bytearray, number: int) -> None:
        entry[46:53] = b"%03d.png" % number

    path.write_bytes(_many(_zip("000.png", bytes(50 * MB)), 500, renamed))


def _stated(path: Path) -> None:
    data = _zip("a.png", b"x" * 100)
    at = data.find(b"PK\1\2")
    data[at + 20 : at + 28] = b"\xff" * 8
    data[at + 30 : at + 32] = struct.pack("<H", 20)
    data[at + 51 : at + 51] = struct.pack("<HHQQ", 1, 16, 1 << 60, 1 << 60)
    end = data.find(b"PK\5\6")
    data[end + 12 : end + 16] = struct.pack("<L", end - at)
    path.write_bytes(data)


def _same_values(path: Path) -> None:
    values = pa.array([bytes(20 * MB)])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 64, pa.int32()), values)
    _written(path, pa.table({"image": column}), store_schema=False)


def _same_paths(path: Path) -> None:
    paths = pa.DictionaryArray.from_arrays(
        pa.array([0] * 400, pa.int32()), pa.array(["a" * (4 * MB)])
    )
    column = pa.StructArray.from_arrays([pa.array([b"x"] * 400), paths], ["bytes", "path"])
    _written(path, pa.table({"image": column}), store_schema=False)


def _prefixes(path: Path) -> None:
    batch = pa.record_batch({"image": [b"a" * (8 * MB)] * 8})
    with pq.ParquetWriter(
        path,
        batch.schema,
        compression="zstd",
        use_dictionary=False,
        column_encoding={"image": "DELTA_BYTE_ARRAY"},
    ) as writer:
        for _ in range(16):
            writer.write_batch(batch, row_group_size=1 << 20)


def _plain(path: Path) -> None:
    images = pa.table({"image": [bytes(32 * MB)] * 64})
    _written(path, images, use_dictionary=False, write_batch_size=1)


def _page(path: Path) -> None:
    _written(path, pa.table({"image": [bytes(600 * MB)]}), use_dictionary=False)


def _nulls(path: Path) -> None:
    _written(path, pa.table({"image": pa.nulls(30_000_000, pa.binary())}))


def _list_of_nulls(path: Path) -> None:
    items = pa.nulls(30_000_000, pa.binary())
    _written(path, pa.table({"image": pa.ListArray.from_arrays([0, len(items)], items)}))


def _columns(path: Path) -> None:
    _written(path, pa.table({f"c{number}": [b"x"] for number in range(20_000)}))


def _deep(path: Path) -> None:
    kind: pa.DataType = pa.binary()
    for _ in range(300):
        kind = pa.struct([pa.field("a", kind)])
    _written(path, pa.table({"image": pa.array([None], kind)}))


def _captions(path: Path) -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["a" * MB]))
    _written(path, pa.table({"image": [b"x"] * 2000, "caption": texts}), store_schema=False)


def _named(item: Any, length: int = 2000) -> pa.ListArray[Any]:
    """Return a row that is a list of one item so many times."""
    items = pa.DictionaryArray.from_arrays(pa.array([0] * length, pa.int32()), pa.array([item]))
    return pa.ListArray.from_arrays([0, length], items)


def _image_list(path: Path) -> None:
    _written(path, pa.table({"image": _named(bytes(MB))}), store_schema=False)


def _path_list(path: Path) -> None:
    paths = _named("a" * MB).flatten()
    pairs = pa.StructArray.from_arrays([pa.array([b"x"] * 2000), paths], ["bytes", "path"])
    images = pa.ListArray.from_arrays([0, 2000], pairs)
    _written(path, pa.table({"image": images}), store_schema=False)


def _caption_list(path: Path) -> None:
    captions = pa.table({"image": [b"x"], "path": ["good.png"], "tags": _named("a" * MB)})
    _written(path, captions, store_schema=False)


def _typed_caption_list(path: Path) -> None:
    _written(path, pa.table({"path": ["good.png"], "tags": _named("a" * MB)}))


def _typed_captions(path: Path) -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 9000, pa.int32()), pa.array(["a" * MB]))
    _written(path, pa.table({"path": [str(n) for n in range(9000)], "caption": texts}))


def _footer(path: Path) -> None:
    path.write_bytes(b"PAR1" + bytes(20 * MB) + struct.pack("<I", 20 * MB) + b"PAR1")


def _written(path: Path, table: pa.Table, **options: int) -> None:
    # Deep schemas have names that Arrow joins; it writes no statistics of values this long.
    pq.write_table(table, path, compression="zstd", write_statistics=False, **options)  # type: ignore[arg-type]


# By name: what makes it, and what the failure says.
TARS: dict[str, tuple[Callable[[Path], None], str]] = {
    "zeros.tar.gz": (_zeros, "unpack to more than"),
    "zeros.tar.bz2": (_zeros, "unpack to more than"),
    "zeros.tar.xz": (_zeros, "unpack to more than"),
    "dictionary.tar.xz": (_xz_dictionary, "xz needs more than 128 MB"),
    "name.tar.gz": (_long_header(tarfile.GNUTYPE_LONGNAME), "a header of"),
    "pax.tar.gz": (_long_header(tarfile.XHDTYPE), "a header of"),
    "digits.tar.gz": (_digits, "invalid header"),
    "chain.tar": (_chain, "more than 16 headers"),
    "members.tar.gz": (_empty_members, "members in so few bytes"),
    "holes.tar.gz": (_holes, "a map of holes"),
}
ZIPS: dict[str, tuple[Callable[[Path], None], str]] = {
    "entries.zip": (_many_entries, ""),
    "places.zip": (_same_place, "lie over others"),
    "names.zip": (_same_name, "several of this name"),
    "zeros.zip": (_deflated, "over bound"),
    "overlapping.zip": (_overlapping, "unpack to more than"),
    "stated.zip": (_stated, "are more than"),
}
PARQUETS: dict[str, tuple[Callable[[Path], None], str]] = {
    "values.parquet": (_same_values, ""),
    "paths.parquet": (_same_paths, "a path of more than"),
    "prefixes.parquet": (_prefixes, ""),
    "plain.parquet": (_plain, ""),
    "page.parquet": (_page, "unpack to"),
    "nulls.parquet": (_nulls, "are stated in"),
    "list.parquet": (_list_of_nulls, "are stated in"),
    "columns.parquet": (_columns, "fields are more than"),
    "deep.parquet": (_deep, "deep"),
    "captions.parquet": (_captions, ""),
    "footer.parquet": (_footer, "a footer of more than"),
    "image_list.parquet": (_image_list, "unpack to more than"),
    "path_list.parquet": (_path_list, "unpack to more than"),
    "caption_list.parquet": (_caption_list, ""),
}


def _many_captions(path: Path) -> None:
    texts = pa.DictionaryArray.from_arrays(
        pa.array([0] * 100_000, pa.int32()), pa.array(["a" * MB])
    )
    names = [str(number) for number in range(100_000)]
    _written(path, pa.table({"path": names, "caption": texts}), store_schema=False)


def _plain_captions(path: Path) -> None:
    captions = pa.table(
        {"path": [str(number) for number in range(2000)], "caption": ["a" * MB] * 2000}
    )
    _written(path, captions, use_dictionary=False, write_batch_size=1)


def _text(content: Callable[[], str]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_text(content())

    return make


TABLES: dict[str, tuple[Callable[[Path], None], str]] = {
    "columns.csv": (
        _text(lambda: "path," + ",".join(map(str, range(1_000_000))) + "\ngood.png\n"),
        "the names of its columns are longer",
    ),
    "values.csv": (_text(lambda: "path,a\ngood.png," + "," * 30_000_000), "a row has more than"),
    "field.csv": (_text(lambda: 'path,a\ngood.png,"' + "a" * (70 * MB)), "is a quote open"),
    "line.jsonl": (
        _text(lambda: '{"path": "a.png", "a": "' + "a" * (70 * MB)),
        "Unterminated string",
    ),
    "fields.jsonl": (
        _text(lambda: "{" + ",".join(f'"k{number}":1' for number in range(500_000)) + "}\n"),
        "fields by now",
    ),
    "rows.jsonl": (
        _text(lambda: "".join(f'{{"path":"{n}","k{n}":1}}\n' for n in range(20_000))),
        "fields by now",
    ),
    "lists.json": (_text(lambda: "[" + "[]," * 10_000_000 + "[]]"), "too many for one document"),
    "deep.json": (_text(lambda: "[" * 10_000_000), ""),
    "captions.parquet": (_many_captions, "unpack to more than"),
    "plain.parquet": (_plain_captions, "unpack to more than"),
    "list.parquet": (_caption_list, "unpack to more than"),
    "typed_list.parquet": (_typed_caption_list, "unpack to more than"),
    "typed.parquet": (_typed_captions, "unpack to more than"),
}
