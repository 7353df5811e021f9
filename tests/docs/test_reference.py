"""The tables of the reference are what the code has."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

import embedsearch
from docs.support.pages import DOCS, REPOSITORY

REFERENCE = DOCS / "reference"


def column(path: Path, heading: str, number: int = 0) -> list[str]:
    """Return the code in a column of the first table below a heading."""
    section = path.read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    table = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[0].splitlines()[2:]
    return [code for row in table for code in re.findall(r"`([^`]+)`", row.split(" | ")[number])]


def test_columns_of_filters() -> None:
    from embedsearch.searching.columns import FILTERED

    assert sorted(column(REFERENCE / "filters.md", "Columns")) == sorted(FILTERED)


def test_functions_of_filters() -> None:
    from embedsearch.searching.filters.grammar import FUNCTIONS

    assert set(column(REFERENCE / "filters.md", "Grammar", 1)) == FUNCTIONS


def test_columns_of_a_shard() -> None:
    from embedsearch.store.shards import row_schema

    assert column(REFERENCE / "store.md", "Columns of a shard") == row_schema(4).names


def test_routes_of_the_server(samples_store: Path) -> None:
    pytest.importorskip("fastapi", reason="needs the extra `serve`")
    from tests.support.serving import served

    with served(samples_store) as server:
        paths = server.get("/openapi.json").json["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert set(column(REFERENCE / "http.md", "Routes")) == routes


def test_codes_of_errors() -> None:
    source = "".join(path.read_text() for path in (REPOSITORY / "embedsearch/web").rglob("*.py"))
    found = re.findall(
        r'Refused\(\s*\d{3},\s*"(\w+)"'
        r'|\bcode(?:: str)? ?= ?"(\w+)"(?: if .* else "(\w+)")?'
        r'|status, message, code = .*, "(\w+)"$'
        r'|^TOKEN_NEEDED = "(\w+)"',
        source,
        re.MULTILINE,
    )
    codes = {code for codes in found for code in codes if code}
    assert set(column(REFERENCE / "http.md", "Errors", 1)) == codes


async def test_tools_for_agents(samples_store: Path) -> None:
    pytest.importorskip("mcp", reason="needs the extra `mcp`")
    from embedsearch.integrations.mcp import create_server

    with embedsearch.open_store(samples_store) as searcher:
        tools = await create_server({"photos": searcher}).list_tools()
    assert column(REFERENCE / "mcp.md", "Tools") == [tool.name for tool in tools]


def test_environment_variables() -> None:
    source = "".join(path.read_text() for path in (REPOSITORY / "embedsearch").rglob("*.py"))
    used = {name.rstrip("_") for name in re.findall(r"\bEMBEDSEARCH_[A-Z_]+", source)}
    assert len(used) >= 5
    assert set(column(REFERENCE / "configuration.md", "Environment variables")) == used


def test_exit_codes() -> None:
    codes: defaultdict[int, set[str]] = defaultdict(set)
    for name in embedsearch.__all__:
        value = getattr(embedsearch, name)
        if isinstance(value, type) and issubclass(value, embedsearch.EmbedSearchError):
            codes[value.exit_code].add(name)
    codes[1] -= {"EmbedSearchError", "Interrupted"}
    text = (REFERENCE / "exit_codes.md").read_text()
    rows = re.findall(r"^\| ([\d, ]+) \| .* \| (.*?) ?\|$", text, re.MULTILINE)
    told = {code: set(re.findall(r"`(\w+)`", names)) for code, names in rows}
    assert told.pop("130, 143") == {"Interrupted"} and told.pop("0") == set()
    assert {int(code): names for code, names in told.items()} == codes


def test_extras() -> None:
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    told = column(DOCS / "install.md", "Optional features")
    assert sorted(told) == sorted(declared["optional-dependencies"])


def test_every_public_name_stands_in_the_reference_of_python() -> None:
    text = "".join(path.read_text() for path in (REFERENCE / "python").glob("*.md"))
    told = re.findall(r"^::: embedsearch\.(\w+)$", text, re.MULTILINE)
    assert len(told) == len(set(told))
    assert set(told) == set(embedsearch.__all__) - {"__version__"}
