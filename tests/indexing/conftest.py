"""A store that is indexed by units, one that is not, and one that tables are brought to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedsearch
from embedsearch.indexing.report import MetadataReport
from tests.support.library import paint
from tests.support.units import Factory, Shared


@pytest.fixture
def shared(tmp_path: Path, extractor: Factory) -> Shared:
    return Shared(tmp_path / "shared.es", extractor)


@pytest.fixture
def alone(tmp_path: Path, extractor: Factory) -> Shared:
    return Shared(tmp_path / "alone.es", extractor)


@pytest.fixture
def sync(tmp_path: Path, extractor: Callable[..., Any]) -> Callable[..., MetadataReport | None]:
    """Bring the store `s.es` into step with three photos."""
    for number in range(3):
        paint(tmp_path / "p" / f"{number}.png", number)

    def run(**options: Any) -> MetadataReport | None:
        return embedsearch.index(
            tmp_path / "p", store=tmp_path / "s.es", extractor_factory=extractor, **options
        ).metadata

    run(model="packaged")
    return run


@pytest.fixture
def bring(sync: Callable[..., Any], tmp_path: Path) -> Callable[..., MetadataReport]:
    """Index with a table: its text, or columns of Parquet."""

    def run(content: str | bytes | pa.Table, name: str = "t.csv") -> MetadataReport:
        if isinstance(content, pa.Table):
            name = "t.parquet"
            pq.write_table(content, tmp_path / name)
        else:
            data = content.encode() if isinstance(content, str) else content
            (tmp_path / name).write_bytes(data)
        report: MetadataReport = sync(metadata=str(tmp_path / name))
        return report

    return run
