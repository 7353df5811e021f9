"""Everything a GPU is for, checked and measured in one call: `python -m benchmarks.gpu PHOTOS`

PHOTOS is a folder of JPEGs; `--model` names a network or a file of weights. Prints a Markdown table
with the machine's name: parity with the processor, the network alone by precision, batch size,
with or without fused kernels and CUDA graphs, decoding alone, JPEG decoding on the GPU and its
parity, `index` from end to end, the loop that tutorials write, and a run while the GPU's memory is
nearly full. A few minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import embedsearch
from benchmarks.measure import machine
from benchmarks.precision import Vectors, overlap, top_ten
from embedsearch.core.config import IndexConfig
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.core.system import available_processors
from embedsearch.images.decode.image import decode
from embedsearch.indexing.bench import bench, network_rate
from embedsearch.network import torch_runtime
from embedsearch.network.feed import GPU_BATCH
from embedsearch.network.fusing import fuse_kernels
from embedsearch.network.torch_runtime import TorchExtractor
from embedsearch.network.weights import resolve

PARITY_IMAGES = 256
RUN_IMAGES = 60_000  # the photos again and again, as files of their own
LOOP_IMAGES = 8_192
BATCHES = (64, 128, 256)
Row = tuple[str, str]
Pixels = npt.NDArray[np.uint8]


def main() -> None:
    """Run every measurement and print the table as it grows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="auto")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device here: nothing was measured")
    spec = resolve(arguments.model, Session())
    paths = sorted(arguments.photos.rglob("*.jpg"))
    print(f"{machine()}, {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}; {spec.name}\n")
    print("| figure | measured |\n|---|---|")
    for name, measured in rows(spec, paths, arguments.model):
        print(f"| {name} | {measured} |", flush=True)


def rows(spec: ModelSpec, paths: list[Path], model: str) -> Iterator[Row]:
    """Yield each figure."""
    limits = IndexConfig().limits
    side = spec.input_side
    pixels = np.stack([decode(p.open("rb"), side, limits).pixels for p in paths[:PARITY_IMAGES]])
    exact = TorchExtractor(spec, "cpu", "fp32")(pixels)
    for precision in ("fp32", "bf16", "fp16"):
        yield (
            f"{precision} against the processor's fp32",
            parity(exact, TorchExtractor(spec, "cuda", precision)(pixels)),
        )
    yield from network_alone(spec, pixels)
    yield from jpeg_on_gpu(spec, paths, exact)
    with tempfile.TemporaryDirectory(prefix="embedsearch-gpu-") as folder:
        base = Path(folder)
        paths = [Path(shutil.copy(path, base)) for path in paths]  # to link, on one disk
        many = copies(paths, base / "photos")
        yield from end_to_end(many, base, model)
        yield tutorial_loop(sorted(many.iterdir())[:LOOP_IMAGES])
        yield nearly_full(paths, base, model)


def parity(exact: Vectors, other: Vectors) -> str:
    """Return the cosines and the share of the ten nearest that stay the same."""
    cosines = np.einsum("nd,nd->n", exact, other)
    shared = overlap(top_ten(exact, exact), top_ten(other, other))
    return f"cosine {cosines.mean():.5f}, least {cosines.min():.5f}; top 10 {shared:.3f}"


def network_alone(spec: ModelSpec, pixels: Pixels) -> Iterator[Row]:
    """The network on all its lanes, fed from memory."""
    usual = torch_runtime.GRAPH_AFTER, fuse_kernels
    ways = {
        "apart": (sys.maxsize, lambda network: None),
        "fused": (sys.maxsize, usual[1]),
        "fused, graphs": usual,
    }
    runs = [("bf16", batch, way) for batch in BATCHES for way in ways]
    runs += [(precision, GPU_BATCH, "fused, graphs") for precision in ("fp32", "fp16")]
    for precision, batch, way in runs:
        torch_runtime.GRAPH_AFTER, torch_runtime.fuse_kernels = ways[way]  # type: ignore[attr-defined]
        extractor = TorchExtractor(spec, "cuda", precision, streaming=True)
        for _ in range(2 * (usual[0] + 2)):  # until both lanes have their graph
            extractor(np.resize(pixels, (batch, *pixels.shape[1:])))
        rate = network_rate(extractor, pixels, batch).images_per_s
        torch_runtime.GRAPH_AFTER, torch_runtime.fuse_kernels = usual  # type: ignore[attr-defined]
        yield f"network alone, {precision}, batches of {batch}, {way}", f"{rate:,.0f} /s"


def jpeg_on_gpu(spec: ModelSpec, paths: list[Path], exact: Vectors) -> Iterator[Row]:
    """nvJPEG's full decode and a resize on the GPU, against the vectors of our own decoding."""
    from torchvision.io import ImageReadMode, decode_jpeg

    files = [torch.from_numpy(np.fromfile(path, dtype=np.uint8)) for path in paths[:PARITY_IMAGES]]
    side = (spec.input_side, spec.input_side)
    resize = torch.nn.functional.interpolate

    def all_of_them() -> torch.Tensor:
        decoded = decode_jpeg(files, mode=ImageReadMode.RGB, device="cuda")
        small = [resize(one[None].float(), side, mode="bicubic", antialias=True) for one in decoded]
        return torch.cat(small).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    pixels = all_of_them()
    torch.cuda.synchronize()
    started = time.perf_counter()
    pixels = all_of_them()
    torch.cuda.synchronize()
    rate = len(files) / (time.perf_counter() - started)
    vectors = TorchExtractor(spec, "cuda", "fp32")(pixels.contiguous().cpu().numpy())
    yield "JPEG decoding on the GPU", f"{rate:,.0f} /s"
    yield "JPEG decoding on the GPU, parity with our decoding", parity(exact, vectors)


def end_to_end(folder: Path, base: Path, model: str) -> Iterator[Row]:
    """`index`, against the slower of decoding and network alone."""
    alone = bench(folder, images=4_096, model=model, device="cuda")
    limit = min(alone.rates["decode"], alone.rates["embed"])
    yield "decoding alone, all workers", f"{alone.rates['decode']:,.0f} /s"
    yield "network alone, as index loads it", f"{alone.rates['embed']:,.0f} /s"
    told: list[tuple[float, int]] = []  # when, and how many were embedded by then
    report = embedsearch.index(
        folder,
        store=base / "all.es",
        model=model,
        device="cuda",
        session=Session(notice=lambda line: print(line, file=sys.stderr)),
        on_progress=lambda progress: told.append((time.perf_counter(), progress.done)),
    )
    seconds = {name: f"{s:.1f} s" for name, s in report.stage_s.items()}
    first, last = told[len(told) // 10], told[-1]
    rate = (last[1] - first[1]) / (last[0] - first[0])
    yield f"index of {report.embedded:,} photos, whole", f"{report.elapsed_s:.1f} s; {seconds}"
    yield "index once it runs (after a tenth)", f"{rate:,.0f} /s"
    yield "index once it runs / min(decode, network)", f"{rate / limit:.2f} (wanted 0.9)"
    yield "slowest stage", f"{report.slowest_stage} → {report.advice}"


class Photos(torch.utils.data.Dataset[torch.Tensor]):
    """The data set of `tutorial_loop`: Pillow and torchvision's transform."""

    def __init__(self, paths: list[Path]) -> None:
        from torchvision.models import ResNet50_Weights

        self.paths = paths
        self.transform = ResNet50_Weights.IMAGENET1K_V1.transforms()

    def __len__(self) -> int:
        """Return how many photos there are."""
        return len(self.paths)

    def __getitem__(self, place: int) -> torch.Tensor:
        """Return float32 (3, 224, 224)."""
        tensor: torch.Tensor = self.transform(Image.open(self.paths[place]).convert("RGB"))
        return tensor


def tutorial_loop(paths: list[Path]) -> Row:
    """A DataLoader with a process a processor, pinned, channels-last bf16 by autocast."""
    from torchvision.models import resnet50

    network = resnet50().to("cuda", memory_format=torch.channels_last).eval()
    network.fc = torch.nn.Identity()
    started = time.perf_counter()
    loader = torch.utils.data.DataLoader(
        Photos(paths), GPU_BATCH, num_workers=available_processors(), pin_memory=True
    )
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        for batch in loader:
            there = batch.to("cuda", non_blocking=True, memory_format=torch.channels_last)
            network(there).cpu()
    rate = len(paths) / (time.perf_counter() - started)
    return "torchvision ResNet-50 behind a DataLoader", f"{rate:,.0f} /s of {len(paths):,} photos"


def nearly_full(paths: list[Path], base: Path, model: str) -> Row:
    """A run that has to make its batches smaller."""
    few = copies(paths, base / "few", 1_024)
    spec = resolve(model, Session())
    warm = TorchExtractor(spec, "cuda", "bf16")
    warm(np.zeros((1, spec.input_side, spec.input_side, 3), dtype=np.uint8))
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(max(0, free - (700 << 20)), dtype=torch.uint8, device="cuda")
    report = embedsearch.index(few, store=base / "full.es", model=model, device="cuda")
    left = torch.cuda.mem_get_info()[0] >> 20
    del taken
    return "index with 700 MiB of GPU memory free", f"{report.embedded} embedded, {left} MiB left"


def copies(paths: list[Path], folder: Path, count: int = RUN_IMAGES) -> Path:
    """Link photos into a folder, again and again up to `count`."""
    folder.mkdir()
    for number in range(count):
        os.link(paths[number % len(paths)], folder / f"{number:06d}.jpg")
    return folder


if __name__ == "__main__":
    main()
