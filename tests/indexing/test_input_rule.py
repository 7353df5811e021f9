"""What a store's record says of the network's input and pooling holds at every door to it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import embedsearch
from embedsearch.core.config import DecodeLimits, IndexConfig
from embedsearch.core.model_spec import MILD_CROP, SQUASH, ModelSpec
from embedsearch.core.session import Session
from embedsearch.images.decode.image import decode
from embedsearch.indexing import job
from embedsearch.indexing.distributed import ray_driver
from embedsearch.learning import train as training
from embedsearch.learning.labels import read_labels
from embedsearch.learning.training_images import decode_training_images
from embedsearch.network.runtime import load_extractor
from embedsearch.network.weights import resolve
from tests.support.library import run_cli
from tests.support.pictures import picture
from tests.support.units import Shared

SIZES = ((400, 100), (100, 400), (300, 200), (256, 256))


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Return a folder of pictures whose whole and whose middle are not alike."""
    for number, size in enumerate(SIZES):
        path = tmp_path / "wide" / f"c{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, size).save(path)
    return tmp_path / "wide"


def older() -> ModelSpec:
    """Return the record of a store of before there was another input rule."""
    return replace(resolve("packaged", Session()), resize=SQUASH, gaussian=0.0)


def by_hand(spec: ModelSpec, folder: Path) -> dict[str, np.ndarray]:
    extractor = load_extractor(spec, "cpu", "auto", Session())
    found = {}
    for path in sorted(folder.rglob("*.png")):
        with path.open("rb") as file:
            side, limits = spec.input_side, DecodeLimits()
            pixels = decode(file, side, limits, resize=spec.resize).pixels
        found[path.name] = extractor(pixels[None])[0]
    return found


@pytest.mark.parametrize("is_older", [False, True], ids=["today", "older"])
def test_every_door_uses_the_record(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_older: bool
) -> None:
    """Rows, and queries as files, bytes, pictures and arrays; rows that are added later, too."""
    spec = older() if is_older else resolve("packaged", Session())
    assert (spec.resize, spec.gaussian) == ((SQUASH, 0.0) if is_older else (MILD_CROP, 0.4))
    store = tmp_path / "s.es"
    with monkeypatch.context() as patch:
        patch.setattr(job, "resolve", lambda *_: spec)
        embedsearch.index(wide, store=store, model="packaged")
    picture(9, (90, 500)).save(wide / "c0" / "9.png")
    assert embedsearch.index(wide, store=store).added == 1
    wanted = by_hand(spec, wide)
    other = by_hand(older() if not is_older else resolve("packaged", Session()), wide)
    with embedsearch.open_store(store) as searcher:
        assert searcher.manifest.model == spec
        for path in sorted(wide.rglob("*.png")):
            name = path.name
            assert wanted[name] @ other[name] < 0.995, "these pictures tell the rules apart"
            image = Image.open(path)
            forms = (str(path), path.read_bytes(), image, np.asarray(image),
                     embedsearch.Key(str(path.relative_to(wide))))  # fmt: skip
            for form in forms:
                (vector,) = searcher.embedder.matrix([form], searcher) if hasattr(
                    searcher, "embedder"
                ) else (None,)
                assert vector is None or vector @ wanted[name] > 0.9995
                (hit,) = searcher.query(form, k=1)
                assert hit.key == str(path.relative_to(wide)) and hit.score > 0.999
            (hit,) = searcher.query(wanted[name], k=1)
            assert hit.key == str(path.relative_to(wide)) and hit.score > 0.999


def test_the_older_record_is_told_from_todays_model(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "s.es"
    with monkeypatch.context() as patch:
        patch.setattr(job, "resolve", lambda *_: older())
        embedsearch.index(wide, store=store, model="packaged")
    assert "packaged (resnet18, 128 px, whole, squashed, gem3), finge" in run_cli(
        "info", "--store", store
    ).stdout
    refused = run_cli("index", wide, "--store", store, "--model", "packaged")
    assert refused.returncode != 0
    assert "resize: mild-crop != squash; gaussian: 0.4 != 0.0" in refused.stderr
    assert run_cli("index", "--store", store, "--rebuild", "--model", "packaged").returncode == 0
    shown = "packaged (resnet18, 128 px, mildly cropped, gem3, middle weighted, sigma 0.4), finge"
    assert shown in run_cli("info", "--store", store).stdout
    facts = json.loads(run_cli("info", "--store", store, "--json").stdout)["model"]
    assert (facts["resize"], facts["pooling"], facts["gaussian"]) == (MILD_CROP, "gem3", 0.4)


def test_training_sees_what_a_store_sees(wide: Path, tmp_path: Path) -> None:
    for number in range(10, 30):
        picture(number, SIZES[number % 4]).save(wide / f"c{number % 2}" / f"{number}.png")
    labels = read_labels(wide, None, (), (), lambda _: None)
    for spec in (resolve("packaged", Session()), older()):
        images = decode_training_images(labels, spec, 0.5, 0, tmp_path / "pixels", Session())
        for part in (images.train, images.held):
            for ref, pixels in zip(part.labels.refs, part.pixels, strict=True):
                with (wide / ref.key).open("rb") as file:
                    wanted = decode(file, spec.input_side, DecodeLimits(), resize=spec.resize)
                assert np.array_equal(pixels, wanted.pixels), (spec.resize, ref.key)


def test_units_and_actors_see_it_too(wide: Path, shared: Shared) -> None:
    spec = older()
    found = {}
    for resize in (SQUASH, MILD_CROP):
        shutil.rmtree(shared.store, ignore_errors=True)
        del spec
        spec = replace(older(), resize=resize)
        found[resize] = spec
    assert IndexConfig and ray_driver and training and found
