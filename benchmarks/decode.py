"""Milliseconds of a processor that `decode` takes: `python benchmarks/decode.py DATA [ROOT]`

DATA holds retrieval_dev, caltech101_dev and camera. With ROOT, another checkout, its `decode` is
measured, too, in turn with this one's, each in processes of its own. Files are read beforehand.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

SIDE = 224
ROUNDS = 3
LARGE, AROUND = 500, 20  # pixels of the longer side, and how far from it
PHOTOS = 400
COPIES = 100  # that are saved as PNG and WebP
HERE = Path(__file__).resolve().parent.parent


def photos(data: Path) -> dict[str, list[bytes]]:
    """Return the files of each kind."""
    large = []
    for path in sorted((data / "retrieval_dev").rglob("*.jpg")):
        with Image.open(path) as image:
            if abs(max(image.size) - LARGE) <= AROUND:
                large.append(path)
    small = sorted((data / "caltech101_dev").rglob("*.jpg"))
    paths = {
        "JPEG, about 500 x 375": large[:PHOTOS],
        "JPEG, about 280 x 250": small[:: max(1, len(small) // PHOTOS)],
        "JPEG, 12 to 24 megapixels": sorted((data / "camera").glob("*.jpg")),
    }
    files = {kind: [path.read_bytes() for path in found] for kind, found in paths.items()}
    for form in ("PNG", "WEBP"):
        copies = []
        for path in large[:COPIES]:
            copy = io.BytesIO()
            Image.open(path).convert("RGB").save(copy, form)
            copies.append(copy.getvalue())
        files[f"{form}, about 500 x 375"] = copies
    return files


def decoder() -> Any:
    """Return a function of a file's bytes: what this checkout's index does with them."""
    try:
        spec = import_module("embedsearch.core.model_spec")
    except ImportError:  # version 0.1
        decode = import_module("embedsearch.decode.image").decode
        limits = import_module("embedsearch.config").DecodeLimits()
        return lambda data: decode(io.BytesIO(data), SIDE, limits)
    decode = import_module("embedsearch.images.decode.image").decode
    limits = import_module("embedsearch.core.config").DecodeLimits()
    framing = spec.Framing(spec.MILD_CROP, spec.BILINEAR, 1)
    return lambda data: decode(io.BytesIO(data), SIDE, limits, framing)


def measure(data: Path) -> None:
    """Print a line for each kind: milliseconds of the processor an image."""
    decode = decoder()
    for kind, files in photos(data).items():
        for file in files[:20]:
            decode(file)
        started = time.process_time()
        for file in files:
            decode(file)
        print(f"{kind}\t{1e3 * (time.process_time() - started) / len(files):.3f}")


def main() -> None:
    """Measure the checkouts in turn, and compare them."""
    data, roots = sys.argv[1], [HERE, *map(Path, sys.argv[2:])]
    times: dict[str, list[list[float]]] = {}
    for _ in range(ROUNDS):
        for number, root in enumerate(roots):
            # One thread: more would spin and count.
            settings = {"PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1", "MEASURED": "1"}
            command = [sys.executable, "-P", str(Path(__file__).resolve()), data]
            done = subprocess.run(
                command, env=os.environ | settings, capture_output=True, text=True, check=True
            )
            for line in done.stdout.splitlines():
                kind, milliseconds = line.split("\t")
                times.setdefault(kind, [[] for _ in roots])[number].append(float(milliseconds))
    for kind, measured in times.items():
        shown = [f"{min(each):.2f}-{max(each):.2f} ms" for each in measured]
        ratio = f" | {min(measured[0]) / min(measured[1]):.2f}" if len(measured) > 1 else ""
        print(f"| {kind} | {' | '.join(shown)}{ratio} |")


if __name__ == "__main__":
    if os.environ.get("MEASURED"):
        measure(Path(sys.argv[1]))
    else:
        main()
