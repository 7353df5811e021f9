"""Hints to install: the library itself, with the bounds of pyproject.toml."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import embedsearch
from embedsearch.core import install
from embedsearch.core.install import DISTRIBUTION, install_command
from tests.support.library import REPOSITORY

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
FEATURES: dict[str, list[str]] = PROJECT["optional-dependencies"]


@pytest.fixture(autouse=True)
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment in the eyes of what is tested; by itself one that pip is for."""
    folder = tmp_path / "my environment"
    folder.mkdir()
    monkeypatch.setattr(sys, "prefix", str(folder))
    return folder


def test_the_distribution_has_a_name_of_its_own() -> None:
    assert PROJECT["name"] == DISTRIBUTION == "embedsearch-images"
    assert metadata.version(DISTRIBUTION) == embedsearch.__version__


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_a_library_comes_with_its_bounds(line: str) -> None:
    requirement = line.partition(";")[0].strip()
    name = re.split(r"[<>=\[]", requirement)[0]
    assert install_command(name) == f"pip install '{requirement}'"


@pytest.mark.parametrize("feature", sorted(set(FEATURES) - {"dev"}))
def test_a_feature_names_all_its_libraries(feature: str) -> None:
    """All are installed here, so all are named; where one is missing, only that one."""
    shown = install_command(feature)
    assert set(re.findall(r"'(.*?)'", shown)) == set(FEATURES[feature])
    assert "embedsearch" not in shown


def test_only_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_is_installed", lambda name: name != "uvicorn")
    assert install_command("serve") == "pip install 'uvicorn>=0.40,<1'"


def test_without_metadata_bare_names_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "DISTRIBUTION", "embedsearch-that-is-not-installed")
    assert install_command("duckdb", "faiss-cpu") == "pip install duckdb faiss-cpu"


# Each with the file by which it is known, as these tools write it.
@pytest.mark.parametrize(
    ("name", "text", "command"),
    [
        ("pyvenv.cfg", "home = /usr/bin\nversion = 3.12.1\n", "pip install"),
        ("pyvenv.cfg", "home = /usr/bin\nuv = 0.13.9\n", "uv pip install"),
        ("uv-receipt.toml", "[tool]\n", "uv pip install --python '{}'"),
        ("pipx_metadata.json", "{}", "pipx inject embedsearch-images"),
    ],
    ids=["venv", "uv venv", "uv tool", "pipx"],
)
def test_the_command_is_that_of_the_environment(
    prefix: Path, name: str, text: str, command: str
) -> None:
    if name != "pyvenv.cfg":  # that of uv is there, too
        (prefix / "pyvenv.cfg").write_text("uv = 0.13.9\n")
    (prefix / name).write_text(text)
    wanted = f"{command.replace('{}', str(prefix))} duckdb-extra"
    assert install_command("duckdb-extra") == wanted
