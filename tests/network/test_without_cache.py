"""A cache that cannot be written is gone without, with one line; so is a torch that is broken."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from embedsearch.core.errors import MissingLibrary
from embedsearch.core.session import Session
from embedsearch.core.system import cache_folder
from embedsearch.network import runtime
from embedsearch.network.openvino_runtime import OpenVinoExtractor, compile_model
from embedsearch.network.weights import resolve


@pytest.fixture
def converted() -> Path:
    """The folder of the packaged network, converted for this processor."""
    spec = resolve("packaged", Session())
    OpenVinoExtractor(spec, "fp32", Session())
    (folder,) = (cache_folder() / "openvino").glob(f"{spec.fingerprint[:32]}-*")
    return folder


def test_compiled_models_that_cannot_be_kept(converted: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(converted, copy, ignore=shutil.ignore_patterns("compiled"))
    (copy / "compiled").write_text("a file in the place of the folder")
    assert compile_model(copy, "fp32") is not None
    (copy / "model.xml").write_text("<no model>")
    with pytest.raises(MissingLibrary, match="delete that folder"):
        compile_model(copy, "fp32")


def test_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said: list[str] = []
    spec = resolve("packaged", Session(said.append))
    OpenVinoExtractor(spec, "fp32", Session(said.append))
    assert len(said) == 2 and "cannot be written" in said[0] and "EMBEDSEARCH_CACHE" in said[0]
    assert "converting" in said[1]
    said.clear()
    OpenVinoExtractor(spec, "fp32", Session(said.append))
    assert not said, "what was converted is found again"


def test_auto_without_torch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "may_have_gpu", lambda: True)
    monkeypatch.setitem(sys.modules, "embedsearch.network.torch_runtime", None)
    said: list[str] = []
    assert runtime._auto_device(Session(said.append)) == "cpu"
    assert len(said) == 1 and said[0].startswith("embedding on the CPU: torch does not load (")
