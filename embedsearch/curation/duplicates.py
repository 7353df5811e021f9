"""Duplicates; in: a store, out: groups of an image to keep and its copies. Nothing is deleted.

Files of the same bytes are joined. A graph of nearest neighbors gives pairs of similar signatures,
which are joined to groups in which every two are alike. The files of a group are then looked at
closely, each beside the one that would be kept: what shows something else is no copy.
With `similar`, pairs come from embeddings, and what is found are look-alikes, not copies.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias, Unpack

import numpy as np
import numpy.typing as npt

from embedsearch.core.arguments import checked
from embedsearch.core.config import DuplicateConfig
from embedsearch.core.errors import UsageError
from embedsearch.core.options import DuplicateOptions, configured
from embedsearch.core.session import Session
from embedsearch.curation.album import Album
from embedsearch.curation.collection import Collection, Picture
from embedsearch.curation.confirm import Leader, confirmed, how_seen
from embedsearch.curation.copies import (
    SAME_BYTES,
    SAME_FILE,
    SIMILAR,
    Copy,
    DuplicateGroup,
    DuplicateReport,
)
from embedsearch.curation.keep_rule import KeepRule, format_name
from embedsearch.curation.linkage import Members, complete_groups
from embedsearch.curation.similarity import CropData, Similarity, signature_units
from embedsearch.curation.turns import AS_IT_IS, BOTH, FLIPS, ROTATIONS, Turn
from embedsearch.images.close_look import Look, is_same_picture
from embedsearch.store.locate import StorePath, readable_store
from embedsearch.store.snapshot import open_snapshot

_Files: TypeAlias = dict[int, list[Picture]]  # by node
_BUNDLE = 64  # images of small groups that are read together


@checked
def duplicates(
    store: StorePath = None,
    folder: str | os.PathLike[str] | None = None,
    *,
    against: str | os.PathLike[str] | None = None,
    config: DuplicateConfig | None = None,
    session: Session | None = None,
    **options: Unpack[DuplicateOptions],
) -> DuplicateReport:
    """Return the copies among the images of a store, or of a folder of it.

    With `against`, the images of `folder` that are copies of ones in that other folder, each with
    the one there that is most like it, which is kept. `options` are fields of DuplicateConfig.
    The files themselves are read: one that cannot be is listed as "not checked".
    Raises UsageError and the store's errors.
    """
    if against is not None and folder is None:
        raise UsageError("against needs a folder to compare with it", "against")
    config = configured(config or DuplicateConfig(), options)
    if against is not None and (config.crops or config.keep):
        message = "against finds no crops, and keeps what lies there: leave out"
        unused = [name for name in ("crops", "keep") if getattr(config, name)]
        raise UsageError(f"{message} {' and '.join(unused)}", "against", *unused)
    with readable_store(store, session) as path, open_snapshot(path) as snapshot:
        collection = Collection(snapshot, session or Session(), config.where)
        return duplicates_of(
            collection,
            config,
            None if folder is None else os.fspath(folder),
            None if against is None else os.fspath(against),
        )


def duplicates_of(
    collection: Collection,
    config: DuplicateConfig,
    folder: str | None = None,
    against: str | None = None,
) -> DuplicateReport:
    """Return the copies in a collection, as `duplicates` does. Raises UsageError."""
    unmet = _unmet(config.keep, collection)
    with Album(collection.session) as album:
        report = _Search(collection, config, album).run(folder, against)
    if unmet is not None:
        raise UnmetWish(unmet, report)
    return report


class UnmetWish(UsageError):
    """No image meets a wish of what to keep; `report` has the groups as they are without it."""

    def __init__(self, message: str, report: DuplicateReport) -> None:
        super().__init__(message, "keep")
        self.report = report


class _Search:
    """One search for copies."""

    def __init__(self, collection: Collection, config: DuplicateConfig, album: Album) -> None:
        self._collection = collection
        self._config = config
        self._rank = KeepRule(config.keep).rank
        self._album = album
        self._turns: list[Turn] = [AS_IT_IS]
        if config.flips:
            self._turns += FLIPS
        if config.rotations:
            self._turns += ROTATIONS
        if config.flips and config.rotations:
            self._turns += BOTH
        self._unsigned = 0

    def run(self, folder: str | None, against: str | None) -> DuplicateReport:
        """Return what there is."""
        looked_at = np.ones(len(self._collection), np.bool_)
        if folder is not None:
            looked_at = self._collection.inside(folder)
        if against is not None:
            other = self._collection.inside(against) & ~looked_at
            if not other.any():
                raise UsageError(f"all images in {against} are in {folder}, too")
            groups = self._against(np.flatnonzero(looked_at), np.flatnonzero(other))
            count = int(looked_at.sum() + other.sum())
        else:
            groups = self._among(np.flatnonzero(looked_at))
            count = int(looked_at.sum())
        groups.sort(key=lambda group: os.fsencode(group.keep.full_path))
        return DuplicateReport(groups, count, self._unsigned)

    def _among(self, positions: Members) -> list[DuplicateGroup]:
        """Return the groups among some positions."""
        if not len(positions):
            return []
        digests = self._collection.digests()[positions]
        _, first, same = np.unique(digests, return_index=True, return_inverse=True)
        similarity = self._similarity(positions[first])
        pairs, _ = similarity.pairs()
        found = zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
        grouped = complete_groups(found, similarity, similarity.pairs_among)
        by_file = np.argsort(same, kind="stable")  # positions by their bytes
        edges = np.searchsorted(same[by_file], np.arange(len(first) + 1))
        alone = set(range(len(first))) - {node for group in grouped for node in group}
        several = [[node] for node in sorted(alone) if edges[node + 1] - edges[node] > 1]
        members = {
            node: positions[by_file[edges[node] : edges[node + 1]]]
            for nodes in (*grouped, *several)
            for node in nodes
        }
        proposed = (self._files(nodes, members) for nodes in (*grouped, *several))
        groups: list[DuplicateGroup] = []
        compared, to_compare = 0, len(grouped) + len(several)
        for bundle in _bundles(proposed):
            if self._config.similar is None:  # all at once, as workers decode in parallel
                close = (
                    pictures[0] for files in bundle if len(files) > 1 for pictures in files.values()
                )
                deque(self._album.looks(close), maxlen=0)
            for files in bundle:
                self._collection.session.at("comparing closely", compared, to_compare)
                compared += 1
                groups += self._confirmed(files, similarity)
        return groups

    def _files(self, nodes: list[int], members: dict[int, Members]) -> _Files:
        pictures = iter(self._collection.pictures(np.concatenate([members[n] for n in nodes])))
        return {node: [next(pictures) for _ in members[node]] for node in nodes}

    def _confirmed(self, files: _Files, similarity: Similarity) -> list[DuplicateGroup]:
        """Return the groups within a proposed one."""
        if self._config.similar is not None:
            leaders = [self._similar(files, similarity)]
        else:
            ordered = self._ordered(files)
            looks = self._looks(files, ordered)

            def is_same(leader: int, node: int, turn: Turn) -> bool | None:
                return self._is_same(files[leader][0], files[node][0], turn)

            leaders = confirmed(zip(ordered, looks, strict=True), similarity, is_same)
            seen = len(leaders) + sum(len(leader.versions) for leader in leaders)
            if seen < len(files):
                self._collection.session.notice(
                    f"{len(files) - seen:,} images were not compared: too many look like "
                    f"{files[ordered[0]][0].full_path}; a higher threshold makes smaller groups"
                )
        groups = []
        for leader in leaders:
            keep, *same = files[leader.node]
            found = [(picture, SAME_BYTES, 1.0) for picture in same]
            for node, (how, score) in sorted(leader.versions.items()):
                found += [(picture, how, score) for picture in files[node]]
            if found:
                groups.append(_group(keep, found))
        return groups

    def _looks(self, files: _Files, nodes: Iterable[int]) -> Iterator[Look | None]:
        """Yield the looks of nodes; files of the same bytes need none."""
        if len(files) == 1:
            return iter([None])
        return self._album.looks(files[node][0] for node in nodes)

    def _ordered(self, files: _Files) -> list[int]:
        """Return nodes in the order in which they would be kept, and sort the files of each."""
        gray = [look is not None and look.is_gray for look in self._looks(files, files)]
        ranks = {}
        for (node, pictures), is_gray in zip(files.items(), gray, strict=True):
            pictures.sort(key=lambda picture: self._rank(picture, is_gray=is_gray))
            ranks[node] = self._rank(pictures[0], is_gray=is_gray)
        return sorted(files, key=lambda node: ranks[node])

    def _similar(self, files: _Files, similarity: Similarity) -> Leader:
        """Return the leader of a group of look-alikes, which are not looked at closely."""
        for pictures in files.values():
            pictures.sort(key=self._rank)
        nodes = sorted(files, key=lambda node: self._rank(files[node][0]))
        scores, _ = similarity.compared(nodes[0], np.array(nodes))
        versions = {n: (SIMILAR, min(1.0, float(s))) for n, s in zip(nodes, scores, strict=True)}
        return Leader(nodes[0], None, {n: versions[n] for n in nodes[1:]})

    def _against(self, positions: Members, others: Members) -> list[DuplicateGroup]:
        """Return groups of an image at other positions and its copies."""
        digests = self._collection.digests()
        there = {digest.tobytes(): n for n, digest in reversed([*enumerate(digests[others])])}
        matches = {
            query: (there[digest.tobytes()], SAME_BYTES, 1.0)
            for query, digest in enumerate(digests[positions])
            if digest.tobytes() in there
        }
        similarity = self._similarity(others)
        pairs, turns = similarity.against(self._units(positions))
        # All rows at once: one by one, each would read its row group again.
        at = np.unique(np.concatenate([positions[pairs.first], others[pairs.second]]))
        pictures = dict(zip(at.tolist(), self._collection.pictures(at), strict=True))
        columns = (pairs.first, pairs.second, pairs.scores, turns)
        candidates = zip(*(c.tolist() for c in columns), strict=True)
        for done, (query, row, score, turn) in enumerate(candidates):
            self._collection.session.at("comparing closely", done, len(pairs.first))
            if query not in matches:
                one, other = pictures[int(positions[query])], pictures[int(others[row])]
                how = self._how(one, other, similarity.turns[turn])
                if how is not None:
                    matches[query] = row, how, min(1.0, score)
        kept: dict[int, list[int]] = {}
        for query in sorted(matches):
            kept.setdefault(matches[query][0], []).append(query)
        groups = []
        for row, queries in kept.items():
            members = np.concatenate([others[[row]], positions[queries]])
            keep, *copies = self._collection.pictures(members)
            found = zip(copies, queries, strict=True)
            groups.append(
                _group(keep, [(picture, *matches[query][1:]) for picture, query in found])
            )
        return groups

    def _how(self, picture: Picture, keep: Picture, turn: Turn) -> str | None:
        """Return how an image, once turned, is a version of another one; None if it is none."""
        if self._config.similar is not None:
            return SIMILAR
        kept, look = self._album.looks([keep, picture])
        turned = None if look is None else look.turned(turn.square)
        return how_seen(kept, turned, turn.how, lambda: self._is_same(picture, keep, turn))

    def _is_same(self, one: Picture, other: Picture, turn: Turn) -> bool | None:
        """Return whether the first picture, once turned, is the other; None if it is unreadable."""
        first, second = self._album.fine_looks([one, other])
        if first is None or second is None:
            return None
        return is_same_picture(first.turned(turn.square), second)

    def _units(self, positions: Members) -> npt.NDArray[np.float16]:
        """Return the compared vectors of images, float16 (n, D), unit rows."""
        if self._config.similar is not None:
            vectors: npt.NDArray[np.float16] = self._collection.vectors()[positions]
            return vectors
        signatures = self._collection.signatures()[positions]
        unsigned = int((~signatures.any(axis=1)).sum())
        if unsigned == len(positions):
            raise UsageError(
                "no image here has a signature, as with imported vectors and stores of "
                "earlier versions: use similar=0.95, or index with rebuild=True",
                "similar",
                "rebuild",
            )
        self._unsigned += unsigned
        return signature_units(signatures)

    def _similarity(self, positions: Members) -> Similarity:
        parts, images = None, self._collection
        if self._config.crops:
            parts = CropData(images.signatures()[positions], images.vectors()[positions])
        least, session = self._config.least, images.session
        return Similarity(self._units(positions), least, self._turns, session, parts)


def _unmet(wishes: Sequence[str], collection: Collection) -> str | None:
    """Return why a wish is met by no image, None if each is met by some."""
    formats: set[str] | None = None
    for wish in wishes:
        name, _, value = wish.partition("=")
        if name == "folder":
            try:
                collection.inside(value)
            except UsageError as error:
                return f"keep folder={value}: {error}"
        elif name == "format":
            formats = collection.formats() if formats is None else formats
            missing = [each for each in value.split(",") if format_name(each) not in formats]
            if missing:
                there = ", ".join(sorted(formats))
                return f"keep format={value}: no image is {missing[0]}, but there are {there}"
    return None


def _group(keep: Picture, found: list[tuple[Picture, str, float]]) -> DuplicateGroup:
    """Return a group; other names of the kept file are told from its copies."""
    copies = [
        Copy(picture, SAME_FILE if picture.file_id == keep.file_id else how, score)
        for picture, how, score in found
        if picture.full_path != keep.full_path  # a store of an older version may hold a file twice
    ]
    return DuplicateGroup(keep, copies)


def _bundles(groups: Iterable[_Files]) -> Iterator[list[_Files]]:
    """Yield the groups in lists of about `_BUNDLE` images."""
    some: list[_Files] = []
    for group in groups:
        some.append(group)
        if sum(map(len, some)) >= _BUNDLE:
            yield some
            some = []
    if some:
        yield some
