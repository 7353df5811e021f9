"""`path` means the same wherever it stands, and `full_path` leads to the file."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedsearch
from embedsearch.core.names import PATHS
from embedsearch.indexing.store_update import StoreUpdate
from embedsearch.store.writer import StoreWriter
from tests.support.archives import make_tar
from tests.support.library import paint, run_cli
from tests.support.serving import served

ODD = os.fsdecode(b"caf\xe9.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store of images in a folder, in an archive, and in a list."""
    home = tmp_path_factory.mktemp("paths").resolve()
    paint(home / "photos" / "in" / "it's.png", 1)
    paint(home / "photos" / "b.png", 2)
    (home / "photos" / "b.png").rename(home / "photos" / ODD)
    make_tar(home / "more.tar", [("in/c.png", paint(home / "c.png", 3).read_bytes())])
    paint(home / "alone" / "d.png", 4)
    (home / "list.txt").write_text(str(home / "alone" / "d.png"))
    store = home / "s.es"
    embedsearch.index([home / "photos", home / "more.tar"], store=store, model="packaged")
    embedsearch.index(store=store, files=str(home / "list.txt"))
    return home


def expected(folder: Path) -> dict[tuple[str, str | None], str]:
    """Return what `path` and its bytes have to be, and the whole path that they stand for."""
    listed = str(folder / "alone" / "d.png")
    return {
        ("in/it's.png", None): str(folder / "photos" / "in" / "it's.png"),
        ("caf\\xe9.png", base64.b64encode(os.fsencode(ODD)).decode()): str(folder / "photos" / ODD),
        ("in/c.png", None): str(folder / "more.tar" / "in" / "c.png"),
        (listed.removeprefix("/"), None): listed,
    }


def whole(row: Any) -> str:
    exact = row["full_path_bytes"]
    return os.fsdecode(base64.b64decode(exact)) if exact else str(row["full_path"])


def test_every_output_has_both(folder: Path, tmp_path: Path) -> None:
    store = folder / "s.es"
    ask = ("query", "--key", "in/it's.png", "--store", store, "-k", "9")
    outputs: dict[str, list[Any]] = {
        "json": [json.loads(line) for line in run_cli(*ask, "--json").stdout.splitlines()],
        "csv": list(csv.DictReader(io.StringIO(run_cli(*ask, "--csv").stdout))),
        "images.parquet": pq.read_table(store / "images.parquet").to_pylist(),
        "outliers": [
            json.loads(line)
            for line in run_cli("outliers", "--json", "--store", store).stdout.splitlines()
        ],
        "clusters": list(
            csv.DictReader(io.StringIO(run_cli("clusters", "--csv", "--store", store).stdout))
        ),
    }
    for name in ("all.parquet", "all.jsonl", "all.npy"):
        embedsearch.export(store, tmp_path / name)
    outputs["export"] = pq.read_table(tmp_path / "all.parquet").to_pylist()
    outputs["lines"] = [json.loads(line) for line in (tmp_path / "all.jsonl").open()]
    outputs["table"] = list(csv.DictReader((tmp_path / "all.csv").open(newline="")))
    with served(store) as server:
        outputs["search"] = server.ask(row=0, k=9).json["hits"]
        outputs["images"] = server.get("/images?k=9").json["images"]
    for name, rows in outputs.items():
        found = {(row["path"], row["path_bytes"] or None): whole(row) for row in rows}
        assert found == expected(folder) and len(rows) == 4, name
        assert [key for key in rows[0] if key in PATHS] == list(PATHS), name


def test_a_filter_takes_both(folder: Path) -> None:
    store = folder / "s.es"
    with embedsearch.open_store(store) as searcher:
        hits = searcher.query(embedsearch.Key(0), k=9)
        assert len(hits) == 4
        for hit in hits:
            for name in ("path", "full_path"):
                quoted = hit.to_dict()[name].replace("'", "''")
                where = f"{name} = '{quoted}'"
                assert [image.row for image in searcher.images(9, where=where).images] == [hit.row]
            assert searcher.get(hit.full_path).row == hit.row == searcher.get(hit.key).row
    where = f"path = '{hit.path.replace(chr(39), chr(39) * 2)}'"
    done = run_cli("query", "--key", "in/c.png", "--store", store, "--where", where, "--json")
    assert [json.loads(line)["row"] for line in done.stdout.splitlines()] == [hit.row]


def test_the_full_path_opens_the_file_of_the_digest(folder: Path) -> None:
    rows = pq.read_table(folder / "s.es" / "images.parquet").to_pylist()
    files = [row for row in rows if os.path.isfile(whole(row))]
    assert len(files) == 3, "the other one is in an archive"
    for row in files:
        digest = hashlib.sha256(Path(whole(row)).read_bytes()).hexdigest()
        assert row["sha256"] == digest
        with embedsearch.open_store(folder / "s.es") as searcher:
            found = searcher.images(9, where=f"sha256 = '{digest}'").images
        assert [image.row for image in found] == [row["row"]]


async def test_an_agent_reads_both(folder: Path) -> None:
    pytest.importorskip("mcp", reason="needs the extra `mcp`")
    from mcp.client import Client

    from embedsearch.integrations.mcp import create_server

    with embedsearch.open_store(folder / "s.es") as searcher:
        async with Client(create_server({"s": searcher}, ())) as client:
            asked = {"search_similar_images": {"row": 0, "k": 9}, "list_images": {}}
            for tool, arguments in asked.items():
                content = (await client.call_tool(tool, arguments)).structured_content
                assert content is not None
                rows = content.get("hits") or content["images"]
                found = {(row["path"], row["path_bytes"]): whole(row) for row in rows}
                assert found == expected(folder)
            (described,) = [t for t in (await client.list_tools()).tools if t.name == tool]
            assert described.output_schema is not None
            image = described.output_schema["properties"]["images"]["items"]
            assert {"path", "full_path"} <= set(image["properties"])
            assert "as filters compare it" in image["description"]


def test_columns_of_the_user_with_these_names(tmp_path: Path) -> None:
    paint(tmp_path / "photos" / "a.png", 1)
    (tmp_path / "own.csv").write_text("path,full_path,sha256,caption\na.png,mine,abc,red\n")
    store = tmp_path / "s.es"
    embedsearch.index(
        tmp_path / "photos", store=store, model="packaged", metadata=str(tmp_path / "own.csv")
    )
    with embedsearch.open_store(store) as searcher:
        (image,) = searcher.images(9, where="user_full_path = 'mine' and caption = 'red'").images
        assert image.metadata == {"user_full_path": "mine", "user_sha256": "abc", "caption": "red"}
        assert image.full_path == str(tmp_path / "photos" / "a.png")


def test_a_store_of_old_with_such_columns(tmp_path: Path) -> None:
    """Its columns are shown with the image, and mean the file in filters and exports."""
    paint(tmp_path / "photos" / "a.png", 1)
    store = tmp_path / "s.es"
    embedsearch.index(tmp_path / "photos", store=store, model="packaged")
    with StoreWriter(store) as writer:
        assert writer.manifest is not None
        update = StoreUpdate(writer, writer.manifest.model, writer.manifest.roots, rebuild=False)
        update.set_user_columns(pa.table({"row": [0], "full_path": ["mine"], "sha256": ["abc"]}))
        update.commit({})
    full = str(tmp_path / "photos" / "a.png")
    with embedsearch.open_store(store) as searcher:
        (image,) = searcher.images(9, where=f"full_path = '{full}' and length(sha256) = 64").images
        assert image.metadata == {"full_path": "mine", "sha256": "abc"}
        assert image.full_path == full
    embedsearch.export(store, tmp_path / "all.parquet")
    (row,) = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert row["full_path"] == full and len(row["sha256"]) == 64
