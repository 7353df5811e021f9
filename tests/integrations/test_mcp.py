"""`embedsearch mcp`: its tools, through the official client, in process, by stdio and by HTTP."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import embedsearch
from tests.support.library import SAMPLES, paint, run_cli
from tests.support.serving import served

pytest.importorskip("mcp", reason="needs the extra `mcp`")

from mcp import MCPError
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.types import CallToolResult

from embedsearch.integrations.mcp import create_server, names_of


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mcp") / "photos"
    shutil.copytree(SAMPLES, folder)
    return folder


@pytest.fixture(scope="module")
def store(photos: Path) -> Path:
    table = photos.parent / "captions.csv"
    table.write_text("name,caption\nclocks_1.jpg,a clock\nclocks_3.png,an alarm clock\n")
    path = photos.parent / "s.es"
    embedsearch.index(photos, store=path, model="packaged", metadata=str(table))
    return path


@asynccontextmanager
async def in_process(searcher: embedsearch.Searcher, *allowed: Path) -> AsyncIterator[Client]:
    async with Client(create_server({"s": searcher}, allowed)) as client:
        yield client


def stdio(store: Path, *arguments: str | Path) -> StdioServerParameters:
    command = ["-m", "embedsearch", "mcp", "--store", store, *arguments]
    return StdioServerParameters(
        command=sys.executable, args=list(map(str, command)), env=dict(os.environ)
    )


def pictures(result: CallToolResult) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO(base64.b64decode(item.data)))
        for item in result.content
        if item.type == "image"
    ]


async def refused(client: Client, tool: str, words: str = "", **arguments: Any) -> None:
    result = await client.call_tool(tool, arguments)
    assert result.is_error, arguments
    text = "".join(item.text for item in result.content if item.type == "text")
    assert words in text, text
    assert "Traceback" not in text


async def exercise(client: Client, photos: Path, searcher: embedsearch.Searcher) -> None:
    """Use every tool, and compare with what Python says."""
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    names = {"search_similar_images", "get_image", "list_images", "find_duplicates", "list_stores"}
    assert set(tools) == names
    for tool in tools.values():
        assert tool.annotations is not None and tool.annotations.read_only_hint
        assert tool.output_schema is not None and tool.description
    clock = photos / "clocks" / "clocks_1.jpg"
    key = embedsearch.Key("clocks/clocks_1.jpg")
    expected = [hit.to_dict() for hit in searcher.query(key, k=3)]
    found = await client.call_tool(
        "search_similar_images", {"image": str(clock), "k": 3, "thumbnails": True}
    )
    assert not found.is_error, found.content
    assert found.structured_content == {"hits": expected}
    assert len(pictures(found)) == 3 and found.content[0].type == "text"
    assert found.content[0].text.startswith("1. score 1.000")
    uri = "data:image/jpeg;base64," + base64.b64encode(clock.read_bytes()).decode()
    row = expected[0]["row"]
    for arguments in ({"image": uri}, {"key": "clocks/clocks_1.jpg"}, {"row": row}):
        found = await client.call_tool("search_similar_images", {**arguments, "k": 3})
        assert found.structured_content is not None
        hits = found.structured_content["hits"]
        assert [hit["key"] for hit in hits] == [hit["key"] for hit in expected]
    filtered = {"row": row, "where": "caption like '%alarm%'"}
    found = await client.call_tool("search_similar_images", filtered)
    assert [hit["metadata"] for hit in found.structured_content["hits"]] == [
        {"caption": "an alarm clock"}
    ]
    image = await client.call_tool("get_image", {"row": row, "side": 100})
    assert image.structured_content == {"image": searcher.get(row).to_dict()}
    assert [max(picture.size) for picture in pictures(image)] == [100]
    stores = (await client.call_tool("list_stores", {})).structured_content
    assert stores is not None
    (facts,) = stores["stores"]
    assert (facts["images"], facts["columns"]["caption"]) == (54, "string")
    await refused(client, "search_similar_images", "URL", image="http://127.0.0.1/a.jpg")
    await refused(client, "search_similar_images", "not in a folder", image="/etc/passwd")
    assert not (await client.call_tool("list_stores", {})).is_error


async def test_the_tools_in_process(photos: Path, searcher: embedsearch.Searcher) -> None:
    async with in_process(searcher) as client:
        await exercise(client, photos, searcher)


async def test_the_tools_by_stdio(
    photos: Path, store: Path, searcher: embedsearch.Searcher
) -> None:
    async with Client(stdio(store)) as client:
        await exercise(client, photos, searcher)


async def test_the_tools_by_http(photos: Path, store: Path, searcher: embedsearch.Searcher) -> None:
    with served(store, "--http", command="mcp") as server:
        async with Client(f"http://127.0.0.1:{server.port}/mcp") as client:
            await exercise(client, photos, searcher)
        assert server.request("POST", "/mcp", b"{}", host="evil.example").status == 403
        assert server.request("POST", "/mcp", b"{}", origin="https://evil.example").status == 403
        assert server.request("POST", "/mcp", b"{", content_type="application/json").status == 406
        assert server.get("/mcp").status in {400, 405, 406}
        assert server.get("/../etc/passwd").status == 404
        health = server.get("/health")
        generations = {store.stem: searcher.manifest.generation}
        assert health.json == {"status": "ok", "generations": generations}
        assert server.request("POST", "/health", b"").status == 405
        assert server.get("/health", host="evil.example").status == 403
        for probe in ("/livez", "/readyz"):
            answer = server.get(probe, host="10.42.0.7")
            assert (answer.status, answer.json) == (200, {"status": "ok"})
    done = run_cli("mcp", "--http", "--host", "0.0.0.0", "--store", store)
    assert (done.returncode, "--token" in done.stderr) == (2, True)


def test_the_tools_by_http_with_a_token(store: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("long enough\n")
    arguments = ("--http", "--token-file", str(tmp_path / "token"), "--log", "json")
    with served(store, *arguments, "--public-url", "/agents/", command="mcp") as server:
        for path in ("/mcp", "/health", "/agents/health"):
            assert server.get(path).status == 401
        bearer = {"authorization": "Bearer long enough"}
        assert server.get("/agents/health", **bearer).status == 200
        assert server.get("/agents/livez").status == 200
        server.request("POST", "/agents/mcp", b"{}", **bearer)
    server._reader.join(10)
    lines = [json.loads(line) for line in [*server.first_lines, *server.log]]
    routes = [(line["route"], line["status"]) for line in lines if "route" in line][-6:]
    assert routes[:3] == [("", 401)] * 3
    assert routes[3:5] == [("/health", 200), ("/livez", 200)] and routes[5][0] == "/mcp"
    assert not any("long enough" in line for line in [*server.first_lines, *server.log])


async def test_hits_link_to_their_pictures(photos: Path, searcher: embedsearch.Searcher) -> None:
    async with in_process(searcher) as client:
        templates = (await client.list_resource_templates()).resource_templates
        uris = {template.name: template.uri_template for template in templates}
        assert uris == {
            "image": "embedsearch://{store}/images/{row}",
            "thumbnail": "embedsearch://{store}/thumbnails/{row}",
        }
        found = await client.call_tool("search_similar_images", {"text": "clock", "k": 3})
        assert found.structured_content is not None
        hits = found.structured_content["hits"]
        links = [item for item in found.content if item.type == "resource_link"]
        assert [str(link.uri) for link in links] == [
            f"embedsearch://s/images/{hit['row']}" for hit in hits
        ]
        assert links[0].name == Path(hits[0]["key"]).name
        small = f"embedsearch://s/thumbnails/{hits[0]['row']}"
        for uri, side in ((str(links[0].uri), 768), (small, 256)):
            (content,) = (await client.read_resource(uri)).contents
            picture = Image.open(io.BytesIO(base64.b64decode(content.blob)))  # type: ignore[union-attr]
            assert content.mime_type == "image/jpeg" and picture.format == "JPEG"
            assert max(picture.size) <= side
        for wrong in (
            "embedsearch://t/images/1",
            "embedsearch://s/images/9999",
            "file:///etc/passwd",
        ):
            with pytest.raises(MCPError):
                await client.read_resource(wrong)


async def test_stores_show_frequent_values(searcher: embedsearch.Searcher) -> None:
    async with in_process(searcher) as client:
        stores = (await client.call_tool("list_stores", {})).structured_content
        assert stores is not None
        (facts,) = stores["stores"]
        assert facts["values"]["format"][0] == "JPEG"
        assert not facts["reads_text"]


async def test_what_is_refused(
    photos: Path, searcher: embedsearch.Searcher, tmp_path: Path
) -> None:
    secret = paint(tmp_path / "secret.png", 1)
    (photos / "link.png").symlink_to(secret)
    try:
        async with in_process(searcher) as client:
            for image in (
                *("red shoes", "", "a\0b", str(secret), f"{photos}/../secret.png", str(photos)),
                *(f"{photos}/link.png", f"{photos}/none.jpg", "file:///etc/passwd", "~/a.jpg"),
                *("data:image/png,abc", "data:image/png;base64,%%", "data:text/html;base64,aGk="),
                "data:image/png;base64," + "A" * (28 << 20),
            ):
                await refused(client, "search_similar_images", image=image)
            for arguments in (
                *({}, {"row": 1, "key": "a"}, {"row": -1}, {"row": 10**9}, {"key": "../a"}),
                *({"row": 1, "k": 0}, {"row": 1, "k": 300}, {"row": 1, "store": "other"}),
                *({"row": 1, "where": "read_csv('/etc/passwd')"}, {"row": 1, "min_score": 3}),
                *({"row": "x"}, {"image": 3}, {"row": 1, "where": "captoin = 'a'"}),
            ):
                await refused(client, "search_similar_images", **arguments)
            for arguments in ({}, {"row": 99}, {"row": 1, "side": 5000}, {"key": "none"}):
                await refused(client, "get_image", **arguments)
            bare = base64.b64encode(secret.read_bytes()).decode()
            await refused(client, "search_similar_images", "begin it with data:image/", image=bare)
            answer = await client.call_tool("search_similar_images", {"row": 1, "k": 1000})
            assert str(answer.content[0].text) == "k must be at most 50, not 1000"  # type: ignore[union-attr]
            await refused(client, "no_such_tool")
            found = await client.call_tool("search_similar_images", {"row": 1})
            assert not found.is_error
        async with in_process(searcher, tmp_path) as client:
            found = await client.call_tool("search_similar_images", {"image": str(secret)})
            assert not found.is_error
            none = str(tmp_path / "none.jpg")
            await refused(client, "search_similar_images", "there is no such file", image=none)
    finally:
        (photos / "link.png").unlink()


async def test_of_listed_files_only_these_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    named = [paint(home / "a.png", 1), paint(home / "bü.png", 2)]
    secret = paint(home / "secret.png", 3)
    (home / "link.png").symlink_to(secret)
    monkeypatch.setenv("HOME", str(home))
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"{path}\n" for path in (*named, home / "link.png")))
    embedsearch.index(store=tmp_path / "s.es", files=str(listing), model="packaged")
    with embedsearch.open_store(tmp_path / "s.es") as searcher:
        async with in_process(searcher) as client:
            for path in (*named, home / "link.png"):
                found = await client.call_tool("search_similar_images", {"image": str(path)})
                assert not found.is_error
            said = set()
            for image in (str(secret), str(home / "none.png"), "/etc/hostname", "/none", "~/a.png"):
                await refused(client, "search_similar_images", "not in a folder", image=image)
                result = await client.call_tool("search_similar_images", {"image": image})
                said.add(re.sub("'.*' is not", "it is not", str(result.content)))
            assert len(said) == 1, "nobody learns which files there are"
            long = str(home / ("x" * 200) / "wanted.png")  # the name at its end is what tells
            await refused(client, "search_similar_images", "xxx/wanted.png' is not", image=long)
        async with in_process(searcher, home) as client:
            await client.call_tool("search_similar_images", {"image": str(secret)})
            result = await client.call_tool("search_similar_images", {"image": "~/secret.png"})
            assert result.is_error and str(home) not in str(result.content)


async def test_several_stores_and_names_that_are_no_unicode(tmp_path: Path) -> None:
    for name in ("one", "two"):
        photos = tmp_path / name
        paint(photos / "a.png", 1)
        (photos / "a.png").rename(os.fsdecode(os.fsencode(photos) + b"/caf\xe9\x1b.png"))
        embedsearch.index(photos, store=tmp_path / f"{name}.es", model="packaged")
    async with Client(stdio(tmp_path / "one.es", "--store", tmp_path / "two.es")) as client:
        stores = (await client.call_tool("list_stores", {})).structured_content
        assert stores is not None and [s["name"] for s in stores["stores"]] == ["one", "two"]
        for store in (None, "one", "two"):
            found = await client.call_tool("search_similar_images", {"row": 0, "store": store})
            assert found.structured_content is not None
            (hit,) = found.structured_content["hits"]
            assert hit["path"] == "caf\\xe9\x1b.png"
            assert hit["full_path"] == str(tmp_path / (store or "one") / "caf\\xe9\x1b.png")


async def test_a_store_rebuilt_under_the_server(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    paint(photos / "a.png", 1)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    with embedsearch.open_store(tmp_path / "s.es", follow=True) as searcher:
        async with in_process(searcher) as client:
            paint(photos / "b.png", 2)
            embedsearch.index(photos, store=tmp_path / "s.es", rebuild=True)
            searcher.refresh()
            found = await client.call_tool("search_similar_images", {"key": "b.png"})
            assert found.structured_content is not None
            assert len(found.structured_content["hits"]) == 2


def test_names_of_stores() -> None:
    assert names_of(["/a/photos.es", "b/.embedsearch"]) == ["photos", "embedsearch"]
    with pytest.raises(embedsearch.EmbedSearchError, match="two stores"):
        names_of(["a/photos.es", "b/photos.es"])


def test_nothing_but_messages_on_stdout_and_it_ends_with_stdin(store: Path) -> None:
    command = [sys.executable, "-m", "embedsearch", "mcp", "--store", str(store)]
    done = subprocess.run(command, input="noise\n{}\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in done.stdout.splitlines())
    assert "Traceback" not in done.stderr


def test_bad_arguments(store: Path, tmp_path: Path) -> None:
    for arguments, code in (
        (("--store", tmp_path / "none.es"), 7),
        (("--store", store, "--allow", tmp_path / "none"), 2),
        (("--store", store, "--store", store), 2),
    ):
        done = run_cli("mcp", *arguments, input="")
        assert done.returncode == code, done.stderr
    program = (
        "import sys; sys.modules['mcp'] = None\n"
        "from embedsearch.cli.entry import run\n"
        f"sys.exit(run(['mcp', '--store', {str(store)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 4
    assert "pip install 'h11>=0.16' 'mcp>=2.3,<3'" in done.stderr


async def test_copies_are_listed(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(SAMPLES / "clocks", photos)
    twin = os.fsdecode(b"tw\xffin.jpg")
    shutil.copy(photos / "clocks_1.jpg", photos / twin)
    Image.open(photos / "clocks_3.png").convert("L").save(photos / "grey.png")
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    with embedsearch.open_store(tmp_path / "s.es") as searcher:
        async with in_process(searcher) as client:
            result = await client.call_tool("find_duplicates", {})
            found = result.structured_content
            names = [[os.path.basename(m["path"]) for m in group] for group in found["groups"]]
            assert found["total"] == 2
            assert sorted(map(sorted, names)) == [
                ["clocks_1.jpg", "tw\\xffin.jpg"],
                ["clocks_3.png", "grey.png"],
            ]
            assert [group[0]["what"] for group in found["groups"]] == ["keep", "keep"]
            for row in (member["row"] for group in found["groups"] for member in group):
                assert not (await client.call_tool("get_image", {"row": row})).is_error
            second = await client.call_tool("find_duplicates", {"k": 1, "offset": 1})
            assert second.structured_content == {"groups": found["groups"][1:], "total": 2}
            await refused(client, "find_duplicates", "did you mean width", where="widht > 1")
            await refused(client, "find_duplicates", k=0)
            narrow = await client.call_tool("find_duplicates", {"where": "format = 'PNG'"})
            assert narrow.structured_content["total"] == 1
