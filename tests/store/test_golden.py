"""Stores of released formats, kept as they were made; and one of them, broken in every known way.

`golden/format_1` holds eight of sample_images in /photos by the packaged network, of which one was
deleted, one broken file, two columns, and an IVF index. `golden/format_2` holds nine, and measures
them from a center.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedsearch
from embedsearch.core.model_spec import DECODING
from embedsearch.indexing.repair import repair
from embedsearch.store.current import read_current
from embedsearch.store.info import failures
from embedsearch.store.manifest import FORMAT_VERSION
from tests.soak.damage import Damage, forge, replace_manifest
from tests.soak.witness import current
from tests.support.library import GOLDEN, SAMPLES, run_cli
from tests.support.stores import with_packaged_weights

FORMAT_1 = GOLDEN / "format_1"
SCORES = {"clocks_1.jpg": 1.0, "clocks_5.jpg": 0.60572, "clocks_6.jpg": 0.50634}


FORMAT_2 = GOLDEN / "format_2"
SCORES_2 = {"clocks_1.jpg": 1.0, "clocks_5.jpg": 0.56981, "clocks_6.jpg": 0.42153}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FORMAT_1, tmp_path / "format_1"))


@pytest.fixture
def known(store: Path) -> Path:
    """The store of format 1, as if today's packaged weights had made its vectors."""
    return with_packaged_weights(store)


def test_a_store_of_format_1_answers(store: Path) -> None:
    done = run_cli("check", "--read-data", "--store", store)
    assert done.stdout == "generation 3 is whole: 7 images in 6 files\n"
    with embedsearch.open_store(store) as searcher:
        hits = searcher.query(embedsearch.Key("clocks_1.jpg"), k=3)
        labelled = searcher.query(embedsearch.Key("clocks_1.jpg"), where="label = 'boats'")
    assert {hit.key: pytest.approx(hit.score, abs=1e-4) for hit in hits} == SCORES
    assert hits[0].metadata == {"label": "clocks", "count": 5}
    assert sorted(hit.key for hit in labelled) == ["boats_1.jpg", "boats_4.jpg", "boats_5.jpg"]
    assert [failure.key for _, failure in failures(store)] == ["broken.jpg"]


def test_a_store_of_format_2_answers(tmp_path: Path) -> None:
    store = Path(shutil.copytree(FORMAT_2, tmp_path / "format_2"))
    done = run_cli("check", "--read-data", "--store", store)
    assert done.stdout == "generation 3 is whole: 8 images in 6 files\n"
    with embedsearch.open_store(store) as searcher:
        hits = searcher.query(embedsearch.Key("clocks_1.jpg"), k=3)
    assert {hit.key: pytest.approx(hit.score, abs=1e-4) for hit in hits} == SCORES_2
    assert hits[0].metadata == {"label": "clocks", "count": 5}
    values = json.loads((store / "manifests" / _pointer(store)["manifest"]).read_text())
    assert (values["format_version"], values["min_reader_version"]) == (2, 2)
    assert (values["center"]["kind"], values["center"]["images"]) == ("store", 9)


def test_the_packaged_weights_of_another_version(store: Path, tmp_path: Path) -> None:
    """It answers by what it holds; what needs its network says how to renew it."""
    photos = tmp_path / "more"
    shutil.copytree(SAMPLES / "brick_walls", photos)
    for command in (("index", photos), ("query", photos / "brick_walls_1.jpg")):
        done = run_cli(*command, "--store", store)
        assert done.returncode == 4 and "index --rebuild --model packaged" in done.stderr
        assert "Traceback" not in done.stderr
    assert run_cli("query", "--key", "clocks_1.jpg", "--store", store).returncode == 0
    (tmp_path / "photos").mkdir()
    shutil.copy(SAMPLES / "clocks" / "clocks_1.jpg", tmp_path / "photos")
    new = tmp_path / "new.es"
    assert (
        run_cli("index", tmp_path / "photos", "--store", new, "--model", "packaged").returncode == 0
    )
    _say(model=current(new)[1]["model"] | {"weights_sha256": "0" * 64})(new)
    assert run_cli("index", "--store", new).returncode == 0, "nothing to embed"
    done = run_cli("index", "--store", new, "--rebuild", "--model", "packaged")
    assert done.returncode == 0 and "1 embedded" in done.stdout, done.stderr
    hits = run_cli("query", photos / "brick_walls_1.jpg", "--store", new, "--paths").stdout
    assert hits.endswith("clocks_1.jpg\n")


def test_columns_that_came_later_are_empty(known: Path, tmp_path: Path) -> None:
    """Until the image is embedded anew; a merge of old and new shards keeps both."""
    with embedsearch.open_store(known) as searcher:
        assert searcher.get("clocks_1.jpg").brightness is None
        assert searcher.images(where="brightness is null").total == 7
        assert searcher.images(where="sharpness > 0").total == 0
    shutil.copytree(SAMPLES / "brick_walls", tmp_path / "more")
    assert run_cli("index", tmp_path / "more", "--store", known).returncode == 0
    with embedsearch.open_store(known) as searcher:
        assert len(searcher.manifest.shards) == 1
        assert searcher.images(where="brightness is null").total == 7
        assert searcher.images(where="brightness > 0.1 and sharpness > 1").total == 6


def test_it_is_written_to_as_a_new_one(known: Path, tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "brick_walls", tmp_path / "more")
    done = run_cli("index", tmp_path / "more", "--store", known)
    assert done.returncode == 0 and "6 added" in done.stdout, done.stderr
    assert run_cli("check", "--read-data", "--store", known).returncode == 0


def test_its_vectors_are_those_of_the_older_decoding(known: Path, tmp_path: Path) -> None:
    """It is written to, with a word on how to renew it, also when its model is named."""
    shutil.copytree(SAMPLES / "brick_walls", tmp_path / "more")
    more = ("index", tmp_path / "more", "--store", known)
    before = read_current(known).model
    for model in (("--model", "packaged"), ()):
        done = run_cli(*more, *model)
        assert done.returncode == 0 and "--rebuild" in done.stderr
        after = read_current(known)
        assert (after.live, after.model) == (13, before) and before.decoding == 1
        assert after.center is None, "rows that were there keep their scores"
    shutil.rmtree(known)
    assert run_cli(*more, "--model", "packaged").returncode == 0
    with embedsearch.open_store(known) as searcher:
        assert searcher.manifest.model.decoding == DECODING


def _pointer(store: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((store / "CURRENT").read_bytes())
    return values


def _write(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def _say(**changes: Any) -> Callable[[Path], None]:
    """Let the manifest say something else."""
    return lambda store: replace_manifest(store, json.dumps(current(store)[1] | changes).encode())


def _lead_out(store: Path) -> None:
    """Let the manifest name a file outside."""
    deleted = current(store)[1]["deleted"] | {"name": "../../etc/passwd"}
    _say(deleted=deleted)(store)


def _point(**changes: Any) -> Callable[[Path], None]:
    """Let CURRENT say something else."""

    def damage(store: Path) -> None:
        (store / "CURRENT").write_text(json.dumps(_pointer(store) | changes))

    return damage


def _file(store: Path, kind: str) -> Path:
    suffix = "parquet" if kind in "sdfu" else "faiss"
    return sorted(store.glob(f"*/{kind}-0*.{suffix}"))[-1]  # of the newest generation


def _bytes(kind: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Change the bytes of the file of a kind."""

    def break_it(store: Path) -> None:
        path = _file(store, kind)
        _write(path, change(path.read_bytes()))

    return break_it


def _forged(kind: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """The same, with every checksum made to fit."""

    def break_it(store: Path) -> None:
        path = _file(store, kind)
        name = str(path.relative_to(store))
        forge(store, Damage(name, "forged", change(path.read_bytes())))

    return break_it


def _table(change: Callable[[pa.Table], pa.Table]) -> Callable[[bytes], bytes]:
    """Change the rows of Parquet bytes."""

    def changed(data: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        table = change(pq.ParquetFile(pa.BufferReader(data)).read())
        pq.write_table(table, sink, write_page_checksum=True)
        whole: bytes = sink.getvalue().to_pybytes()
        return whole

    return changed


def _twice(table: pa.Table) -> pa.Table:
    rows = table.column("row").to_numpy().copy()
    rows[-1] = rows[-2]
    return table.set_column(0, table.schema.field("row"), pa.array(rows))


def _long(table: pa.Table) -> pa.Table:
    kind = table.schema.field("vector")
    values = np.full(len(table) * kind.type.list_size, 0.5, np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values), type=kind.type)
    return table.set_column(table.schema.get_field_index("vector"), kind, column)


def _link(store: Path) -> None:
    path = _file(store, "s")
    shutil.move(path, store.parent / "elsewhere")
    path.symlink_to(store.parent / "elsewhere")


def _pipe(store: Path) -> None:
    path = _file(store, "s")
    path.unlink()
    os.mkfifo(path)


def _swap(store: Path) -> None:
    one, other = _file(store, "e"), _file(store, "a")
    data = one.read_bytes()
    _write(one, other.read_bytes())
    _write(other, data)


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _index_of(dim: int, rows: int) -> Callable[[bytes], bytes]:
    """Return the bytes of a flat index of another shape."""

    def changed(data: bytes) -> bytes:
        import faiss

        index = faiss.index_factory(dim, "SQfp16", faiss.METRIC_INNER_PRODUCT)
        index.add(np.ones((rows, dim), np.float32))
        whole: bytes = faiss.serialize_index(index).tobytes()
        return whole

    return changed


# What is done to the store; the exit code of check; what it names.
DAMAGES: dict[str, tuple[Callable[[Path], Any], int, str]] = {
    "no FORMAT": (lambda store: (store / "FORMAT").unlink(), 7, "no store"),
    "FORMAT of another": (lambda store: (store / "FORMAT").write_text("git\n"), 7, "FORMAT"),
    "newer FORMAT": (lambda store: (store / "FORMAT").write_text("embedsearch 2\n"), 6, "format 2"),
    "no CURRENT": (lambda store: (store / "CURRENT").unlink(), 5, "CURRENT"),
    "empty CURRENT": (lambda store: (store / "CURRENT").write_text(""), 5, "CURRENT"),
    "garbage in CURRENT": (lambda store: (store / "CURRENT").write_text("\0\1"), 5, "CURRENT"),
    "CURRENT a list": (lambda store: (store / "CURRENT").write_text("[1]"), 5, "CURRENT"),
    "CURRENT names no manifest": (_point(manifest="m-00000099.json"), 5, "m-00000099.json"),
    "CURRENT leads out": (_point(manifest="../../etc/passwd"), 5, "CURRENT"),
    "CURRENT claims too much": (_point(bytes=1 << 40), 5, "claims"),
    "CURRENT has another sha256": (_point(sha256="0" * 64), 5, "m-00000003.json"),
    "manifest cut": (
        lambda store: _write(store / "manifests" / "m-00000003.json", b"{"),
        5,
        "m-00000003.json",
    ),
    "manifest no UTF-8": (lambda store: replace_manifest(store, b"\xff\xfe{}"), 5, "malformed"),
    "manifest with a key twice": (
        lambda store: replace_manifest(store, b'{"live": 1, "live": 2}'),
        5,
        "duplicate keys",
    ),
    "manifest with NaN": (lambda store: replace_manifest(store, b'{"live": NaN}'), 5, "NaN"),
    "manifest 100,000 deep": (lambda store: replace_manifest(store, b"[" * 100_000), 5, "deep"),
    "manifest of a newer version": (
        _say(min_reader_version=FORMAT_VERSION + 1),
        6,
        f"format {FORMAT_VERSION + 1}",
    ),
    "manifest counts too much": (_say(live=8), 5, "add up"),
    "manifest counts less than nothing": (_say(deleted_rows=-1), 5, "number"),
    "manifest leads out": (
        lambda store: _say(deleted=current(store)[1]["deleted"] | {"name": "../../etc/passwd"})(
            store
        ),
        5,
        "passwd",
    ),
    "shard gone": (lambda store: _file(store, "s").unlink(), 5, "s-00000001"),
    "shard flipped": (_bytes("s", _flip), 5, "s-00000001"),
    "shard cut": (_bytes("s", lambda data: data[:-1]), 5, "s-00000001"),
    "shard longer": (_bytes("s", lambda data: data + b"\0"), 5, "s-00000001"),
    "shard a link": (_link, 5, "s-00000001"),
    "shard a pipe": (_pipe, 5, "s-00000001"),
    "shard forged: a row twice": (_forged("s", _table(_twice)), 5, "s-00000001"),
    "shard forged: long vectors": (_forged("s", _table(_long)), 5, "s-00000001"),
    "shard forged: a column less": (
        _forged("s", _table(lambda table: table.drop_columns(["camera"]))),
        5,
        "s-00000001",
    ),
    "shard forged: a row less": (_forged("s", _table(lambda t: t.slice(1))), 5, "s-00000001"),
    "deleted rows flipped": (_bytes("d", _flip), 5, "d-00000003"),
    "failures gone": (lambda store: _file(store, "f").unlink(), 5, "f-00000003"),
    "columns zeroed": (_bytes("u", lambda data: bytes(len(data))), 5, "u-0000000"),
    "exact file gone": (lambda store: _file(store, "e").unlink(), 5, "e-00000002"),
    "exact file and index swapped": (_swap, 5, "ann/"),
    "index flipped": (_bytes("a", _flip), 5, "a-00000002"),
    "foreign file": (lambda store: (store / "ann" / "x.pkl").write_bytes(b"x"), 5, "ann/x.pkl"),
}
# Rows that nothing but opening the FAISS file tells of.
FORGED = {
    "fewer rows": _forged("e", _index_of(512, 3)),
    "another dim": _forged("e", _index_of(64, 8)),
    "garbage": _forged("e", lambda data: b"IxFI" + data[4:]),
    "no index": _forged("a", lambda data: b"\0" * len(data)),
    "an index of another dim": _forged("a", _index_of(64, 8)),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_check_names_each_damage(store: Path, name: str) -> None:
    break_it, code, words = DAMAGES[name]
    break_it(store)
    done = run_cli("check", "--read-data", "--store", store)
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert run_cli("info", "--store", store).returncode in {0, code}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_faiss_file_is_damage(store: Path, name: str) -> None:
    FORGED[name](store)
    with pytest.raises(embedsearch.EmbedSearchError, match="ann/") as caught:
        embedsearch.open_store(store)
    assert caught.value.exit_code == 5
    shutil.rmtree(store / "ann")  # it is a cache: what cannot be read can be made again
    assert repair(store)
    with embedsearch.open_store(store) as searcher:
        assert len(searcher.query(embedsearch.Key("clocks_1.jpg"))) == 7
