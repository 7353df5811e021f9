"""What grows with the number of images: `python -m benchmarks.scale plan|store|units [--images N]`

`plan`: the coordinator over N references that a stand-in for a source names, one process, peak
memory. `store`: N real vectors, jittered, imported, indexed for search, asked. `units`: the photos
of `../shared` by one `index` and by four `index --unit` at a time, in turn. Prints Markdown rows.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import machine
from benchmarks.run import real_weights

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
QUERIES = 200
JITTER = 0.25  # of a vector's length, before it is scaled to length 1 again


class NamedImages:
    """A stand-in for a source: N images in folders of a thousand, whose names alone there are."""

    held_bytes = 0

    def __init__(self, root: int, count: int) -> None:
        from embedsearch.core.walks import Ignored

        self._root = root
        self._count = count
        self.failures: list[Any] = []
        self.unreachable: set[str] = set()
        self.ignored = Ignored()

    def is_there(self) -> bool:
        return True

    def version(self) -> str:
        return ""

    def close(self) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        from embedsearch.core.records import ImageRef

        for number in range(self._count):
            key = f"{number // 1000:06d}/image-{number:09d}.jpg"
            yield ImageRef(self._root, key, 200_000 + number % 977, 1_700_000_000_000_000_000)


def plan(images: int) -> None:
    """Plan N images, and print seconds, bytes and peak memory."""
    from embedsearch.indexing import scope
    from embedsearch.indexing.distributed import plan as distributed_plan

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        scope.open_source = lambda root, *_: NamedImages(root.id, images)  # type: ignore[assignment,attr-defined]
        started = time.monotonic()
        made = distributed_plan.plan(
            [folder / "photos"], store=folder / "s.es", shares=1, model="packaged"
        )
        seconds = time.monotonic() - started
        assert made is not None and made.images == images
        size = sum(f.stat().st_size for f in (folder / "s.es").rglob("*") if f.is_file())
        plan_bytes = (folder / "s.es" / "units" / "PLAN").stat().st_size
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"| {images:,} | {len(made.units):,} | {seconds:.1f} | {1e6 * seconds / images:.1f} | "
            f"{size / images:.1f} | {plan_bytes / 1e6:.2f} | {peak:.0f} |",
            flush=True,
        )


def store(images: int) -> None:
    """Import N vectors, index them for search, ask; print seconds, bytes and milliseconds."""
    import embedsearch
    from embedsearch.store.info import info

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, paths = _vectors(folder, images)
        embed = [sys.executable, "-m", "embedsearch"]
        command: list[str | Path] = [*embed, "import", source, "--model", "jittered"]
        command += ["--paths", paths, "--root", name, "--store", folder / "s.es", "--json"]
        started = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.monotonic() - started
        source.unlink()
        sizes = {
            kind: sum(f.stat().st_size for f in (folder / "s.es" / kind).iterdir())
            for kind in ("shards", "ann", "manifests")
        }
        facts = info(folder / "s.es").to_dict()
        queries = _clustered(np.random.default_rng(2), QUERIES)
        with embedsearch.open_store(folder / "s.es") as searcher:
            searcher.query(queries[0])
            times = []
            for query in queries:
                began = time.perf_counter()
                searcher.query(query, k=10)
                times.append(1000 * (time.perf_counter() - began))
        cold = _cold(embed, folder / "s.es")
        print(
            f"| {images:,} | {seconds:.1f} | {sizes['shards'] / images:.0f} | "
            f"{sizes['ann'] / images:.0f} | {sizes['manifests'] / 1e3:.0f} | "
            f"{facts['search']} | {statistics.median(times):.2f} "
            f"({np.percentile(times, 99):.2f}) | {cold:.2f} |",
            flush=True,
        )


def _cold(embed: list[str], place: Path) -> float:
    """Return the median of five starts of `info`, which opens the generation, in seconds."""
    times = []
    for _ in range(5):
        began = time.monotonic()
        subprocess.run([*embed, "info", "--store", place], check=True, capture_output=True)
        times.append(time.monotonic() - began)
    return statistics.median(times)


_REAL: list[Any] = []


def _clustered(random: np.random.Generator, count: int) -> Any:
    """Return real vectors of the packaged network with noise, float32 (count, 512), unit rows."""
    if not _REAL:
        import embedsearch

        photos = sorted((SHARED / "caltech101_dev").rglob("*.jpg"))
        with embedsearch.ImageEmbedder("packaged") as embedder:
            _REAL.append(embedder.embed([str(photo) for photo in photos]))
    real = _REAL[0]
    chosen = real[random.integers(len(real), size=count)]
    noise = random.standard_normal(chosen.shape, dtype=np.float32)
    noise *= JITTER / np.sqrt(real.shape[1])
    made = chosen + noise
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def _vectors(folder: Path, images: int) -> tuple[Path, Path]:
    source, paths = folder / "v.npy", folder / "paths.txt"
    out = np.lib.format.open_memmap(source, "w+", np.float32, (images, 512))
    random = np.random.default_rng(1)
    for start in range(0, images, 50_000):
        stop = min(images, start + 50_000)
        out[start:stop] = _clustered(random, stop - start)
    out.flush()
    with paths.open("w") as file:
        file.writelines(f"{n // 1000:06d}/image-{n:09d}.jpg\n" for n in range(images))
    return source, paths


def units(rounds: int, model: str, photos: int) -> None:
    """Index by one process, by four units at a time and on Ray; print images/s of each."""
    chosen = sorted((SHARED / "caltech101_dev").rglob("*.jpg"))
    speeds: dict[str, list[float]] = {"index": [], "units": [], "ray": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(photos):
            photo = chosen[number % len(chosen)]
            target = folder / "photos" / f"{number // len(chosen)}-{photo.parent.name}"
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, target / photo.name)
        os.environ["EMBEDSEARCH_CACHE"] = str(folder / "cache")
        weights = str(real_weights(folder)) if model == "resnet50" else model
        _index(folder / "photos" / "0-accordion", folder / "warm.es", weights)  # converts it
        for _ in range(rounds):
            for kind, run in (("index", _alone), ("units", _four), ("ray", _ray)):
                shutil.rmtree(folder / "s.es", ignore_errors=True)
                started = time.monotonic()
                run(folder, weights)
                speeds[kind].append(photos / (time.monotonic() - started))
    print(f"\n{machine()}, {model}, {photos} photos\n")
    print("| images/s | median (least–most) | of index | wanted |\n|---|---|---|---|")
    base = statistics.median(speeds["index"])
    for kind, wanted in (("index", ""), ("units", "≥ 0.9"), ("ray", "≥ 0.85")):
        middle = statistics.median(speeds[kind])
        spread = f"{middle:.1f} ({min(speeds[kind]):.1f}–{max(speeds[kind]):.1f})"
        print(f"| {kind} | {spread} | {middle / base:.2f} | {wanted} |")


def _command(place: Path, store: Path, weights: str, *more: str) -> list[str]:
    command = [sys.executable, "-m", "embedsearch", "index", str(place), "--store", str(store)]
    return [*command, "--model", weights, "--json", *more]


def _index(place: Path, store: Path, weights: str, *more: str) -> None:
    command = _command(place, store, weights, *more)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _alone(folder: Path, weights: str) -> None:
    _index(folder / "photos", folder / "s.es", weights)


def _four(folder: Path, weights: str) -> None:
    commands = [
        _command(folder / "photos", folder / "s.es", weights, "--unit", f"{n}/4") for n in range(4)
    ]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    if any(code for code in [process.wait() for process in running]):
        raise SystemExit("a unit failed")
    commit = [sys.executable, "-m", "embedsearch", "commit", "--store", str(folder / "s.es")]
    subprocess.run(commit, check=True, stdout=subprocess.DEVNULL)


def _ray(folder: Path, weights: str) -> None:
    _index(folder / "photos", folder / "s.es", weights, "--engine", "ray")


def main() -> None:
    """Measure what is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["plan", "store", "units"])
    parser.add_argument("--images", type=float, nargs="*", default=[1e4, 1e5, 1e6])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", choices=["packaged", "resnet50"], default="packaged")
    parser.add_argument("--photos", type=int, default=4000)
    arguments = parser.parse_args()
    if arguments.what == "units":
        units(arguments.rounds, arguments.model, arguments.photos)
        return
    for count in map(int, arguments.images):
        if os.fork() == 0:  # each by itself, for its peak memory
            {"plan": plan, "store": store}[arguments.what](count)
            os._exit(0)
        os.wait()


if __name__ == "__main__":
    main()
