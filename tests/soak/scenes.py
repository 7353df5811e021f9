"""Runs to be broken into: what lies there before, what the run is to do, what must be there after.

In: a folder to build in; out: a `Scene`, whose `work` runs in a child.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.exchange.import_vectors import import_vectors
from embedsearch.indexing import sync  # loaded here, so that no fault hits an import
from embedsearch.indexing.repair import repair
from embedsearch.store.manifest import Manifest
from embedsearch.store.writer import StoreWriter
from tests.soak import mutants
from tests.soak.forge import Report, forked
from tests.soak.witness import Account, examine
from tests.support.extractor import CountingExtractor
from tests.support.library import paint

IMAGES = 60
CHECKPOINT = 20
Work = Callable[[Path], object]


@dataclass(frozen=True)
class Scene:
    """A run on copies of `base`; `final` is what a run without faults makes of it."""

    name: str
    base: Path | None  # a store, None where there is none before
    work: Work
    before: Account | None
    final: Account
    vectors: dict[bytes, bytes] = field(repr=False)  # of every picture in play, by digest
    without_cache: bool = False  # FAISS files are missing before

    def copy(self, store: Path) -> Path:
        """Lay the store as it was before at `store`."""
        shutil.rmtree(store, ignore_errors=True)
        if self.base is not None:
            shutil.copytree(self.base, store)
        return store

    def run(self, store: Path, mutant: str | None, report: Report) -> None:
        """In a child: do the work, and report each generation once it is acknowledged."""
        commit = StoreWriter.commit

        def acknowledged(writer: StoreWriter, manifest: Manifest) -> None:
            commit(writer, manifest)
            assert writer.manifest is not None, "it was committed"
            report((writer.manifest.generation, writer.manifest.live))

        mutants.put("embedsearch.store.writer.StoreWriter.commit", acknowledged)
        mutants.apply(mutant)
        self.work(store)

    def judge(self, account: Account | None, acknowledged: list[tuple[int, int]]) -> str | None:
        """Return the promise that a store breaks after a run that was cut short, None if none.

        `acknowledged` holds (generation, rows) of each commit that the run was told of.
        """
        last, live = acknowledged[-1] if acknowledged else (0, 0)
        if account is None:
            if acknowledged or self.before is not None:
                return f"nothing is left of generation {last}"
            return None
        if self.before is not None and account.generation < self.before.generation:
            return f"it went back to generation {account.generation}"
        if account.generation < last:
            return f"generation {last} was acknowledged, {account.generation} is there"
        if account.generation == last and len(account.rows) != live:
            return f"{live} rows were acknowledged, {len(account.rows)} are there"
        before = {} if self.before is None else self.before.rows
        if self.before is not None and account.generation == self.before.generation:
            if (account.rows, account.files) != (before, self.before.files):
                return "the generation from before was changed"
            return None
        for name, row in account.rows.items():
            if row not in (before.get(name), self.final.rows.get(name)):
                return f"{name} has a row that is neither the old nor the new one"
            if self.vectors and self.vectors[row.digest] != row.vector:
                return f"{name} has the vector of another picture"
        for name, row in before.items():
            is_failed = name[1] in account.failed  # it will be tried again
            if self.final.rows.get(name) == row and name not in account.rows and not is_failed:
                return f"the row of {name} was lost"
        return self._judge_columns(account)

    def _judge_columns(self, account: Account) -> str | None:
        """Return which columns are neither all as before nor all as in the end, None if none are.

        What moved or came has its columns of the end, or those that it had elsewhere.
        """
        before = {} if self.before is None else self.before.columns
        there = {} if self.before is None else self.before.rows
        stay = [name for name in account.rows if name in there and name in self.final.rows]
        is_all = all(account.columns.get(n) == self.final.columns.get(n) for n in account.rows)
        lost = [name for name in stay if account.columns.get(name) != before.get(name)]
        return f"the columns of {lost[0]} are lost, or in part" if lost and not is_all else None

    def judge_final(self, account: Account | None) -> str | None:
        """Return what is wrong after the same command was run again to its end, None if nothing."""
        if account is None or account.rows != self.final.rows:
            count = 0 if account is None else len(account.rows)
            return f"run again, it ends with {count} rows, not the {len(self.final.rows)} it should"
        if (account.failed, account.columns) != (self.final.failed, self.final.columns):
            return "run again, its failures or columns are other ones"
        return None


def extractor_of(
    spec: ModelSpec, device: str, precision: str, session: Session
) -> CountingExtractor:
    """Return the stand-in for the network, which is not the subject here."""
    return CountingExtractor(spec.dim)


def indexing(*folders: Path, **options: Any) -> Work:
    """Return work that indexes folders with the stand-in."""
    settings: dict[str, Any] = {
        "workers": 1,
        "checkpoint_images": CHECKPOINT,
        "extractor_factory": extractor_of,
        **options,
    }

    def work(store: Path) -> object:
        model: dict[str, Any] = {} if (store / "CURRENT").exists() else {"model": "packaged"}
        return sync.index(folders, store=store, **model, **settings)

    return work


def _scene(
    name: str,
    base: Path | None,
    work: Work,
    at: Path,
    *,
    without_cache: bool = False,
) -> Scene:
    """Run without faults once, to know what comes out."""
    if base is not None:
        shutil.copytree(base, at)
    before = None if base is None else _examined(base, without_cache=without_cache)
    final = finished(work, at)
    rows = [*final.rows.values(), *({} if before is None else before.rows).values()]
    by_digest = {row.digest: row.vector for row in rows if row.digest != bytes(32)}
    return Scene(name, base, work, before, final, by_digest, without_cache)


def finished(work: Work, store: Path) -> Account:
    """Do work to its end, and return the account of what it made."""
    forked(lambda report: work(store)).result()
    account = _examined(store)
    assert account is not None, "it was run to its end"
    return account


def _examined(store: Path, *, without_cache: bool = False) -> Account | None:
    account: Account | None = forked(
        lambda report: examine(store, without_cache=without_cache)
    ).result()
    return account


def all_scenes(at: Path, names: tuple[str, ...] = ()) -> list[Scene]:
    """Build the scenes of these names below a folder, all of them where none is named."""
    photos = _photos(at / "photos", range(IMAGES))
    whole = at / "whole.es"
    finished(indexing(photos), whole)
    captioned = at / "captioned.es"
    shutil.copytree(whole, captioned)
    finished(indexing(photos, metadata=_table(at / "captions.csv", photos, "caption")), captioned)
    later = _changed(photos, at / "later")
    table = _table(at / "labels.csv", later, "label")
    first, second = _vectors(at / "first", 0), _vectors(at / "second", 20)
    imported = at / "imported.es"
    finished(_importing(first), imported)
    sync = indexing(photos, checkpoint_images=6, ann="IVF4,SQ8")
    # Roots are known by their paths, so the changed folder takes the place of the first one.
    shutil.rmtree(photos)
    later.rename(photos)
    damaged = at / "damaged.es"
    shutil.copytree(whole, damaged)
    for path in damaged.glob("ann/*"):
        path.unlink()
    made = {
        "first": (None, indexing(photos)),
        "sync": (whole, sync),
        "rebuild": (captioned, indexing(photos, rebuild=True)),
        "columns": (captioned, indexing(photos, metadata=table)),
        "import": (imported, _importing(second)),
        "repair": (damaged, repair),
    }
    return [
        _scene(name, base, work, at / f"{name}.es", without_cache=name == "repair")
        for name, (base, work) in made.items()
        if name in (names or made)
    ]


def _table(path: Path, photos: Path, column: str) -> str:
    """Write a table with a value for each of the photos."""
    names = sorted(path.name for path in photos.rglob("*.png"))
    lines = [f"{name},{column} of {name}" for name in names]
    path.write_text(f"name,{column}\n" + "\n".join(lines) + "\n")
    return str(path)


def _photos(folder: Path, seeds: range) -> Path:
    for seed in seeds:
        path = paint(folder / f"{seed % 3}" / f"{seed:03d}.png", seed)
        os.utime(path, ns=(10**18 + seed, 10**18 + seed))
    for number in range(2):
        (folder / f"bad{number}.jpg").write_bytes(b"no picture")
    return folder


def _changed(folder: Path, later: Path) -> Path:
    """Copy a folder and let files come, change, move, be touched, and go."""
    shutil.copytree(folder, later)
    files = sorted(later.rglob("*.png"))
    for seed, path in enumerate(files[:5], start=500):
        os.utime(paint(path, seed), ns=(10**18 + seed, 10**18 + seed))
    for path in files[5:10]:
        path.unlink()
    for path in files[10:13]:
        path.rename(path.with_name(f"moved_{path.name}"))
    for path in files[13:16]:
        os.utime(path, ns=(2 * 10**18, 2 * 10**18))
    for seed in range(600, 610):
        paint(later / "new" / f"{seed}.png", seed)
    return later


def _vectors(folder: Path, start: int) -> Path:
    """Write 40 vectors, their paths and a column; those of two calls overlap."""
    folder.mkdir()
    rows = np.random.default_rng(start).standard_normal((40, 512)).astype(np.float32)
    np.save(folder / "v.npy", rows)
    names = [f"{number}.jpg" for number in range(start, start + 40)]
    lines = [f"{name},{folder.name} {name}" for name in names]
    (folder / "paths.csv").write_text("path,caption\n" + "\n".join(lines) + "\n")
    return folder


def _importing(folder: Path) -> Work:
    def work(store: Path) -> object:
        paths = folder / "paths.csv"
        return import_vectors(
            folder / "v.npy", model="elsewhere", paths=paths, root=folder.parent, store=store
        )

    return work
