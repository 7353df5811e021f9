"""Archives made of the files of a folder: tar, zip and Parquet."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

Members = Iterable[tuple[str, bytes]]


def members_of(folder: Path) -> list[tuple[str, bytes]]:
    """Return the files of a folder, as members of an archive."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path.relative_to(folder)), path.read_bytes()) for path in files]


def make_tar(
    path: Path, members: Members, mode: Literal["w", "w:gz", "w:bz2", "w:xz"] = "w"
) -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def make_zip(path: Path, members: Members, how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


MAKERS: dict[str, Callable[[Path, Members], Path]] = {
    "a.tar": make_tar,
    "a.tar.gz": lambda path, members: make_tar(path, members, "w:gz"),
    "a.tgz": lambda path, members: make_tar(path, members, "w:gz"),
    "a.tar.bz2": lambda path, members: make_tar(path, members, "w:bz2"),
    "a.tar.xz": lambda path, members: make_tar(path, members, "w:xz"),
    "a.zip": make_zip,
    "A.ZIP": lambda path, members: make_zip(path, members, zipfile.ZIP_STORED),
}


def make_parquet(path: Path, members: Members, *, is_struct: bool = True) -> Path:
    listed = list(members)
    images: pa.Array[Any]
    if is_struct:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        images = pa.array([{"bytes": data, "path": name} for name, data in listed], kind)
    else:
        images = pa.array([data for _, data in listed], pa.large_binary())
    labels = pa.array([name.split("/")[0] for name, _ in listed])
    pq.write_table(pa.table({"label": labels, "image": images}), path, row_group_size=5)
    return path
