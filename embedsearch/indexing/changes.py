"""What changed since the last generation; in: a Scope and a snapshot or none, out: `Changes`.

Files and known rows both come sorted by key and are merged as streams; unchanged files are only
counted.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedsearch.core.errors import UsageError
from embedsearch.core.records import Failure, ImageRef, Reason, Root, RootKind, Stage
from embedsearch.core.session import Session
from embedsearch.core.walks import Ignored
from embedsearch.images.sources.links import is_behind_link
from embedsearch.images.sources.source import Source
from embedsearch.indexing.known_rows import KeptRow, KnownRows
from embedsearch.indexing.ref_list import RefList
from embedsearch.indexing.same_files import SameFiles, reached, vanished
from embedsearch.indexing.scanned_target import ScannedTarget
from embedsearch.indexing.scope import ScanTarget, Scope, Sources
from embedsearch.store.snapshot import Snapshot, read_failures


@dataclass(frozen=True)
class Changes:
    """What to do, and what the scan counted; `found` is the sum of the five kinds of images."""

    embed: RefList
    replaced: dict[tuple[int, str], int]  # (root, key) of a changed file to its old row
    moved: list[KeptRow]
    touched: list[KeptRow]  # new time, same bytes
    doubles: list[tuple[int, int]]  # rows of files that have another one, which stays
    deleted: array[int]  # row numbers
    left_out: int  # of the deleted: files that patterns leave out
    behind_links: int  # of the deleted: files behind links that are not followed
    failures: list[Failure]  # known ones that still hold, and folders that cannot be read
    failures_elsewhere: int  # how many of these lie outside the scope of this run
    known_failed: int
    unchanged: int
    found: int
    scan_failures: int
    ignored: Ignored

    @property
    def kept(self) -> list[KeptRow]:
        """Return the rows that keep their vector under a new ref."""
        return [*self.moved, *self.touched]


def find_changes(
    snapshot: Snapshot | None,
    scope: Scope,
    sources: Sources,
    session: Session,
    *,
    known_roots: frozenset[int] = frozenset(),
    rebuild: bool = False,
    retry_failures: bool = False,
    allow_empty: bool = False,
) -> Changes:
    """Scan the targets and compare them with the snapshot; a rebuild has none.

    `known_roots` are the ids of the store's roots. An image of a root that vanished, even of one
    that is no target, or one behind a link into a new root, is moved if a target has a new file of
    the same bytes. Raises UsageError for a target that vanished or holds no image any more, and
    whose images are nowhere else, unless `allow_empty`: an unplugged disk must not empty the store.
    """
    known = KnownRows(snapshot)
    recorded = [] if snapshot is None else read_failures(snapshot.store, snapshot.manifest)
    roots = {} if snapshot is None else {root.id: root for root in snapshot.manifest.roots}
    same = SameFiles.of(known, roots, scope, sources.rules)
    comparison = _Comparison(
        known, recorded, sources, session, known_roots, rebuild, retry_failures, allow_empty, same
    )
    scans = [comparison.scan(target) for target in scope.targets]
    embed = RefList()
    touched, replaced = comparison.match_changed(embed)
    missing, spare = comparison.left(scope, scans)
    moved, unmatched = comparison.match_new([*missing, *spare], embed, replaced)
    for scan in scans:
        scan.check(unmatched, session)
    elsewhere = [failure for failure in recorded if _is_elsewhere(failure, scope)]
    row_of = comparison.row
    deleted = array("q", map(row_of, sorted(unmatched.difference(spare))))
    return Changes(
        embed=embed,
        replaced=replaced,
        moved=moved,
        touched=touched,
        doubles=[(row_of(old), row_of(stays)) for old, stays in same.doubles],
        deleted=deleted,
        left_out=len(comparison.left_out.intersection(deleted)),
        behind_links=len(comparison.behind_links.intersection(deleted)),
        failures=[*(failure for scan in scans for failure in scan.failures), *elsewhere],
        failures_elsewhere=len(elsewhere),
        known_failed=sum(scan.known_failed for scan in scans),
        unchanged=sum(scan.unchanged for scan in scans) + len(touched),
        found=sum(scan.found for scan in scans),
        scan_failures=sum(scan.scan_failures for scan in scans),
        ignored=sum((scan.ignored for scan in scans), Ignored()),
    )


@dataclass(frozen=True)
class _Comparison:
    """What every step of a comparison reads, and the refs that all targets add to.

    There are three lists whatever the number of targets: each keeps up to a megabyte in memory.
    """

    known: KnownRows
    recorded: list[Failure]
    sources: Sources
    session: Session
    known_roots: frozenset[int]
    rebuild: bool
    retry_failures: bool
    allow_empty: bool
    same: SameFiles
    new: RefList = field(default_factory=RefList)
    changed: RefList = field(default_factory=RefList)
    left_out: set[int] = field(default_factory=set)  # rows below what patterns leave out
    behind_links: set[int] = field(default_factory=set)  # rows behind links that are not followed
    changed_positions: array[int] = field(default_factory=lambda: array("q"))  # of the known rows

    @cached_property
    def _known_failures(self) -> dict[tuple[int, str], Failure]:
        return {(f.root, f.key): f for f in self.recorded if f.stage is not Stage.SCAN}

    def scan(self, target: ScanTarget) -> ScannedTarget:
        """Compare one target with its known rows. Raises UsageError for a new one not there."""
        positions = self.known.below(target)
        if target.root.kind is RootKind.LIST and self.same.listed:
            positions = positions[~np.isin(positions, list(self.same.listed))]
        source = self.sources.open(target, partial(self.known.names, positions))
        if not source.is_there():
            if target.root.id not in self.known_roots:
                raise UsageError(f"{target.root.path} does not exist")
            rows = positions.tolist()
            problem = self._problem("has vanished", rows)
            return ScannedTarget(target, [], [], rows, problem)
        if not (self.rebuild or self.retry_failures) and self._is_synced(target.root, source):
            return self._unread(target, len(positions))
        scan = self._compare(target, source, positions)
        is_whole = target.files is None
        if is_whole and target.root.kind is not RootKind.LIST:
            self._say_why(target.root, scan.missing)
        if is_whole and not scan.found:
            problem = self._problem("holds no image any more", scan.missing)
            scan = replace(scan, missing=[], vanished=scan.missing, problem=problem)
        return scan

    def _say_why(self, root: Root, missing: list[int]) -> None:
        """Note the missing rows whose files the rules of the walk leave out."""
        rules, folder = self.sources.rules, Path(root.path)
        follows = rules.follow_links or not root.is_folder_here
        for position in missing:
            key, row = os.fsdecode(self._key(position)), self.row(position)
            if rules.exclusion.covers(key):
                self.left_out.add(row)
            elif not follows and is_behind_link(folder, key):
                self.behind_links.add(row)

    def row(self, position: int) -> int:
        """Return its number."""
        return int(self.known.value("row", position))

    def left(self, scope: Scope, scans: Iterable[ScannedTarget]) -> tuple[list[int], list[int]]:
        """Return the rows that no scan has met: those that are gone, and those elsewhere."""
        same, known = self.same, self.known
        lost = same.lost(self.met(same.claims), {root.id: root for root in scope.roots})
        behind = reached(known, self.known_roots, scope, self.new)
        same.claims.update((place, behind[place]) for place in self.met(behind))
        claimed = {*same.claims.values(), *(position for position, _ in same.doubles)}
        missing = [position for scan in scans for position in (*scan.missing, *scan.vanished)]
        missing += (p for p in known.of_roots(scope.dropped) if p not in claimed)
        spare = [*known.of_roots(vanished(scope)), *behind.values()]
        return [*missing, *lost], [position for position in spare if position not in claimed]

    def met(self, places: Collection[tuple[int, str]]) -> set[tuple[int, str]]:
        """Return the places, as root and key, at which a new file was found."""
        new = self.new if places else ()
        return {place for ref in new if (place := (ref.root, ref.key)) in places}

    def _key(self, position: int) -> bytes:
        return bytes(self.known.value("key", position))

    def _problem(self, words: str, rows: list[int]) -> str:
        """Return the words if a run must not go on without rows, "" if it may."""
        return words if (rows or self.rebuild) and not self.allow_empty else ""

    def _is_synced(self, root: Root, source: Source) -> bool:
        """Return whether an archive is the version that was last read completely."""
        if not root.synced or root.synced != self.sources.version(source):
            return False
        of_root = (f for f in self._known_failures.values() if f.root == root.id)
        return not any(failure.reason.is_passing for failure in of_root)

    def _unread(self, target: ScanTarget, rows: int) -> ScannedTarget:
        """Return what is known of an archive that did not change."""
        root = target.root
        failures = [failure for failure in self.recorded if failure.root == root.id]
        failed = sum(failure.stage is not Stage.SCAN for failure in failures)
        return ScannedTarget(
            target,
            [],
            failures,
            known_failed=failed,
            unchanged=rows,
            found=rows + failed,
            scan_failures=len(failures) - failed,
        )

    def _compare(
        self, target: ScanTarget, source: Source, positions: npt.NDArray[np.int64]
    ) -> ScannedTarget:
        missing: list[int] = []
        failures: list[Failure] = []
        found = unchanged = 0
        for ref, position in self._merge(source, positions, missing):
            found += 1
            if position is None:
                failure = self._known_failures.get((ref.root, ref.key))
                if failure and not self.retry_failures and _still_holds(failure, ref):
                    failures.append(failure)
                else:
                    self.new.append(ref)
            elif self.known.is_same(position, ref):
                unchanged += 1
            else:
                self.changed.append(ref)
                self.changed_positions.append(position)
        missing, of_scan = self._readable(missing, source)
        return ScannedTarget(
            target=target,
            missing=missing,
            failures=[*failures, *of_scan],
            known_failed=len(failures),
            unchanged=unchanged,
            found=found,
            scan_failures=len(of_scan),
            ignored=source.ignored,
        )

    def _merge(
        self, source: Source, positions: npt.NDArray[np.int64], missing: list[int]
    ) -> Iterator[tuple[ImageRef, int | None]]:
        """Yield every scanned ref with the position of its known row, None for a new one.

        Known rows that the scan does not find are appended to `missing`.
        """
        rows = self.known.keys(positions)
        key, position = next(rows, (None, -1))
        for count, ref in enumerate(source):
            if count % 1024 == 0:
                self.session.at(f"scanning: {count:,} images so far")
            scanned = os.fsencode(ref.key)
            while key is not None and key < scanned:
                missing.append(position)
                key, position = next(rows, (None, -1))
            if key == scanned:
                yield ref, position
                key, position = next(rows, (None, -1))
            else:
                yield ref, None
        while key is not None:
            missing.append(position)
            key, position = next(rows, (None, -1))

    def _readable(self, missing: list[int], source: Source) -> tuple[list[int], list[Failure]]:
        """Return the missing rows without those of what could not be read, and the failures.

        An unplugged disk must not empty a list, or a folder behind a link, nor a missing library
        delete the rows of its files, unless `allow_empty`.
        """
        failures = list(source.failures)
        if not (failures or source.hollow or source.unreachable):
            return missing, failures
        there = {os.fsencode(f.key) for f in failures if f.reason is not Reason.VANISHED}
        below = {os.fsencode(f.key) for f in failures}
        hollow: dict[bytes, Failure] = {}
        if self.allow_empty:
            below &= there
        else:
            there = there.union(map(os.fsencode, source.unreachable))
            hollow = {os.fsencode(key): failure for key, failure in source.hollow.items()}
        gone: list[int] = []
        held: set[bytes] = set()
        for position in missing:
            key = self._key(position)
            above = {b"", *(key[:end] for end, byte in enumerate(key) if byte == ord("/"))}
            reached = hollow.keys() & (above | ({key} & there))
            held |= reached
            if not (reached or key in there or below & above):
                gone.append(position)
        return gone, [*failures, *(hollow[key] for key in sorted(held))]

    def match_changed(self, embed: RefList) -> tuple[list[KeptRow], dict[tuple[int, str], int]]:
        """Return rows whose file has the same bytes, and the old rows of files to re-embed."""
        touched: list[KeptRow] = []
        replaced: dict[tuple[int, str], int] = {}
        for ref, position in zip(self.changed, self.changed_positions, strict=True):
            self.session.check()
            if self._has_bytes(ref, position):
                touched.append(self.known.keep(position, ref))
            else:
                embed.append(ref)
                replaced[ref.root, ref.key] = self.row(position)
        return touched, replaced

    def match_new(
        self, missing: list[int], embed: RefList, replaced: dict[tuple[int, str], int]
    ) -> tuple[list[KeptRow], frozenset[int]]:
        """Return moved rows, i.e. new files with the bytes of a missing one, and what is left.

        Of several missing rows of the same bytes the first one moves first. A file that has a row
        under another name keeps that, and is `replaced` if it has other bytes now.
        """
        moved: list[KeptRow] = []
        sizes = {self.known.size(position) for position in missing}  # others are not hashed
        by_digest: dict[bytes | int | None, list[int]] = {}
        for position in reversed(missing):
            by_digest.setdefault(self.known.value("digest", position), []).append(position)
        for ref in self.new:
            self.session.check()
            if (own := self.same.claims.get((ref.root, ref.key))) is not None:
                if self.known.is_same(own, ref) or self._has_bytes(ref, own):
                    moved.append(self.known.keep(own, ref))
                else:
                    embed.append(ref)
                    replaced[ref.root, ref.key] = self.row(own)
                continue
            twins = by_digest.get(self._digest(ref)) if ref.size in sizes else None
            if twins:
                moved.append(self.known.keep(twins.pop(), ref))
            else:
                embed.append(ref)
        return moved, frozenset(p for positions in by_digest.values() for p in positions)

    def _has_bytes(self, ref: ImageRef, position: int) -> bool:
        """Return whether a file has the bytes of a known row."""
        same_size = ref.size == self.known.size(position)
        return same_size and self._digest(ref) == self.known.value("digest", position)

    def _digest(self, ref: ImageRef) -> bytes | None:
        return self.sources.of(ref).digest(ref)


def _still_holds(failure: Failure, ref: ImageRef) -> bool:
    same = (failure.size, failure.mtime_ns) == (ref.size, ref.mtime_ns)
    return same and not failure.reason.is_passing


def _is_elsewhere(failure: Failure, scope: Scope) -> bool:
    """Return whether a recorded failure lies outside the scope of this run."""
    if failure.root not in {root.id for root in scope.roots}:
        return False
    targets = [target for target in scope.targets if target.root.id == failure.root]
    return not any(target.covers(failure.key) for target in targets)
