"""`embedsearch mcp` for all clients: plain schemas, answers below 1 MB, no unknown arguments."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import embedsearch
from tests.support.library import paint

pytest.importorskip("mcp", reason="needs the extra `mcp`")

from mcp.client import Client
from mcp.types import CallToolResult

from embedsearch.integrations.mcp import create_server

LIMIT = 1_000_000


def size(answer: CallToolResult) -> int:
    return len(answer.model_dump_json(by_alias=True))


def words(answer: CallToolResult) -> str:
    return "\n".join(item.text for item in answer.content if item.type == "text")


def pictures(answer: CallToolResult) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO(base64.b64decode(item.data)))
        for item in answer.content
        if item.type == "image"
    ]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noisy")
    (folder / "in").mkdir()
    random = np.random.default_rng(0)
    for number in range(50):
        side = 1100 if number == 0 else 256
        pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "in" / f"{number:02}.jpg", quality=90)
    embedsearch.index(folder / "in", store=folder / "s.es", model="packaged")
    return folder / "s.es"


async def test_schemas_are_plain(noisy: Path) -> None:
    with embedsearch.open_store(noisy) as searcher:
        async with Client(create_server({"s": searcher})) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            text = json.dumps([tool.model_dump(mode="json") for tool in tools.values()])
            for word in (
                *("exclusiveMaximum", "exclusiveMinimum", "anyOf", "oneOf", "allOf", "$ref"),
                *("$defs", "prefixItems", "const"),
            ):
                assert f'"{word}"' not in text, word
            inputs = tools["search_similar_images"].input_schema["properties"]
            assert inputs["row"] == {
                "type": "integer",
                "minimum": 0,
                "maximum": 10**12 - 1,
                "description": "The row of an image of the store",
            }
            assert inputs["k"]["default"] == 5
            for tool in tools.values():
                for schema in tool.input_schema["properties"].values():
                    assert isinstance(schema["type"], str), "null is left out"
            output: Any = tools["get_image"].output_schema
            record = output["properties"]["image"]["properties"]
            assert record["gps"]["type"] == ["array", "null"]
            assert record["gps"]["items"] == {"type": "number"}
            # The client validates answers by these schemas; null may also be given.
            answer = await client.call_tool("get_image", {"row": 1, "key": None, "store": None})
            assert not answer.is_error, answer.content


async def test_unknown_arguments_are_refused(noisy: Path) -> None:
    with embedsearch.open_store(noisy) as searcher:
        async with Client(create_server({"s": searcher})) as client:
            for tool, arguments, hint in (
                ("search_similar_images", {"row": 0, "top_k": 3}, "did you mean k?"),
                ("search_similar_images", {"row": 0, "min_scor": 0.3}, "did you mean min_score?"),
                ("search_similar_images", {"row": 0, "filter": {}}, "give a condition, as where="),
                ("get_image", {"rows": 0}, "did you mean row?"),
                ("find_duplicates", {"flip": True}, "did you mean flips?"),
                ("list_stores", {"store": "s"}, "there is no argument store"),
            ):
                answer = await client.call_tool(tool, arguments)
                assert answer.is_error and hint in words(answer), (tool, words(answer))


async def test_pictures_are_smaller_or_fewer(noisy: Path) -> None:
    with embedsearch.open_store(noisy) as searcher:
        async with Client(create_server({"s": searcher})) as client:
            asked: dict[str, Any] = {"row": 0, "k": 50, "thumbnails": True}
            answer = await client.call_tool("search_similar_images", asked)
            assert size(answer) < LIMIT
            shown = pictures(answer)
            side = max(shown[0].size)
            assert len(shown) == 50 and side < 256
            assert f"thumbnails of {side} pixels, to keep the answer small" in words(answer)
            assert len(answer.structured_content["hits"]) == 50
            answer = await client.call_tool("search_similar_images", {**asked, "k": 3})
            assert [max(picture.size) for picture in pictures(answer)] == [256] * 3
            assert "to keep the answer small" not in words(answer)
            answer = await client.call_tool("get_image", {"row": 0, "side": 1024})
            assert size(answer) < LIMIT and len(pictures(answer)) == 1


async def test_facts_are_cut_too(tmp_path: Path) -> None:
    """Captions of a megabyte, a thousand columns, a group of thousands of copies."""
    lines = []
    for number in range(40):
        paint(tmp_path / "in" / f"{number}.png", number)
        long = (
            {"ocr": "ö" * 500_000} if number % 2 else {f"column {n}": "y" * 900 for n in range(900)}
        )
        lines.append(json.dumps({"path": f"{number}.png", "t": "x", **long}))
    data = (tmp_path / "in" / "0.png").read_bytes()
    for number in range(3000):
        (tmp_path / "in" / f"copy {number} {'z' * 200}.png").write_bytes(data)
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    embedsearch.index(
        tmp_path / "in",
        store=tmp_path / "s.es",
        model="packaged",
        metadata=str(tmp_path / "t.jsonl"),
    )
    with embedsearch.open_store(tmp_path / "s.es") as searcher:
        row = searcher.get("1.png").row
        async with Client(create_server({"s": searcher, "t": searcher})) as client:
            for tool, arguments in (
                ("search_similar_images", {"row": row, "k": 50, "where": "t = 'x'"}),
                (
                    "search_similar_images",
                    {"row": row, "k": 50, "where": "t = 'x'", "thumbnails": True},
                ),
                ("get_image", {"row": row}),
                ("get_image", {"key": "0.png", "side": 1024}),
                ("find_duplicates", {}),
                ("list_stores", {}),
            ):
                answer = await client.call_tool(tool, arguments)
                assert not answer.is_error, words(answer)
                assert size(answer) < LIMIT, (tool, arguments)
            found = await client.call_tool("get_image", {"row": row})
            text = found.structured_content["image"]["metadata"]["ocr"]
            assert text.endswith("ö…") and len(text) == 1001
            found = await client.call_tool("find_duplicates", {})
            assert "of the 3001 images of one group fit into an answer" in words(found)
