"""Options and answers of the views, as they are checked and described."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from embedsearch.core.config import DuplicateConfig
from embedsearch.web.search_request import MAX_K, BadRequest, PageSize

_SIMILAR = 0.95
_MAX_MAP = 50_000

Number = Annotated[int, Field(ge=1, le=MAX_K, description="groups; without it, some √(n/2)")]
Offset = Annotated[int, Field(ge=0, lt=10**12, description="images left out")]


class CopiesOptions(BaseModel):
    """What counts as a copy, and which image of a group is kept."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    kind: Annotated[
        Literal["same", "turned", "parts", "similar"],
        Field(description="the same picture, also turned or mirrored, also parts, or look-alikes"),
    ] = "same"
    keep: Annotated[
        Literal["largest", "oldest", "newest"], Field(description="the image of a group to keep")
    ] = "largest"
    similar: Annotated[
        float | None, Field(description=f"least cosine of look-alikes, {_SIMILAR} unless told")
    ] = None

    def config(self) -> DuplicateConfig:
        """Return them as a DuplicateConfig. Raises BadRequest and UsageError."""
        if self.kind == "similar":
            least = _SIMILAR if self.similar is None else self.similar
            return DuplicateConfig(similar=least, keep=(self.keep,))
        if self.similar is not None:
            raise BadRequest("similar goes with kind=similar only", field="similar")
        turned = self.kind == "turned"
        crops = self.kind == "parts"
        return DuplicateConfig(flips=turned, rotations=turned, crops=crops, keep=(self.keep,))


class GroupsOptions(BaseModel):
    """Into how many groups the images are put."""

    model_config = ConfigDict(extra="forbid")

    k: Number | None = None


class PageOptions(BaseModel):
    """A page of a list."""

    model_config = ConfigDict(extra="forbid")

    k: Annotated[PageSize, Field(description="images")] = 60
    offset: Offset = 0


class GroupOptions(PageOptions):
    """A page of a group; `groups` is the `k` that the groups were asked with."""

    groups: Number | None = None


class MapOptions(BaseModel):
    """The bounds of a map."""

    model_config = ConfigDict(extra="forbid")

    max_images: Annotated[
        int, Field(ge=3, le=_MAX_MAP, description="of more images, so many drawn at random")
    ] = 20_000


class Member(BaseModel):
    """An image of a group of copies: `what` is `keep`, or how it is a copy."""

    row: int
    path: str
    path_bytes: str | None
    full_path: str
    full_path_bytes: str | None
    key: str
    width: int
    height: int
    size_bytes: int
    format: str
    what: str
    score: float


class CopyGroup(BaseModel):
    """An image to keep, and those like it."""

    keep: Member
    copies: list[Member]


class CopiesAnswer(BaseModel):
    """Groups of copies among `images`; `bytes` would be free without the copies.

    `others` are listed, but have something that the kept image lacks. `total` groups there are;
    with `truncated` the last ones are left out, and the script has them.
    """

    groups: list[CopyGroup]
    total: int
    truncated: bool
    images: int
    copies: int
    others: int
    bytes: int
    generation: int


class Representative(BaseModel):
    """An image that stands for others."""

    row: int
    key: str
    width: int
    height: int


class GroupSummary(BaseModel):
    """A group: `cohesion` is the mean cosine with its center."""

    number: int
    images: int
    cohesion: float
    representatives: list[Representative]


class GroupsAnswer(BaseModel):
    """All images in groups, the largest first."""

    groups: list[GroupSummary]
    total: int
    generation: int


class OutliersAnswer(BaseModel):
    """Records of the oddest images, each with its `score`, the oddest first.

    That is the mean cosine with the ten nearest neighbors.
    """

    images: list[dict[str, Any]]
    total: int
    generation: int


class MapAnswer(BaseModel):
    """Rows and their places, from 0 to 1; `images` is the number of all."""

    rows: list[int]
    x: list[float]
    y: list[float]
    images: int
    generation: int
