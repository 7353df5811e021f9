"""What a store's record says of the network's input and pooling holds at every door to it."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import embedsearch
from embedsearch.core.config import DecodeLimits
from embedsearch.core.model_spec import BICUBIC, MILD_CROP, SQUASH, ModelSpec
from embedsearch.core.session import Session
from embedsearch.images.decode.image import decode
from embedsearch.indexing import bench as bench_module, job
from embedsearch.indexing.distributed.commit import commit
from embedsearch.indexing.distributed.parts import chunks_left
from embedsearch.indexing.distributed.plan import plan
from embedsearch.indexing.distributed.run import open_plan, run_units
from embedsearch.learning.labels import read_labels
from embedsearch.learning.training_images import decode_training_images
from embedsearch.network.runtime import load_extractor
from embedsearch.network.weights import resolve
from embedsearch.store.current import read_current
from tests.support.library import run_cli
from tests.support.pictures import picture

SIZES = ((400, 100), (100, 400), (400, 150), (150, 400))


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
    spec = resolve("packaged", Session())
    return replace(spec, resize=SQUASH, gaussian=0.0, interpolation=BICUBIC, draft=2)


def by_hand(spec: ModelSpec, folder: Path) -> dict[str, np.ndarray]:
    """Return the vector of each picture, float32 (D,), by the name of its file."""
    extractor = load_extractor(spec, "cpu", "auto", Session())
    paths = sorted(folder.rglob("*.png"))
    return {path.name: extractor(seen(spec, path)[None])[0] for path in paths}


def seen(spec: ModelSpec, path: Path) -> np.ndarray:
    """Return what a network sees of a picture, uint8 (S, S, 3)."""
    with path.open("rb") as file:
        return decode(file, spec.input_side, DecodeLimits(), spec.framing).pixels


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
                (hit,) = searcher.query(form, k=1)
                assert hit.key == str(path.relative_to(wide)) and hit.ranked_by > 0.999
            (hit,) = searcher.query(wanted[name], k=1)
            assert hit.key == str(path.relative_to(wide)) and hit.ranked_by > 0.999


def test_the_older_record_is_told_from_todays_model(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "s.es"
    with monkeypatch.context() as patch:
        patch.setattr(job, "resolve", lambda *_: older())
        embedsearch.index(wide, store=store, model="packaged")
    assert (
        "packaged (resnet18, 144 px, whole, squashed, gem3), finge"
        in run_cli("info", "--store", store).stdout
    )
    picture(9, (90, 500)).save(wide / "c0" / "9.png")
    kept = run_cli("index", wide, "--store", store, "--model", "packaged")
    assert kept.returncode == 0 and "1 added" in kept.stdout, kept.stderr
    assert read_current(store).model == older(), "it is the same network: the store keeps its rule"
    with embedsearch.open_store(store) as searcher:
        (hit,) = searcher.query(by_hand(older(), wide)["9.png"], k=1)
        assert hit.key == "c0/9.png" and hit.ranked_by > 0.999
    more = ("index", wide, "--store", store, "--model", "packaged", "--input-side", "160")
    refused = run_cli(*more)
    assert refused.returncode != 0 and "input_side: 160 != 144" in refused.stderr
    assert run_cli("index", "--store", store, "--rebuild", "--model", "packaged").returncode == 0
    shown = "packaged (resnet18, 144 px, mildly cropped, gem3, middle weighted, sigma 0.4), finge"
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
                assert np.array_equal(pixels, seen(spec, wide / ref.key)), spec.resize


@pytest.fixture(params=[False, True], ids=["today", "older"])
def planned(
    request: pytest.FixtureRequest, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, ModelSpec]:
    """Return a store with an open plan, and the record that the plan holds."""
    spec = older() if request.param else resolve("packaged", Session())
    with monkeypatch.context() as patch:
        patch.setattr(job, "resolve", lambda *_: spec)
        plan(wide, store=tmp_path / "s.es", model="packaged", shares=2)
    return tmp_path / "s.es", spec


def test_units_use_the_record_of_the_plan(planned: tuple[Path, ModelSpec], wide: Path) -> None:
    store, spec = planned
    run_units(store, range(len(open_plan(store).units)))
    commit(store)
    with embedsearch.open_store(store) as searcher:
        for name, vector in by_hand(spec, wide).items():
            (hit,) = searcher.query(vector, k=1)
            assert hit.key.endswith(name) and hit.ranked_by > 0.999


def test_actors_use_the_record_of_the_plan(planned: tuple[Path, ModelSpec], wide: Path) -> None:
    pytest.importorskip("ray")
    from embedsearch.indexing.distributed.ray_driver import _Decoder

    store, spec = planned
    decoder, count = _Decoder(str(store), asdict(DecodeLimits())), 0
    for chunk in chunks_left(store, open_plan(store)):
        (data,) = decoder({name: [value] for name, value in asdict(chunk).items()})["decoded"]
        for batch in pickle.loads(data)[1]:
            for ref, pixels in zip(batch.refs, batch.pixels, strict=True):
                assert np.array_equal(pixels, seen(spec, wide / ref.key))
                count += 1
    decoder._pool.close()
    assert count == len(SIZES)


def test_bench_measures_what_index_does(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules: list[Any] = []

    def noting(kind: Any) -> Any:
        def made(*arguments: Any, **named: Any) -> Any:
            rules.append(named["framing"].resize)
            return kind(*arguments, **named)

        return made

    for name in ("DecodePool", "Pipeline"):
        monkeypatch.setattr(bench_module, name, noting(getattr(bench_module, name)))
    monkeypatch.setattr(bench_module, "NETWORK_SECONDS", 0.1)
    embedsearch.bench(wide, images=8, model="packaged")
    assert rules == [MILD_CROP, MILD_CROP]
