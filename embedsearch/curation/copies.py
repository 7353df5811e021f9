"""What a search for copies returns: groups of an image to keep and its copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from embedsearch.core.names import path_fields
from embedsearch.core.records import JsonRecord
from embedsearch.curation.collection import Picture
from embedsearch.images.close_look import Verdict

# How an image is a copy, beside the turns and what a close look says.
SAME_BYTES: Final = "same bytes"
SAME_FILE: Final = "same file"  # another name of the kept file: a link to it
SIMILAR: Final = "similar"
CROP: Final = "crop"
FIRST_PAGE: Final = "first page"  # or first frame: what is behind it was not compared
NOT_CHECKED: Final = "not checked"  # it looks alike, but cannot be read now
# To delete one of these loses something, or frees nothing.
_NO_COPIES = {
    SAME_FILE, SIMILAR, CROP, FIRST_PAGE, NOT_CHECKED,
    Verdict.IN_COLOR.value, Verdict.RECOLORED.value,
}  # fmt: skip
_REPORTED = ("width", "height", "size_bytes", "format", "sha256")


def is_copy(how: str) -> bool:
    """Return whether what differs in this way may go: its picture is in what is kept."""
    return how not in _NO_COPIES


@dataclass(frozen=True)
class Copy:
    """An image like the one to keep: how it differs, and the cosine, up to 1."""

    picture: Picture
    how: str
    score: float

    @property
    def is_copy(self) -> bool:
        """Return whether it was found to show what the kept image shows, and is another file."""
        return is_copy(self.how)


@dataclass(frozen=True)
class DuplicateGroup(JsonRecord):
    """An image to keep, and the images like it."""

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
                "row": picture.row,
                **path_fields(picture.key, picture.full_path),
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
        return len(self._found(True))

    @property
    def others(self) -> int:
        """Return the number of images that are listed, but are no copies."""
        return len(self._found(False))

    @property
    def bytes(self) -> int:
        """Return the size of all copies; of a file with several names once."""
        sizes = {copy.picture.file_id: copy.picture.size_bytes for copy in self._found(True)}
        return sum(sizes.values())

    def _found(self, is_copy: bool) -> list[Copy]:
        return [copy for g in self.groups for copy in g.copies if copy.is_copy is is_copy]
