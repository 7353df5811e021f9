"""Labels of images; in: a folder and perhaps a CSV, out: Labels.

Without a CSV an image's class is the first folder of its key. With one, each target is a column:
classes, or numbers to regress.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import UsageError
from embedsearch.core.paths import local_path, printable
from embedsearch.core.records import ImageRef
from embedsearch.images.sources.folder import FolderScan
from embedsearch.images.tables.column_names import column_called, naming_column
from embedsearch.images.tables.csv_table import check_text, open_csv

FOLDER_TARGET = "folder"
MISSING_CLASS = -1  # a missing number is NaN
_NAMED = 3  # examples in a message
_PATHS = {"path", "query", "relevant"}  # columns of names of files, whatever bytes these have
_EMPTY = {"", "nan", "na", "null", "none"}


@dataclass(frozen=True)
class LabelColumn:
    """One column: `values` int64 (N,) classes, -1 where missing, or float32 (N,), NaN there."""

    name: str
    values: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    classes: tuple[str, ...]  # empty for numbers

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Return bool (N,): where there is a value."""
        if self.classes:
            return np.asarray(self.values != MISSING_CLASS)
        return np.asarray(~np.isnan(self.values))


@dataclass(frozen=True)
class Labels:
    """Images of a folder with their targets. Retrieval uses the first target of classes."""

    folder: str
    refs: tuple[ImageRef, ...]
    targets: tuple[LabelColumn, ...]

    def keep(self, indices: npt.NDArray[np.int64]) -> Labels:
        """Return only the images at `indices`."""
        targets = tuple(replace(t, values=t.values[indices]) for t in self.targets)
        return Labels(self.folder, tuple(self.refs[i] for i in indices), targets)

    def split(
        self, holdout: float, seed: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return indices to train on and indices held out, a share of each class.

        Without classes the groups are images with a number and those without. A class of one image
        is trained on. Of four or more, at least two are held out: one alone has none to find.
        """
        rng = np.random.default_rng(seed)
        main = main_of(self.targets)
        groups = self.targets[0].known.astype(np.int64) if main is None else main.values
        train, held = [], []
        for group in np.unique(groups):
            members = rng.permutation(np.flatnonzero(groups == group))
            least = 2 if len(members) >= 4 else 1
            count = min(max(least, round(len(members) * holdout)), len(members) - 1)
            held.append(members[:count])
            train.append(members[count:])
        return np.sort(np.concatenate(train)), np.sort(np.concatenate(held))


def main_of(targets: Sequence[LabelColumn]) -> LabelColumn | None:
    """Return the first target of classes: it decides which neighbors are right."""
    return next((target for target in targets if target.classes), None)


def scale_of(target: LabelColumn) -> tuple[float, float]:
    """Return mean and deviation of a target's known numbers."""
    known = target.values[target.known]
    return float(known.mean()), max(float(known.std()), 1e-12)


def standardized(target: LabelColumn) -> LabelColumn:
    """Return a target of numbers with mean 0 and deviation 1; classes as they are."""
    if target.classes:
        return target
    mean, deviation = scale_of(target)
    return replace(target, values=((target.values - mean) / deviation).astype(np.float32))


def check_learnable(targets: Sequence[LabelColumn]) -> None:
    """Raise UsageError for a training target with fewer than two different values."""
    for target in targets:
        if len(np.unique(target.values[target.known])) < 2:
            raise UsageError(
                f"target {target.name!r} has fewer than two different values among the pictures "
                "to learn from"
            )


def read_labels(
    folder: str | Path,
    targets: str | Path | None,
    classify: Sequence[str],
    regress: Sequence[str],
    notice: Callable[[str], None],
) -> Labels:
    """Return the labeled pictures of a folder. Raises UsageError."""
    root = os.path.realpath(local_path(folder))
    if not os.path.isdir(root):
        raise UsageError(f"{folder} is not a folder")
    scan = FolderScan(0, root)
    refs = tuple(scan)
    for failure in scan.failures:
        notice(f"left out: the folder {printable(failure.key or root)}: {failure.reason}")
    columns = [*classify, *regress]
    if len(set(columns)) < len(columns):
        raise UsageError(f"a column is named twice: {', '.join(sorted(columns))}")
    if targets is None:
        if classify or regress:
            raise UsageError(
                "classify and regress name columns of a CSV file: give it as targets",
                "classify",
                "regress",
            )
        return _from_folders(root, refs, notice)
    if not classify and not regress:
        raise UsageError(
            f"name the columns of {targets} to learn, in classify or regress", "classify", "regress"
        )
    return _from_csv(root, refs, Path(local_path(targets)), classify, regress, notice)


def _from_folders(root: str, refs: Sequence[ImageRef], notice: Callable[[str], None]) -> Labels:
    labeled = [ref for ref in refs if "/" in ref.key]
    if len(labeled) < len(refs):
        notice(f"{len(refs) - len(labeled)} pictures are not in a class folder and are left out")
    if not labeled:
        raise UsageError(f"{root} holds no pictures in folders: one folder per class is needed")
    names: list[str | None] = [ref.key.partition("/")[0] for ref in labeled]
    return Labels(root, tuple(labeled), (_classes(FOLDER_TARGET, names),))


def _from_csv(
    root: str,
    refs: Sequence[ImageRef],
    path: Path,
    classify: Sequence[str],
    regress: Sequence[str],
    notice: Callable[[str], None],
) -> Labels:
    rows = read_rows(path, ["path", *classify, *regress])
    known = {ref.key: ref for ref in refs}
    found = [(line, row) for line, row in rows if row["path"] in known]
    absent = [
        f"{printable(row['path'])} (line {line})" for line, row in rows if row["path"] not in known
    ]
    if absent:
        shown = ", ".join(absent[:_NAMED])
        if not found:
            raise UsageError(f"{path}: none of its files is in {root}, such as {shown}")
        notice(f"{len(absent)} rows of {path} name files that are not in {root}: {shown}")
    seen: dict[str, int] = {}
    for line, row in found:
        if row["path"] in seen:
            name, first = printable(row["path"]), seen[row["path"]]
            raise UsageError(f"{path}: {name} stands in lines {first} and {line}")
        seen[row["path"]] = line
    if len(found) < len(refs):
        notice(f"{len(refs) - len(found)} pictures have no row in {path} and are left out")
    found.sort(key=lambda item: os.fsencode(item[1]["path"]))
    columns: list[LabelColumn] = []
    for name in classify:
        cells = [row[name].strip() for _, row in found]
        columns.append(_classes(name, [None if c.lower() in _EMPTY else c for c in cells]))
    columns += [_numbers(name, [(n, row[name]) for n, row in found], path) for name in regress]
    return Labels(root, tuple(known[row["path"]] for _, row in found), tuple(columns))


def read_rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return line numbers, and cells by column. Bytes of a path that are not UTF-8 stay.

    Raises UsageError where the file cannot be read or lacks a column.
    """
    try:
        with open_csv(path, lambda header: None not in _found(columns, header)) as table:
            found = _found(columns, table.columns)
            for name, known in zip(columns, found, strict=True):
                if known is None:
                    has = f"it has {', '.join(table.columns)}"
                    raise UsageError(f"{path} has no column {name!r}; {has}")
            places = [table.columns.index(name) for name in found if name is not None]
            rows = []
            for line, cells in table.rows:
                row = {name: cells[at] for name, at in zip(columns, places, strict=True)}
                for name, cell in row.items():
                    if name not in _PATHS:
                        check_text(line, name, cell)
                rows.append((line, row))
            return rows
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _found(columns: Sequence[str], header: Sequence[str]) -> list[str | None]:
    """Return the column of the header for each that is wanted."""
    return [
        naming_column(header) if name == "path" else column_called(name, header) for name in columns
    ]


def _classes(name: str, names: Sequence[str | None]) -> LabelColumn:
    """Return a target of classes; None stands for a missing value."""
    known = sorted({word for word in names if word is not None})
    if len(known) < 2:
        held = f"only {known[0]!r}" if known else "no value"
        raise UsageError(f"target {name!r} has {held}: two classes at least are needed")
    numbers: dict[str | None, int] = {word: number for number, word in enumerate(known)}
    values = np.array([numbers.get(word, MISSING_CLASS) for word in names], dtype=np.int64)
    return LabelColumn(name, values, tuple(known))


def _numbers(name: str, cells: Sequence[tuple[int, str]], path: Path) -> LabelColumn:
    values = np.full(len(cells), np.nan, dtype=np.float32)
    for index, (line, cell) in enumerate(cells):
        if cell.strip().lower() in _EMPTY:
            continue
        held = f"{path}, line {line}: {name} is {cell!r}"
        try:
            values[index] = float(cell)
        except ValueError:
            raise UsageError(f"{held}, which is not a number") from None
        if not math.isfinite(values[index]):
            raise UsageError(f"{held}, which is not finite")
    known = values[~np.isnan(values)]
    if len(known) < 2 or known.min() == known.max():
        held = "no value" if not len(known) else f"only the value {known[0]:g}"
        raise UsageError(f"target {name!r} has {held}: there is nothing to learn from it")
    return LabelColumn(name, values, ())
