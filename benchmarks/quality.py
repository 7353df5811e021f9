"""The table behind the defaults: `python -m benchmarks.quality DATA CACHE MODEL…`

DATA holds `caltech101_dev/` and `retrieval_dev/SET/CLASS/*.jpg`; MODEL is a name or a file that
`--model` takes. Prints Markdown: for each network, what the input rule, pooling, center, mirror
image and several scales do to leave-one-out mAP on nine kinds of photos, against torchvision's own
recipe. Features are kept in CACHE, so that a run that was cut goes on.

A row's center is of each set by itself, as that of a store would be. Most rows are no options of
the tool; that is what the table is for.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.measure import machine
from benchmarks.photo_sets import OBJECTS, RULES, Photo, Pixels, photos_of
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.learning.metrics import measure_classes
from embedsearch.learning.ranking import Ranking
from embedsearch.network.converted import import_openvino
from embedsearch.network.expected import expected_of
from embedsearch.network.extractor import normalization
from embedsearch.network.pooling import GeM
from embedsearch.network.resnet import STAGES, float_pixels, load
from embedsearch.network.weights import resolve, weights_path
from embedsearch.store.center import MODEL_SHARE, STORE_SHARE

BATCH = 16
LOSES_BY = 0.005  # of a set's mAP: less is a draw
RESAMPLES = 1_000
SMALL = ((2, 2), (4, 2), (5, 4), (10, 4), (10, 10))  # classes of a small store, photos of each
DRAWS = 12  # of small stores from each set
GROUPS = (2, 3, 4, 8)  # photos of a class
GROUP_DRAWS = 3
# By name, `expand` and `rerank` of a Ranking.
WAYS = {"plain": (0, False), "--expand 3": (3, False), "--rerank": (0, True), "both": (3, True)}
ESTIMATED = f"{MODEL_SHARE} of the mean estimated from the weights"
AVERAGE, GAUSSIAN = "average", 0.4
# Power and sigma of the weights over the map, 0 where all cells count alike.
POOLINGS = {AVERAGE: (1.0, 0.0)} | {
    f"GeM {power:g}" + (f", middle {sigma:g}" if sigma else ""): (power, sigma)
    for sigma in (0.0, 0.29, GAUSSIAN, 0.5)
    for power in (1.5, 2.0, 2.5, 3.0)
}

Vectors = npt.NDArray[np.float32]
Centered = Callable[[Vectors], Vectors]


class Features:
    """Pooled features of all photos by one network, made once for each input rule."""

    def __init__(self, model: str, photos: Sequence[Photo], cache: Path) -> None:
        self.spec: ModelSpec = resolve(model, Session())
        self._photos = photos
        self._cache = cache
        self._network: Any = None

    def of(self, rule: str) -> dict[str, Any]:
        """Return unit vectors, float32 (N, D), by pooling, and `rate`, in images/s."""
        spec = self.spec
        path = self._cache / f"{spec.weights_sha256[:16]}-{spec.input_side}-{rule}.npz"
        if not path.exists():
            found = self._made(rule)
            partial = path.with_suffix(".part.npz")
            np.savez(partial, **found)
            partial.rename(path)
        with np.load(path) as kept:
            return {name: kept[name].astype(np.float32) for name in kept.files}

    def _made(self, rule: str) -> dict[str, Any]:
        """Embed all photos."""
        if self._network is None:
            self._network = _compiled(self.spec)
        pools = {name: GeM(*settings) for name, settings in POOLINGS.items()}
        vectors = {name: np.zeros((len(self._photos), self.spec.dim), np.float16) for name in pools}
        by_shape: dict[tuple[int, ...], list[tuple[int, Pixels]]] = {}
        seconds = 0.0

        def embed(batch: list[tuple[int, Pixels]]) -> None:
            nonlocal seconds
            started = time.perf_counter()
            maps = torch.from_numpy(self._network(np.stack([pixels for _, pixels in batch]))[0])
            seconds += time.perf_counter() - started
            places = [place for place, _ in batch]
            for name, pool in pools.items():
                vectors[name][places] = torch.nn.functional.normalize(pool(maps)).numpy()

        with ThreadPoolExecutor() as threads:
            for place, pixels in enumerate(threads.map(self._seen(rule), self._photos)):
                waiting = by_shape.setdefault(pixels.shape, [])
                waiting.append((place, pixels))
                if len(waiting) == BATCH:
                    embed(by_shape.pop(pixels.shape))
        for rest in by_shape.values():
            embed(rest)
        return {**vectors, "rate": np.array(len(self._photos) / seconds)}

    def _seen(self, rule: str) -> Callable[[Photo], Pixels]:
        def pixels(photo: Photo) -> Pixels:
            with Image.open(photo.path) as image:
                return RULES[rule](image.convert("RGB"), self.spec.input_side)

        return pixels


def _compiled(spec: ModelSpec) -> Any:
    """Return a function of uint8 (B, H, W, 3) that gives the last map, float32 (B, C, H', W')."""
    network = load(spec.architecture, load_file(weights_path(spec)))
    mean, deviation = normalization(spec)

    class LastMap(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            x = (float_pixels(pixels) - mean) / deviation
            return self.network.extract_stages(x)[STAGES[-1]]

    ov = import_openvino()
    example = torch.zeros(2, spec.input_side, spec.input_side, 3, dtype=torch.uint8)
    with torch.no_grad():
        model = ov.convert_model(LastMap().eval(), example_input=example, input=[-1, -1, -1, 3])
    return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def units(vectors: Vectors) -> Vectors:
    """Return vectors of length 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Vectors = (vectors / lengths).astype(np.float32)
    return found


def measured_from(center: Vectors) -> Centered:
    """Return how vectors are measured from a center, float32 (D,)."""
    return lambda vectors: units(vectors - center)


def from_own_mean(share: float) -> Centered:
    """Return how vectors are measured from a share of their mean."""
    return lambda vectors: units(vectors - share * vectors.mean(axis=0))


@dataclass
class Sets:
    """The photos by set, and what it is to find the others of a class."""

    photos: Sequence[Photo]

    def __post_init__(self) -> None:
        self.of_photo = np.array([photo.set for photo in self.photos])
        names = sorted({photo.label for photo in self.photos})
        numbers = {name: number for number, name in enumerate(names)}
        self.labels = np.array([numbers[photo.label] for photo in self.photos])
        self.names = list(dict.fromkeys(self.of_photo.tolist()))

    def precisions(self, vectors: Vectors, centered: Centered) -> dict[str, Vectors]:
        """Return the average precision of each photo, by set."""
        return {
            name: self.precision(vectors, centered, np.flatnonzero(self.of_photo == name))
            for name in self.names
        }

    def precision(self, vectors: Vectors, centered: Centered, chosen: Any) -> Any:
        """Return the average precisions of some photos that form a store."""
        ranking = Ranking(centered(vectors[chosen]))
        return measure_classes(self.labels[chosen], ranking)["mAP"]

    def by_group(self, vectors: Vectors, centered: Centered) -> dict[str, list[float]]:
        """Return the mAP by options of a query, for each of GROUPS and all; mean of eight sets."""
        found: dict[str, list[float]] = {name: [] for name in WAYS}
        for each in (*GROUPS, None):
            of_sets: dict[str, list[float]] = {name: [] for name in WAYS}
            for name in set(self.names) - {OBJECTS}:
                inside = np.flatnonzero(self.of_photo == name)
                for draw in range(1 if each is None else GROUP_DRAWS):
                    rng = np.random.default_rng(draw)
                    classes = np.unique(self.labels[inside])
                    chosen = self._drawn(inside, classes, each or len(inside), rng)
                    for way, (expand, rerank) in WAYS.items():
                        ranking = Ranking(centered(vectors[chosen]), expand, rerank)
                        values = measure_classes(self.labels[chosen], ranking)["mAP"]
                        of_sets[way].append(float(values.mean()))
            for way, means in of_sets.items():
                found[way].append(float(np.mean(means)))
        return found

    def _drawn(self, inside: Any, classes: Any, each: int, rng: np.random.Generator) -> Any:
        """Return `each` photos of the classes, or all of a smaller one."""
        return np.concatenate(
            [rng.permutation(inside[self.labels[inside] == one])[:each] for one in classes]
        )

    def small(
        self, vectors: Vectors, centers: dict[str, Centered], classes: int, each: int
    ) -> dict[str, float]:
        """Return the mAP of small stores by center: some photos of some classes of a set."""
        rng = np.random.default_rng(0)
        found: dict[str, list[float]] = {name: [] for name in centers}
        for name in self.names:
            inside = np.flatnonzero(self.of_photo == name)
            for _ in range(DRAWS):
                drawn = rng.permutation(np.unique(self.labels[inside]))[:classes]
                chosen = self._drawn(inside, drawn, each, rng)
                for center, centered in centers.items():
                    values = self.precision(vectors, centered, chosen)
                    found[center].append(float(values.mean()))
        return {center: float(np.mean(values)) for center, values in found.items()}


class Table:
    """Rows of mAP by set, beside those of torchvision's recipe."""

    def __init__(self, sets: Sets, features: Features) -> None:
        self._sets = sets
        self.features = features
        self._base: dict[str, Vectors] | None = None

    def head(self) -> str:
        """Return the first two lines."""
        names = [name.replace("_dev", "") for name in self._sets.names]
        cells = ["what", *names, "mean of 8", "all 9", "won : lost", "worst", "gain, 95 %"]
        return f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}"

    def row(self, what: str, vectors: Vectors, centered: Centered = units) -> str:
        """Return a row; the first one is what the others are compared with."""
        found = self._sets.precisions(vectors, centered)
        means = {name: float(values.mean()) for name, values in found.items()}
        self._base = base = self._base or found
        gains = {name: means[name] - float(base[name].mean()) for name in means}
        of_8 = float(np.mean([mean for name, mean in means.items() if name != OBJECTS]))
        low, high = self._interval(found, base)
        won = sum(gain > LOSES_BY for gain in gains.values())
        lost = sum(gain < -LOSES_BY for gain in gains.values())
        cells = [what, *(f"{mean:.3f}" for mean in means.values()), f"{of_8:.3f}"]
        cells += [f"{np.mean([*means.values()]):.3f}", f"{won} : {lost}"]
        cells += [f"{min(gains.values()):+.3f}", f"{low:+.3f} to {high:+.3f}"]
        return f"| {' | '.join(cells)} |"

    @staticmethod
    def _interval(found: dict[str, Vectors], base: dict[str, Vectors]) -> tuple[float, float]:
        """Return the 95 % interval of the mean gain over all sets, photos resampled in each."""
        rng = np.random.default_rng(0)
        drawn = np.zeros(RESAMPLES)
        for name, values in found.items():
            gains = values - base[name]
            counts = rng.multinomial(len(gains), np.full(len(gains), 1 / len(gains)), RESAMPLES)
            drawn += counts @ gains / len(gains) / len(found)
        low, high = np.percentile(drawn, [2.5, 97.5])
        return float(low), float(high)


def report(features: Features, sets: Sets) -> None:
    """Print the tables of a network."""
    spec, table = features.spec, Table(sets, features)
    power = float(spec.pooling.removeprefix("gem"))
    own = f"GeM {power:g}, middle {GAUSSIAN:g}"
    store = from_own_mean(STORE_SHARE)
    estimated = measured_from(MODEL_SHARE * expected_of(spec))
    seen = {rule: features.of(rule) for rule in RULES}
    mild = seen["mildly cropped"]
    print(f"\n### {spec.name}: {spec.architecture} at {spec.input_side} px\n\n{table.head()}")

    def add(what: str, vectors: Vectors, centered: Centered = units) -> None:
        print(table.row(what, vectors, centered), flush=True)

    add("torchvision's recipe: its crop, average", seen["torchvision's"][AVERAGE])
    before = "0.1: squashed, GeM 3, 0.6 of the estimated mean"
    add(before, seen["squashed"]["GeM 3"], estimated)
    add(f"**the default: mildly cropped, {own}, {STORE_SHARE} of the mean**", mild[own], store)
    for rule in ("torchvision's", "squashed", "middle square", "own proportions"):
        add(f"{rule} instead", seen[rule][own], store)
    for pooling in POOLINGS:
        if pooling != own:
            add(f"{pooling} instead", mild[pooling], store)
    add("no center", mild[own])
    add(ESTIMATED, mild[own], estimated)
    for share in (0.4, 0.6, 0.7, 0.9, 1.0):
        add(f"{share} of the mean", mild[own], from_own_mean(share))
    scales = [mild[own], *(seen[f"scale {scale}"][own] for scale in ("0.71", "1.41"))]
    add("the mirror image, too (--flip)", units(mild[own] + seen["mirror image"][own]), store)
    add("1.41 of the side instead (--input-side)", scales[2], store)
    add("mean of 1 and 1.41 of the side", units(scales[0] + scales[2]), store)
    add("mean of three scales", units(sum(scales[1:], scales[0])), store)
    add("maximum of three scales", units(np.maximum.reduce(scales)), store)
    print(f"\n| at query time | {' | '.join(map(str, GROUPS))} | all |")
    print(f"|{'---|' * (len(GROUPS) + 2)}")
    for way, means in sets.by_group(mild[own], store).items():
        print(f"| {way} | {' | '.join(f'{mean:.3f}' for mean in means)} |", flush=True)
    rates = ", ".join(f"{rule} {found['rate']:.0f}" for rule, found in seen.items())
    print(f"\nThe network alone, images/s in fp32: {rates}.\n")
    centers: dict[str, Centered] = {
        "no center": units,
        ESTIMATED: estimated,
        f"{STORE_SHARE} of the mean": store,
    }
    print(f"| a store of | {' | '.join(centers)} |\n|{'---|' * (len(centers) + 1)}")
    for classes, each in SMALL:
        values = sets.small(mild[own], centers, classes, each).values()
        cells = " | ".join(f"{value:.3f}" for value in values)
        print(f"| {classes} × {each} images | {cells} |", flush=True)


def main() -> None:
    """Print the tables."""
    data, cache = Path(sys.argv[1]), Path(sys.argv[2])
    cache.mkdir(parents=True, exist_ok=True)
    photos = photos_of(data)
    sets = Sets(photos)
    print(machine())
    for model in sys.argv[3:]:
        report(Features(model, photos, cache), sets)


if __name__ == "__main__":
    main()
