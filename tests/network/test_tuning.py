"""How the network runs fastest here: measured once, kept, resumed, and never a loss."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import embedsearch
from embedsearch.core.errors import Interrupted, MissingLibrary
from embedsearch.core.session import Session
from embedsearch.network import openvino_runtime, tuning
from embedsearch.network.converted import answers, compile_model, known_pictures, read_note
from embedsearch.network.feed import AUTOMATIC, Settings
from embedsearch.network.openvino_runtime import int8_pays
from embedsearch.network.tuning import tune, tuned_settings
from embedsearch.network.weights import resolve
from tests.network.test_without_cache import converted as converted, known
from tests.support.library import run_cli
from tests.support.stores import rows_of


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(converted, copy, ignore=shutil.ignore_patterns("compiled*", "tuning.json"))
    return copy


def stand_in(rates: dict[str, float], tried: list[str]) -> object:
    """Return a stand-in for measuring: the time is the subject, not what OpenVINO does with it."""

    def rate(
        folder: Path, precision: str, known: object, settings: Settings, session: Session
    ) -> float:
        tried.append(str(settings))
        return rates.get(str(settings), 50.0)

    return rate


def test_the_fastest_is_kept_and_measured_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = Settings(1, 16, is_static=True)
    rates = {str(Settings(1, 8, is_static=True)): 130.0, str(fast): 150.0}
    tried: list[str] = []
    monkeypatch.setattr(tuning, "_rate", stand_in(rates, tried))
    assert tuned_settings(folder, "fp32") == AUTOMATIC
    tune(folder, "fp32", known(folder), Session())
    assert tuned_settings(folder, "fp32") == fast and str(AUTOMATIC) in tried
    count = len(tried)
    tune(folder, "fp32", known(folder), Session())
    assert len(tried) == count, "once"
    assert tuned_settings(folder, "bf16") == AUTOMATIC, "for this precision"
    monkeypatch.setattr(tuning, "available_processors", lambda: 96)
    assert tuned_settings(folder, "fp32") == AUTOMATIC, "for these processors"


@pytest.mark.parametrize("later", [101.0, 160.0])
def test_noise_decides_nothing(later: float, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One lucky measurement of another setting, or an unlucky one of OpenVINO's own choice."""
    lucky = str(Settings(1, 8, is_static=True))
    answers_of = {lucky: [150.0, later], str(AUTOMATIC): [100.0, 100.0 if later < 150 else 158.0]}

    def rate(*given: object) -> float:
        asked = answers_of.get(str(given[3]), [])
        return asked.pop(0) if asked else 90.0

    monkeypatch.setattr(tuning, "_rate", rate)
    tune(folder, "fp32", known(folder), Session())
    assert tuned_settings(folder, "fp32") == AUTOMATIC


def test_it_is_bounded_and_goes_on_where_it_was_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    stop = Session(stop=lambda: 2 if len(tried) >= 3 else 0)
    monkeypatch.setattr(tuning, "_rate", stand_in({}, tried))
    with pytest.raises(Interrupted):
        tune(folder, "fp32", known(folder), stop)
    first = list(tried)
    assert len(first) == 3 and tuned_settings(folder, "fp32") == AUTOMATIC
    tune(folder, "fp32", known(folder), Session())
    assert not set(first) & set(tried[3:]), "what was measured is not measured again"
    (folder / "tuning.json").unlink()
    tried.clear()
    monkeypatch.setattr(tuning, "BUDGET_S", -1.0)
    tune(folder, "fp32", known(folder), Session())
    assert not tried and tuned_settings(folder, "fp32") == AUTOMATIC
    (folder / "tuning.json").write_text("damaged")
    assert tuned_settings(folder, "fp32") == AUTOMATIC


def test_a_cache_that_cannot_be_written_is_not_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(os, "access", lambda *_: False)
    tune(folder, "fp32", known(folder), Session(notice=said.append))
    assert not said and not (folder / "tuning.json").exists()


@pytest.mark.parametrize(
    "settings", [None, AUTOMATIC, Settings(1), Settings(2, 4, is_static=True)], ids=str
)
@pytest.mark.parametrize("keep", [True, False])
def test_every_setting_gives_the_same_vectors(
    settings: Settings | None, keep: bool, folder: Path
) -> None:
    """Of one picture, of one more than a batch, and of as many as a batch."""
    wanted = known(folder)
    for _ in range(2):  # compiled, and as it was kept
        compiled = compile_model(folder, "fp32", wanted, settings, Session(), keep=keep)
        batch = settings.batch if settings is not None and settings.is_static else 0
        side = compiled.input(0).partial_shape[1].get_length()
        for count in (1, 2, 4, 5, 9):
            pixels = np.stack([known_pictures(side)[n % 2] for n in range(count)])
            found = answers(compiled, pixels, batch)
            rows = np.stack([wanted[n % 2] for n in range(count)])
            assert found.shape == rows.shape and np.abs(found - rows).max() < 2e-3
    kept = sorted(path.name for path in folder.glob("compiled*"))
    assert len(kept) == keep


def test_measured_with_the_real_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_MEASURED_S", 0.02)
    monkeypatch.setattr(tuning, "BUDGET_S", 200.0)  # whatever runs beside it
    said: list[str] = []
    tune(folder, "fp32", known(folder), Session(notice=said.append))
    (measured,) = [v for k, v in read_note(folder / "tuning.json").items() if k.startswith("fp32")]
    assert min(measured["images_per_s"].values()) > 0 and len(measured["images_per_s"]) >= 6
    assert len(said) == 1 and Settings(**measured["best"]) == tuned_settings(folder, "fp32")
    assert not list(folder.glob("compiled*")), "nothing of what was tried is kept"


def test_an_index_follows_what_was_measured(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of exactly 4 on one stream: every image has the vector that it has without."""
    found = []
    for settings in (AUTOMATIC, Settings(1, 4, is_static=True)):
        monkeypatch.setattr(openvino_runtime, "tuned_settings", lambda *_, s=settings: s)
        store = tmp_path / str(settings.batch)
        report = embedsearch.index(photos, store=store, model="packaged", precision="fp32")
        assert report.embedded == report.images > 0 and report.failed == 0
        rows = rows_of(store)
        found.append({key: np.frombuffer(row, np.float16) for key, row in rows.items()})
    one, other = found
    assert one.keys() == other.keys()
    assert all(np.abs(one[key] - other[key]).max() < 2e-3 for key in one)


def test_no_tune_measures_nothing(photos: Path) -> None:
    done = run_cli("bench", str(photos), "--images", "8", "--no-tune", "--model", "packaged")
    assert "measuring how" not in done.stderr and " of at most " in done.stdout


@pytest.mark.parametrize(
    ("rates", "wanted"),
    [({"bf16": 100.0, "int8": 120.0}, True), ({"bf16": 100.0, "int8": 110.0}, False),
     ({"bf16": 100.0}, False), ({"int8": 120.0}, False), ({}, False)],
    ids=str,
)  # fmt: skip
def test_int8_is_advised_where_it_was_measured_to_pay(
    rates: dict[str, float], wanted: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = resolve("packaged", Session())
    assert not int8_pays(spec, "bf16"), "it was never made"
    monkeypatch.setattr(openvino_runtime, "_kept", lambda *_, **__: folder)
    for precision, rate in rates.items():
        monkeypatch.setattr(tuning, "_rate", stand_in({str(AUTOMATIC): rate}, []))
        tune(folder, precision, known(folder), Session())
    assert int8_pays(spec, "bf16") == wanted


def test_what_cannot_be_compiled_is_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A precision that the processor lacks, and settings for which OpenVINO finds no memory."""

    def refused(*_: object, **__: object) -> None:
        raise MissingLibrary("OpenVINO cannot compile the model")

    for stand in (refused, lambda *_, **__: None):
        monkeypatch.setattr(tuning, "compile_model", stand)
        tune(folder, "fp32", known(folder), Session())
        assert tuned_settings(folder, "fp32") == AUTOMATIC
        (folder / "tuning.json").unlink()
