"""Mutated image files through the decoding processes: each costs itself and nothing else.

In: seeds of every format; out: what became of each mutation. The workers run with an audit hook
that writes down what a decoder has no business doing: code, processes, connections, files.
"""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from embedsearch.core.config import DecodeLimits
from embedsearch.core.records import ImageRef
from embedsearch.images.decode.pool import DecodePool
from embedsearch.images.decode.process import DecodeJob
from tests.soak import mutants
from tests.soak.finding import Finding, Trial
from tests.support.jobs import decode_job
from tests.support.library import REPOSITORY, SAMPLES, SHARED, paint

_FULL = 20_000
_FULL_DEADLY = 2_000
_AT_ONCE = 400
_LARGEST_SEED = 60_000  # bytes
_SEEDS = 40
_LIMITS = DecodeLimits(image_timeout_s=10.0)
_DEADLY = b"deadly"  # ends every fiftieth file; where a decoder is asked to, it dies of that

# Put before a worker starts, as sitecustomize: what is done while it decodes is written down.
HOOK = """
import os
from tests.soak.guard import Guard
import embedsearch.images.decode.image as image

mutant, deadly = os.environ.get("SOAK_MUTANT"), os.environ["SOAK_DEADLY"]

def note(words):
    out = os.open(os.environ["SOAK_NOTE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(out, words.encode() + b"\\n")
    os.close(out)

guard = Guard(note)
real = image.decode

def decode(file, *rest, **named):
    data = file.read()
    file.seek(0)
    if deadly and data.endswith(b"deadly") or mutant == "shared_fate" and sum(data[:64]) % 9 == 0:
        os._exit(3)
    guard.is_on = True
    try:
        if mutant == "runs_code":
            os.system("true")
        return real(file, *rest, **named)
    finally:
        guard.is_on = False

image.decode = decode
"""


def run(trial: Trial, finding: Finding, folder: Path) -> None:
    """Decode mutations of the seeds, and good pictures between them, which must stay good."""
    note = _hook(folder, deadly=False)
    _decode(trial, finding, folder, _FULL)
    if note.exists():
        for line in note.read_text().splitlines()[:5]:
            finding.accuse(f"a decoder did: {line}")


def run_deadly(trial: Trial, finding: Finding, folder: Path) -> None:
    """The same with a decoder that dies of every fiftieth file: a stand-in for a crash in C."""
    _hook(folder, deadly=True)
    _decode(trial, finding, folder, _FULL_DEADLY)


def _decode(trial: Trial, finding: Finding, folder: Path, full: int) -> None:
    mutants.apply(trial.mutant)
    rng = trial.random()
    seeds = _seeds(folder / "seeds")
    with DecodePool(64, _LIMITS, workers=2) as pool:
        while finding.figures["mutated images"] < trial.count(full):
            _round(finding, pool, seeds, rng, folder / "round")


def _hook(folder: Path, *, deadly: bool) -> Path:
    """Have workers start with the hook; return where it writes."""
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    note = folder / "note.txt"
    path = f"{folder / 'hook'}:{REPOSITORY}"
    os.environ |= {"PYTHONPATH": path, "SOAK_NOTE": str(note), "SOAK_DEADLY": "yes" * deadly}
    return note


def _seeds(folder: Path) -> list[bytes]:
    """Return small files of every format, hostile ones among them where they are at hand."""
    found = [_encoded(folder, form) for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]
    found += [
        _encoded(folder, "JPEG", progressive=True),
        _encoded(folder, "TIFF", compression="tiff_lzw"),
    ]
    files = sorted(SAMPLES.rglob("*.*")) + sorted((SHARED / "data" / "nasty").glob("*"))
    small = [path for path in files if path.is_file() and 0 < path.stat().st_size < _LARGEST_SEED]
    step = max(1, len(small) // (_SEEDS - len(found)))
    return [*found, *(path.read_bytes() for path in small[::step])]


def _encoded(folder: Path, form: str, **options: object) -> bytes:
    path = paint(folder / "seed.png", len(form) + len(options), size=(96, 80))
    data = io.BytesIO()
    with Image.open(path) as image:
        image.convert("P" if form == "GIF" else "RGB").save(data, form, **options)
    return data.getvalue()


def _round(
    finding: Finding, pool: DecodePool, seeds: list[bytes], rng: random.Random, folder: Path
) -> None:
    """Write some mutations and good pictures, decode them, and account for each."""
    folder.mkdir(exist_ok=True)
    names = []
    for number in range(_AT_ONCE):
        path = folder / f"{number:03d}.jpg"
        path.write_bytes(_mutated(rng, seeds) + _DEADLY * (number % 50 == 49))
        names.append(path.name)
    good = [f"good{number}.png" for number in range(4)]
    for number, name in enumerate(good):
        paint(folder / name, number)
        names.insert(rng.randrange(len(names)), name)
    seen: dict[str, str] = {}
    jobs: Iterator[DecodeJob] = (decode_job(ImageRef(0, n, -1, -1), str(folder)) for n in names)
    for batch in pool.run(jobs):
        found = [(ref.key, "decoded") for ref in batch.images.refs]
        found += [(failure.key, f"failed, {failure.reason}") for failure in batch.failures]
        for key, outcome in found:
            if key in seen:
                finding.accuse(f"{key} came back twice")
            seen[key] = outcome
    if seen.keys() != set(names):
        finding.accuse(f"{len(set(names) - seen.keys())} images were not accounted for")
    for name in names:
        finding.count("mutated images", name not in good)
        if name in good and seen.get(name) != "decoded":
            finding.accuse(f"{name}, a good neighbour, {seen.get(name)}")
        if name not in good:
            finding.count(seen.get(name, "lost"))


def _mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Flip, cut or splice."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(data)) if data else 0
        kind = rng.choice(("flip", "flip", "byte", "cut", "splice", "grow"))
        if kind == "flip" and data:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == "byte" and data:
            data[place] = rng.choice((0, 0x7F, 0x80, 0xFF))
        elif kind == "cut":
            del data[place:]
        elif kind == "splice":
            other = rng.choice(seeds)
            data[place:] = other[rng.randrange(len(other)) :]
        elif kind == "grow":
            data[place:place] = bytes(rng.randrange(1, 64))
    return bytes(data)
