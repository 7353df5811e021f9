"""The user's columns stay readable: before they are committed, in old stores, after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from embedsearch.core.errors import DamagedStore, StorageError, UsageError
from embedsearch.indexing import store_update
from embedsearch.indexing.store_update import StoreUpdate
from embedsearch.searching.filters.where import Filters
from embedsearch.store.check import check_store
from embedsearch.store.current import read_current
from embedsearch.store.writer import StoreWriter
from tests.support.library import paint, run_cli
from tests.support.stores import values


def test_columns_of_a_former_version_do_not_keep_a_store_from_being_read(
    bring: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring("name,c\n0.png,sea\n")
    store = tmp_path / "s.es"
    monkeypatch.setattr(store_update, "check_readable", lambda *arguments: None)
    with StoreWriter(store) as writer:
        manifest = writer.manifest
        assert manifest is not None
        update = StoreUpdate(writer, manifest.model, manifest.roots, rebuild=False)
        columns = update.user_columns()
        assert columns is not None
        former: dict[str, Any] = {
            "when": pa.array([2**60], pa.timestamp("us")),
            "half": pa.array(np.ones(1, np.float16)),
            "text": pa.array([b"\xe9"]).cast(pa.string(), safe=False),
            "wide": pa.array([1], pa.decimal256(60, 2)),
        }
        for name, odd in former.items():
            columns = columns.append_column(name, odd)
        update.set_user_columns(columns)
        update.commit({})
    for name, held in {"c": "sea", "half": 1.0, "when": None, "text": None, "wide": 1}.items():
        assert values(store, name)[0] == held
    assert run_cli("export", tmp_path / "e.parquet", "--store", store).returncode == 0
    deep: Any = 1
    for _ in range(60):
        deep = [deep]
    with StoreWriter(store) as writer:
        assert writer.manifest is not None
        update = StoreUpdate(writer, writer.manifest.model, writer.manifest.roots, rebuild=False)
        update.set_user_columns(pa.table({"row": [0], "deep": [deep]}))
        with pytest.raises(DamagedStore, match="too deeply nested"):  # once it is committed
            update.commit({})
    assert run_cli("query", "--key", "0.png", "--store", store).returncode == 5
    done = run_cli("repair", "--store", store)
    assert done.returncode == 0 and "your own columns are lost" in done.stdout
    assert values(store, "c") == [None] * 3


def test_what_cannot_be_read_back_is_not_committed(
    bring: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring("name,c\n0.png,sea\n")
    before = read_current(tmp_path / "s.es")
    paint(tmp_path / "p" / "new.png", 9)

    def refuse(self: Filters, text: str, session: Any) -> Any:
        raise UsageError("where: no such type")

    monkeypatch.setattr(Filters, "mask", refuse)
    with pytest.raises(StorageError, match=r"cannot be read back \(where: no such type\)"):
        bring("name,d\n1.png,wood\n")
    assert read_current(tmp_path / "s.es") == before
    assert check_store(tmp_path / "s.es", read_data=True)[1] == []


KILLED = """
import os, signal, sys, embedsearch
from embedsearch.core import atomic
from embedsearch.indexing import store_update, sync
from tests.support.extractor import CountingExtractor
at, store = sys.argv[1:3]
def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)
def full(*a, **k): raise OSError(28, "No space left on device")
if at == "full":
    import embedsearch.store.files as files
    real = sync.join_user_columns
    def join(*a):
        files._write = full
        return real(*a)
    sync.join_user_columns = join
elif at == "join":
    sync.join_user_columns = die
else:
    setattr(store_update.StoreUpdate, at, die)
embedsearch.index(store=store, rebuild=True,
    extractor_factory=lambda spec, *a: CountingExtractor(spec.dim))
"""


@pytest.mark.parametrize("at", ["join", "commit", "finish", "tidy", "full"])
def test_a_killed_rebuild_keeps_the_columns(
    bring: Callable[..., Any], sync: Callable[..., Any], tmp_path: Path, at: str
) -> None:
    bring("name,c\n0.png,sea\n1.png,wood\n")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, at, str(tmp_path / "s.es")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == (1 if at == "full" else -signal.SIGKILL), done.stderr
    assert values(tmp_path / "s.es", "c") == ["sea", "wood", None]
    sync()
    assert values(tmp_path / "s.es", "c") == ["sea", "wood", None]
