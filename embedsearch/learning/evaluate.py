"""How well a model finds related images; in: labeled images, out: an Evaluation.

The images are indexed. Each one is a query for the others of its class, or for those that a CSV
names. Rankings are exact, by the vectors of the store; the recall of the store's own search is
measured as well.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedsearch.core.arguments import checked
from embedsearch.core.config import MODEL_CENTER, IndexConfig, SearchConfig
from embedsearch.core.errors import UsageError
from embedsearch.core.paths import local_path
from embedsearch.core.records import Progress
from embedsearch.core.session import Session
from embedsearch.images.sources.folder import FolderScan
from embedsearch.indexing.report import IndexReport
from embedsearch.indexing.sync import index
from embedsearch.learning.evaluated_images import EvaluatedImages, served_recall
from embedsearch.learning.held_out_pictures import HeldOut, held_out_of
from embedsearch.learning.labels import read_rows
from embedsearch.learning.metrics import NAMES, Ints, estimate, measure_all
from embedsearch.learning.ranking import Ranking
from embedsearch.learning.reports import Estimate, Evaluation, GroupMeasure
from embedsearch.learning.truth import (
    ClassTruth,
    Pairs,
    PairTruth,
    Truth,
    of_folders,
    queries_of,
)
from embedsearch.network.catalog import AUTO
from embedsearch.searching.searcher import open_store
from embedsearch.store.locate import readable_store
from embedsearch.store.snapshot import open_snapshot

MAX_QUERIES = 20_000  # more do not change the third digit
_OF_THE_RUN = ("model", "precision", "failed")
_GROUPS = (1, 2, 4, 10, 30)  # least images to find


@checked
def evaluate(
    folder: str | Path | None = None,
    *,
    models: Sequence[str] | None = None,
    store: str | Path | None = None,
    relevant: str | Path | None = None,
    held_out: bool = False,
    expand: int = 0,
    rerank: bool = False,
    config: IndexConfig | None = None,
    session: Session | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Evaluation]:
    """Return an Evaluation of each model on the images in `folder`, or of a store as it is.

    Without a folder that is `store`, else the nearest one. The class of an image is the first
    folder of its key; or `relevant` names a CSV with the columns query and relevant, both keys.
    With `held_out` only the images count that were held out when one of the models was trained,
    by the classes that it learned and, unless `config` says otherwise, from the model's center:
    as `train` measured. Each model gives one Evaluation per combination of the options of a query:
    plain, re-ranked, expanded by `expand` neighbors, both. Raises UsageError and the errors of
    `index`.
    """
    options = SearchConfig(expand=expand, rerank=rerank)  # refuses bad values
    config = config or IndexConfig()
    models = models or (config.model,)
    _check_arguments(folder, store, models, config, relevant, held_out)
    session = session or Session()
    pairs = None
    if relevant is not None:
        rows = read_rows(Path(local_path(relevant)), ["query", "relevant"])
        pairs = [(row["query"], row["relevant"]) for _, row in rows]
    measurement = _Measurement(options, config, session, on_progress, pairs)
    if folder is None:
        with readable_store(store, session) as path:
            return measurement.of_store(path, config)
    root = os.path.realpath(local_path(folder))
    if held_out:
        chosen = held_out_of(models)
        chosen.check_there(root)
        session.notice(f"measured on the {len(chosen.digests):,} pictures that were held out")
        return measurement.of_models(models, root, chosen)
    keys = [ref.key for ref in FolderScan(0, root)] if os.path.isdir(root) else []
    if keys:  # else `index` says what is wrong; nothing is embedded where nothing can be measured
        queries_of(_truth(keys, pairs, lambda message: None))
    return measurement.of_models(models, str(folder), None)


def _check_arguments(
    folder: str | Path | None,
    store: str | Path | None,
    models: Sequence[str],
    config: IndexConfig,
    relevant: str | Path | None,
    held_out: bool,
) -> None:
    """Raise UsageError for arguments that do not go together."""
    if folder is not None and store is not None:
        raise UsageError("evaluate takes a folder of labeled images or a store, not both")
    given = tuple(models) != (AUTO,) or config.input_side is not None or config.flip
    given = given or config.center is not None
    if held_out and (folder is None or relevant is not None):
        raise UsageError(
            "held_out goes with the folder that the model was trained on, and without relevant",
            *("held_out", "relevant"),
        )
    if folder is None and given:
        raise UsageError(
            "model, input_side, flip and center go with a folder of images: a store has its own",
            *("model", "input_side", "flip", "center"),
        )


def _truth(keys: list[str], pairs: Pairs | None, notice: Callable[[str], None]) -> Truth:
    return of_folders(keys) if pairs is None else PairTruth(keys, pairs, notice)


class _Baseline:
    """The average precisions of the first Evaluation, which others are compared with."""

    def __init__(self) -> None:
        self._first: dict[str, float] = {}

    def gain(self, keys: list[str], values: npt.NDArray[np.float64]) -> Estimate | None:
        """Return the mean gain over the queries of both; None of the first one itself."""
        if not self._first:
            self._first = dict(zip(keys, values.tolist(), strict=True))
            return None
        gains = [
            value - self._first[key]
            for key, value in zip(keys, values.tolist(), strict=True)
            if key in self._first
        ]
        return estimate(np.array(gains)) if gains else None


@dataclass
class _Measurement:
    """The measuring of several models; the first Evaluation is what others are compared with."""

    options: SearchConfig
    config: IndexConfig
    session: Session
    on_progress: Callable[[Progress], None] | None
    pairs: Pairs | None
    baseline: _Baseline = field(default_factory=_Baseline)

    def of_models(
        self, models: Sequence[str], folder: str, chosen: HeldOut | None
    ) -> list[Evaluation]:
        """Return the Evaluations of models on a folder, or on pictures of it that are chosen."""
        results = []
        for model in models:
            config = replace(self.config, model=model)
            if chosen is not None and config.center is None:
                config = replace(config, center=MODEL_CENTER)  # that of the training
            keys = None if chosen is None else chosen.digests.keys()
            with indexed(folder, config, self.session, self.on_progress, keys) as (path, report):
                if chosen is None:
                    found = self.of_store(path, config)
                else:
                    found = self._of_chosen(path, config, folder, chosen)
            rate = min(report.stage_rate[stage] for stage in ("decode", "embed"))
            ran: dict[str, Any] = {name: getattr(report, name) for name in _OF_THE_RUN}
            results += [replace(result, images_per_s=rate, **ran) for result in found]
        return results

    def of_store(self, path: Path, config: IndexConfig) -> list[Evaluation]:
        """Return the Evaluations of a store, by the first folders of keys or by pairs."""
        with open_snapshot(path) as snapshot:
            images = EvaluatedImages.of(snapshot)
        truth = _truth(images.keys, self.pairs, self.session.notice)
        return self._measured(path, images, truth, config)

    def _of_chosen(
        self, path: Path, config: IndexConfig, folder: str, chosen: HeldOut
    ) -> list[Evaluation]:
        with open_snapshot(path) as snapshot:
            images = EvaluatedImages.of(snapshot, folder)
        chosen.check_same(dict(zip(images.keys, images.digests, strict=True)))
        truth = ClassTruth([chosen.classes[key] for key in images.keys])
        return self._measured(path, images, truth, config)

    def _measured(
        self, path: Path, images: EvaluatedImages, truth: Truth, config: IndexConfig
    ) -> list[Evaluation]:
        queries = queries_of(truth)
        if len(queries) > MAX_QUERIES:
            words = f"{MAX_QUERIES:,} of {len(queries):,} queries are used, drawn at random"
            self.session.notice(words)
            chosen = np.random.default_rng(0).choice(queries, MAX_QUERIES, replace=False)
            queries = np.sort(chosen)
        device, precision = config.device, config.precision
        with open_store(path, device=device, precision=precision, session=self.session) as searcher:
            served = served_recall(searcher, images)
            manifest = searcher.manifest
        results = []
        options = product(sorted({0, self.options.expand}), sorted({False, self.options.rerank}))
        for expand, rerank in options:
            ranking = Ranking(images.vectors, expand, rerank)
            check = self.session.check
            values = measure_all(queries, truth.wanted, ranking, truth.relevant, check)
            keys = [images.keys[query] for query in queries]
            results.append(
                Evaluation(
                    model=manifest.model.name,
                    precision="",
                    images=len(images.keys),
                    queries=len(queries),
                    classes=truth.class_measures(queries, values),
                    failed=manifest.run.get("failed", 0),
                    images_per_s=0.0,
                    measures={name: estimate(values[name]) for name in NAMES},
                    served_recall=served,
                    center=manifest.center_kind,
                    worst=images.worst(queries, values["mAP"], ranking),
                    expand=expand,
                    rerank=rerank,
                    gain=self.baseline.gain(keys, values["mAP"]),
                    by_group=_by_group(truth.wanted[queries], values["mAP"]),
                )
            )
        return results


@contextmanager
def indexed(
    folder: str | Path,
    config: IndexConfig,
    session: Session,
    on_progress: Callable[[Progress], None] | None,
    keys: Iterable[str] | None = None,
) -> Iterator[tuple[Path, IndexReport]]:
    """Yield a store of a folder, or of some keys of it, and how it was made; then it is gone."""
    with tempfile.TemporaryDirectory(prefix="embedsearch-") as base:
        path = Path(base) / "evaluated.es"
        folders = [str(folder)]
        if keys is not None:
            listed = Path(base) / "files"
            paths = (os.fsencode(os.path.join(folder, key)) + b"\0" for key in keys)
            listed.write_bytes(b"".join(paths))
            config, folders = replace(config, files=str(listed)), []
        report = index(folders, store=path, config=config, session=session, on_progress=on_progress)
        yield path, report


def _by_group(wanted: Ints, values: npt.NDArray[np.float64]) -> list[GroupMeasure]:
    """Return the mean of the values, float64 (Q,), by how many images each query has to find."""
    found = []
    for least, after in zip(_GROUPS, [*_GROUPS[1:], None], strict=True):
        inside = (wanted >= least) & (wanted < (after or np.inf))
        if count := int(inside.sum()):
            most = None if after is None else after - 1
            found.append(GroupMeasure(least, most, count, estimate(values[inside])))
    return found
