"""Vector databases, each started once, and a store that they hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from embedsearch.exchange.upload import upload
from tests.support.databases import CLUSTERS, DIM, ROWS, Changing, import_rows
from tests.support.engines import (
    MILVUS_TOKEN,
    Engine,
    milvus_lite,
    milvus_server,
    postgres_server,
)


@pytest.fixture(scope="package", autouse=True)
def token() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("MILVUS_TOKEN", MILVUS_TOKEN)
    yield
    patch.undo()


@pytest.fixture(scope="package")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Engine]]:
    """Start each engine once, when it is first asked for."""
    running: dict[str, Engine] = {}
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())

        def engine(name: str) -> Engine:
            if name not in running:
                folder = tmp_path_factory.mktemp(name)
                makers: dict[str, Callable[[], Any]] = {
                    "lite": lambda: milvus_lite(folder),
                    "milvus": lambda: milvus_server(folder, patch),
                    "postgres": postgres_server,
                }
                running[name] = stack.enter_context(makers[name]())
            return running[name]

        yield engine


@pytest.fixture(params=["postgres", "milvus", pytest.param("lite", marks=pytest.mark.scale)])
def engine(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> Engine:
    return engines(request.param)


# Milvus takes seconds to make a collection and to seal it: what is no matter of the engine is
# tested with it by `make test-scale`.
@pytest.fixture(params=["postgres", "lite", pytest.param("milvus", marks=pytest.mark.scale)])
def quick_engine(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> Engine:
    return engines(request.param)


@pytest.fixture(scope="package")
def filled(store: Path, engines: Callable[[str], Engine]) -> Callable[[str], str]:
    """Return the URL of a database of an engine that holds the store."""

    @cache
    def url(name: str) -> str:
        made = engines(name).url()
        upload(store, made)
        return made

    return url


@pytest.fixture(params=["postgres", pytest.param("milvus", marks=pytest.mark.scale)])
def server(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> Engine:
    return engines(request.param)


@pytest.fixture(scope="package")
def vectors() -> npt.NDArray[np.float32]:
    """Clustered unit vectors, float32 (ROWS, DIM)."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((CLUSTERS, DIM))
    made = centres[rng.integers(0, CLUSTERS, ROWS)] + 0.5 * rng.standard_normal((ROWS, DIM))
    made[11] = made[12] = made[13]  # copies, which tie
    unit: npt.NDArray[np.float32] = made / np.linalg.norm(made, axis=1, keepdims=True)
    return unit.astype(np.float32)


@pytest.fixture(scope="package")
def store(
    vectors: npt.NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Rows with columns of every kind, with nulls and with what is hard to quote."""
    folder = tmp_path_factory.mktemp("vectordb")
    import_rows(folder, vectors, "made up")
    yield folder / "s.es"


@pytest.fixture
def changing(photos: Path, tmp_path: Path, extractor: Callable[..., Any]) -> Changing:
    (photos / os.fsdecode(b"latin-\xe9'.png")).write_bytes((photos / "a" / "01.png").read_bytes())
    made = Changing(photos, tmp_path / "s.es", extractor)
    made.index()
    return made
