"""Archives, tables and sidecars that are almost right: each costs itself, or is refused in words.

In: sound files of each kind; out: what became of mutations of them. After each run the picture
beside it is in the store, and the store is whole.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import resource
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import embedsearch
from embedsearch.store.check import check_store
from tests.soak import mutants
from tests.soak.finding import Finding, Trial
from tests.soak.forge import forked
from tests.support.extractor import counting
from tests.support.library import paint

_FULL = 4000
_SLOW_S = 30.0
_MEMORY = 4 << 30  # of address space: what takes more fails in ways of its own, and is accused
_TABLES = {".csv", ".jsonl", ".json"}


def run(trial: Trial, finding: Finding, folder: Path) -> None:
    """Index mutated files beside a sound picture."""
    rng = trial.random()
    pictures = [paint(folder / "seeds" / f"{n}.png", n).read_bytes() for n in range(3)]
    sound = {name: make(pictures) for name, make in _KINDS.items()}
    photos = folder / "photos"
    always = paint(photos / "always.png", 9)
    for number in range(trial.count(_FULL)):
        name = rng.choice(sorted(sound))
        data = sound[name] if number < len(sound) else _mutated(rng, sound[name])
        place = folder / f"{number}{name}"
        place.write_bytes(data)
        store = folder / f"{number}.es"
        ended = forked(partial(_index, trial, place, photos, store))
        finding.count("mutated files")
        if not ended.is_expected or ended.seconds > _SLOW_S:
            finding.accuse(f"{name} of trial {number}, seed {trial.seed}: {ended.words}")
        elif ended.error is not None:
            finding.count("refused in words")
            assert str(ended.error), "an error without words"
        elif str(always) not in ended.value:
            finding.accuse(f"{name} of trial {number}: the picture beside it was lost")
        else:
            finding.count("taken, or a failure of its own")
        shutil.rmtree(store, ignore_errors=True)
        place.unlink()


def _index(trial: Trial, place: Path, photos: Path, store: Path, _: object) -> list[str]:
    """Index a file in its way, and return the paths of the images that are in the store."""
    mutants.apply(trial.mutant)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    options: dict[str, Any] = {"store": store, "extractor_factory": counting}
    if place.suffix in _TABLES and not place.name.endswith("always.png.json"):
        embedsearch.index(photos, model="packaged", **options)
        embedsearch.index(metadata=str(place), **options)
    elif place.suffix == ".json":
        beside = photos.parent / f"beside-{place.stem}"
        shutil.copytree(photos, beside)
        shutil.copy(place, beside / "always.png.json")
        os.link(photos / "always.png", beside / "other.png")
        embedsearch.index([photos, beside], model="packaged", sidecars=True, **options)
        shutil.rmtree(beside)
    else:
        embedsearch.index([place, photos], model="packaged", **options)
    problems = check_store(store, read_data=True)[1]
    assert not problems, problems
    with embedsearch.open_store(store) as searcher:
        found = searcher.images(1000).images
        for image in found:
            json.dumps(image.to_dict(), allow_nan=False)
        searcher.query(embedsearch.Key(found[0].row), k=5)
        return [image.full_path for image in found]


def _mutated(rng: random.Random, data: bytes) -> bytes:
    """Return data with some of it changed, cut, repeated or put elsewhere."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        at = rng.randrange(len(changed) or 1)
        length = rng.choice((1, 2, 4, 8, 64, 512))
        match rng.randrange(7):
            case 0:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                changed[at : at + length] = rng.choice((b"\xff", b"\0", b"9", b"7")) * length
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length] * rng.choice((1, 2, 50))
            case 4:
                del changed[rng.randrange(len(changed) or 1) :]
            case 5:
                other = rng.randrange(len(changed) or 1)
                changed[at : at + length] = changed[other : other + length]
            case 6:
                numbers = (0, 1, 127, 2**31 - 1, 2**32 - 1, 2**63 - 1)
                changed[at : at + 8] = rng.choice(numbers).to_bytes(
                    8, rng.choice(("little", "big"))
                )
        changed = changed or bytearray(b"\0")
    return bytes(changed)


def _tar(pictures: list[bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for number, data in enumerate(pictures):
            info = tarfile.TarInfo("long/" * 30 * (number == 1) + f"{number}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _zip(pictures: list[bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for number, data in enumerate(pictures):
            archive.writestr(f"{number}.png", data)
    return out.getvalue()


def _parquet(pictures: list[bytes]) -> bytes:
    out = io.BytesIO()
    images = [{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(pictures)]
    table = pa.table({"image": images, "label": ["a", "b", "c"], "when": [1.5, None, 2.0]})
    pq.write_table(table, out)
    return out.getvalue()


def _lines(pictures: list[bytes]) -> bytes:
    rows = [
        {"name": "always.png", "caption": "sea", "tags": ["a", "b"], "box": {"x": 1.5, "y": None}},
        {"name": "none.png", "caption": None, "tags": [], "box": {"x": 2, "y": 3}},
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


_KINDS: dict[str, Callable[[list[bytes]], bytes]] = {
    ".tar": _tar,
    "-pax.tar": lambda pictures: _tar(pictures, tarfile.PAX_FORMAT),
    ".tar.gz": lambda pictures: gzip.compress(_tar(pictures)),
    ".tar.bz2": lambda pictures: bz2.compress(_tar(pictures)),
    ".tar.xz": lambda pictures: lzma.compress(_tar(pictures)),
    ".zip": _zip,
    "-deflated.zip": lambda pictures: _zip(pictures, zipfile.ZIP_DEFLATED),
    ".parquet": _parquet,
    ".csv": lambda _: b'name,caption,price\nalways.png,"a ""sea"", blue",1.5\nnone.png,wood,\n',
    ".jsonl": _lines,
    ".json": lambda _: b'[{"name": "always.png", "caption": "sea", "n": 1}, {"name": "x", "n": 2}]',
    "-always.png.json": lambda _: b'{"title": "sea", "geo": {"lat": 1.5}, "tags": ["a", "b"]}',
}
