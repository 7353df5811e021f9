"""How well captions find their pictures; in: pictures and captions, out: TextEvaluations.

Each caption is a query, for the one picture that it is of: by words, by the network for texts where
the model has one, and by both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from embedsearch.core.arguments import checked
from embedsearch.core.config import IndexConfig
from embedsearch.core.errors import UsageError
from embedsearch.core.paths import local_path, printable
from embedsearch.core.records import Progress
from embedsearch.core.scores import BOTH, PICTURE, WORDS
from embedsearch.core.session import Session
from embedsearch.learning.evaluate import MAX_QUERIES, indexed
from embedsearch.learning.labels import read_rows
from embedsearch.learning.metrics import CUTOFFS, estimate
from embedsearch.learning.reports import TextEvaluation
from embedsearch.searching.queries import Text
from embedsearch.searching.searcher import Searcher, open_store

DEPTH = 100  # hits that are looked at; a picture that is not among them counts as not found
_NAMED = 3


@checked
def evaluate_texts(
    texts: str | Path,
    folder: str | Path | None = None,
    *,
    models: Sequence[str] | None = None,
    store: str | Path | None = None,
    config: IndexConfig | None = None,
    session: Session | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[TextEvaluation]:
    """Return how well captions find their pictures, in `folder` by each model, or in a store.

    `texts` is a CSV with the columns path and caption; a path is a key of the store or a whole
    path. Words are those of the store: captions that it holds itself find their own words. Raises
    UsageError and the errors of `index`.
    """
    if folder is not None and store is not None:
        raise UsageError("evaluate takes a folder of images or a store, not both")
    if folder is None and models is not None:
        raise UsageError("model goes with a folder of images: a store has its own", "model")
    rows = read_rows(Path(local_path(texts)), ["path", "caption"])
    pairs = [(row["path"], row["caption"]) for _, row in rows if row["caption"].strip()]
    if not pairs:
        raise UsageError(f"{printable(str(texts))} holds no caption")
    session, config = session or Session(), config or IndexConfig()
    if folder is None:
        names = ("model", "input_side", "flip", "center")
        if any(getattr(config, name) != getattr(IndexConfig, name) for name in names):
            raise UsageError(
                "model, input_side, flip and center go with a folder of images: a store has its "
                "own",
                *names,
            )
        return _of_store(store, pairs, config, session)
    results = []
    for model in models or (config.model,):
        of_model = replace(config, model=model)
        with indexed(folder, of_model, session, on_progress) as (path, _):
            results += _of_store(path, pairs, of_model, session)
    return results


def _of_store(
    store: str | Path | None,
    pairs: Sequence[tuple[str, str]],
    config: IndexConfig,
    session: Session,
) -> list[TextEvaluation]:
    with open_store(
        store, device=config.device, precision=config.precision, session=session
    ) as searcher:
        pairs = _known(searcher, pairs, session)
        spec = searcher.manifest.model
        rankings = (WORDS, PICTURE, BOTH) if spec.takes_texts else (WORDS,)
        results = []
        for by in rankings:
            ranks = np.array([_rank(searcher, place, caption, by) for place, caption in pairs])
            values = {f"recall@{k}": (ranks <= k).astype(np.float64) for k in CUTOFFS}
            values["MRR"] = 1.0 / ranks
            measures = {name: estimate(value) for name, value in values.items()}
            results.append(TextEvaluation(spec.name, by, len(searcher), len(pairs), measures))
    return results


def _known(
    searcher: Searcher, pairs: Sequence[tuple[str, str]], session: Session
) -> list[tuple[str, str]]:
    """Return whole paths and captions of the pictures that a store has. Raises UsageError."""
    images = searcher.images(k=max(1, len(searcher))).images
    keys = Counter(image.key for image in images)
    places = {image.key: image.full_path for image in images if keys[image.key] == 1}
    places |= {image.full_path: image.full_path for image in images}
    known = [(places[name], caption) for name, caption in pairs if name in places]
    absent = sorted({name for name, _ in pairs} - places.keys())
    shown = ", ".join(map(printable, absent[:_NAMED]))
    if not known:
        example = printable(images[0].key) if images else "a/b.jpg"
        raise UsageError(
            f"no picture of the captions is in the store, such as {shown}: a path is a key of it, "
            f"such as {example}, or a whole path"
        )
    if absent:
        words = f"{len(absent)} ({shown})"
        session.notice(f"captions of pictures that are not in the store, or not one: {words}")
    own = {image.full_path: {str(value) for value in image.metadata.values()} for image in images}
    if held := sum(caption in own[place] for place, caption in known):
        words = f"{held} of {len(known)} captions are what the store itself holds"
        session.notice(f"{words}: they find their own words")
    if len(known) > MAX_QUERIES:
        session.notice(f"{MAX_QUERIES:,} of {len(known):,} captions are used, drawn at random")
        chosen = np.random.default_rng(0).choice(len(known), MAX_QUERIES, replace=False)
        known = [known[number] for number in np.sort(chosen)]
    return known


def _rank(searcher: Searcher, place: str, caption: str, by: str) -> float:
    """Return the rank of a picture among the hits of a caption, inf for none."""
    try:
        hits = searcher.query(Text(caption), k=DEPTH, by=by)
    except UsageError:  # it has no word to look for, or no path that matches
        return float("inf")
    return next((float(hit.rank) for hit in hits if hit.full_path == place), float("inf"))
