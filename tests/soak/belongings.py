"""Folders, lists, archives, tables and sidecars against a dictionary, in any order.

In: a seed; out: sequences of steps, after each run of which the store held what the dictionary
says: each image once, with its own captions, through every door.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

import embedsearch
from embedsearch.core.errors import UsageError
from embedsearch.store.check import check_store
from tests.soak import mutants
from tests.soak.finding import Finding, Trial
from tests.soak.machine import run_machine
from tests.support.extractor import counting
from tests.support.library import paint

_SEEDS = 20
_STEPS = 1000
_NAMES = ("a.png", "b.png", "sub/c.png", "sub/ü.png")
_FOLDERS = ("one", "two")
_MEMBERS = ("m.png", "d/n.png")
_TEXTS = ("sea", "wood", 'a "quoted", one', "ünï", "1984", "")


@dataclass
class _Known:
    """What the store should say of an image."""

    content: int
    values: dict[str, Any] = field(default_factory=dict)


class Belongings(RuleBasedStateMachine):
    """Images by path: the number of their content, which no two share unless one is a copy."""

    finding: ClassVar[Finding]
    workshop: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(os.path.realpath(tempfile.mkdtemp(dir=self.workshop)))
        self.store, self.tar = self.base / "s.es", self.base / "c.tar"
        self.clock, self.contents, self.moves = 10**18, 0, 0
        self.there: dict[str, int] = {}  # on the disk, by path
        self.listed: set[str] = set()  # named by a list
        self.known: dict[str, _Known] | None = None  # in the store
        self.members: dict[str, int] = {}
        for folder in _FOLDERS:
            self._paint(self.base / folder / "always.png")
        self.finding.count("sequences")

    def teardown(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.base)

    def _next(self) -> int:
        self.contents += 1
        return self.contents

    def _stamp(self, path: Path) -> None:
        self.clock += 10**9
        os.utime(path, ns=(self.clock, self.clock))

    def _paint(self, path: Path) -> None:
        content = self._next()
        path.parent.mkdir(parents=True, exist_ok=True)
        paint(path, content)
        self._stamp(path)
        self.there[str(path)] = content

    places = st.tuples(st.sampled_from(_FOLDERS), st.sampled_from(_NAMES))

    @rule(place=places)
    def write(self, place: tuple[str, str]) -> None:
        """A file comes or changes."""
        self._paint(self.base / place[0] / place[1])

    @rule(place=places)
    def delete(self, place: tuple[str, str]) -> None:
        """A file goes."""
        path = self.base / place[0] / place[1]
        if self.there.pop(str(path), None) is not None:
            path.unlink()

    @rule(place=places, folder=st.sampled_from(_FOLDERS))
    def move(self, place: tuple[str, str], folder: str) -> None:
        """A file moves to a name that was never used, in the same folder or the other."""
        path = self.base / place[0] / place[1]
        if str(path) in self.there:
            self.moves += 1
            target = self.base / folder / f"moved-{self.moves}.png"
            path.rename(target)
            self.there[str(target)] = self.there.pop(str(path))

    @rule(place=places)
    def copy(self, place: tuple[str, str]) -> None:
        """A copy of a file that stays comes beside it."""
        path = self.base / place[0] / place[1]
        known = (self.known or {}).get(str(path))
        if known is not None and self.there.get(str(path)) == known.content:
            self.moves += 1
            target = self.base / place[0] / f"copy-{self.moves}.png"
            shutil.copy(path, target)
            self._stamp(target)
            self.there[str(target)] = known.content
            self._index()  # while the first one is there: it has the caption

    @rule(name=st.sampled_from(_NAMES))
    def list_one(self, name: str) -> None:
        """A loose file is named by a list, or one that a folder has already."""
        path = self.base / ("loose" if "/" not in name else "one") / name
        if str(path) not in self.there:
            self._paint(path)
        self.listed.add(str(path))
        listing = self.base / "list.txt"
        listing.write_text("".join(f"{each}\n" for each in sorted(self.listed)))
        for gone in self.listed - self.there.keys():
            # The list alone is looked at, so a file that it names and that has moved is deleted
            (self.known or {}).pop(gone, None)
        self._index(files=str(listing))

    @rule(member=st.sampled_from(_MEMBERS), gone=st.booleans())
    def archive(self, member: str, gone: bool) -> None:
        """An archive is written again with another member, or without one."""
        self.members[member] = self._next()
        if gone and len(self.members) > 1:
            del self.members[member]
        for old in [path for path in self.there if path.startswith(f"{self.tar}/")]:
            del self.there[old]
        with tarfile.open(self.tar, "w") as tar:
            for name, content in sorted(self.members.items()):
                data = paint(self.base / "member.png", content).read_bytes()
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(data), 10**9 + content
                tar.addfile(info, io.BytesIO(data))
                self.there[f"{self.tar}/{name}"] = content
        self._stamp(self.tar)
        self._index(folders=[str(self.tar)])

    @rule()
    def index(self) -> None:
        """A run over all that is known."""
        self._index()

    @rule()
    def rebuild(self) -> None:
        """Everything is embedded again."""
        if self.known is not None:
            self._index(rebuild=True)

    @rule(
        chosen=st.lists(st.integers(0, 30), min_size=1, max_size=4, unique=True),
        column=st.sampled_from(["caption", "CAPTION", "note"]),
        text=st.sampled_from(_TEXTS),
    )
    def table(self, chosen: list[int], column: str, text: str) -> None:
        """A table brings texts for some images, and clears no other's."""
        if self.known is None:
            return
        paths = sorted(self.known)
        named = [paths[number] for number in chosen if number < len(paths)]
        named = [path for path in named if self.there.get(path) == self.known[path].content]
        if not named or not text:
            return
        file = self.base / "t.csv"
        with file.open("w", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["path", column, "kind"])
            writer.writerows([path, text, "by table"] for path in named)
        self._index(metadata=str(file))
        for path in named:
            self.known[path].values |= {self._spelled(column): text, "kind": "by table"}
        self._compare()

    def _spelled(self, column: str) -> str:
        """Return how the store writes a column: as the first one that has it did."""
        for known in (self.known or {}).values():
            for name in known.values:
                if name.lower() == column.lower():
                    return name
        return getattr(self, "_first_" + column.lower(), column)

    @rule(place=places, number=st.integers(-(2**40), 2**40))
    def sidecar(self, place: tuple[str, str], number: int) -> None:
        """A file beside an image brings a number; one beside another is none of JSON's."""
        path = self.base / place[0] / place[1]
        if self.known is None or str(path) not in self.there:
            return
        beside = path.with_name(path.name + ".json")
        beside.write_text(json.dumps({"number": number}))
        odd = self.base / "one" / "always.png.json"
        odd.write_text('{"number": ' + "[" * 80 + "]" * 80 + "}")
        self._index(sidecars=True)
        self.known[str(path)].values["number"] = number
        beside.unlink()
        odd.unlink()
        self._compare()

    @rule(values=st.sampled_from(["caption", "kind", "number"]))
    def refused_table(self, values: str) -> None:
        """A table that cannot be held changes nothing."""
        if self.known is None:
            return
        before = (self.store / "CURRENT").read_bytes()
        bad = self.base / "bad.jsonl"
        path = sorted(self.known)[0]
        bad.write_bytes(json.dumps({"path": path, values: "x"}).encode()[:-2] + b'\xff"}\n')
        try:
            embedsearch.index(store=self.store, metadata=str(bad), extractor_factory=counting)
        except UsageError:
            assert (self.store / "CURRENT").read_bytes() == before
        else:
            raise AssertionError("a table that is no UTF-8 was taken")

    def _index(self, folders: list[str] | None = None, **options: Any) -> None:
        self.finding.count("runs")
        roots = folders or []
        if self.known is None:
            roots = [*roots, *(str(self.base / folder) for folder in _FOLDERS)]
            options.pop("rebuild", None)
        if "files" in options and roots:
            embedsearch.index(roots, store=self.store, model="packaged", extractor_factory=counting)
            roots = []
        embedsearch.index(
            roots, store=self.store, model="packaged", extractor_factory=counting,
            allow_empty=True, **options,
        )  # fmt: skip
        if roots or options.get("files"):  # these alone were looked at: now all
            embedsearch.index(store=self.store, extractor_factory=counting, allow_empty=True)
        self._follow()
        if not (options.get("metadata") or options.get("sidecars")):
            self._compare()

    def _follow(self) -> None:
        """Let the dictionary do what a run does."""
        before = self.known or {}
        gone = {known.content: path for path, known in before.items() if path not in self.there}
        after: dict[str, _Known] = {}
        for path, content in self.there.items():
            if not self._is_indexed(path):
                continue
            known = before.get(path) or before.get(gone.get(content, ""))
            values = {} if known is None else dict(known.values)
            after[path] = _Known(content, values)
        self.known = after

    def _is_indexed(self, path: str) -> bool:
        parts = Path(path).relative_to(self.base).parts
        return parts[0] in {*_FOLDERS, self.tar.name} or path in self.listed

    def _compare(self) -> None:
        """Ask through every door, and compare with the dictionary."""
        assert self.known is not None
        wanted = {path: known.values for path, known in self.known.items()}
        with embedsearch.open_store(self.store) as searcher:
            assert len(searcher) == len(wanted), (len(searcher), sorted(wanted))
            found = searcher.images(1000).images
            assert sorted(image.full_path for image in found) == sorted(wanted)
            for image in found:
                has = {name: v for name, v in image.metadata.items() if v is not None}
                assert has == wanted[image.full_path], (
                    image.full_path,
                    has,
                    wanted[image.full_path],
                )
                json.dumps(image.to_dict(), allow_nan=False)
            if any("number" in values for values in wanted.values()):
                matched = searcher.images(1000, where="number is not null").total
                assert matched == sum("number" in values for values in wanted.values())
            path = sorted(wanted)[0]
            hits = searcher.query(embedsearch.Key(path), k=1000)
            assert len({hit.full_path for hit in hits}) == len(wanted), "a file twice"
        table = pq.read_table(self.store / "images.parquet", columns=["folder", "path"])
        names = zip(*(column.to_pylist() for column in table.columns), strict=True)
        exported = {os.path.join(str(folder), str(path)) for folder, path in names}
        assert exported == {*wanted}, (sorted(exported), sorted(wanted))
        if self.finding.figures["runs"] % 20 == 0:
            problems = check_store(self.store, read_data=True)[1]
            assert not problems, problems


def run(trial: Trial, finding: Finding, folder: Path) -> None:
    """Run `share` of the sequences; in short ones the steps are fewer, too."""
    mutants.apply(trial.mutant)
    Belongings.finding, Belongings.workshop = finding, folder
    run_machine(Belongings, trial, finding, _SEEDS, _STEPS if trial.share == 1 else 40)
