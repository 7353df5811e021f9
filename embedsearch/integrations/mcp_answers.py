"""Answers for agents; in: hits, groups and stores, out: what MCP sends, of a bounded size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from mcp.types import CallToolResult, ImageContent, ResourceLink, TextContent
from pydantic import BaseModel

from embedsearch.core.errors import UnreadableImage
from embedsearch.core.names import unicode_text
from embedsearch.core.paths import printable
from embedsearch.core.records import Hit, ImageRecord
from embedsearch.integrations.mcp_size import Pictures, fitting, json_size, shortened
from embedsearch.searching.searcher import Searcher

IMAGE_URI = "embedsearch://{store}/images/{row}"
THUMBNAIL_URI = "embedsearch://{store}/thumbnails/{row}"
THUMBNAIL_SIDE = 256
_LINK_BYTES = 400  # of a link, its name with it


class SearchResult(BaseModel):
    """Hits, best first; `row` identifies the image.

    `score` is a cosine, 1 for the same picture, and `words_score` is BM25 of the text; `matched`
    says what found it: picture, or the columns with words.
    """

    hits: list[Hit]


class ImageResult(BaseModel):
    """The facts of an image of a store."""

    image: ImageRecord


class ImagesResult(BaseModel):
    """A page of images, of `total` that meet the condition."""

    images: list[ImageRecord]
    total: int


class GroupMember(BaseModel):
    """An image of a group; `what` is `keep`, or how it is a copy of the one to keep.

    `recolored`, `in color`, `first page`, `not checked` and `same file` (a link) are no copies.
    """

    group: int
    what: str
    score: float
    row: int
    path: str
    path_bytes: str | None
    full_path: str
    full_path_bytes: str | None
    width: int
    height: int
    size_bytes: int
    format: str
    sha256: str | None


class DuplicateResult(BaseModel):
    """A page of groups of copies, of `total` groups."""

    groups: list[list[GroupMember]]
    total: int


class StoreFacts(BaseModel):
    """A store; `where` can use its `columns`, and `text` is looked for in `words`.

    `values` are frequent ones of columns. With `reads_text` the model compares text with pictures.
    """

    name: str
    images: int
    generation: int
    model: str
    takes_images: bool  # False: only a row or a key can be the query
    reads_text: bool
    folders: list[str]
    columns: dict[str, str]
    words: list[str]
    values: dict[str, list[str]]


class StoreList(BaseModel):
    """The stores that can be searched."""

    stores: list[StoreFacts]


def found_answer(
    searcher: Searcher, store: str, hits: Sequence[Hit], *, thumbnails: bool
) -> CallToolResult:
    """Return hits as an answer, with as many facts, links and thumbnails as fit in."""
    values = [shortened(hit.to_dict()) for hit in hits]
    links = [image_link(store, hit) for hit in hits]
    costs = [
        json_size(value) + json_size(link.uri) + _LINK_BYTES
        for value, link in zip(values, links, strict=True)
    ]
    shown = fitting(range(len(hits)), lambda number: costs[number])
    values = values[:shown]
    lines = [_line(hit) for hit in values] or ["no image matches"]
    if shown < len(hits):
        lines.append(f"{shown} of {len(hits)} hits fit into an answer: go on with offset")
    content: list[Any] = [text_part("\n".join(lines))]
    if thumbnails:
        pictures = Pictures(searcher, sum(costs[:shown]) + json_size(values) + json_size(lines))
        found, side = pictures.of_rows([hit.row for hit in hits[:shown]], THUMBNAIL_SIDE)
        for hit, picture in zip(hits, found, strict=False):
            is_lost = isinstance(picture, UnreadableImage)
            content.append(
                text_part(f"row {hit.row}: {picture}") if is_lost else jpeg_part(str(picture))
            )
        if side < THUMBNAIL_SIDE or len(found) < shown:
            which = "" if len(found) == shown else f", and only for the first {len(found)} hits"
            notice = f"thumbnails of {side} pixels{which}, to keep the answer small: lower k"
            content.insert(1, text_part(notice))
    content += links[:shown]
    return CallToolResult(content=content, structured_content={"hits": values})


def image_link(store: str, hit: Hit) -> ResourceLink:
    """Return where a client reads the picture of a hit."""
    uri = IMAGE_URI.format(store=quote(store, safe=""), row=hit.row)
    name = printable(PurePosixPath(hit.key).name)
    return ResourceLink(type="resource_link", uri=uri, name=name, mime_type="image/jpeg")


def images_answer(images: Sequence[ImageRecord], total: int, offset: int) -> CallToolResult:
    """Return images as an answer, as many as fit in."""
    values = [shortened(image.to_dict()) for image in images]
    shown = fitting(values)
    lines = [printable(f"row {one['row']}: {one['key']}") for one in values[:shown]]
    if offset + shown < total:
        lines.append(f"{shown} of {total:,} images: go on with offset={offset + shown}")
    content: list[Any] = [text_part("\n".join(lines) or "no image matches")]
    return CallToolResult(
        content=content, structured_content={"images": values[:shown], "total": total}
    )


def groups_answer(groups: list[list[GroupMember]], total: int, offset: int) -> CallToolResult:
    """Return groups as an answer, as many as fit in."""
    shown = fitting(groups, lambda group: sum(json_size(row.model_dump()) + 2 for row in group))
    note = ""
    if not shown and groups:
        whole = groups[0]
        groups = [whole[: fitting(whole, lambda row: json_size(row.model_dump()))]]
        note = f"{len(groups[0])} of the {len(whole)} images of one group fit into an answer: "
        note += f"go on with offset={offset + 1}"
    elif shown < len(groups):
        groups = groups[:shown]
        note = f"{shown} groups fit into an answer: go on with offset={offset + shown}"
    return _said(DuplicateResult(groups=groups, total=total), note)


def stores_answer(stores: Mapping[str, Searcher]) -> CallToolResult:
    """Return the stores as an answer, with as many columns as fit in."""
    facts: list[StoreFacts] = []
    notes: list[str] = []
    for name, searcher in stores.items():
        columns = list(searcher.columns.items())
        shown = fitting(columns, lambda column: len(stores) * json_size(column))
        if shown < len(columns):
            notes.append(f"{name}: {shown} of {len(columns)} columns fit into an answer")
        values = list(searcher.frequent_values().items())
        manifest = searcher.manifest
        facts.append(
            StoreFacts(
                name=name,
                images=manifest.live,
                generation=manifest.generation,
                model=manifest.model.name,
                takes_images=searcher.takes_images,
                reads_text=manifest.model.takes_texts,
                folders=[unicode_text(root.path) for root in manifest.roots],
                columns=dict(columns[:shown]),
                words=[] if manifest.words is None else list(manifest.words.columns)[:shown],
                values=dict(values[: fitting(values, lambda v: 2 * len(stores) * json_size(v))]),
            )
        )
    return _said(StoreList(stores=facts), "; ".join(notes))


def _said(values: BaseModel, note: str) -> CallToolResult:
    content: list[Any] = [text_part(values.model_dump_json())]
    if note:
        content.append(text_part(note))
    return CallToolResult(content=content, structured_content=values.model_dump(mode="json"))


def _line(hit: dict[str, Any]) -> str:
    size = f"{hit['width']} x {hit['height']}"
    more = "".join(f", {name}: {value}" for name, value in hit["metadata"].items())
    known = (name for name in ("score", "words_score") if hit[name] is not None)
    scores = ", ".join(f"{name} {hit[name]:.3f}" for name in known)
    start = f"{hit['rank']}. {scores}, row {hit['row']}, {size}"
    return printable(f"{start}, {hit['key']}{more}")


def text_part(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def jpeg_part(picture: str) -> ImageContent:
    return ImageContent(type="image", data=picture, mime_type="image/jpeg")
