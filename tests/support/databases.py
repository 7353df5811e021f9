"""Stores to upload to vector databases: of made-up rows, and of pictures that change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

import embedsearch
from embedsearch import Key
from embedsearch.core.session import Session
from embedsearch.exchange.import_vectors import import_vectors
from embedsearch.exchange.upload import upload
from embedsearch.searching.searcher import open_store

ROWS, DIM, CLUSTERS = 2000, 64, 50


HOSTILE = [
    "it's",
    'a "quoted" one',
    "100%",
    "under_score",
    "back\\slash",
    "new\nline",
    "\\",
    "'); DROP TABLE embedsearch; --",
    "ünïcode 日本 😀",
    "",
    "{}",
    "%s",
    "trips",
    "trips/",
    "trips0",
    "control\x01\x7f\x1b",
    "tab\tand\r",
    "\U0010ffff",
]


def import_rows(
    folder: Path, vectors: npt.NDArray[np.float32], model: str, center: str | None = None
) -> Path:
    rng = np.random.default_rng(6)

    def some(values: list[Any], nulls: float = 0.2) -> list[Any]:
        picked = [values[i] for i in rng.integers(0, len(values), len(vectors))]
        return [None if rng.random() < nulls else value for value in picked]

    moments = [datetime(2024, 1, day, hour, 0, 0, 5) for day in (1, 2, 3) for hour in (0, 12)]
    paths = [f"{'trips' if i % 3 else 'home'}/{i:04d}.jpg" for i in range(len(vectors))]
    paths[: len(HOSTILE)] = [f"odd/{text or 'empty'}.jpg" for text in HOSTILE]
    columns = {
        "path": paths,
        "vector": pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.reshape(-1)), vectors.shape[1]
        ),
        "label": some(HOSTILE),
        "rating": pa.array(some([-5, 0, 3, 4, 10]), pa.int32()),
        "big": pa.array(some([2**53 + 1, 2**62, -(2**62), 7]), pa.int64()),
        "price": some([0.1, -1.5, 0.0, 1e300, float("nan"), float("inf"), float("-inf")]),
        "share": pa.array(some([0.1, 0.25, 0.7]), pa.float32()),
        "flag": some([True, False]),
        "day": some([date(2024, 1, 1), date(2024, 1, 2), date(2030, 5, 5)]),
        "seen": pa.array(some(moments), pa.timestamp("us")),
        "shot": pa.array(some(moments), pa.timestamp("ms"), safe=False),
        "my label": some(["x", "y"]),
        "like": some(["a", "b"]),
        "mark": some([1, 2]),
        "tags": some([["a"], ["b"]]),
        "precise": pa.array(some(moments), pa.timestamp("ns")),
        "with_nul": some(["a\0b", "c"]),
    }
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    import_vectors(
        folder / "rows.parquet", model=model, root=folder, store=folder / "s.es", center=center
    )
    return folder / "s.es"


class Notices(list[str]):
    """A session that keeps what it is told."""

    @property
    def session(self) -> Session:
        return Session(notice=self.append)


@dataclass(frozen=True)
class Changing:
    """A folder of pictures and its store."""

    photos: Path
    store: Path
    extractor: Callable[..., Any]

    def index(self, **options: Any) -> None:
        embedsearch.index(
            self.photos,
            store=self.store,
            model="packaged",
            extractor_factory=self.extractor,
            **options,
        )

    def caption(self, texts: dict[str, str]) -> None:
        table = self.photos.parent / "captions.csv"
        lines = ["path,caption", *(f"{path},{text}" for path, text in texts.items())]
        table.write_text("\n".join(lines))
        self.index(metadata=str(table))

    def counts(self, url: str, **options: Any) -> tuple[int, int, int]:
        report = upload(self.store, url, **options)
        return report.uploaded, report.unchanged, report.deleted

    def same_hits(self, url: str, **options: Any) -> list[str]:
        """Return the keys of hits, the same with and without the database, and what was said."""
        said = Notices()
        query = Key("a/01.png")
        with (
            open_store(self.store) as ours,
            open_store(self.store, serve_from=url, session=said.session) as far,
        ):
            wanted, found = ours.query(query, **options), far.query(query, **options)
        assert [repr(hit) for hit in found] == [repr(hit) for hit in wanted]
        return said
