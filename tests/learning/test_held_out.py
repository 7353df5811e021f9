"""The pictures that a training held out, measured again; and what each class is found by."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import embedsearch
from embedsearch.core.errors import UsageError
from embedsearch.learning.evaluate import evaluate
from embedsearch.learning.held_out_pictures import HELD_OUT_RECORD, HeldOut
from embedsearch.learning.reports import TrainReport
from embedsearch.learning.train import train
from tests.support.library import SAMPLES, run_cli
from tests.support.training import SMALL, write


@pytest.fixture(scope="module")
def trained(patterns: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainReport]:
    out = tmp_path_factory.mktemp("trained") / "mine.safetensors"
    return out, train(patterns, out, epochs=3, holdout=0.5, **SMALL)


def record(model: Path) -> HeldOut:
    with safe_open(model, framework="numpy") as file:
        return HeldOut.from_json(file.metadata()[HELD_OUT_RECORD])


def test_the_same_pictures_give_the_same_figure(
    patterns: Path, trained: tuple[Path, TrainReport]
) -> None:
    model, report = trained
    held = record(model)
    assert len(held.digests) == report.held_out == 24
    (found,) = evaluate(patterns, models=[str(model)], held_out=True)
    assert found.images == 24 and found.center == "model"
    assert found.measures["recall@1"].value == pytest.approx(report.after.recall_1, abs=0.0005)
    assert found.measures["mAP"].value == pytest.approx(report.after.mean_ap, abs=0.0005)
    assert {query.path for query in found.worst} <= set(held.digests)
    command = ("evaluate", patterns, "--model", model, "--model", "packaged", "--held-out")
    done = run_cli(*command, "--json")
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first["measures"]["mAP"]["value"] == pytest.approx(report.after.mean_ap, abs=0.0005)
    assert second["images"] == 24 and second["model"] == "packaged"
    assert "the 24 pictures that were held out" in done.stderr


def test_pictures_by_columns_have_their_classes(patterns: Path, tmp_path: Path) -> None:
    """Folders say nothing here: the classes that were learnt are in the record."""
    for number, path in enumerate(sorted(patterns.rglob("*.png"))):
        shutil.copy(path, tmp_path / f"{number:02}.png")
    rows = [f"{n:02}.png,{'ab'[n // 24] if n else ''}" for n in range(48)]
    table = write(tmp_path, "\n".join(["path,kind", *rows]))
    out = tmp_path / "mine.safetensors"
    report = train(tmp_path, out, targets=table, classify=["kind"], epochs=2, holdout=0.5, **SMALL)
    (found,) = evaluate(tmp_path, models=[str(out)], held_out=True)
    assert [one.name for one in found.classes] == ["a", "b"]
    assert found.measures["mAP"].value == pytest.approx(report.after.mean_ap, abs=0.0005)


def test_what_cannot_be_measured_again(
    patterns: Path, trained: tuple[Path, TrainReport], tmp_path: Path
) -> None:
    model, _ = trained
    key = next(iter(record(model).digests))
    for source, words in (
        (None, rf"1 of the 24 pictures .* not in .* \({key}\)"),
        (SAMPLES / "README.md", r"1 of the 24 .* have changed since"),
        (SAMPLES / "clocks" / "clocks_1.jpg", r"have changed since .*: give the folder that"),
    ):
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        shutil.copytree(patterns, tmp_path / "other")
        (tmp_path / "other" / key).unlink()
        if source is not None:
            shutil.copy(source, tmp_path / "other" / key)
        with pytest.raises(UsageError, match=words):
            evaluate(tmp_path / "other", models=[str(model)], held_out=True)
    with pytest.raises(UsageError, match=r"24 of the 24 pictures .* not in"):
        evaluate(SAMPLES, models=[str(model)], held_out=True)
    bare = tmp_path / "bare.safetensors"
    with safe_open(model, framework="numpy") as file:
        metadata = {n: text for n, text in file.metadata().items() if n != HELD_OUT_RECORD}
    save_file(load_file(model), bare, metadata)
    for name in ("packaged", str(bare)):
        with pytest.raises(UsageError, match=f"{name}: no record of pictures"):
            evaluate(patterns, models=[name], held_out=True)
    with pytest.raises(UsageError, match="no such file"):
        evaluate(patterns, models=[str(tmp_path / "none.safetensors")], held_out=True)
    with pytest.raises(UsageError, match="held_out goes with the folder"):
        evaluate(held_out=True)
    done = run_cli("evaluate", patterns, "--model", "packaged", "--held-out")
    assert done.returncode == 2 and "--held-out needs a model" in done.stderr


def test_classes_one_by_one(tmp_path: Path) -> None:
    """Against a plain mean over the queries of each class; a class of one image has no query."""
    for name in ("clocks", "boats", "cities"):
        shutil.copytree(SAMPLES / name, tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "alone").mkdir()
    shutil.copy(SAMPLES / "clocks" / "clocks_1.jpg", tmp_path / "pictures" / "alone" / "x.jpg")
    store = tmp_path / "s.es"
    embedsearch.index(tmp_path / "pictures", store=store, model="packaged")
    (found,) = evaluate(store=store)
    by_name = {one.name: one for one in found.classes}
    assert by_name["alone"].images == 1 and by_name["alone"].mean_ap is None
    measured = [one for one in found.classes if one.mean_ap is not None]
    weights = [one.images for one in measured]
    for name, values in (
        ("mAP", [one.mean_ap for one in measured]),
        ("recall@1", [one.recall_1 for one in measured]),
    ):
        mean = np.average(np.array(values, np.float64), weights=weights)
        assert found.measures[name].value == pytest.approx(mean)
    (line,) = run_cli("evaluate", "--store", store, "--json").stdout.splitlines()
    listed = json.loads(line)["classes"]
    assert listed[0] == {"name": "alone", "images": 1, "recall@1": None, "mAP": None}
    assert [set(one) for one in listed] == [{"name", "images", "recall@1", "mAP"}] * len(listed)
    rows = list(csv.DictReader(io.StringIO(run_cli("evaluate", "--store", store, "--csv").stdout)))
    assert [(row["name"], row["mAP"]) for row in rows] == [
        (one["name"], "" if one["mAP"] is None else str(one["mAP"])) for one in listed
    ]
    shown = run_cli("evaluate", "--store", store).stdout
    assert f"worst of {len(listed)} classes" in shown and "alone" not in shown.split("worst of")[1]
    refused = run_cli("evaluate", "--store", store, "--csv", "--json")
    assert refused.returncode == 2 and "goes without --json" in refused.stderr
