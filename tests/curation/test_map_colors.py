"""Colors of a map by a column, and groups as CSV for other programs."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import embedsearch
from embedsearch.core.errors import UsageError
from embedsearch.curation.clusters import clusters, outliers
from embedsearch.curation.map_colors import NO_GROUP, Legend, legend_of
from embedsearch.curation.picture_map import picture_map
from tests.support.library import paint, run_cli


@pytest.mark.parametrize(
    ("values", "legend"),
    [
        (["b", "a", None, "b"], Legend(["b", "a"], [0, 1, NO_GROUP, 0])),
        ([True, False, True], Legend(["True", "False"], [0, 1, 0])),
        ([3, 1, 3], Legend(["3", "1"], [0, 1, 0])),  # few numbers are names
        ([None, float("nan")], Legend([], [NO_GROUP, NO_GROUP])),
    ],
)
def test_few_values_have_a_color_each(values: list[Any], legend: Legend) -> None:
    assert legend_of(values) == legend


def test_of_many_names_the_most_frequent_have_a_color() -> None:
    found = legend_of([f"name {n}" for n in range(20)] + ["name 19"])
    assert len(found.names) == 10 and found.names[0] == "name 19"
    assert found.groups[18] == NO_GROUP and found.groups[19] == found.groups[20] == 0


def test_many_numbers_are_a_scale() -> None:
    values = [*range(70), None]
    found = legend_of(values)
    assert found.is_scale and len(found.names) == 7
    assert found.names[0] == "0 – 10" and found.names[-1].endswith(" – 69")
    assert found.groups[:-1] == sorted(found.groups[:-1]) and found.groups[-1] == NO_GROUP
    assert all(8 <= found.groups.count(group) <= 12 for group in range(7))


def test_many_times_are_a_scale_of_days() -> None:
    found = legend_of([datetime(2020 + n, 5, 1, 12) for n in range(14)])
    assert found.is_scale and found.names[0] == "2020-05-01 – 2022-05-01"


def test_values_that_are_nearly_all_the_same_still_make_a_scale() -> None:
    found = legend_of([0.0] * 90 + [n / 7 for n in range(12)])
    assert found.is_scale and len(found.names) == len(set(found.groups)) <= 7


def test_a_map_is_colored_by_a_column(store: Path, tmp_path: Path) -> None:
    found = picture_map(store, color="format")
    assert found.legend.names[0] == "JPEG"
    assert found.legend.groups.count(0) == sum(p.key.endswith(".jpg") for p in found.points)
    by_folder = picture_map(store).legend
    assert "clocks" in by_folder.names and not by_folder.is_scale
    with pytest.raises(UsageError, match="color: no column fromat, did you mean format"):
        picture_map(store, color="fromat")
    out = tmp_path / "map.html"
    done = run_cli("map", out, "--store", store, "--color", "sharpness")
    assert done.returncode == 0, done.stderr
    data = json.loads(out.read_text().split("isScale, points } = ")[1].split(";\n")[0])
    assert data["isScale"] and len(data["groups"]) == 7
    done = run_cli("map", out, "--store", store, "--color", "fromat")
    assert done.returncode == 2
    assert "--color: no column fromat, did you mean format?" in done.stderr


def test_lists_are_no_color(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(4):
        paint(tmp_path / "photos" / f"{number}.png", number)
    table = tmp_path / "tags.json"
    table.write_text(json.dumps([{"path": f"{n}.png", "tags": ["a"]} for n in range(4)]))
    mine = tmp_path / "s.es"
    embedsearch.index(tmp_path / "photos", store=mine, model="packaged", metadata=str(table))
    with pytest.raises(UsageError, match="color: tags holds lists or objects"):
        picture_map(mine, color="tags")


def test_clusters_as_csv_name_every_member(store: Path) -> None:
    done = run_cli("clusters", "-k", "3", "--csv", "--store", store)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    found = clusters(store, 3)
    assert [row["path"] for row in rows] == [path for one in found for path in one.paths]
    assert [row["rank"] for row in rows if row["cluster"] == "2"] == [
        str(rank) for rank in range(1, len(found[1].rows) + 1)
    ]
    refused = run_cli("clusters", "--csv", "--json", "--store", store)
    assert refused.returncode == 2 and "exclude each other" in refused.stderr


def test_outliers_as_csv(store: Path) -> None:
    done = run_cli("outliers", "-k", "3", "--csv", "--store", store)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [int(row["row"]) for row in rows] == [one.row for one in outliers(store, 3)]
    assert all(Path(row["full_path"]).exists() for row in rows)
