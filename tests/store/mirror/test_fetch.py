"""Servers of stores that fail and lie: what is not what the manifest says is refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

import embedsearch
from embedsearch.core import remote
from embedsearch.core.errors import (
    DamagedStore,
    IncompatibleStore,
    StorageError,
    StoreNotFound,
)
from embedsearch.store import fetch, files
from tests.support.mirrors import (
    PREFIX,
    URL,
    Heard,
    checked,
    entry,
    harmed,
    hits,
    names,
    one_file,
    point_at,
    upload,
    whole,
)

pytest.importorskip("moto", reason="needs the test extra")
from tests.support.s3 import DENIED, SLOW_DOWN, Fault, S3Server


@pytest.mark.parametrize("folder", ["manifests", "shards", "ann"])
@pytest.mark.parametrize("harm", ["flip", "cut", "more", "empty"])
def test_what_is_not_what_the_manifest_says_is_refused(
    folder: str, harm: str, s3: S3Server, generations: list[Path], cached: Path
) -> None:
    hits(URL)
    store = generations[1]
    wrong = {
        path: harmed(path.read_bytes(), harm)
        for path in (store / folder).iterdir()
        if not (entry(cached) / folder / path.name).exists()
    }
    upload(s3, store)
    for path, data in wrong.items():
        s3.put(f"{PREFIX}/{folder}/{path.name}", data)
    with pytest.raises(DamagedStore) as raised:
        hits(URL)
    assert any(f"{URL}/{folder}/{path.name}" in str(raised.value) for path in wrong)
    assert "\n" not in str(raised.value) and raised.value.exit_code == 5
    whole(entry(cached))
    assert not names(entry(cached), folder) & {f"{folder}/{path.name}" for path in wrong}
    upload(s3, store)
    assert len(hits(URL)) == 7


def test_it_is_the_verification_that_catches(
    s3: S3Server, generations: list[Path], cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: without it, a forged file is taken, and only `check` knows."""
    name = one_file(generations[0], "shards")
    s3.put(f"{PREFIX}/{name}", harmed((generations[0] / name).read_bytes(), "flip"))
    with pytest.raises(DamagedStore):
        hits(URL)
    monkeypatch.setattr(files, "check_content", lambda *_: None)
    with contextlib.suppress(DamagedStore):
        hits(URL)
    assert [problem.file for problem in checked(entry(cached))[1]] == [name]


def test_a_hostile_manifest_names_nothing_outside(
    s3: S3Server, generations: list[Path], cached: Path, tmp_path: Path
) -> None:
    name = one_file(generations[0], "manifests")
    honest = json.loads((generations[0] / name).read_bytes())

    def forge(**changes: Any) -> str:
        values = {**honest, "shards": [{**honest["shards"][0], **changes}]}
        data = json.dumps(values).encode()
        s3.put(f"{PREFIX}/{name}", data)
        point_at(s3, name.partition("/")[2], data)
        with pytest.raises(DamagedStore) as raised:
            embedsearch.pull(URL, tmp_path / "hostile.es")
        return str(raised.value)

    outside = tmp_path / "s-00000001.parquet"
    for bad in ("../../etc/passwd", "/etc/passwd", f"{outside}", "s-00000001/../x.parquet", "s-1"):
        assert "no file name of a store" in forge(name=bad)
    for bad_size in (-5, 1e9, "9", True, None):
        assert "is malformed" in forge(bytes=bad_size)
    assert "no sha256" in forge(sha256="../x")
    assert "named twice" in forge(name=honest["exact"][0]["name"])
    for bad in ("../../x.json", "s-00000001-ab.parquet"):
        point_at(s3, bad, b"x")
        with pytest.raises(DamagedStore, match="CURRENT cannot be parsed"):
            embedsearch.pull(URL, tmp_path / "hostile.es")
    point_at(s3, "m-00000009.json", b"x", claims=1 << 40)
    with pytest.raises(DamagedStore, match="claims"):
        embedsearch.pull(URL, tmp_path / "hostile.es")
    made = {path.name for path in (tmp_path / "hostile.es").rglob("*") if path.is_file()}
    assert made == {"FORMAT", "writer.lock"}
    assert not outside.exists()


def test_another_format_is_refused(s3: S3Server) -> None:
    s3.put(f"{PREFIX}/FORMAT", b"embedsearch 2\n")
    with pytest.raises(IncompatibleStore, match=f"{URL} has format 2"):
        hits(URL)


def test_a_file_that_is_missing_there(s3: S3Server, generations: list[Path]) -> None:
    name = one_file(generations[0], "ann")
    s3.delete(f"{PREFIX}/{name}")
    with pytest.raises(DamagedStore, match=f"{URL}/{name}"):
        hits(URL)


def test_a_server_that_is_down(
    s3: S3Server, generations: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    s3.fault = lambda method, path: SLOW_DOWN
    with pytest.raises(StorageError, match=f"{URL}/CURRENT: .*503") as raised:
        hits(URL)
    assert "\n" not in str(raised.value) and raised.value.exit_code == 4
    s3.fault = lambda method, path: None
    hits(URL)
    s3.fault = lambda method, path: SLOW_DOWN
    heard = Heard()
    assert hits(URL, heard.session) == hits(generations[0])
    (line,) = heard.lines
    assert line.endswith("answering from generation 2, which was fetched before")
    s3.fault = lambda method, path: None


def test_throttling_is_waited_out(s3: S3Server) -> None:
    asked: dict[str, int] = {}

    def fault(method: str, path: str) -> Fault:
        asked[path] = asked.get(path, 0) + 1
        return SLOW_DOWN if asked[path] == 1 else None

    s3.fault = fault
    assert len(hits(URL)) == 6


def test_who_may_not_read_is_told(s3: S3Server) -> None:
    """In the cache or not: what one has no right to is not answered from."""
    for _ in range(2):
        s3.fault = lambda method, path: DENIED
        with pytest.raises(StorageError, match=r"credentials are taken from the env.*") as raised:
            hits(URL)
        assert "\n" not in str(raised.value) and f"{URL}/CURRENT" in str(raised.value)
        s3.fault = lambda method, path: None
        hits(URL)


def test_what_is_not_there(s3: S3Server, cached: Path) -> None:
    hits(URL)
    for url, words in {
        "s3://bucket/nothing.es": "there is no store: it has no CURRENT",
        "s3://nobody/photos.es": "there is no such bucket",
    }.items():
        with pytest.raises(StoreNotFound, match=f"{url}: {words}"):
            hits(url)
    s3.delete(f"{PREFIX}/CURRENT")
    with pytest.raises(StoreNotFound, match="no CURRENT"):
        hits(URL)
    entry(cached)  # nothing was made for the others


def test_large_files_come_in_parts(
    s3: S3Server, generations: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "PART_BYTES", 1000)
    told: list[int] = []
    report = embedsearch.pull(URL, tmp_path / "p.es", on_progress=lambda p: told.append(p.done))
    assert len(told) > report.fetched_bytes / 1000
    whole(tmp_path / "p.es")
    shard = one_file(generations[0], "shards")
    s3.put(f"{PREFIX}/{shard}", (generations[0] / shard).read_bytes()[:-5000])
    with pytest.raises(DamagedStore, match=f"{shard} has .* bytes, the manifest says"):
        embedsearch.pull(URL, tmp_path / "q.es")
