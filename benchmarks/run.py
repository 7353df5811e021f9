"""Speed and memory against the plain loop, on this machine, in one run: `make bench`.

Needs the photos and the ResNet-50 weights of `../shared`. Prints a Markdown table with median
and spread; figures that are not reached are printed as such.
"""

from __future__ import annotations

import io
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
PHOTOS = 2_000
TINY_FILES = 100_000  # a tenth of all
CAMERA_ROUNDS = 5
ROUNDS = 3
COLD_ROUNDS = 15
CLI: list[str | Path] = [sys.executable, "-m", "embedsearch"]
ALONE: list[str | Path] = [sys.executable, Path(__file__).with_name("alone.py")]
WALK = (
    "import os, sys\n"
    "n = 0\n"
    "for top, _, names in os.walk(sys.argv[1]):\n"
    "    for name in names:\n"
    "        os.stat(os.path.join(top, name)); n += 1\n"
)


def main() -> None:
    """Run every measurement and print the table."""
    with tempfile.TemporaryDirectory(prefix="embedsearch-bench-") as folder:
        base = Path(folder)
        environment = {**os.environ, "EMBEDSEARCH_CACHE": str(base / "cache")}
        os.environ["EMBEDSEARCH_CACHE"] = environment["EMBEDSEARCH_CACHE"]
        weights = real_weights(base)
        tiny = tiny_images(base / "tiny")
        rows = [
            *index_against_plain_loop(base, weights, environment),
            *camera_photos(base, weights, environment),
            *cold_query(base, weights, tiny, environment),
            *no_op(base, tiny, environment),
            *memory_by_size(base, tiny, environment),
        ]
    print(
        f"\n{machine()}; {ROUNDS} rounds in turn, {COLD_ROUNDS} cold starts, one warm-up of each.\n"
    )
    print("| figure | measured: median (min–max) | wanted | reached |")
    print("|---|---|---|---|")
    for name, measured, wanted, is_reached in rows:
        verdict = ("yes" if is_reached else "**no**") if wanted else ""
        print(f"| {name} | {measured} | {wanted} | {verdict} |")


Row = tuple[str, str, str, bool]


def index_against_plain_loop(base: Path, weights: Path, environment: dict[str, str]) -> list[Row]:
    """`index`, the plain loop and the bare network in turn, whole processes, on the same photos."""
    photos = some_photos(base / "photos", PHOTOS)
    store = base / "speed.es"
    script = Path(__file__).with_name("plain_loop.py")
    loop: list[str | Path] = [sys.executable, script, photos, weights, base / "v.npy"]
    loops: list[Run] = []
    ours: dict[str, list[Run]] = {"auto": [], "int8": []}
    bare: dict[str, list[float]] = {"auto": [], "int8": []}

    def index(precision: str, *, memory: bool = False) -> Run:
        shutil.rmtree(store, ignore_errors=True)
        options = ["--store", store, "--model", weights, "--precision", precision, "--json"]
        return run([*CLI, "index", photos, *options], environment, memory=memory)

    for precision in ours:
        index(precision)  # converts the network once
    for _ in range(ROUNDS):
        loops.append(run(loop, environment))
        for precision, runs in ours.items():
            runs.append(index(precision))
            code = [*ALONE, "network", photos, weights, precision]
            bare[precision].append(float(run(code, environment).last_line))
    rows = [("plain loop, images/s", spread([PHOTOS / r.seconds for r in loops], 1), "", True)]
    for precision, runs in ours.items():
        report = json.loads(runs[-1].last_line)
        name = report["precision"]
        rates = [PHOTOS / r.seconds for r in runs]
        ratios = [a.seconds / b.seconds for a, b in zip(loops, runs, strict=True)]
        of_bare = [rate / alone for rate, alone in zip(rates, bare[precision], strict=True)]
        busy = " · ".join(f"{stage} {s:.2f}" for stage, s in report["stage_s"].items())
        rows += [
            (f"index in {name}, images/s", spread(rates, 1), "", True),
            (f"index in {name} / plain loop", spread(ratios), ">= 6", reached(ratios, 6)),
            (f"bare network in {name}, images/s", spread(bare[precision], 1), "", True),
            (f"index in {name} / bare network", spread(of_bare), ">= 0.8", reached(of_bare, 0.8)),
            (f"busy seconds, last index in {name}", busy, f"of {report['elapsed_s']:.1f}", True),
        ]
    # Apart from the timed runs: watching memory takes processor time.
    watched = index("auto", memory=True)
    few = some_photos(base / "few", 320)
    watched_loop = run([*loop[:2], few, *loop[3:]], environment, memory=True)
    return [
        *rows,
        (
            "peak memory of index, all processes, MiB",
            f"{watched.peak_mib:.0f}",
            "<= 800, no torch",
            watched.peak_mib <= 800 and "libtorch_cpu" not in watched.libraries,
        ),
        ("peak memory of the plain loop, MiB", f"{watched_loop.peak_mib:.0f}", "", True),
    ]


def camera_photos(base: Path, weights: Path, environment: dict[str, str]) -> list[Row]:
    """Photos of 12 to 24 megapixels: our decoding against Pillow's full decode and resize."""
    photos = SHARED / "data" / "camera"
    code = [*ALONE, "camera", photos]
    ratios, theirs, ours = [], [], []
    for _ in range(CAMERA_ROUNDS):
        full, drafted = map(float, run(code, environment).last_line.split())
        theirs.append(1000 * full)
        ours.append(1000 * drafted)
        ratios.append(full / drafted)
    many = base / "many"
    for number in range(24):
        many.mkdir(exist_ok=True)
        for path in photos.iterdir():
            shutil.copy(path, many / f"{number}-{path.name}")
    store = base / "camera.es"
    command = [*CLI, "index", many, "--store", store, "--model", weights]
    idle = run([*ALONE, "idle", weights], environment, memory=True)
    watched = run(command, environment, memory=True)
    above = watched.peak_mib - idle.peak_mib
    return [
        ("12-24 Mpx JPEG: Pillow's full decode and resize, ms", spread(theirs, 0), "", True),
        ("12-24 Mpx JPEG: ours, ms", spread(ours, 0), "", True),
        ("12-24 Mpx JPEG: full / ours", spread(ratios), ">= 3", reached(ratios, 3)),
        (
            "index of 144 such photos: peak above the loaded network, MiB",
            f"{above:.0f} ({watched.peak_mib:.0f} in all)",
            "<= 400",
            above <= 400,
        ),
    ]


def cold_query(base: Path, weights: Path, tiny: Path, environment: dict[str, str]) -> list[Row]:
    """One-shot processes: `query` against 2,000 and 200,000 images, `--help`, `info`."""
    rows = []
    image = next((base / "photos").iterdir())
    large = base / "large.es"
    run([*ALONE, "index", large, weights, tiny / "0", tiny / "1"], environment)
    for store, images in ((base / "speed.es", PHOTOS), (large, 2 * TINY_FILES)):
        query: list[str | Path] = [*CLI, "query", image, "--store", store]
        for _ in range(2):
            run(query, environment)  # the first one hashes files of more than 128 MB
        queries = [run(query, environment).seconds for _ in range(COLD_ROUNDS)]
        watched = run(query, environment, memory=True)
        no_torch = "libtorch_cpu" not in watched.libraries
        name = f"cold query of {images:,} images, whole process, no torch, s"
        fast = statistics.median(queries) <= 0.6
        rows.append((name, spread(queries), "<= 0.6", fast and no_torch))
    for command, limit in ((["--help"], 0.3), (["info", "--store", base / "speed.es"], 0.5)):
        seconds = [run([*CLI, *command], environment).seconds for _ in range(COLD_ROUNDS)]
        fast = statistics.median(seconds) <= limit
        rows.append((f"embedsearch {command[0]}, s", spread(seconds), f"<= {limit}", fast))
    return rows


def no_op(base: Path, tiny: Path, environment: dict[str, str]) -> list[Row]:
    """A run with nothing to do, against walking and stating the same files."""
    folder, store = tiny / "0", base / "noop.es"
    run([*ALONE, "index", store, "packaged", folder], environment)
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


def memory_by_size(base: Path, tiny: Path, environment: dict[str, str]) -> list[Row]:
    """Peak memory by the number of images, with a stand-in network of 512 dims.

    Both sizes lie beyond the constants that bound a run: shards and FAISS files that are full.
    """
    peaks: list[float] = []
    for folder in (tiny / "0", tiny):
        store = base / f"memory{len(peaks)}.es"
        command = [*ALONE, "index", store, "packaged", folder]
        peaks.append(run(command, environment, memory=True).peak_mib)
    growth = (peaks[1] - peaks[0]) * (1 << 20) / (9 * TINY_FILES)
    return [
        (
            f"peak memory of {TINY_FILES:,} and {10 * TINY_FILES:,} images, stand-in network, MiB",
            f"{peaks[0]:.0f} and {peaks[1]:.0f} ({growth:.0f} bytes an image)",
            "< 250 bytes an image",
            growth < 250,
        )
    ]


def reached(values: list[float], least: float) -> bool:
    """Return whether the median is at least that."""
    return statistics.median(values) >= least


def real_weights(folder: Path, name: str = "resnet50") -> Path:
    """Return a network's weights, decoded into a folder; exits where `../shared` is absent."""
    if not (SHARED / "data").is_dir():
        sys.exit("needs ../shared/data beside this checkout")
    weights = folder / f"{name}.pth"
    tool = SHARED / "tools" / "decode_weights.py"
    subprocess.run([sys.executable, str(tool), name, str(weights)], check=True)
    return weights


def some_photos(folder: Path, count: int) -> Path:
    """Copy `count` of the shared photos into one folder, spread over the classes."""
    paths = sorted((SHARED / "data" / "caltech101_dev").rglob("*.jpg"))
    folder.mkdir()
    for number in range(count):
        source = paths[number * len(paths) // count]
        shutil.copy(source, folder / f"{number:05d}.jpg")
    return folder


def tiny_images(folder: Path) -> Path:
    """Write ten folders of TINY_FILES 8 × 8 pictures, 1,000 a sub-folder."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "BMP")
    header = stream.getvalue()[:-192]
    rng = np.random.default_rng(0)
    for number in range(10 * TINY_FILES):
        home = folder / str(number // TINY_FILES) / f"{number // 1000 % 1000:03d}"
        if number % 1000 == 0:
            home.mkdir(parents=True)
            pixels = rng.bytes(192 * 1000)
        start = 192 * (number % 1000)
        (home / f"{number:07d}.bmp").write_bytes(header + pixels[start : start + 192])
    return folder


if __name__ == "__main__":
    main()
