"""What is learnt and what is held out: tables, folders, and those that cannot be learnt from."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedsearch.core.errors import (
    TrainingFailed,
    UsageError,
)
from embedsearch.core.session import Session
from embedsearch.learning.labels import LabelColumn, Labels, read_labels
from embedsearch.learning.train import train
from tests.support.training import (
    SMALL,
    pattern,
    write,
)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("path,a\nc0/00.png,x\nc1/00.png,x\n", {"classify": ["a"]}, "only 'x': two classes"),
        ("path,a\nc0/00.png,\nc1/00.png,nan\n", {"classify": ["a"]}, "has no value"),
        ("path,a\nc0/00.png,\nc1/00.png,NaN\n", {"regress": ["a"]}, "has no value"),
        ("path,a\nc0/00.png,3\nc1/00.png,3\n", {"regress": ["a"]}, "only the value 3"),
        ("path,a\nc0/00.png,3\nc1/00.png,old\n", {"regress": ["a"]}, "line 3: a is 'old'"),
        ("path,a\nc0/00.png,3\nc1/00.png,inf\n", {"regress": ["a"]}, "not finite"),
        ("path,a\nc0/no.png,3\nc1/no.png,4\n", {"regress": ["a"]}, "none of its files"),
        ("path,a\nc0/00.png,3\nc0/00.png,4\n", {"regress": ["a"]}, "lines 2 and 3"),
        ("what,a\nc0/00.png,3\n", {"regress": ["a"]}, "no column 'path'; it has what, a"),
        ("path,a\nc0/00.png,3\n", {"regress": ["b"]}, "no column 'b'"),
        ("path,a\nc0/00.png,3\n", {}, "name the columns of"),
        ("", {"regress": ["a"]}, "it is empty"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_learnt_from(
    patterns: Path, tmp_path: Path, text: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        train(patterns, tmp_path / "o.safetensors", targets=write(tmp_path, text), **options)
    assert not (tmp_path / "o.safetensors").exists()


def test_rows_of_absent_files_are_named_and_left_out(patterns: Path, tmp_path: Path) -> None:
    said: list[str] = []
    text = "path,a\nc0/00.png,x\nc1/00.png,y\nc9/no.png,z\n"
    labels = read_labels(patterns, write(tmp_path, text), ["a"], [], said.append)
    assert [ref.key for ref in labels.refs] == ["c0/00.png", "c1/00.png"]
    assert labels.targets[0].classes == ("x", "y")
    assert "c9/no.png (line 4)" in said[0] and "46 pictures have no row" in said[1]


@pytest.mark.parametrize("how", ["one class", "no class", "no picture", "no folder"])
def test_folders_that_cannot_be_learnt_from(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "photos"
    if how != "no folder":
        folder.mkdir()
    for seed in range(3):
        if how == "one class":
            pattern(folder / "a" / f"{seed}.png", 0, seed)
        elif how == "no class":
            pattern(folder / f"{seed}.png", 0, seed)
    words = {"one class": "only 'a': two classes", "no folder": "is not a folder"}
    with pytest.raises(UsageError, match=words.get(how, "one folder per class is needed")):
        train(folder, tmp_path / "o.safetensors", **SMALL)


def test_classes_called_none_are_classes(patterns: Path, tmp_path: Path) -> None:
    """In a table an empty cell may be spelt `none`; a folder's name means what it says."""
    for name, kind in (("none", "c0"), ("nan", "c1")):
        shutil.copytree(patterns / kind, tmp_path / name)
    labels = read_labels(tmp_path, None, [], [], print)
    assert labels.targets[0].classes == ("nan", "none") and labels.targets[0].known.all()


def test_tables_as_spreadsheets_write_them(patterns: Path, tmp_path: Path) -> None:
    """With a byte order mark, quoted cells, spaces, carriage returns, and an empty last line."""
    text = '\ufeffpath,a,b\r\n"c0/00.png", x ,1\r\nc1/00.png,y,\r\n\r\n'
    (tmp_path / "t.csv").write_bytes(text.encode())
    labels = read_labels(patterns, tmp_path / "t.csv", ["a"], [], lambda _: None)
    assert labels.targets[0].classes == ("x", "y") and len(labels.refs) == 2


def test_too_few_to_judge_is_said_before_the_work(tmp_path: Path) -> None:
    for kind in range(3):
        for seed in range(2):
            pattern(tmp_path / "photos" / f"c{kind}" / f"{seed}.png", kind, seed)
    with pytest.raises(UsageError, match="no class has two pictures held out"):
        train(tmp_path / "photos", tmp_path / "o.safetensors", **SMALL)
    for kind in range(3):
        for seed in range(2, 6):
            pattern(tmp_path / "photos" / f"c{kind}" / f"{seed}.png", kind, seed)
    said: list[str] = []
    with contextlib.suppress(TrainingFailed):
        session = Session(notice=said.append)
        train(tmp_path / "photos", tmp_path / "o.safetensors", epochs=1, session=session, **SMALL)
    assert any("12 pictures to learn from, 6 held out" in line for line in said)


def test_a_class_of_one_is_learnt_and_not_held_out() -> None:
    target = LabelColumn("t", np.array([0] * 10 + [1] + [2] * 2), ("a", "b", "c"))
    refs = tuple(range(13))
    train_places, held = Labels("", refs, (target,)).split(0.2, seed=0)  # type: ignore[arg-type]
    assert np.bincount(target.values[train_places]).tolist() == [8, 1, 1]
    assert np.bincount(target.values[held], minlength=3).tolist() == [2, 0, 1]
    assert sorted([*train_places, *held]) == list(range(13))


def test_numbers_are_held_out_or_it_is_said_at_once(patterns: Path, tmp_path: Path) -> None:
    patterns = Path(shutil.copytree(patterns, tmp_path / "patterns"))  # some are spoilt below
    paths = [str(path.relative_to(patterns)) for path in sorted(patterns.rglob("*.png"))]
    few = "\n".join(["path,age", *(f"{p},{i if i < 4 else ''}" for i, p in enumerate(paths))])
    labels = read_labels(patterns, write(tmp_path, few), [], ["age"], print)
    for seed in range(8):  # in any split there are numbers on both sides
        parts = [labels.keep(places).targets[0].known.sum() for places in labels.split(0.2, seed)]
        assert parts == [2, 2]
    _, held = labels.split(0.2, 0)
    for place in held[labels.targets[0].known[held]]:
        (patterns / labels.refs[place].key).write_bytes(b"no picture")
    with pytest.raises(UsageError, match="no picture held out has a number to judge by"):
        train(
            patterns,
            tmp_path / "o.safetensors",
            targets=tmp_path / "t.csv",
            regress=["age"],
            epochs=1,
            holdout=0.2,
            **SMALL,
        )
