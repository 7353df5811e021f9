"""Duplicates; in: a store, out: groups of an image to keep and its copies. Nothing is deleted.

Files of the same bytes are joined. A graph of nearest neighbors gives pairs of similar signatures
or embeddings. They are joined to groups in which every two are alike; a policy chooses the image
to keep.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from embedsearch.core.config import DuplicateConfig
from embedsearch.core.errors import UsageError
from embedsearch.core.options import DuplicateOptions, configured
from embedsearch.core.records import JsonRecord
from embedsearch.core.session import Session
from embedsearch.curation.collection import Collection, Picture
from embedsearch.curation.linkage import Members, complete_groups
from embedsearch.curation.similarity import (
    AS_IT_IS,
    BOTH,
    FLIPS,
    ROTATIONS,
    CropData,
    Similarity,
    Turn,
    signature_units,
)
from embedsearch.store.locate import StorePath, readable_store
from embedsearch.store.snapshot import open_snapshot

SAME_BYTES, SIMILAR = "same bytes", "similar"
_REPORTED = ("row", "path", "width", "height", "size_bytes", "format")


@dataclass(frozen=True)
class Copy:
    """A copy of the image to keep: how it differs, and the cosine, up to 1."""

    picture: Picture
    how: str
    score: float


@dataclass(frozen=True)
class DuplicateGroup(JsonRecord):
    """An image to keep, and its copies."""

    keep: Picture
    copies: list[Copy]

    def rows(self, number: int) -> list[dict[str, Any]]:
        """Return JSON-ready values of each image; `number` is that of the group."""
        members = [("keep", 1.0, self.keep)]
        members += [(copy.how, copy.score, copy.picture) for copy in self.copies]
        return [
            {
                "group": number,
                "what": what,
                "score": round(score, 4),
                **{name: getattr(picture, name) for name in _REPORTED},
            }
            for what, score, picture in members
        ]


@dataclass(frozen=True)
class DuplicateReport(JsonRecord):
    """The groups among `images`; `unsigned` of them, without signature, were compared by bytes."""

    groups: list[DuplicateGroup]
    images: int
    unsigned: int

    @property
    def copies(self) -> int:
        """Return the number of copies."""
        return sum(len(group.copies) for group in self.groups)

    @property
    def bytes(self) -> int:
        """Return the size of all copies."""
        return sum(copy.picture.size_bytes for group in self.groups for copy in group.copies)


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
    Raises UsageError and the store's errors.
    """
    if against is not None and folder is None:
        raise UsageError("against needs a folder that is compared with it", "against")
    config = configured(config or DuplicateConfig(), options)
    with readable_store(store, session) as path, open_snapshot(path) as snapshot:
        collection = Collection(snapshot, session or Session(), config.where)
        return _Search(collection, config).run(
            None if folder is None else os.fspath(folder),
            None if against is None else os.fspath(against),
        )


class _Search:
    """One search for copies."""

    def __init__(self, collection: Collection, config: DuplicateConfig) -> None:
        self._collection = collection
        self._config = config
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
        grouped = complete_groups(found, similarity)
        by_file = np.argsort(same, kind="stable")  # positions by their bytes
        edges = np.searchsorted(same[by_file], np.arange(len(first) + 1))
        alone = set(range(len(first))) - {node for group in grouped for node in group}
        several = [[node] for node in sorted(alone) if edges[node + 1] - edges[node] > 1]
        groups = [*grouped, *several]
        chosen = [node for nodes in groups for node in nodes]
        files = {n: positions[by_file[edges[n] : edges[n + 1]]].tolist() for n in chosen}
        return self._described(groups, similarity, files)

    def _described(
        self, groups: list[list[int]], similarity: Similarity, files: dict[int, list[int]]
    ) -> list[DuplicateGroup]:
        """Return groups of nodes, files of the same bytes each, with the image to keep."""
        described = []
        for nodes in groups:
            members = [(node, p) for node in nodes for p in files[node]]
            pictures = self._collection.pictures(np.array([position for _, position in members]))
            order = sorted(range(len(members)), key=lambda n: self._rank(pictures[n]))
            kept = members[order[0]][0]
            found = zip(nodes, *similarity.compared(kept, np.array(nodes)), strict=True)
            known = {
                node: (self._how(similarity, how), min(1.0, float(score)))
                for node, score, how in found
            }
            known[kept] = SAME_BYTES, 1.0
            copies = [Copy(pictures[n], *known[members[n][0]]) for n in order[1:]]
            described.append(DuplicateGroup(pictures[order[0]], copies))
        return sorted(described, key=lambda group: os.fsencode(group.keep.path))

    def _against(self, positions: Members, others: Members) -> list[DuplicateGroup]:
        """Return groups of an image at other positions and its copies."""
        digests = self._collection.digests()
        there = {digest.tobytes(): n for n, digest in reversed([*enumerate(digests[others])])}
        similarity = self._similarity(others)
        pairs, turns = similarity.against(self._units(positions))
        columns = (pairs.first, pairs.second, pairs.scores, turns)
        matches: dict[int, tuple[int, str, float]] = {
            query: (row, self._how(similarity, turn), min(1.0, score))
            for query, row, score, turn in zip(*(c.tolist() for c in columns), strict=True)
        }
        for query, digest in enumerate(digests[positions]):
            if digest.tobytes() in there:
                matches[query] = there[digest.tobytes()], SAME_BYTES, 1.0
        kept: dict[int, list[int]] = {}
        for query in sorted(matches):
            kept.setdefault(matches[query][0], []).append(query)
        groups = []
        for row, queries in kept.items():
            members = np.concatenate([others[[row]], positions[queries]])
            keep, *pictures = self._collection.pictures(members)
            found = zip(pictures, queries, strict=True)
            copies = [Copy(picture, *matches[query][1:]) for picture, query in found]
            groups.append(DuplicateGroup(keep, copies))
        return sorted(groups, key=lambda group: os.fsencode(group.keep.path))

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
        least, check = self._config.least, images.session.check
        return Similarity(self._units(positions), least, self._turns, check, parts)

    def _how(self, similarity: Similarity, number: int) -> str:
        return SIMILAR if self._config.similar is not None else similarity.hows[number]

    def _rank(self, picture: Picture) -> tuple[Any, ...]:
        """Return the sort key, wish after wish; the image to keep has the lowest."""
        wishes = [_wish(picture, wish) for wish in self._config.keep]
        return (*wishes, *_wish(picture, "largest"), *_wish(picture, "oldest"), picture.path)


def _wish(picture: Picture, wish: str) -> tuple[Any, ...]:
    name, _, value = wish.partition("=")
    match name:
        case "largest":
            return (-picture.width * picture.height, -picture.size_bytes)
        case "oldest":
            return (_time(picture),)
        case "newest":
            return (-_time(picture),)
        case "format":
            formats = [one.upper() for one in value.split(",")]
            return (formats.index(picture.format) if picture.format in formats else len(formats),)
    inside = (picture.path + "/").startswith(os.path.realpath(value).rstrip("/") + "/")
    return (not inside,)


def _time(picture: Picture) -> float:
    """Return when an image was taken, or else written, in seconds."""
    if picture.taken_at is not None:
        with suppress(ValueError, OverflowError, OSError):  # a year that no clock here can tell
            return picture.taken_at.timestamp()
    return picture.mtime_ns / 1e9
