"""Hints to install: the library itself, with the bounds of pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from typing import Any

import pytest

import embedsearch
from embedsearch.core import install
from embedsearch.core.install import DISTRIBUTION, pip_install
from tests.support.library import REPOSITORY

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
FEATURES: dict[str, list[str]] = PROJECT["optional-dependencies"]


def test_the_distribution_has_a_name_of_its_own() -> None:
    assert PROJECT["name"] == DISTRIBUTION == "embedsearch-images"
    assert metadata.version(DISTRIBUTION) == embedsearch.__version__


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_a_library_comes_with_its_bounds(line: str) -> None:
    requirement = line.partition(";")[0].strip()
    name = re.split(r"[<>=\[]", requirement)[0]
    assert pip_install(name) == f"pip install '{requirement}'"


@pytest.mark.parametrize("feature", sorted(set(FEATURES) - {"dev"}))
def test_a_feature_names_all_its_libraries(feature: str) -> None:
    """All are installed here, so all are named; where one is missing, only that one."""
    shown = pip_install(feature)
    assert set(re.findall(r"'(.*?)'", shown)) == set(FEATURES[feature])
    assert "embedsearch" not in shown


def test_only_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_is_installed", lambda name: name != "uvicorn")
    assert pip_install("serve") == "pip install 'uvicorn>=0.40,<1'"


def test_without_metadata_bare_names_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "DISTRIBUTION", "embedsearch-that-is-not-installed")
    assert pip_install("duckdb", "faiss-cpu") == "pip install duckdb faiss-cpu"
