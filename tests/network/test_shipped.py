"""The packaged network as it is shipped, converted: the same vectors, without torch."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from benchmarks.packaged_weights.convert import write_archive
from embedsearch.core.errors import WeightsUnavailable
from embedsearch.core.session import Session
from embedsearch.network import child, converted, openvino_runtime, shipped as shipping
from embedsearch.network.converted import import_openvino, known_pictures
from embedsearch.network.extractor import build_extractor
from embedsearch.network.openvino_runtime import OpenVinoExtractor
from embedsearch.network.shipped import KNOWN, archive_of, shipped
from embedsearch.network.weights import resolve, weights_path

SPEC = resolve("packaged", Session())
WEIGHTS = weights_path(SPEC)


@pytest.fixture
def conversions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Begin with an empty cache, and note what is converted by torch."""
    tasks: list[str] = []
    prepare: Callable[..., None] = child.run_prepare

    def noted(task: str, *arguments: Any) -> None:
        tasks.append(task)
        prepare(task, *arguments)

    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(openvino_runtime, "run_prepare", noted)
    return tasks


def test_it_gives_the_vectors_of_the_weights(tmp_path: Path) -> None:
    extractor = build_extractor(SPEC, safetensors.torch.load_file(WEIGHTS))
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (3, SPEC.input_side, SPEC.input_side, 3), np.uint8)
    pictures = np.concatenate([known_pictures(SPEC.input_side), noise])
    with torch.no_grad():
        right = extractor(torch.from_numpy(pictures)).numpy()
    again = tmp_path / "again.zip"
    write_archive(SPEC, WEIGHTS, again)
    assert zipfile.ZipFile(again).testzip() is None and again.stat().st_size < 100_000
    found = shipped(SPEC, WEIGHTS)
    assert found is not None, "out of date: run python -m benchmarks.packaged_weights.convert"
    model, known = found
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    vectors = import_openvino().Core().compile_model(model, "CPU", hint)(pictures)[0]
    assert np.abs(vectors - right).max() < 1e-3
    assert np.abs(known - right[: len(known)]).max() < 1e-3


def test_its_first_use_needs_no_torch(conversions: list[str]) -> None:
    OpenVinoExtractor(SPEC, "fp32", Session())
    assert not conversions


@pytest.mark.parametrize("change", [{"flip": True}, {"input_side": 96}, {"pooling": "gem2"}])
def test_another_model_of_these_weights_is_converted(
    change: dict[str, Any], conversions: list[str]
) -> None:
    OpenVinoExtractor(replace(SPEC, **change), "fp32", Session())
    assert conversions == ["convert"]


def test_one_that_is_not_right_here_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conversions: list[str]
) -> None:
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(archive_of(WEIGHTS)) as archive, zipfile.ZipFile(other, "w") as changed:
        for name in archive.namelist():
            part = archive.read(name)
            changed.writestr(name, part[:-2048] + bytes(2048) if name == KNOWN else part)
    monkeypatch.setattr(shipping, "archive_of", lambda weights: other)
    pixels = known_pictures(SPEC.input_side)
    vectors = OpenVinoExtractor(SPEC, "fp32", Session())(pixels)
    assert conversions == ["convert"]
    monkeypatch.undo()
    assert np.abs(vectors - OpenVinoExtractor(SPEC, "fp32", Session())(pixels)).max() < 1e-3


def test_a_damaged_one_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conversions: list[str]
) -> None:
    cut = tmp_path / "cut.zip"
    cut.write_bytes(archive_of(WEIGHTS).read_bytes()[:5_000])
    monkeypatch.setattr(shipping, "archive_of", lambda weights: cut)
    OpenVinoExtractor(SPEC, "fp32", Session())
    assert conversions == ["convert"]


def test_a_disk_without_room_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conversions: list[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr(converted, "place_model", full)
    with pytest.raises(WeightsUnavailable, match=r"No space left.*EMBEDSEARCH_CACHE"):
        OpenVinoExtractor(SPEC, "fp32", Session())
    assert not conversions
