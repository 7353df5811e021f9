"""The public names: all of them load, are typed, and their options are those of the configs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

import embedsearch
from embedsearch.core import config, errors, options

USER_SCRIPT = """
import embedsearch

report = embedsearch.index("photos", store="photos.es", model="resnet50", max_pixels=10)
print(report.added, report.to_dict())
with embedsearch.open_store("photos.es", follow=True) as photos:
    for hit in photos.query("img.jpg", k=10, where="width >= 1000"):
        print(hit.rank, hit.score, hit.path)
try:
    embedsearch.check("photos.es", read_data=True)
except embedsearch.DamagedStore as error:
    print(error.fields)
"""
MISTAKES = {
    'modle="resnet50"': ('model="resnet50"', 'Unexpected keyword argument "modle"'),
    'wehre="width >= 1000"': ('where="width >= 1000"', 'Unexpected keyword argument "wehre"'),
    "hit.scroe": ("hit.score", 'has no attribute "scroe"'),
    'max_pixels="10"': ("max_pixels=10", "incompatible type"),
    "embedsearch.DamageStore": ("embedsearch.DamagedStore", 'has no attribute "DamageStore"'),
}


def typed(script: str, folder: Path) -> list[str]:
    """Return the errors that mypy finds in a user's script."""
    (folder / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "script.py"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"MYPYPATH": str(Path(embedsearch.__file__).parent.parent), "PATH": ""},
        check=False,
    )
    assert not done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def test_a_script_is_typed_and_its_mistakes_are_found(tmp_path: Path) -> None:
    assert typed(USER_SCRIPT, tmp_path) == []
    wrong = USER_SCRIPT
    for mistake, (right, _) in MISTAKES.items():
        assert right in wrong
        wrong = wrong.replace(right, mistake)
    found = typed(wrong, tmp_path)
    assert len(found) == len(MISTAKES), found
    for _, message in MISTAKES.values():
        assert any(message in line for line in found), message


@pytest.mark.parametrize("name", embedsearch.__all__)
def test_a_public_name_loads(name: str) -> None:
    assert getattr(embedsearch, name) is not None
    assert name in dir(embedsearch)


def test_every_exception_is_public() -> None:
    raised = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.EmbedSearchError)
    }
    assert raised <= set(embedsearch.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = embedsearch.no_such_name  # type: ignore[attr-defined]


PAIRS = [
    (config.IndexConfig, options.IndexOptions, {"max_pixels", "max_bytes", "allow_truncated"}),
    (config.SearchConfig, options.SearchOptions, set()),
    (config.TrainConfig, options.TrainOptions, set()),
    (config.DuplicateConfig, options.DuplicateOptions, set()),
]


@pytest.mark.parametrize(
    ("record", "typed_dict", "more"), PAIRS, ids=[pair[1].__name__ for pair in PAIRS]
)
def test_options_are_the_fields_of_their_config(
    record: type, typed_dict: type, more: set[str]
) -> None:
    own = get_type_hints(record)
    hints = get_type_hints(typed_dict, localns=vars(config))
    assert set(hints) - more == {field.name for field in fields(record)} - {"k"}
    assert {name: own[name] for name in hints.keys() - more} == {
        name: hints[name] for name in hints.keys() - more
    }


def test_an_option_that_does_not_exist_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(embedsearch.UsageError, match="no option modle: did you mean model"):
        embedsearch.index(tmp_path, modle="resnet50")  # type: ignore[call-arg]
    with pytest.raises(embedsearch.UsageError, match="no option xyzzy; there are allow_empty, ann"):
        embedsearch.index(tmp_path, xyzzy=1)  # type: ignore[call-arg]


STORE_FIRST = (
    *("open_store", "info", "generations", "failures", "check", "repair", "duplicates"),
    *("clusters", "outliers", "picture_map", "export", "upload", "run_units", "commit"),
)


@pytest.mark.parametrize("name", STORE_FIRST)
def test_a_store_comes_first(name: str) -> None:
    first, *_ = inspect.signature(getattr(embedsearch, name)).parameters
    assert first == "store"
