"""A cache that cannot be written is gone without, with one line; so is a torch that is broken."""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from embedsearch.core.session import Session
from embedsearch.core.system import cache_folder
from embedsearch.network import runtime
from embedsearch.network.converted import BrokenConversion, compile_model, read_note
from embedsearch.network.openvino_runtime import OpenVinoExtractor
from embedsearch.network.weights import resolve


@pytest.fixture
def converted() -> Path:
    """The folder of the packaged network, converted for this processor."""
    spec = resolve("packaged", Session())
    OpenVinoExtractor(spec, "fp32", Session())
    (folder,) = (cache_folder() / "openvino").glob(f"{spec.fingerprint[:32]}-*")
    return folder


def known(folder: Path) -> npt.NDArray[np.float32]:
    return np.array(read_note(folder / "runtime.json")["known"], np.float32)


def test_compiled_models_that_cannot_be_kept(converted: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(converted, copy, ignore=shutil.ignore_patterns("compiled"))
    (copy / "compiled").write_text("a file in the place of the folder")
    assert compile_model(copy, "fp32", known(copy), None, Session()) is not None
    (copy / "model.xml").write_text("<no model>")
    with pytest.raises(BrokenConversion, match="damaged"):
        compile_model(copy, "fp32", known(copy), None, Session())


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


def flipped(path: Path, rng: random.Random) -> None:
    """Change 200 bits of a file, its first tenth left as it is."""
    data = bytearray(path.read_bytes())
    for _ in range(200):
        data[rng.randrange(len(data) // 10, len(data))] ^= 1 << rng.randrange(8)
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (["*/compiled/*.blob"], ["compiled again"]),
        (["*/compiled/*.json"], []),  # a note that is none: compiled again, and nothing is lost
        (["*/model.bin"], []),  # what was compiled of it is sound
        (["*/compiled/*.blob", "*/model.bin"], ["compiled again", "converted again", "converting"]),
        (["*/runtime.json"], ["converting"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_damaged_cache_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: list[str], words: list[str]
) -> None:
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path))
    spec = resolve("packaged", Session())
    picture = np.random.default_rng(0).integers(0, 255, (1, 144, 144, 3), np.uint8)
    right = OpenVinoExtractor(spec, "fp32", Session())(picture)[0]
    rng = random.Random(5)
    for pattern in damaged:
        for path in (tmp_path / "openvino").glob(pattern):
            flipped(path, rng)
    said: list[str] = []
    found = OpenVinoExtractor(spec, "fp32", Session(said.append))(picture)[0]
    assert float(found @ right) > 0.999
    assert len(said) == len(words) and all(w in line for w, line in zip(words, said, strict=True))
    said.clear()
    OpenVinoExtractor(spec, "fp32", Session(said.append))
    assert not said, "once"


def test_other_vectors_than_the_known_ones_are_noticed(converted: Path, tmp_path: Path) -> None:
    """A network whose files are as they were written, and that answers otherwise."""
    copy = tmp_path / "model"
    shutil.copytree(converted, copy, ignore=shutil.ignore_patterns("compiled"))
    other = np.roll(known(copy), 7, axis=1)
    with pytest.raises(BrokenConversion, match="other vectors"):
        compile_model(copy, "fp32", other, None, Session())
