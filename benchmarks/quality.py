"""The table behind the defaults: `python -m benchmarks.quality DATA MODEL…`

DATA is the folder that holds `caltech101_dev/` (one folder a class) and `tiny_imagenet/`
(Parquet files of JPEGs); MODEL is a name or a file that `--model` takes. Prints Markdown: for each
network, what pooling, input rule, center, PCA, mirror image and several scales do to leave-one-out
mAP and recall@1, and to the images a second of the network with every pooling (bf16 in torch, one
pass, decoding apart): they compare rows of one table.

Most of these are not options of the tool; that is what the table is for.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from benchmarks.measure import machine
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.images.decode.image import square
from embedsearch.learning.metrics import measure, rank_others
from embedsearch.network.extractor import normalization, pooling_of
from embedsearch.network.pooling import GeM, expected_features
from embedsearch.network.resnet import ResNet, float_pixels, load
from embedsearch.network.weights import resolve, weights_path

BATCH = 32
FITTED_ON = 2_000  # pictures of Tiny ImageNet, for PCA and means
PCA_DIMS = 256
OWN = "the model's own"  # pooling, as its record says

Pixels = npt.NDArray[np.uint8]
POOLINGS: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
    "average": lambda maps: maps["layer4"].mean(dim=(2, 3)),
    "GeM 2": lambda maps: GeM(2.0)(maps["layer4"]),
    "GeM 3": lambda maps: GeM(3.0)(maps["layer4"]),
    "GeM 4": lambda maps: GeM(4.0)(maps["layer4"]),
    "max": lambda maps: maps["layer4"].amax(dim=(2, 3)),
    "GeM 3 of stages 3 + 4": lambda maps: torch.cat(
        [normalize(GeM(3.0)(maps[stage])) for stage in ("layer4", "layer3")], dim=1
    ),
}


class Network:
    """A network with the photos it is tried on."""

    def __init__(self, model: str, photos: Sequence[Image.Image], labels: Sequence[str]) -> None:
        self.spec: ModelSpec = resolve(model, Session())
        weights = load_file(weights_path(self.spec))
        self.network: ResNet = load(self.spec.architecture, weights).to(
            memory_format=torch.channels_last
        )
        self.side = self.spec.input_side
        self.mean, self.deviation = normalization(self.spec)
        self.pooling = pooling_of(self.spec)
        self.poolings = POOLINGS | {OWN: lambda maps: self.pooling(maps["layer4"])}
        self.photos = photos
        names = sorted(set(labels))
        self.labels = np.array([names.index(label) for label in labels])

    def features(self, pixels: Pixels, scales: Sequence[float], *, flip: bool = False) -> Features:
        """Return every pooling's unit vectors, summed over scales and mirror images, and time."""
        found: dict[str, list[Tensor]] = {name: [] for name in self.poolings}
        seconds = 0.0
        for start in range(-BATCH, len(pixels), BATCH):  # the first batch twice: once to warm up
            batch = torch.from_numpy(pixels[max(0, start) : max(0, start) + BATCH])
            started = time.perf_counter()
            with torch.inference_mode():
                x = (float_pixels(batch) - self.mean) / self.deviation
                sums = self._pooled(x, scales)
                if flip:
                    mirrored = self._pooled(x.flip(3), scales)
                    sums = {name: sums[name] + mirrored[name] for name in sums}
            if start >= 0:
                seconds += time.perf_counter() - started
                for name, vectors in sums.items():
                    found[name].append(normalize(vectors))
        return Features(
            {name: torch.cat(parts).numpy() for name, parts in found.items()},
            len(pixels) / seconds,
        )

    def _pooled(self, x: Tensor, scales: Sequence[float]) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        for scale in scales:
            y = x
            if scale != 1.0:
                side = round(self.side * scale / 32) * 32
                y = interpolate(x, (side, side), mode="bicubic", antialias=True)
            with torch.autocast("cpu", torch.bfloat16):
                maps = self.network.extract_stages(y.contiguous(memory_format=torch.channels_last))
            maps = {name: values.float() for name, values in maps.items()}
            for name, pool in self.poolings.items():
                pooled = normalize(pool(maps))
                sums[name] = sums[name] + pooled if name in sums else pooled
        return sums

    def seen(self, photo: Image.Image, side: int) -> Pixels:
        """Return what the model sees of a photo, as its record says."""
        return square(photo, side, resize=self.spec.resize)

    def score(self, vectors: npt.NDArray[np.float32]) -> tuple[float, float]:
        """Return mAP and recall@1, leave one out."""
        queries = np.arange(len(vectors))
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        order = rank_others(unit.astype(np.float32), queries)
        relevant = self.labels[order] == self.labels[:, None]
        values = measure(relevant, np.bincount(self.labels)[self.labels] - 1)
        return float(values["mAP"].mean()), float(values["recall@1"].mean())


class Features:
    """Unit vectors of every pooling, and the images a second that they took."""

    def __init__(self, vectors: dict[str, npt.NDArray[np.float32]], rate: float) -> None:
        self.vectors = vectors
        self.rate = rate


def cropped(photo: Image.Image, side: int) -> Pixels:
    """Return the center of a photo, as torchvision's own transform of 224 px cuts it."""
    scale = round(side * 256 / 224) / min(photo.size)
    size = [max(side, round(length * scale)) for length in photo.size]
    photo = photo.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    left, top = ((length - side) // 2 for length in size)
    return np.asarray(photo.crop((left, top, left + side, top + side)))


def stacked(
    photos: Sequence[Image.Image], rule: Callable[[Image.Image, int], Pixels], side: int
) -> Pixels:
    """Return uint8 (N, S, S, 3)."""
    with ThreadPoolExecutor() as threads:
        return np.stack(list(threads.map(lambda photo: rule(photo, side), photos)))


def pca(
    fitted_on: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the first PCA_DIMS principal components, of a mean and axes fitted elsewhere."""
    mean = fitted_on.mean(axis=0)
    _, _, axes = np.linalg.svd(fitted_on - mean, full_matrices=False)
    reduced: npt.NDArray[np.float32] = (vectors - mean) @ axes[:PCA_DIMS].T
    return reduced


def rows(net: Network, others: Sequence[Image.Image]) -> list[tuple[str, float, float, float]]:
    """Return (what, mAP, recall@1, images/s) of everything that is tried."""
    side = net.side
    table = []

    def add(what: str, vectors: npt.NDArray[Any], rate: float) -> None:
        table.append((what, *net.score(vectors), rate))

    base = net.features(stacked(net.photos, net.seen, side), [1.0])
    whole = net.features(stacked(net.photos, square, side), [1.0])
    crop = net.features(stacked(net.photos, cropped, side), [1.0])
    own = f"{net.spec.resize}, by the record"
    for rule, found in ((own, base), ("whole, squashed", whole), ("center crop", crop)):
        for pooling, vectors in found.vectors.items():
            add(f"{rule}, {pooling}", vectors, found.rate)
    gem = base.vectors[OWN]
    center = expected_features(net.network, net.spec.architecture, net.pooling).numpy()
    share, default = net.spec.center, f"{net.spec.resize}, {net.spec.pooling}"
    if net.spec.gaussian:
        default += f" with sigma {net.spec.gaussian:g}"
    elsewhere = net.features(stacked(others, net.seen, side), [1.0]).vectors[OWN]
    add(
        f"**the default: {default}, {share} of the expected center**",
        gem - share * center,
        base.rate,
    )
    for part in (0.4, 0.8, 1.0):
        add(f"{default}, {part} of the expected center", gem - part * center, base.rate)
    add(
        f"{default}, mean of {FITTED_ON:,} Tiny ImageNet pictures",
        gem - elsewhere.mean(axis=0),
        base.rate,
    )
    add(f"{default}, mean of these photos (flatters)", gem - gem.mean(axis=0), base.rate)
    add(
        f"{default}, PCA {PCA_DIMS} of {FITTED_ON:,} Tiny ImageNet pictures",
        pca(elsewhere, gem),
        base.rate,
    )
    add(f"{default}, PCA {PCA_DIMS} of these photos (flatters)", pca(gem, gem), base.rate)
    crop_gem = crop.vectors["GeM 3"]
    add(
        f"center crop, GeM 3, {share} of the expected center",
        crop_gem - share * center,
        crop.rate,
    )
    for other in (side - 64, side - 32, side + 32):
        found = net.features(stacked(net.photos, net.seen, other), [1.0])
        measured = found.vectors[OWN] - share * center
        add(f"the default at {other} px (--input-side)", measured, found.rate)
    pixels = stacked(net.photos, net.seen, side)
    flipped = net.features(pixels, [1.0], flip=True)
    add("the default, --flip", flipped.vectors[OWN] - share * center, flipped.rate)
    scaled = net.features(pixels, [0.71, 1.0, 1.41])
    add(
        "the default, 3 scales (0.71, 1, 1.41)",
        scaled.vectors[OWN] - share * center,
        scaled.rate,
    )
    return table


def read_photos(folder: Path) -> tuple[list[Image.Image], list[str]]:
    """Return the photos, each as its decoder gives it, and their classes."""
    paths = sorted(folder.rglob("*.jpg"))
    photos = [Image.open(path).convert("RGB") for path in paths]
    return photos, [path.parent.name for path in paths]


def read_others(folder: Path) -> list[Image.Image]:
    """Return FITTED_ON pictures of Tiny ImageNet, evenly spread."""
    column = pq.read_table(sorted(folder.glob("train-*.parquet"))[0], columns=["jpeg"]).column(0)
    step = len(column) // FITTED_ON
    return [
        Image.open(io.BytesIO(column[i * step].as_py())).convert("RGB") for i in range(FITTED_ON)
    ]


def main() -> None:
    """Print the tables."""
    data = Path(sys.argv[1])
    print(machine())
    photos, labels = read_photos(data / "caltech101_dev")
    others = read_others(data / "tiny_imagenet")
    for model in sys.argv[2:]:
        net = Network(model, photos, labels)
        print(f"\n### {net.spec.name}: {net.spec.architecture} at {net.side} px\n")
        print("| what | mAP | recall@1 | images/s |\n|---|---|---|---|")
        for what, mean_ap, recall, rate in rows(net, others):
            print(f"| {what} | {mean_ap:.3f} | {recall:.3f} | {rate:.0f} |", flush=True)


if __name__ == "__main__":
    main()
