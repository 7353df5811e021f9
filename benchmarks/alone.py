"""One part of the tool in a process of its own, for `benchmarks.run` to time and to watch.

python benchmarks/alone.py network PHOTOS MODEL PRECISION | camera FOLDER | idle MODEL
    | index STORE MODEL FOLDER…
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

import embedsearch
from embedsearch.core.config import DecodeLimits
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.images.decode.image import decode
from embedsearch.indexing.bench import network_rate
from embedsearch.network.runtime import load_stream_extractor, stream_feed
from embedsearch.network.weights import resolve

_SIDE = 224
_ROUNDS = 5


def network(photos: str, model: str, precision: str) -> None:
    """Print the images/s of the network alone, on all its lanes, fed with photos from memory."""
    spec = resolve(model, Session())
    feed = stream_feed(spec, "cpu", precision, Session())
    paths = sorted(Path(photos).iterdir())[: feed.batch]
    pixels = np.stack([_decoded(path, spec) for path in paths])
    extractor = load_stream_extractor(spec, "cpu", precision, Session())
    print(network_rate(extractor, pixels, feed.batch).images_per_s)


def camera(folder: str) -> None:
    """Print the seconds a photo, on one thread: Pillow's full decode and resize, then ours."""
    spec = resolve("packaged", Session())  # framed as every model of the catalog
    paths = sorted(Path(folder).glob("*.jpg"))
    works: tuple[Callable[[Path], Any], ...] = (_full, lambda path: _decoded(path, spec, _SIDE))
    print(*(sum(_best_of(work, path) for path in paths) / len(paths) for work in works))


def idle(model: str) -> None:
    """Load what stands in memory before the first photo: the network on all its lanes."""
    extractor = load_stream_extractor(resolve(model, Session()), "cpu", "auto", Session())
    time.sleep(0.5)  # watched meanwhile
    del extractor


def index(store: str, model: str, *folders: str) -> None:
    """Index folders with a stand-in for the network, which costs next to nothing.

    No search index is built: of vectors that are noise it would take minutes and gigabytes.
    """
    embedsearch.index(
        folders,
        store=store,
        model=model,
        ann="exact",
        extractor_factory=lambda spec, *_: _StandIn(spec),
    )


class _StandIn:
    """Vectors of 8 × 8 pixels by a random projection."""

    device, precision, lanes = "cpu", "fp32", 1

    def __init__(self, spec: ModelSpec) -> None:
        random = np.random.default_rng(0)
        self._projection = random.standard_normal((192, spec.dim), np.float32)

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        step = pixels.shape[1] // 8
        small = pixels[:, : 8 * step : step, : 8 * step : step].reshape(len(pixels), -1)
        vectors = small.astype(np.float32) @ self._projection + np.float32(1e-3)
        unit: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


def _decoded(path: Path, spec: ModelSpec, side: int | None = None) -> npt.NDArray[np.uint8]:
    with path.open("rb") as file:
        return decode(file, side or spec.input_side, DecodeLimits(), spec.framing).pixels


def _full(path: Path) -> None:
    with Image.open(path) as image:
        image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)


def _best_of(work: Callable[[Path], Any], path: Path) -> float:
    """Return the seconds of the fastest round."""
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        work(path)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


PARTS: dict[str, Callable[..., None]] = {
    "network": network,
    "camera": camera,
    "idle": idle,
    "index": index,
}

if __name__ == "__main__":
    PARTS[sys.argv[1]](*sys.argv[2:])
