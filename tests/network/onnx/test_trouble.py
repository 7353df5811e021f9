"""Models of ONNX files in trouble: several processes, damaged caches, networks that fit no use."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedsearch
from embedsearch.core.errors import EmbedSearchError, UsageError
from embedsearch.core.session import Session
from embedsearch.network.weights import is_file_name, resolve
from tests.support.library import CLOCK, REPOSITORY

pytest.importorskip("onnx", reason="needs the test extra")
pytest.importorskip("tokenizers", reason="needs the test extra")
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support import towers as made


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def indexed(folder: Path, tmp_path: Path) -> Path:
    store = tmp_path / "s.es"
    embedsearch.index(CLOCK.parent, store=store, model=str(folder), tune=False, precision="fp32")
    return store


def ask(store: Path) -> list[str]:
    with embedsearch.open_store(store, precision="fp32") as photos:
        return [hit.key for hit in photos.query(text="red clock", by="picture", k=6)]


def test_several_processes_import_one_folder_at_once(cache: Path, tmp_path: Path) -> None:
    folder = made.towers(tmp_path / "model")
    code = (
        "from embedsearch.network.weights import resolve\n"
        "from embedsearch.core.session import Session\n"
        f"print(resolve({str(folder)!r}, Session()).fingerprint)"
    )
    command = [sys.executable, "-c", code]
    children = [
        subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    found = {child.communicate(timeout=120)[0] for child in children}
    assert [child.returncode for child in children] == [0] * 4 and len(found) == 1
    assert len(list((cache / "weights").iterdir())) == 1, "nothing is left over"


@pytest.mark.parametrize("harm", ["image.onnx", "tokenizer.json", "embedsearch_model.json"])
def test_a_damaged_copy_is_made_again(harm: str, cache: Path, tmp_path: Path) -> None:
    folder = made.towers(tmp_path / "model")
    spec = resolve(str(folder), Session())
    (kept,) = (cache / "weights").iterdir()
    if harm == "embedsearch_model.json":  # believed, it would give other vectors
        values = json.loads((kept / harm).read_text())
        values["image"]["mean"] = [0.9, 0.9, 0.9]
        (kept / harm).write_text(json.dumps(values))
    else:
        (kept / harm).write_bytes(b"x" + (kept / harm).read_bytes())
    assert resolve(str(folder), Session()) == spec
    assert (kept / "image.onnx").read_bytes() == (folder / "image.onnx").read_bytes()
    indexed(folder, tmp_path)


@pytest.mark.parametrize("harm", ["text.bin", "text.xml", "tokenizer.json", "text.json"])
@pytest.mark.parametrize("is_gone", [True, False])
def test_a_damaged_network_for_texts_is_converted_again(
    harm: str, is_gone: bool, cache: Path, tmp_path: Path
) -> None:
    store = indexed(made.towers(tmp_path / "model"), tmp_path)
    wanted = ask(store)
    (folder,) = (cache / "openvino").iterdir()
    if is_gone:
        (folder / harm).unlink()
    else:
        data = bytearray((folder / harm).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / harm).write_bytes(data)
    shutil.rmtree(folder / "compiled-text", ignore_errors=True)
    assert ask(store) == wanted


def test_an_interrupted_conversion_is_none(cache: Path, tmp_path: Path) -> None:
    store = indexed(made.towers(tmp_path / "model"), tmp_path)
    wanted = ask(store)
    (folder,) = (cache / "openvino").iterdir()
    (folder / "runtime.json").unlink()  # it is written last
    assert ask(store) == wanted


def test_the_name_is_that_of_the_folder(cache: Path, tmp_path: Path) -> None:
    first = resolve(str(made.towers(tmp_path / "model")), Session())
    other = shutil.copytree(tmp_path / "model", tmp_path / "other")
    values = json.loads((other / "embedsearch_model.json").read_text())
    made.write_record(other, {**values, "name": "another", "licence": "mine"})
    second = resolve(str(other), Session())
    assert (second.name, second.licence) == ("another", "mine")
    assert second.fingerprint == first.fingerprint


def _graph(folder: Path, nodes: list[Any], tensors: dict[str, Any], takes: Any, gives: Any) -> None:
    """Replace the network for pictures by another one."""
    constants = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    out = helper.make_tensor_value_info("vector", TensorProto.FLOAT, gives)
    graph = helper.make_graph(nodes, "made", [takes], [out], constants)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "image.onnx")


def _rows_for_one(folder: Path) -> None:
    """A network that gives a row a patch, as if each were a picture."""
    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, made.SIDE, made.SIDE])
    kernel = made.weights(1, made.DIM, 3, 16, 16) / 16
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["map"], strides=[16, 16]),
        helper.make_node("Transpose", ["map"], ["turned"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["turned", "shape"], ["vector"]),
    ]
    shape = np.array([-1, made.DIM], np.int64)
    _graph(folder, nodes, {"kernel": kernel, "shape": shape}, takes, [16, made.DIM])


def _scaled_bytes(folder: Path) -> None:
    made.image_tower(folder / "image.onnx", takes_bytes=True)  # the record has a scale


def _one_answer(folder: Path) -> None:
    made.text_tower(folder / "text.onnx", constant=True)


def _long_texts(folder: Path) -> None:
    values = json.loads((folder / "embedsearch_model.json").read_text())
    values["text"]["length"] = made.LENGTH - 1
    made.write_record(folder, values)


def _unknown_words(folder: Path) -> None:
    values = json.loads((folder / "tokenizer.json").read_text())
    values["model"]["unk_token"] = "[nothing]"
    (folder / "tokenizer.json").write_text(json.dumps(values))


def _unreadable(folder: Path) -> None:
    values = json.loads((folder / "tokenizer.json").read_text())
    values["normalizer"] = {"type": "Frobnicate"}
    (folder / "tokenizer.json").write_text(json.dumps(values))


def _huge(folder: Path) -> None:
    text = (folder / "embedsearch_model.json").read_text()
    (folder / "embedsearch_model.json").write_text(text.replace("0.5", "9" * 400))


WRONG: list[tuple[Callable[[Path], None], str]] = [
    (_rows_for_one, r"gives \(16, 16\) for 1 pictures"),
    (_scaled_bytes, r"takes whole numbers: image.scale is null for it"),
    (_one_answer, r"gives one vector for different texts"),
    (_long_texts, r"not 7 tokens"),
    (_unknown_words, r"its tokenizer does not take it"),
    (_unreadable, r"the tokenizer cannot be used"),
    (_huge, r"image.mean cannot be"),
]


@pytest.mark.parametrize(("harm", "message"), WRONG)
def test_networks_that_fit_no_use(
    harm: Callable[[Path], None], message: str, cache: Path, tmp_path: Path
) -> None:
    folder = made.towers(tmp_path / "model")
    harm(folder)
    with pytest.raises(EmbedSearchError, match=message) as caught:
        resolve(str(folder), Session())
    assert "\n" not in str(caught.value)


def test_a_text_that_is_no_text(cache: Path, tmp_path: Path) -> None:
    store = indexed(made.towers(tmp_path / "model"), tmp_path)
    with (
        embedsearch.open_store(store) as photos,
        pytest.raises(UsageError, match="the text cannot be read"),
    ):
        photos.query(text="red \udcff", by="picture")


@pytest.mark.parametrize("ends", [True, False])
def test_a_long_text_is_cut(ends: bool, cache: Path, tmp_path: Path) -> None:
    """What ends every text stays; without such a token nothing behind the cut does."""
    from tokenizers import Tokenizer, processors

    from embedsearch.network.text.encoder import TextEncoder

    folder = made.towers(tmp_path / "model")
    if ends:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single="boat $A shoes", special_tokens=[("boat", 6), ("shoes", 7)]
        )
        tokenizer.save(str(folder / "tokenizer.json"))
    encoder = TextEncoder(resolve(str(folder), Session()), Session())
    numbers = encoder.tokens("red " * 30 + "clock")
    assert numbers == ([6, *[2] * 6, 7] if ends else [2] * 8)


def test_what_names_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "siglip").mkdir()
    assert not is_file_name("siglip"), "the name of a model made elsewhere"
    made.write_record(tmp_path / "siglip", made.record())
    assert is_file_name("siglip")
    made.image_tower(tmp_path / "image.onnx")
    with pytest.raises(UsageError, match="name the folder of an ONNX file"):
        resolve("image.onnx", Session())
    with pytest.raises(UsageError, match="did you mean clip-resnet50"):
        resolve("clip", Session())
