"""Copies found: `python -m benchmarks.curation [--rows 1000000]`

On a made set of 2,000 photos, half of them with a known copy; and the time and memory of a million
vectors with planted copies, as whole processes. Prints Markdown. Needs the photos of `../shared`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import embedsearch
from benchmarks.measure import machine
from benchmarks.run import CLI, SHARED
from embedsearch.core.config import DuplicateConfig
from embedsearch.curation.duplicates import duplicates
from embedsearch.exchange.import_vectors import import_vectors

PHOTOS = 1000
KINDS = ("resize", "recompress", "crop", "gray", "flip")
DIM, CENTERS, PLANTED = 512, 20_000, 0.02
Row = tuple[str, ...]


def main() -> None:
    """Run both and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of made vectors")
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory(prefix="embedsearch-bench-") as folder:
        base = Path(folder)
        os.environ["EMBEDSEARCH_CACHE"] = str(base / "cache")
        found = [*made_set(base)]
        print(f"\n{machine()}\n\n| 2,000 photos | precision | {' | '.join(KINDS)} | seconds |")
        print("|---" * (len(KINDS) + 3) + "|")
        for row in found:
            print(f"| {' | '.join(row)} |")
        print("\n| figure | measured | wanted |\n|---|---|---|")
        for row in (*many(base, rows), *of_one(base, rows // 10)):
            print(f"| {' | '.join(row)} |")


def made_set(base: Path) -> Iterator[Row]:
    """Look for known copies among photos."""
    photos = made_photos(base / "photos")
    store = base / "photos.es"
    embedsearch.index(photos, store=store, model="packaged")
    for name, config in (
        ("by default", DuplicateConfig()),
        ("--flips --rotations", DuplicateConfig(flips=True, rotations=True)),
        ("--crops", DuplicateConfig(crops=True)),
        ("--similar 0.95, by embeddings", DuplicateConfig(similar=0.95)),
        ("--similar 0.9", DuplicateConfig(similar=0.9)),
    ):
        started = time.perf_counter()
        report = duplicates(store, config=config)
        took = time.perf_counter() - started
        pairs = set()
        for group in report.groups:
            alike = [
                copy for copy in group.copies if copy.is_copy or config.similar or config.crops
            ]
            keys = [group.keep.key, *(copy.picture.key for copy in alike)]
            pairs |= {(one, two) for one in keys for two in keys if one < two}
        right = sum(_of_one_photo(one, two) for one, two in pairs)
        recalls = []
        for kind in KINDS:
            mine = [path.name for path in photos.glob(f"*_{kind}.jpg")]
            wanted = [(key, f"{key[:4]}_original.jpg") for key in mine]
            hits = sum((min(pair), max(pair)) in pairs for pair in wanted)
            recalls.append(f"{hits / len(mine):.3f}")
        yield name, f"{right / len(pairs):.3f}", *recalls, f"{took:.1f}"


def _of_one_photo(one: str, two: str) -> bool:
    # Of these two photos of the set, seen side by side, one is the other, scaled.
    numbers = {"0118" if key[:4] == "0575" else key[:4] for key in (one, two)}
    return len(numbers) == 1


def made_photos(folder: Path) -> Path:
    """Return a folder of 1,000 photos and a copy of each, of five kinds."""
    rng = random.Random(11)
    photos = sorted((SHARED / "data" / "caltech101_dev").glob("*/*.jpg"))
    rng.shuffle(photos)
    folder.mkdir()
    for number, path in enumerate(photos[:PHOTOS]):
        kind = KINDS[number % len(KINDS)]
        (folder / f"{number:04d}_original.jpg").write_bytes(path.read_bytes())
        image, quality = Image.open(path).convert("RGB"), 90
        width, height = image.size
        if kind == "resize":
            scale = rng.uniform(0.3, 0.8)
            size = max(32, round(width * scale)), max(32, round(height * scale))
            image = image.resize(size, Image.Resampling.LANCZOS)
        elif kind == "recompress":
            quality = rng.randint(20, 60)
        elif kind == "crop":
            side, rise = round(0.9 * width), round(0.9 * height)
            left, top = rng.randint(0, width - side), rng.randint(0, height - rise)
            image = image.crop((left, top, left + side, top + rise))
        elif kind == "gray":
            image = image.convert("L")
        else:
            image = ImageOps.mirror(image)
        image.save(folder / f"{number:04d}_{kind}.jpg", quality=quality)
    return folder


def many(base: Path, rows: int) -> Iterator[Row]:
    """Look for planted look-alikes among made vectors, in a process of its own."""
    rng = np.random.default_rng(3)
    planted = int(rows * PLANTED)
    centers = rng.standard_normal((CENTERS, DIM), np.float32)
    vectors = np.empty((rows, DIM), np.float16)
    for start in range(0, rows - planted, 50_000):
        some = vectors[start : min(start + 50_000, rows - planted)]
        made = centers[rng.integers(CENTERS, size=len(some))]
        made = made + rng.standard_normal(made.shape, np.float32)
        some[:] = made / np.linalg.norm(made, axis=1, keepdims=True)
    sources = rng.choice(rows - planted, planted, replace=False)
    copies = vectors[sources].astype(np.float32)
    copies += 0.2 / np.sqrt(DIM) * rng.standard_normal(copies.shape, np.float32)  # cosine 0.98
    vectors[rows - planted :] = copies / np.linalg.norm(copies, axis=1, keepdims=True)
    np.save(base / "v.npy", vectors)
    del vectors
    (base / "paths.txt").write_text("".join(f"{row:07d}.jpg\n" for row in range(rows)))
    store = base / "many.es"
    import_vectors(
        base / "v.npy", paths=base / "paths.txt", root=base, model="elsewhere", store=store
    )
    (base / "v.npy").unlink()
    command = [*CLI, "duplicates", "--similar", "0.95", "--json", "--store", str(store)]
    started = time.perf_counter()
    with (base / "found.jsonl").open("w") as out:
        process = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - started
    assert status == 0, status
    groups: dict[int, list[int]] = {}
    for line in (base / "found.jsonl").open():
        row = json.loads(line)
        groups.setdefault(row["group"], []).append(row["row"])
    home = {row: group for group, members in groups.items() for row in members}
    firsts = [home.get(int(source)) for source in sources]
    hits = sum(
        first is not None and first == home.get(rows - planted + place)
        for place, first in enumerate(firsts)
    )
    yield f"{rows:,} vectors of {DIM}, `--similar 0.95`", f"{took:.0f} s", "<= 900 s"
    yield "… memory", f"{usage.ru_maxrss / 1024 / 1024:.2f} GiB", "<= 4 GB"
    yield (
        "… planted pairs found",
        f"{hits:,} of {planted:,} ({hits / planted:.4f}); {len(groups):,} groups",
        "",
    )


def of_one(base: Path, rows: int) -> Iterator[Row]:
    """Look for the copies of one picture among nothing else: every two are alike."""
    rng = np.random.default_rng(4)
    one = rng.standard_normal(DIM).astype(np.float32)
    np.save(base / "o.npy", one + 0.05 * rng.standard_normal((rows, DIM), np.float32))
    (base / "o.txt").write_text("".join(f"{row:07d}.jpg\n" for row in range(rows)))
    store = base / "one.es"
    import_vectors(base / "o.npy", paths=base / "o.txt", root=base, model="elsewhere", store=store)
    started = time.perf_counter()
    report = duplicates(store, config=DuplicateConfig(similar=0.99))
    took = time.perf_counter() - started
    sizes = sorted((1 + len(group.copies) for group in report.groups), reverse=True)
    yield f"{rows:,} near copies of one picture", f"{took:.0f} s, groups of {sizes[:3]}", ""


if __name__ == "__main__":
    main()
