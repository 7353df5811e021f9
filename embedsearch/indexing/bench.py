"""How fast this machine indexes these photos, stage by stage; nothing is written.

In: a folder and a config, out: a BenchReport. Each stage runs alone, then all run together as in
`index`.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from embedsearch.core.arguments import checked
from embedsearch.core.config import BENCH_IMAGES, IndexConfig
from embedsearch.core.errors import NothingIndexed, UsageError
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.options import IndexOptions, configured
from embedsearch.core.records import ImageRef, JsonRecord, Stage
from embedsearch.core.session import Session
from embedsearch.core.system import processor_share
from embedsearch.images.decode.pool import DecodePool
from embedsearch.images.decode.process import DecodeJob
from embedsearch.images.sources.folder import FolderScan
from embedsearch.indexing.bottleneck import (
    Setup,
    StageClock,
    advice,
    at_most,
    shares,
    slowest_stage,
)
from embedsearch.indexing.pipeline import Pipeline
from embedsearch.indexing.scope import real_folder
from embedsearch.network.feed import Feed
from embedsearch.network.runtime import (
    PixelExtractor,
    int8_pays,
    load_stream_extractor,
    stream_feed,
)
from embedsearch.network.weights import resolve

NETWORK_SECONDS = 3.0


@dataclass(frozen=True)
class BenchReport(JsonRecord):
    """How fast a machine indexes a sample of a folder's photos."""

    folder: str
    found: int
    images: int  # of the sample
    passes: int  # how many times the sample was processed
    failed: int
    megapixels: float  # the median of the sample
    model: str
    device: str
    precision: str
    workers: int  # decoding processes when all stages ran
    load_s: float  # until the network was ready
    rates: Mapping[str, float]  # images/s of each stage alone
    images_per_s: float  # of all stages together, without loading the network
    stage_share: Mapping[str, float]  # of that time; stages overlap
    slowest_stage: str
    advice: str
    network: str = ""  # how it was measured to run fastest on this CPU
    images_per_s_at_most: float = 0.0  # that the processors allow; 0 where a GPU embeds
    network_share: float = 0.0  # of the processors' time


@checked
def bench(
    folder: str | Path,
    *,
    images: int = BENCH_IMAGES,
    config: IndexConfig | None = None,
    session: Session | None = None,
    **options: Unpack[IndexOptions],
) -> BenchReport:
    """Measure how fast a sample of a folder's photos is read, decoded and embedded.

    A folder of fewer photos than `images` is processed several times.

    `options` are fields of IndexConfig. Raises UsageError, NothingIndexed and what `index`
    raises for its model and device.
    """
    config, session = configured(config or IndexConfig(), options), session or Session()
    if images < 1:
        raise UsageError("images must be at least 1", "images")
    root = Path(real_folder(os.fspath(folder)))
    clock = StageClock()
    with clock.measure("scan"):
        refs, found = _sample(root, images, session)
    if not refs:
        raise NothingIndexed(f"no images found in {folder}")
    spec = resolve(config.model, session).asked(config.input_side, config.flip)
    passes = -(-images // len(refs))  # with few photos, process startup would dominate
    jobs = [DecodeJob(*placed) for placed in FolderScan(0, str(root)).places(refs)] * passes
    with clock.measure("load"):
        worth = sys.maxsize if config.tune else 0
        feed = stream_feed(spec, config.device, config.precision, session, worth)
        extractor = load_stream_extractor(spec, config.device, config.precision, session)
    if not len((alone := _decode_alone(spec, config, jobs, session)).pixels):
        raise NothingIndexed(f"none of {len(refs)} images of {folder} can be read")
    network = network_rate(extractor, alone.pixels, feed.batch)
    session.check()
    together = _all_together(spec, config, jobs, extractor, feed, session)
    device, precision = extractor.device, extractor.precision
    slowest = slowest_stage(together.busy_s)
    pays = int8_pays(spec, device, precision)
    side = spec.input_side if spec.is_of_pooled_maps else 0
    setup = Setup(device, precision, together.workers, side, pays, spec.is_of_towers)
    return BenchReport(
        folder=str(root),
        found=found,
        images=len(refs),
        passes=passes,
        failed=alone.failed // passes,
        megapixels=round(alone.megapixels, 2),
        model=spec.name,
        device=device,
        precision=precision,
        workers=together.workers,
        load_s=round(clock.seconds["load"], 2),
        rates=_rates(found / clock.seconds["scan"], alone, network),
        images_per_s=round(len(jobs) / together.seconds, 1),
        **(_on_processors(feed, alone, network, together) if device == "cpu" else {}),
        stage_share=shares(together.busy_s, together.seconds),
        slowest_stage=slowest,
        advice=advice(slowest, setup),
    )


@dataclass(frozen=True)
class NetworkRate:
    """The network alone: images/s, and the seconds of processors that an image takes."""

    images_per_s: float
    cpu_s: float


def network_rate(
    extractor: PixelExtractor, pixels: npt.NDArray[np.uint8], batch: int
) -> NetworkRate:
    """Measure the network alone, on all its lanes, with pixels from memory."""
    fed = np.resize(pixels, (batch, *pixels.shape[1:]))
    with ThreadPoolExecutor(extractor.lanes) as threads:
        # The first calls allocate memory and, on some devices, compile.
        list(threads.map(lambda _: extractor(fed), range(extractor.lanes)))
        started, since = time.monotonic(), time.process_time()

        def work(_: int) -> int:
            count = 0
            while time.monotonic() - started < NETWORK_SECONDS:
                extractor(fed)
                count += batch
            return count

        images = sum(threads.map(work, range(extractor.lanes)))
        seconds, cpu_s = time.monotonic() - started, time.process_time() - since
    return NetworkRate(images / seconds, cpu_s / images)


def _sample(root: Path, count: int, session: Session) -> tuple[list[ImageRef], int]:
    """Return a fixed random sample of a folder's images, and how many images it holds."""
    chosen: list[ImageRef] = []
    rng = random.Random(0)
    found = 0
    for found, ref in enumerate(FolderScan(0, str(root)), start=1):
        if found % 1024 == 0:
            session.check()
        if len(chosen) < count:
            chosen.append(ref)
        elif (position := rng.randrange(found)) < count:
            chosen[position] = ref
    return chosen, found


@dataclass(frozen=True)
class _Decoded:
    """The sample, decoded by all decoding processes while no other stage runs."""

    pixels: npt.NDArray[np.uint8]  # of the first batch
    megapixels: float  # the median
    failed: int
    read_rate: float  # images/s
    decode_rate: float
    cpu_s: float  # of processors, an image


def _decode_alone(
    spec: ModelSpec, config: IndexConfig, jobs: list[DecodeJob], session: Session
) -> _Decoded:
    _, max_workers = config.worker_range(on_gpu=True)
    workers = min(max_workers, len(jobs))
    pixels = np.empty((0, spec.input_side, spec.input_side, 3), dtype=np.uint8)
    sizes: list[int] = []
    read_s = decode_s = cpu_s = 0.0
    failed = 0
    side, framing = spec.input_side, spec.framing
    with DecodePool(side, config.limits, workers=workers, batch=8, framing=framing) as pool:
        for batch in pool.run(iter(jobs), session.stop):
            if not len(pixels):
                pixels = batch.images.pixels.copy()
            sizes += [fact.width * fact.height for fact in batch.images.facts]
            failed += len(batch.failures)
            read_s += batch.read_s
            decode_s += batch.decode_s
            cpu_s += batch.cpu_s
    session.check()
    good = len(sizes)
    return _Decoded(
        pixels,
        statistics.median(sizes) / 1e6 if sizes else 0.0,
        failed,
        good * workers / read_s if read_s else 0.0,
        good * workers / decode_s if decode_s else 0.0,
        cpu_s / max(1, good),
    )


@dataclass(frozen=True)
class _Together:
    """The sample processed as in `index`, without a store."""

    seconds: float
    busy_s: Mapping[str, float]
    workers: int  # at the end
    embed_cpu_s: float  # of processors


def _all_together(
    spec: ModelSpec,
    config: IndexConfig,
    jobs: list[DecodeJob],
    extractor: PixelExtractor,
    feed: Feed,
    session: Session,
) -> _Together:
    started = time.monotonic()
    with Pipeline(
        spec.input_side,
        config,
        iter(jobs),
        len(jobs),
        session.stop,
        framing=spec.framing,
        feed=feed,
    ) as pipeline:
        for _ in pipeline.embed(extractor):
            pass
        busy_s, workers = pipeline.busy_s(), pipeline.workers
        embed_cpu_s = pipeline.cpu_s()[Stage.EMBED]
    seconds = time.monotonic() - started
    session.check()
    return _Together(seconds, busy_s, workers, embed_cpu_s)


def _rates(scanned: float, alone: _Decoded, network: NetworkRate) -> dict[str, float]:
    """Return the images/s of each stage alone."""
    found = {"scan": scanned, "read": alone.read_rate, "decode": alone.decode_rate}
    return {
        name: round(rate, 1) for name, rate in (found | {"embed": network.images_per_s}).items()
    }


def _on_processors(
    feed: Feed, alone: _Decoded, network: NetworkRate, together: _Together
) -> dict[str, Any]:
    """Return the fields of a report on processors, which decoding and the network share."""
    share = together.embed_cpu_s / together.seconds / processor_share()
    return {
        "network": str(feed.settings),
        "images_per_s_at_most": round(
            at_most(1, {Stage.DECODE: alone.cpu_s, Stage.EMBED: network.cpu_s}), 1
        ),
        "network_share": round(min(1.0, share), 3),
    }
