"""Files that are cut while they are in use: a copy answers, or the request is told; nobody dies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import embedsearch
from embedsearch.core.errors import DamagedStore, StorageError
from embedsearch.core.session import Session
from embedsearch.images.sources.vectors import open_vectors
from embedsearch.searching import following, row_sources
from tests.support.library import REPOSITORY, Library

CUT = """
import os, sys
import embedsearch
from embedsearch.searching import row_sources
row_sources.VERIFY_ALWAYS_BYTES = int(sys.argv[2])
with embedsearch.open_store(sys.argv[1]) as photos:
    before = [hit.key for hit in photos.query(embedsearch.Key(sys.argv[3]), k=5)]
    for folder, _, names in os.walk(sys.argv[1] + "/ann"):
        for name in names:
            os.chmod(os.path.join(folder, name), 0o644)
            os.truncate(os.path.join(folder, name), 0)
    try:
        assert [hit.key for hit in photos.query(embedsearch.Key(sys.argv[3]), k=5)] == before
        print("the same")
    except embedsearch.DamagedStore as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("copied_bytes", "said"), [(1 << 27, "the same"), (0, "was cut while it was in use; run: emb")]
)
@pytest.mark.parametrize("ann", ["exact", "IVF2,Flat"])
def test_a_faiss_file_that_is_cut(
    copied_bytes: int, said: str, ann: str, library: Library, photos: Path
) -> None:
    library.index(photos, ann=ann)
    command = [sys.executable, "-c", CUT, str(library.store), str(copied_bytes), "b/00.png"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


@pytest.mark.parametrize("order", ["C", "F"])
def test_vectors_are_read_in_blocks(order: str, tmp_path: Path) -> None:
    rows = np.asarray(np.random.default_rng(1).random((50, 7), np.float32), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "v.npy", rows)
    vectors = open_vectors(tmp_path / "v.npy")
    assert (len(vectors), vectors.dim) == rows.shape
    assert np.array_equal(vectors[10:20], rows[10:20])
    assert np.array_equal(vectors[45:90], rows[45:])


def test_vectors_that_are_cut_are_told(tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    np.save(path, np.ones((5000, 64), np.float32))
    vectors = open_vectors(path)
    os.truncate(path, 4096)
    with pytest.raises(StorageError, match=r"v\.npy was cut"):
        vectors[4000:]


@pytest.mark.parametrize("error", [RuntimeError("odd"), MemoryError(), ValueError("odd\nlines")])
def test_who_follows_a_store_survives_anything(
    error: Exception, library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.index(photos)
    monkeypatch.setattr(following, "_CHECK_EVERY_S", 0.0)
    said: list[str] = []
    session = Session(said.append)
    with embedsearch.open_store(library.store, follow=True, session=session) as searcher:
        generations = searcher._generations
        before = searcher.query(embedsearch.Key("b/00.png"), 5)

        def broken(*_: object) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(generations, "_open", broken)
            generations._seen = b""
            for _ in range(3):
                generations._follow()
            assert len(said) == 1 and type(error).__name__ in said[0] and "\n" not in said[0]
            assert searcher.query(embedsearch.Key("b/00.png"), 5) == before
            with pytest.raises(type(error)):
                searcher.refresh()
        generations._follow()
        assert searcher.trouble is None


def test_the_check_is_before_each_use(library: Library, photos: Path) -> None:
    library.index(photos)
    assert row_sources.VERIFY_ALWAYS_BYTES == 128 << 20
    with pytest.raises(DamagedStore), pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_sources, "VERIFY_ALWAYS_BYTES", 0)
        with embedsearch.open_store(library.store) as searcher:
            for file in (library.store / "ann").iterdir():
                file.chmod(0o644)
                os.truncate(file, file.stat().st_size - 1)
            searcher.query(embedsearch.Key("b/00.png"), 5)
