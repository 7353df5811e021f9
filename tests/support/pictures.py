"""Pictures that differ, and writers of odd files; NumPy and Pillow only."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image


def picture(number: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Return an RGB picture of disks and boxes, another one for each number."""
    random = np.random.default_rng(number)
    width, height = size
    y, x = np.mgrid[0:height, 0:width] / width
    canvas = random.uniform(40, 215, 3) + random.uniform(-80, 80, 3) * x[..., None]
    for _ in range(9):
        left, top, radius = random.uniform(0, 1), random.uniform(0, 0.75), random.uniform(0.05, 0.2)
        round_one = (x - left) ** 2 + (y - top) ** 2 < radius**2
        boxed = (abs(x - left) < radius) & (abs(y - top) < radius)
        canvas[round_one if random.random() < 0.5 else boxed] = random.uniform(0, 255, 3)
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str, **save: object) -> io.BytesIO:
    """Return a file with the image."""
    file = io.BytesIO()
    image.save(file, form, **save)
    file.seek(0)
    return file


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples: npt.NDArray[np.integer], depth: int, *chunks: bytes) -> io.BytesIO:
    """Return a PNG of samples (H, W, C) of `depth` bits, with more chunks before the pixels."""
    height, width, bands = samples.shape
    color = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    if depth < 8:
        bits = np.unpackbits(samples[..., 0].astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        rows = [np.packbits(row.ravel()).tobytes() for row in bits]
    else:
        rows = [row.astype(f">u{depth // 8}").tobytes() for row in samples]
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    body = [chunk(b"IHDR", header), *chunks, pixels, chunk(b"IEND", b"")]
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(body))


def tiff(
    planes: Sequence[bytes],
    size: tuple[int, int],
    bits: Sequence[int],
    photometric: int,
    tags: dict[int, Sequence[int]] | None = None,
    order: str = "<",
    big: bool = False,
) -> io.BytesIO:
    """Return an uncompressed TIFF of one strip a plane; further tags are of 16 bits."""
    width, height = size
    head = b"II" if order == "<" else b"MM"
    head += struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    entries: dict[int, tuple[str, Sequence[int]]] = {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", bits), 259: ("H", [1]),
        262: ("H", [photometric]), 273: ("I", [0] * len(planes)), 277: ("H", [len(bits)]),
        278: ("I", [height]), 279: ("I", [len(plane) for plane in planes]),
        284: ("H", [1 if len(planes) == 1 else 2]),
    }  # fmt: skip
    entries |= {tag: ("H", values) for tag, values in (tags or {}).items()}
    count, room, slot = ("Q", 20, 8) if big else ("H", 12, 4)
    behind = len(head) + struct.calcsize(order + count) + room * len(entries) + slot
    sizes = {tag: struct.calcsize(f"{len(v)}{kind}") for tag, (kind, v) in entries.items()}
    place = behind + sum(length for length in sizes.values() if length > slot)
    starts = [place + sum(map(len, planes[:number])) for number in range(len(planes))]
    entries[273] = ("I", starts)
    directory, later = struct.pack(order + count, len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        data = struct.pack(f"{order}{len(values)}{kind}", *values)
        number = struct.pack(order + ("Q" if big else "I"), len(values))
        directory += struct.pack(order + "HH", tag, {"H": 3, "I": 4}[kind]) + number
        if len(data) > slot:
            directory += struct.pack(order + ("Q" if big else "I"), behind + len(later))
            later += data
        else:
            directory += data.ljust(slot, b"\0")
    return io.BytesIO(head + directory + bytes(slot) + later + b"".join(planes))
