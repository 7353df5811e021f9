"""How well a model finds related images; in: labeled images, out: an Evaluation.

The images are indexed. Each one is a query for the others of its class, or for those that a CSV
names. Rankings are exact, by the vectors of the store; the recall of the store's own search is
measured as well.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedsearch.core.arguments import checked
from embedsearch.core.config import IndexConfig, SearchConfig
from embedsearch.core.errors import UsageError
from embedsearch.core.names import unicode_text
from embedsearch.core.paths import local_path, printable, whole_path
from embedsearch.core.records import Hit, Progress, StoredImage
from embedsearch.core.session import Session
from embedsearch.images.sources.folder import FolderScan
from embedsearch.indexing.report import IndexReport
from embedsearch.indexing.sync import index
from embedsearch.learning.labels import read_rows
from embedsearch.learning.metrics import NAMES, Bools, Floats, Ints, estimate, measure_all
from embedsearch.learning.ranking import Ranking
from embedsearch.learning.reports import Estimate, Evaluation, GroupMeasure, WorstQuery
from embedsearch.network.catalog import AUTO
from embedsearch.searching.ranking.ordering import RERANKED, rank_scores
from embedsearch.searching.searcher import Searcher, open_store
from embedsearch.store.locate import readable_store
from embedsearch.store.snapshot import Snapshot, open_snapshot

WORST = 12  # queries listed and shown on the contact sheet
_SERVED_K = 10
_SERVED_QUERIES = 500
_TIE = 1e-5  # scores this close are equal: exact search agrees to this precision
MAX_QUERIES = 20_000  # more do not change the third digit
_NAMED = 3
_OF_THE_RUN = ("model", "precision", "failed")
_GROUPS = (1, 2, 4, 10, 30)  # least images to find
_Pairs: TypeAlias = list[tuple[str, str]]  # keys of a query and an image that it should find


@checked
def evaluate(
    folder: str | Path | None = None,
    *,
    models: Sequence[str] | None = None,
    store: str | Path | None = None,
    relevant: str | Path | None = None,
    expand: int = 0,
    rerank: bool = False,
    config: IndexConfig | None = None,
    session: Session | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Evaluation]:
    """Return an Evaluation of each model on the images in `folder`, or of a store as it is.

    Without a folder that is `store`, else the nearest one. The class of an image is the first
    folder of its key; or `relevant` names a CSV with the columns query and relevant, both keys.
    Each model gives one Evaluation per combination of the options of a query: plain, re-ranked,
    expanded by `expand` neighbors, both. Raises UsageError and the errors of `index`.
    """
    if folder is not None and store is not None:
        raise UsageError("evaluate takes a folder of labeled images or a store, not both")
    options = SearchConfig(expand=expand, rerank=rerank)  # refuses bad values
    baseline = _Baseline()
    config = config or IndexConfig()
    models = models or (config.model,)
    given = tuple(models) != (AUTO,) or config.input_side is not None or config.flip
    given = given or config.center is not None
    if folder is None and given:
        raise UsageError(
            "model, input_side, flip and center go with a folder of images: a store has its own",
            *("model", "input_side", "flip", "center"),
        )
    session = session or Session()
    pairs = None
    if relevant is not None:
        rows = read_rows(Path(local_path(relevant)), ["query", "relevant"])
        pairs = [(row["query"], row["relevant"]) for _, row in rows]
    if folder is None:
        with readable_store(store, session) as path:
            return _evaluate_store(path, pairs, options, config, baseline, session)
    _check_labeled(folder, pairs)
    results = []
    for model in models:
        of_model = replace(config, model=model)
        with indexed(folder, of_model, session, on_progress) as (path, report):
            found = _evaluate_store(path, pairs, options, of_model, baseline, session)
        rate = min(report.stage_rate[stage] for stage in ("decode", "embed"))
        ran: dict[str, Any] = {name: getattr(report, name) for name in _OF_THE_RUN}
        results += [replace(result, images_per_s=rate, **ran) for result in found]
    return results


def _check_labeled(folder: str | Path, pairs: _Pairs | None) -> None:
    """Raise UsageError where a folder has nothing to measure, before it is embedded."""
    root = os.path.realpath(local_path(folder))
    keys = [ref.key for ref in FolderScan(0, root)] if os.path.isdir(root) else []
    if keys:  # else `index` says what is wrong
        _queries_of(_Truth(keys, pairs, lambda message: None))


def _queries_of(truth: _Truth) -> Ints:
    """Return the images that have others to find, int64 (Q,). Raises UsageError without any."""
    if not len(queries := np.flatnonzero(truth.wanted)):
        raise UsageError(
            "no picture has another one to find: evaluate needs one folder per class, each with "
            "at least two images, or relevant=pairs.csv",
            "relevant",
        )
    return queries


@contextmanager
def indexed(
    folder: str | Path,
    config: IndexConfig,
    session: Session,
    on_progress: Callable[[Progress], None] | None,
) -> Iterator[tuple[Path, IndexReport]]:
    """Yield a store of a folder that is gone afterwards, and how it was made."""
    with tempfile.TemporaryDirectory(prefix="embedsearch-") as base:
        path = Path(base) / "evaluated.es"
        report = index(
            [str(folder)], store=path, config=config, session=session, on_progress=on_progress
        )
        yield path, report


class _Truth:
    """The images that each image should find: those of its class, or those named by pairs."""

    def __init__(
        self, keys: list[str], pairs: _Pairs | None, notice: Callable[[str], None]
    ) -> None:
        self._others: dict[int, set[int]] = {}
        self._labels = np.full(len(keys), -1, dtype=np.int64)
        if pairs is None:
            names = [key.partition("/")[0] if "/" in key else "" for key in keys]
            found = sorted({name for name in names if name})
            numbers = {name: number for number, name in enumerate(found)}
            self._labels = np.array([numbers.get(name, -1) for name in names], dtype=np.int64)
            if len(found) == 1:
                raise UsageError(
                    f"all pictures in folders are of one class, {printable(found[0])}: evaluate "
                    "needs at least two folders, one per class"
                )
            self.classes = len(found)
            members = np.bincount(self._labels + 1, minlength=len(found) + 1) - 1
            members[0] = 0  # of images in no folder
            self.wanted = members[self._labels + 1]
            return
        self.classes = 0
        numbers = {key: number for number, key in enumerate(keys)}
        if len(numbers) < len(keys):
            raise UsageError(
                "relevant names keys, and two folders of the store hold the same key", "relevant"
            )
        absent = sorted({key for pair in pairs for key in pair} - numbers.keys())
        if absent:
            shown = ", ".join(map(printable, absent[:_NAMED]))
            notice(f"{len(absent)} names in relevant are not among the images: {shown}")
        for query, other in pairs:
            if query in numbers and other in numbers and query != other:
                self._others.setdefault(numbers[query], set()).add(numbers[other])
        self.wanted = np.array([len(self._others.get(i, ())) for i in range(len(keys))], np.int64)

    def relevant(self, queries: Ints, order: Ints) -> Bools:
        """Return bool (Q, N): which of the ranked items each query should find."""
        if self.classes:
            return np.asarray(self._labels[order] == self._labels[queries][:, None])
        rows = [np.isin(order[i], list(self._others[int(q)])) for i, q in enumerate(queries)]
        return np.array(rows)


def _evaluate_store(
    path: Path,
    pairs: _Pairs | None,
    options: SearchConfig,
    config: IndexConfig,
    baseline: _Baseline,
    session: Session,
) -> list[Evaluation]:
    with open_snapshot(path) as snapshot:
        images = _Images.of(snapshot)
        center = snapshot.center
    truth = _Truth(images.keys, pairs, session.notice)
    queries = _queries_of(truth)
    if len(queries) > MAX_QUERIES:
        session.notice(f"{MAX_QUERIES:,} of {len(queries):,} queries are used, drawn at random")
        chosen = np.random.default_rng(0).choice(queries, MAX_QUERIES, replace=False)
        queries = np.sort(chosen)
    device, precision = config.device, config.precision
    with open_store(path, device=device, precision=precision, session=session) as searcher:
        plain = images.vectors if center is None else center.plain(images.vectors)
        served_recall = _served_recall(searcher, images, plain)
        manifest = searcher.manifest
    results = []
    for expand, rerank in product(sorted({0, options.expand}), sorted({False, options.rerank})):
        ranking = Ranking(images.vectors, expand, rerank)
        values = measure_all(queries, truth.wanted, ranking, truth.relevant, session.check)
        results.append(
            Evaluation(
                model=manifest.model.name,
                precision="",
                images=len(images.keys),
                queries=len(queries),
                classes=truth.classes,
                failed=manifest.run.get("failed", 0),
                images_per_s=0.0,
                measures={name: estimate(values[name]) for name in NAMES},
                served_recall=served_recall,
                center=manifest.center_kind,
                worst=images.worst(queries, values["mAP"], ranking),
                expand=expand,
                rerank=rerank,
                gain=baseline.gain([images.keys[query] for query in queries], values["mAP"]),
                by_group=_by_group(truth.wanted[queries], values["mAP"]),
            )
        )
    return results


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


@dataclass(frozen=True)
class _Images:
    """The live images of a store, by root and key."""

    images: list[StoredImage]
    keys: list[str]
    paths: list[str]
    vectors: Floats  # measured, float32 (N, D), of length 1

    @classmethod
    def of(cls, snapshot: Snapshot) -> _Images:
        """Read them. Raises UsageError if there are none."""
        alive = np.flatnonzero(snapshot.live_mask())
        if not len(alive):
            raise UsageError("the store holds no image to evaluate")
        vectors = snapshot.vectors_of(alive).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        images = snapshot.images(alive)
        roots = {root.id: root.path for root in snapshot.manifest.roots}
        order = sorted(range(len(images)), key=lambda i: (images[i].root, images[i].key))
        images = [images[i] for i in order]
        keys = [os.fsdecode(image.key) for image in images]
        paths = [
            whole_path(roots[image.root], key) for image, key in zip(images, keys, strict=True)
        ]
        return cls(images, keys, paths, vectors[order])

    def worst(
        self, queries: Ints, values: npt.NDArray[np.float64], ranking: Ranking
    ) -> list[WorstQuery]:
        """Return the queries of least average precision, float64 (Q,), and what they find."""
        lowest = np.argsort(values, kind="stable")[:WORST]
        chosen = queries[lowest]
        found = []
        for number, order, query in zip(
            lowest, ranking(chosen), ranking.query_vectors(chosen), strict=True
        ):
            first = order[:RERANKED]
            scores = self.vectors[first] @ query
            ranks = rank_scores(query, self.vectors[first]) if ranking.rerank else None
            hits = [
                Hit(
                    rank=place + 1,
                    score=float(scores[place]),
                    percentile=None,
                    row=self.images[row].row,
                    path=unicode_text(self.keys[row]),
                    full_path=self.paths[row],
                    key=self.keys[row],
                    width=self.images[row].width,
                    height=self.images[row].height,
                    rank_score=None if ranks is None else float(ranks[place]),
                )
                for place, row in enumerate(first[:_SERVED_K].tolist())
            ]
            precision = round(float(values[number]), 4)
            query_row = queries[number]
            found.append(WorstQuery(self.keys[query_row], self.paths[query_row], precision, hits))
        return found


def _by_group(wanted: Ints, values: npt.NDArray[np.float64]) -> list[GroupMeasure]:
    """Return the mean of the values, float64 (Q,), by how many images each query has to find."""
    found = []
    for least, after in zip(_GROUPS, [*_GROUPS[1:], None], strict=True):
        inside = (wanted >= least) & (wanted < (after or np.inf))
        if count := int(inside.sum()):
            most = None if after is None else after - 1
            found.append(GroupMeasure(least, most, count, estimate(values[inside])))
    return found


def _served_recall(searcher: Searcher, images: _Images, plain: Floats) -> float:
    """Return the share of the true 10 nearest others among the store's hits; ties count.

    `plain`, float32 (N, D), are the vectors of the network.
    """
    paths, vectors = images.paths, images.vectors
    count = min(_SERVED_QUERIES, len(paths))
    rows = np.random.default_rng(0).choice(len(paths), count, replace=False)
    found = 0
    wanted = min(_SERVED_K, len(paths) - 1)
    for row in rows:
        scores = vectors @ vectors[row]
        scores[row] = -np.inf
        least = np.sort(scores)[-wanted] - _TIE
        hits = searcher.query(plain[row], k=_SERVED_K + 1)
        others = [hit for hit in hits if hit.full_path != paths[row]][:_SERVED_K]
        found += sum(hit.score >= least for hit in others)
    return float(found / (count * wanted))
