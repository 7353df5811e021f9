"""Speed and memory against the plain loop, on this machine, in one run: `make bench`.

Needs the photos and the ResNet-50 weights of `../shared`. Prints a Markdown table with median
and spread; figures that are not reached are printed as such.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Run, machine, run, spread

SHARED = Path(__file__).parent.parent.parent / "shared"
PHOTOS = 1_000
STORE_PHOTOS = 2_000
TINY_FILES = 50_000
MEMORY_FILES = (40_000, 160_000)
ROUNDS = 3
COLD_ROUNDS = 15
CLI: list[str | Path] = [sys.executable, "-m", "embedsearch"]
WALK = (
    "import os, sys\n"
    "n = 0\n"
    "for top, _, names in os.walk(sys.argv[1]):\n"
    "    for name in names:\n"
    "        os.stat(os.path.join(top, name)); n += 1\n"
)


def main() -> None:
    """Run every measurement and print the table."""
    if not (SHARED / "data").is_dir():
        sys.exit("needs ../shared/data beside this checkout")
    with tempfile.TemporaryDirectory(prefix="embedsearch-bench-") as folder:
        base = Path(folder)
        environment = {**os.environ, "EMBEDSEARCH_CACHE": str(base / "cache")}
        os.environ["EMBEDSEARCH_CACHE"] = environment["EMBEDSEARCH_CACHE"]
        weights = base / "resnet50.pth"
        tool = SHARED / "tools" / "decode_weights.py"
        subprocess.run([sys.executable, str(tool), "resnet50", str(weights)], check=True)
        rows = [
            *index_against_plain_loop(base, weights, environment),
            *cold_query(base, weights, environment),
            *no_op(base, environment),
            *memory_by_size(base, weights, environment),
        ]
    print(
        f"\n{machine()}; {ROUNDS} rounds in turn, {COLD_ROUNDS} cold starts, one warm-up of each.\n"
    )
    print("| figure | measured: median (min–max) | wanted | reached |")
    print("|---|---|---|---|")
    for name, measured, wanted, reached in rows:
        verdict = ("yes" if reached else "**no**") if wanted else ""
        print(f"| {name} | {measured} | {wanted} | {verdict} |")


Row = tuple[str, str, str, bool]


def index_against_plain_loop(base: Path, weights: Path, environment: dict[str, str]) -> list[Row]:
    """`index` and the plain loop in turn, whole processes, over the same photos."""
    photos = some_photos(base / "photos", PHOTOS)
    store = base / "speed.es"
    index: list[str | Path] = [*CLI, "index", photos, "--store", store, "--model", weights]
    index.append("--json")
    run(index, environment)  # converts the network once
    loops, ours = [], []
    loop: list[str | Path] = [
        sys.executable,
        Path(__file__).with_name("plain_loop.py"),
        photos,
        weights,
    ]
    for _ in range(ROUNDS):
        loops.append(run([*loop, base / "v.npy"], environment))
        shutil.rmtree(store)
        ours.append(run(index, environment))
    shutil.rmtree(store)
    # Apart from the timed runs: watching memory takes processor time.
    watched = run(index, environment, memory=True)
    watched_loop = run([*loop, base / "v.npy"], environment, memory=True)
    ratios = [a.seconds / b.seconds for a, b in zip(loops, ours, strict=True)]
    report = json.loads(ours[-1].last_line)
    stages = " · ".join(f"{stage} {seconds:.2f}" for stage, seconds in report["stage_s"].items())
    return [
        (
            f"busy seconds a stage of the last index ({report['precision']})",
            f"{stages}; all {report['elapsed_s']:.1f}",
            "",
            True,
        ),
        ("index, images/s", spread([PHOTOS / r.seconds for r in ours], 1), "", True),
        ("plain loop, images/s", spread([PHOTOS / r.seconds for r in loops], 1), "", True),
        ("index / plain loop", spread(ratios), ">= 5", statistics.median(ratios) >= 5),
        (
            "peak memory of index, all processes, MiB",
            f"{watched.peak_mib:.0f}",
            "<= 800, no torch",
            watched.peak_mib <= 800 and "libtorch_cpu" not in watched.libraries,
        ),
        ("peak memory of the plain loop, MiB", f"{watched_loop.peak_mib:.0f}", "", True),
    ]


def cold_query(base: Path, weights: Path, environment: dict[str, str]) -> list[Row]:
    """One-shot processes against 2,000 images: `query`, `--help`, `info`."""
    photos = some_photos(base / "more", STORE_PHOTOS)
    store = base / "query.es"
    run([*CLI, "index", photos, "--store", store, "--model", weights], environment)
    image = next(photos.iterdir())
    query: list[str | Path] = [*CLI, "query", image, "--store", store]
    helps = [run([*CLI, "--help"], environment) for _ in range(COLD_ROUNDS)]
    infos = [run([*CLI, "info", "--store", store], environment) for _ in range(COLD_ROUNDS)]
    run(query, environment)
    queries = [run(query, environment) for _ in range(COLD_ROUNDS)]
    watched = run(query, environment, memory=True)

    def row(name: str, runs: list[Run], limit: float, more: bool = True) -> Row:
        seconds = [r.seconds for r in runs]
        return (
            f"{name}, s",
            spread(seconds),
            f"<= {limit}",
            statistics.median(seconds) <= limit and more,
        )

    torch = "libtorch_cpu" in watched.libraries
    return [
        row("cold query, whole process, no torch", queries, 1.0, not torch),
        row("embedsearch --help", helps, 0.3),
        row("embedsearch info", infos, 0.5),
    ]


def no_op(base: Path, environment: dict[str, str]) -> list[Row]:
    """A run with nothing to do, against walking and stating the same files."""
    folder = tiny_images(base / "tiny", TINY_FILES)
    store = base / "tiny.es"
    run([sys.executable, "-c", TINY, folder, store, "packaged"], environment)
    index: list[str | Path] = [*CLI, "index", folder, "--store", store]
    walk: list[str | Path] = [sys.executable, "-c", WALK, folder]
    walks, noops = [], []
    for _ in range(COLD_ROUNDS):
        walks.append(run(walk, environment).seconds)
        noops.append(run(index, environment).seconds)
    limit = 3 * statistics.median(walks) + 0.5
    return [
        (
            f"no-op index of {TINY_FILES:,} files, s",
            spread(noops),
            f"<= {limit:.2f} = 3 x {spread(walks)} + 0.5",
            statistics.median(noops) <= limit,
        )
    ]


def memory_by_size(base: Path, weights: Path, environment: dict[str, str]) -> list[Row]:
    """Peak memory by the number of images, with vectors of 2,048 and a stand-in network.

    Both sizes lie beyond the constants that bound a run: shards and FAISS files that are full.
    """
    peaks = []
    for count in MEMORY_FILES:
        folder = tiny_images(base / f"tiny{count}", count)
        store = base / f"tiny{count}.es"
        command: list[str | Path] = [sys.executable, "-c", TINY, folder, store, weights]
        peaks.append(run(command, environment, memory=True).peak_mib)
    small, large = MEMORY_FILES
    growth = (peaks[1] - peaks[0]) * (1 << 20) / (large - small)
    return [
        (
            f"peak memory of {small:,} and {large:,} images, stand-in network, MiB",
            f"{peaks[0]:.0f} and {peaks[1]:.0f} ({growth:.0f} bytes an image)",
            "no vectors kept: < 500 bytes an image",
            growth < 500,
        )
    ]


TINY = """
import sys
import numpy as np
import embedsearch

class Stand:
    device, precision, lanes = "cpu", "fp32", 1
    def __init__(self, spec):
        self.projection = np.random.default_rng(0).standard_normal((192, spec.dim), np.float32)
    def __call__(self, pixels):
        step = pixels.shape[1] // 8
        small = pixels[:, ::step, ::step].reshape(len(pixels), -1).astype(np.float32)
        vectors = small @ self.projection + 1e-3
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

embedsearch.index(sys.argv[1], store=sys.argv[2], model=sys.argv[3],
                  extractor_factory=lambda spec, *_: Stand(spec))
"""


def some_photos(folder: Path, count: int) -> Path:
    """Copy `count` of the shared photos into one folder, spread over the classes."""
    paths = sorted((SHARED / "data" / "caltech101_dev").rglob("*.jpg"))
    folder.mkdir()
    for number in range(count):
        source = paths[number * len(paths) // count]
        shutil.copy(source, folder / f"{number:05d}.jpg")
    return folder


def tiny_images(folder: Path, count: int) -> Path:
    """Write `count` 8 × 8 pictures, 1,000 a folder."""
    rng = np.random.default_rng(0)
    for number in range(count):
        home = folder / f"{number // 1000:03d}"
        home.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(home / f"{number:06d}.bmp")
    return folder


if __name__ == "__main__":
    main()
