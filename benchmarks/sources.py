"""Folders against archives and a slow server: `python -m benchmarks.sources [--rounds 3]`

The same photos out of a folder, a tar, a zip, a Parquet column and a bucket whose server, a process
of its own on this machine, answers each request 20 ms late. In turn; prints Markdown. Needs the
photos of `../shared`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import embedsearch
from benchmarks.measure import machine
from benchmarks.run import real_weights, some_photos

DELAY_S = 0.02
WANTED = {"tar": 0.95, "s3": 0.8}


def main() -> None:
    """Run every place in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", choices=["packaged", "resnet50"], default="packaged")
    parser.add_argument("--photos", type=int, default=2000)
    arguments = parser.parse_args()
    rounds, photos = arguments.rounds, arguments.photos
    with tempfile.TemporaryDirectory(prefix="embedsearch-bench-") as name:
        base = Path(name)
        os.environ["EMBEDSEARCH_CACHE"] = str(base / "cache")
        is_real = arguments.model == "resnet50"
        model = str(real_weights(base)) if is_real else arguments.model
        places = made_places(base, photos)
        with slow_bucket(base / "photos") as bucket:
            places["s3"] = bucket
            rates: dict[str, list[float]] = {place: [] for place in places}
            for number in range(rounds + 1):
                for place, path in places.items():
                    rate = one_run(path, base / "s.es", model, photos)
                    if number:  # the first one converts the network and fills the page cache
                        rates[place].append(rate)
    print(f"\n{machine()}, {arguments.model}, {photos} photos\n")
    print("| images/s | median (least–most) | of the folder's | wanted |")
    print("|---|---|---|---|")
    folder = statistics.median(rates["folder"])
    for place, some in rates.items():
        middle = statistics.median(some)
        wanted = f">= {WANTED[place]}" if place in WANTED else ""
        shown = f"{middle:.0f} ({min(some):.0f}–{max(some):.0f})"
        print(f"| {place} | {shown} | {middle / folder:.2f} | {wanted} |")


def one_run(place: str, store: Path, model: str, photos: int) -> float:
    """Return the images/s of a whole run without the network's load."""
    shutil.rmtree(store, ignore_errors=True)
    report = embedsearch.index(place, store=store, model=model, ann="exact")
    assert report.embedded == photos, report
    return report.embedded / (report.elapsed_s - report.stage_s["load"])


def made_places(base: Path, photos: int) -> dict[str, str]:
    """Return the places of the same photos, by kind."""
    folder = some_photos(base / "photos", photos)
    files = sorted(folder.iterdir())
    with tarfile.open(base / "a.tar", "w") as tar, zipfile.ZipFile(base / "a.zip", "w") as packed:
        for path in files:
            tar.add(path, path.name)
            packed.write(path, path.name)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
    table = pa.table({"image": pa.array(rows, kind)})
    pq.write_table(table, base / "a.parquet", row_group_size=100)
    names = {"folder": "photos", "tar": "a.tar", "zip": "a.zip", "parquet": "a.parquet"}
    return {kind: str(base / name) for kind, name in names.items()}


@contextmanager
def slow_bucket(folder: Path) -> Iterator[str]:
    """Serve the photos from a bucket; the environment's requests go there."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(folder, theirs), daemon=True)
    process.start()
    for name, value in ours.recv().items():
        os.environ[name] = value
    try:
        yield "s3://bench/photos"
    finally:
        process.kill()


def _serve(folder: Path, pipe: Any) -> None:
    import logging

    from tests.support.s3 import ENVIRONMENT, S3Server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server()
    server.put_folder(folder, "bench/photos")
    server.delay_s = DELAY_S
    pipe.send({**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url})
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
