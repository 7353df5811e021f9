"""Shared fixtures: an empty cache, a counting extractor, photos, a server of S3."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import embedsearch
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from tests.support.extractor import CountingExtractor
from tests.support.library import SAMPLES, SHARED, Library, paint
from tests.support.raw_files import with_library

if TYPE_CHECKING:
    from tests.support.s3 import S3Server


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "shared: needs ../shared beside this checkout; set by itself"
    )


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks for `shared_data`, by itself or by way of other fixtures."""
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of our own, so that no test depends on what a home folder holds."""
    folder = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("EMBEDSEARCH_CACHE", str(folder / "embedsearch"))
    patch.setenv("TORCH_HOME", str(folder / "torch"))
    patch.delenv("EMBEDSEARCH_STORE", raising=False)
    patch.delenv("EMBEDSEARCH_TOKEN", raising=False)
    yield folder
    patch.undo()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of photos and weights beside the repository."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs ../shared/data, which is not beside this checkout")
    return SHARED / "data"


@pytest.fixture
def extractor() -> Iterator[Callable[..., CountingExtractor]]:
    """A factory for `index(extractor_factory=…)`; CountingExtractor.embedded counts images."""
    CountingExtractor.embedded = 0

    def make(spec: ModelSpec, device: str, precision: str, session: Session) -> CountingExtractor:
        return CountingExtractor(spec.dim)

    yield make


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of twelve small pictures in two sub-folders."""
    folder = tmp_path / "photos"
    for seed in range(12):
        paint(folder / ("a" if seed % 2 else "b") / f"{seed:02d}.png", seed)
    return folder


@pytest.fixture
def library(tmp_path: Path, extractor: Callable[..., Any]) -> Library:
    return Library(tmp_path / "s.es", extractor)


@pytest.fixture
def without_rawpy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as if the library that reads RAW were not installed."""
    with_library(False, monkeypatch)
    yield
    with_library(True, monkeypatch)


@pytest.fixture(scope="session")
def samples_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample images under the packaged network, to be read only."""
    store = tmp_path_factory.mktemp("samples") / "s.es"
    embedsearch.index(SAMPLES, store=store, model="packaged", device="cpu")
    return store


@pytest.fixture(scope="module")
def searcher(store: Path) -> Iterator[embedsearch.Searcher]:
    """A searcher of what a module or its folder calls `store`."""
    with embedsearch.open_store(store) as opened:
        yield opened


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    """A server of S3, which the environment's requests go to."""
    pytest.importorskip("moto", reason="needs the test extra")
    from tests.support import s3

    with pytest.MonkeyPatch.context() as patch, s3.s3_server(patch) as running:
        yield running


@pytest.fixture
def s3(s3_server: S3Server) -> Iterator[S3Server]:
    """The server with an empty bucket and no faults."""
    s3_server.files().create_dir("bucket")
    yield s3_server
    s3_server.fault, s3_server.delay_s = lambda method, path: None, 0.0
    with contextlib.suppress(OSError):  # a test may have deleted it
        s3_server.files().delete_dir_contents("bucket")
