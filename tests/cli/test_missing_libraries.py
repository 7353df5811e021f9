"""A feature whose library is missing: one line that names the library with its bounds, exit 4."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import embedsearch
from tests.support.library import SAMPLES

HERE = "photos"
CASES = [
    ("watchfiles", ["index", HERE, "--watch"], "'watchfiles>=1.1,<2'"),
    ("ray", ["index", HERE, "--engine", "ray"], "'ray[data]>=2.50'"),
    ("fsspec", ["index", "https://127.0.0.1:9/photos/"], "'fsspec>=2024.6'"),
    ("nncf", ["bench", HERE, "--precision", "int8", "--model", "packaged"], "'nncf>=3.0'"),
    ("duckdb", ["query", "--key", "clocks/clocks_1.jpg", "--where", "width > 1"], "'duckdb>=1.4'"),
    ("pymilvus", ["query", "--key", "x", "--serve-from", "milvus://h"], "'pymilvus>=3.0,<4'"),
    ("psycopg", ["export", "--to", "postgresql://h/d"], "'psycopg[binary]>=3.2'"),
    ("umap", ["map", "map.html", "--method", "umap"], "'umap-learn>=0.5.7'"),
    ("fastapi", ["serve"], "'fastapi>=0.130,<1'"),
    ("mcp", ["mcp"], "'mcp>=2.3,<3'"),
    ("torchvision", ["train", HERE, "--out", "m.safetensors"], "'torchvision>=0.25'"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("missing")
    (folder / HERE).symlink_to(SAMPLES)
    embedsearch.index(folder / HERE, store=folder / ".embedsearch", model="packaged")
    return folder


@pytest.mark.parametrize(("library", "arguments", "hint"), CASES, ids=[c[0] for c in CASES])
def test_the_library_is_named(library: str, arguments: list[str], hint: str, home: Path) -> None:
    program = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from embedsearch.cli.entry import run\n"
        f"sys.exit(run({arguments!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, cwd=home, timeout=120
    )
    lines = [line for line in done.stderr.splitlines() if "pip install" in line]
    assert done.returncode == 4, done.stderr
    assert len(lines) == 1 and hint in lines[0], done.stderr
    assert "Traceback" not in done.stderr and "embedsearch[" not in done.stderr
