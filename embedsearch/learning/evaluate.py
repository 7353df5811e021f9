"""How well a model finds related images; in: labeled images, out: an Evaluation.

The images are indexed. Each one is a query for the others of its class, or for those that a CSV
names. Rankings are exact, by the vectors of the store; the recall of the store's own search is
measured as well.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedsearch.core.arguments import checked
from embedsearch.core.config import IndexConfig, SearchConfig
from embedsearch.core.errors import UsageError
from embedsearch.core.paths import local_path, printable, whole_path
from embedsearch.core.records import Hit, Progress
from embedsearch.core.session import Session
from embedsearch.indexing.sync import index
from embedsearch.learning.labels import read_rows
from embedsearch.learning.metrics import NAMES, Bools, Floats, Ints, estimate, measure_all
from embedsearch.learning.ranking import Ranking
from embedsearch.learning.reports import Evaluation, GroupMeasure, WorstQuery
from embedsearch.network.catalog import AUTO
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
    Each is followed by those with the options of query time: queries expanded by `expand`
    neighbors, hits re-ranked, both. Raises UsageError and the errors of `index`.
    """
    if folder is not None and store is not None:
        raise UsageError("evaluate takes a folder of labeled images or a store, not both")
    asked = SearchConfig(expand=expand, rerank=rerank)  # refuses bad values
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
            return _evaluate_store(path, pairs, asked, config, session)
    results = []
    for model in models:
        with tempfile.TemporaryDirectory(prefix="embedsearch-") as base:
            path = Path(base) / "evaluated.es"
            of_model = replace(config, model=model)
            report = index(
                [str(folder)], store=path, config=of_model, session=session, on_progress=on_progress
            )
            found = _evaluate_store(path, pairs, asked, of_model, session)
        rate = min(report.stage_rate[stage] for stage in ("decode", "embed"))
        ran: dict[str, Any] = {name: getattr(report, name) for name in _OF_THE_RUN}
        results += [replace(result, images_per_s=rate, **ran) for result in found]
    return results


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
                    f"all pictures in folders are of one class, {printable(found[0])}: nothing to "
                    "tell apart"
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
    path: Path, pairs: _Pairs | None, asked: SearchConfig, config: IndexConfig, session: Session
) -> list[Evaluation]:
    with open_snapshot(path) as snapshot:
        keys, paths, vectors = _stored(snapshot)
        center = snapshot.center
    truth = _Truth(keys, pairs, session.notice)
    queries = np.flatnonzero(truth.wanted)
    if len(queries) > MAX_QUERIES:
        session.notice(f"{MAX_QUERIES:,} of {len(queries):,} queries are used, drawn at random")
        chosen = np.random.default_rng(0).choice(queries, MAX_QUERIES, replace=False)
        queries = np.sort(chosen)
    if not len(queries):
        raise UsageError(
            "no picture has another one to find: evaluate needs one folder a class, of at least "
            "two images each, or relevant=pairs.csv",
            "relevant",
        )
    device, precision = config.device, config.precision
    with open_store(path, device=device, precision=precision, session=session) as searcher:
        plain = vectors if center is None else center.plain(vectors)
        served_recall = _served_recall(searcher, vectors, plain, paths)
        results = []
        for expand, rerank in product(sorted({0, asked.expand}), sorted({False, asked.rerank})):
            ranking = Ranking(vectors, expand, rerank)
            values = measure_all(queries, truth.wanted, ranking, truth.relevant, session.check)
            lowest = np.argsort(values["mAP"], kind="stable")[:WORST]
            drawn = ranking.asked(queries[lowest])
            given = drawn if center is None else center.plain(drawn)
            worst = [
                WorstQuery(
                    path=paths[queries[number]],
                    average_precision=round(float(values["mAP"][number]), 4),
                    hits=_others(searcher, query, paths[queries[number]], rerank=rerank),
                )
                for number, query in zip(lowest, given, strict=True)
            ]
            results.append(
                Evaluation(
                    model=searcher.manifest.model.name,
                    precision="",
                    images=len(keys),
                    queries=len(queries),
                    classes=truth.classes,
                    failed=searcher.manifest.run.get("failed", 0),
                    images_per_s=0.0,
                    measures={name: estimate(values[name]) for name in NAMES},
                    served_recall=served_recall,
                    center=searcher.manifest.center_kind,
                    worst=worst,
                    expand=expand,
                    rerank=rerank,
                    by_group=_by_group(truth.wanted[queries], values["mAP"]),
                )
            )
    return results


def _by_group(wanted: Ints, values: npt.NDArray[np.float64]) -> list[GroupMeasure]:
    """Return the mean of the values, float64 (Q,), by how many images each query has to find."""
    found = []
    for least, after in zip(_GROUPS, [*_GROUPS[1:], None], strict=True):
        inside = (wanted >= least) & (wanted < (after or np.inf))
        if count := int(inside.sum()):
            most = None if after is None else after - 1
            found.append(GroupMeasure(least, most, count, estimate(values[inside])))
    return found


def _stored(snapshot: Snapshot) -> tuple[list[str], list[str], Floats]:
    """Return keys, paths and measured vectors, float32 (N, D), of live rows, by root and key."""
    alive = np.flatnonzero(snapshot.live_mask())
    if not len(alive):
        raise UsageError("the store holds no image to evaluate")
    vectors = snapshot.vectors_of(alive).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    images = snapshot.images(alive)
    roots = {root.id: root.path for root in snapshot.manifest.roots}
    order = sorted(range(len(images)), key=lambda i: (images[i].root, images[i].key))
    keys = [os.fsdecode(images[i].key) for i in order]
    paths = [whole_path(roots[images[i].root], key) for i, key in zip(order, keys, strict=True)]
    return keys, paths, vectors[order]


def _others(searcher: Searcher, vector: Floats, path: str, *, rerank: bool = False) -> list[Hit]:
    """Return the store's hits for one of its images, without that image."""
    hits = searcher.query(vector, k=_SERVED_K + 1, rerank=rerank)
    others = [hit for hit in hits if hit.path != path][:_SERVED_K]
    return [replace(hit, rank=rank) for rank, hit in enumerate(others, start=1)]


def _served_recall(
    searcher: Searcher, vectors: Floats, plain: Floats, paths: Sequence[str]
) -> float:
    """Return the share of the true 10 nearest others among the store's hits; ties count.

    `vectors` are measured, float32 (N, D); `plain` are those of the network.
    """
    count = min(_SERVED_QUERIES, len(paths))
    rows = np.random.default_rng(0).choice(len(paths), count, replace=False)
    found = 0
    wanted = min(_SERVED_K, len(paths) - 1)
    for row in rows:
        scores = vectors @ vectors[row]
        scores[row] = -np.inf
        least = np.sort(scores)[-wanted] - _TIE
        hits = _others(searcher, plain[row], paths[row])
        found += sum(hit.score >= least for hit in hits)
    return float(found / (count * wanted))
