"""Stores for agents, by the Model Context Protocol; in: open stores, out: a server of tools.

Nothing is written or fetched, and only images of the stores and files in allowed folders can be
used as queries.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import Annotated, Any, TypeVar

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, ImageContent, TextContent, Tool, ToolAnnotations
from pydantic import BaseModel, Field

from embedsearch._version import __version__
from embedsearch.core.config import DuplicateConfig, SearchConfig
from embedsearch.core.errors import EmbedSearchError, UnreadableImage, UsageError
from embedsearch.core.names import unicode_text
from embedsearch.core.paths import local_path, printable
from embedsearch.core.records import Hit, ImageRecord
from embedsearch.curation.duplicates import duplicates
from embedsearch.images.thumbnails import MAX_SIDE
from embedsearch.integrations.image_argument import image_of_client, row_of
from embedsearch.integrations.keywords import refuse_unknown
from embedsearch.integrations.mcp_schema import plain_schema
from embedsearch.integrations.mcp_size import Pictures, fitting, json_size, shortened
from embedsearch.searching.queries import Key, Query
from embedsearch.searching.searcher import Searcher
from embedsearch.web.guard import Access, App, Guard
from embedsearch.web.limits import Kind, ServerLimits
from embedsearch.web.turns import Busy, Turns

T = TypeVar("T")
MAX_K = 50
_THUMBNAIL_SIDE = 256
_IMAGE_SIDE = 768
_INSTRUCTIONS = (
    "Finds images that look alike. Call search_similar_images with the path of an image, an "
    "image as a data: URI, or an image of the store by its row or key. There is no search by "
    "text, but `where` filters by the columns that list_stores lists, such as captions. "
    "get_image shows an image; find_duplicates lists copies."
)
_MAX_COMPARED = 200_000  # images, by find_duplicates: takes seconds and half a gigabyte
_READ_ONLY = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)

StoreName = Annotated[str | None, Field(description="A name from list_stores; default: the first")]
Row = Annotated[
    int | None, Field(ge=0, le=10**12 - 1, description="The row of an image of the store")
]
KeyName = Annotated[
    str | None,
    Field(description="The path of an image of the store, full or relative to its folder"),
]


class SearchResult(BaseModel):
    """Hits, best first. `score` is a cosine, 1 for the same picture; `row` identifies the image."""

    hits: list[Hit]


class ImageResult(BaseModel):
    """The facts of an image of a store."""

    image: ImageRecord


class GroupMember(BaseModel):
    """An image of a group; `what` is `keep`, or how it is a copy of the one to keep.

    `recolored`, `in color`, `not checked` and `same file` (a link) are no copies.
    """

    group: int
    what: str
    score: float
    row: int
    path: str
    path_bytes: str | None
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
    """A store; `columns`, with their types, can be used in `where`."""

    name: str
    images: int
    generation: int
    model: str
    takes_images: bool  # False: only a row or a key can be the query
    folders: list[str]
    columns: dict[str, str]


class StoreList(BaseModel):
    """The stores that can be searched."""

    stores: list[StoreFacts]


def create_server(
    stores: Mapping[str, Searcher], allowed: Sequence[str | os.PathLike[str]] = ()
) -> MCPServer:
    """Return a server of tools over open stores, by name.

    A query image must be an image of the store, or a file in an `allowed` folder.
    """
    tools = _Tools(stores, [os.path.realpath(local_path(folder)) for folder in allowed])
    server = _Server(
        "embedsearch",
        title="Search images by image",
        version=__version__,
        instructions=_INSTRUCTIONS,
        log_level="ERROR",
    )
    for tool in (
        tools.search_similar_images,
        tools.get_image,
        tools.find_duplicates,
        tools.list_stores,
    ):
        server.tool(annotations=_READ_ONLY)(tool)
    return server


def http_app(server: MCPServer, access: Access, limits: ServerLimits) -> App:
    """Return an application that serves the tools at /mcp, behind the guard of `serve`."""
    app = server.streamable_http_app(
        stateless_http=True,
        json_response=True,
        max_request_body_size=limits.body_bytes,
        host="",  # the guard checks the host name
    )
    return Guard(app, access, limits, lambda *_: None)


def names_of(stores: Sequence[str]) -> list[str]:
    """Return a name for each store, from its folder. Raises UsageError for duplicate names."""
    names = [PurePath(os.path.abspath(store)).stem.lstrip(".") or "store" for store in stores]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two stores are named {name}: rename the folder of one")
    return names


class _Server(MCPServer):
    """Shows schemas that all clients take, and refuses arguments that a tool does not have."""

    async def list_tools(self) -> list[Tool]:
        """Return the tools, with plain schemas."""
        return [
            tool.model_copy(
                update={
                    "input_schema": plain_schema(tool.input_schema, is_input=True),
                    "output_schema": plain_schema(tool.output_schema or {}, is_input=False),
                }
            )
            for tool in await super().list_tools()
        ]

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        """Call a tool. Raises ToolError."""
        for tool in await super().list_tools():
            if tool.name == name:
                try:
                    refuse_unknown(arguments, tool.input_schema["properties"], "argument")
                except UsageError as error:
                    raise ToolError(str(error)) from error
        return await super().call_tool(name, arguments, context)


class _Tools:
    """The tools; their signatures and docstrings are what an agent reads."""

    def __init__(self, stores: Mapping[str, Searcher], allowed: list[str]) -> None:
        self._stores = stores
        self._allowed = allowed
        self._turns = Turns(ServerLimits())

    async def search_similar_images(
        self,
        image: Annotated[
            str | None, Field(description="The path of an image file, or a data: URI")
        ] = None,
        row: Row = None,
        key: KeyName = None,
        store: StoreName = None,
        k: Annotated[int, Field(ge=1, le=MAX_K, description="How many hits")] = 5,
        offset: Annotated[int, Field(ge=0, le=1000, description="Hits to leave out")] = 0,
        where: Annotated[
            str | None, Field(description="An SQL condition: \"caption like '%boat%'\"")
        ] = None,
        min_score: Annotated[
            float | None, Field(ge=-1, le=1, description="Leave out hits below this cosine")
        ] = None,
        thumbnails: Annotated[bool, Field(description="Show the hits, as small JPEGs")] = False,
    ) -> Annotated[CallToolResult, SearchResult]:
        """Find the images of a store that look most like an image: give image, row or key."""

        def search() -> CallToolResult:
            searcher = self._store(store)
            config = SearchConfig(k=k, offset=offset, where=where, min_score=min_score)
            (answer,) = searcher.answers([self._query(searcher, image, row, key)], config=config)
            if answer.failure is not None:
                raise answer.failure
            return _found(searcher, answer.hits, thumbnails=thumbnails)

        kind = Kind.RECORDS if image is None else Kind.PICTURES
        kind = Kind.THUMBNAILS if thumbnails else kind
        return await self._work(kind if where is None else Kind.FILTERS, search)

    async def get_image(
        self,
        row: Row = None,
        key: KeyName = None,
        store: StoreName = None,
        side: Annotated[
            int, Field(ge=1, le=MAX_SIDE, description="Pixels of the longer side")
        ] = _IMAGE_SIDE,
    ) -> Annotated[CallToolResult, ImageResult]:
        """Show an image of a store, as JPEG, and its facts: give row or key."""

        def get() -> CallToolResult:
            searcher = self._store(store)
            record = searcher.get(_one_of(row=row, key=key))
            facts = shortened(record.to_dict())
            content: list[Any] = [_text(f"row {record.row}: {printable(record.path)}")]
            used = 2 * json_size(facts)
            (picture, *_), shown = Pictures(searcher, used).of_rows([record.row], side)
            if isinstance(picture, UnreadableImage):
                raise picture
            if shown < side:
                content.append(_text(f"reduced to {shown} pixels, to keep the answer small"))
            return CallToolResult(
                content=[*content, _jpeg(picture)], structured_content={"image": facts}
            )

        return await self._work(Kind.THUMBNAILS, get)

    async def find_duplicates(
        self,
        store: StoreName = None,
        where: Annotated[str | None, Field(description="Only images that meet this")] = None,
        flips: Annotated[bool, Field(description="Also mirrored copies")] = False,
        rotations: Annotated[bool, Field(description="Also copies turned by 90° steps")] = False,
        k: Annotated[int, Field(ge=1, le=MAX_K, description="How many groups")] = 20,
        offset: Annotated[int, Field(ge=0, description="Groups to leave out")] = 0,
    ) -> Annotated[CallToolResult, DuplicateResult]:
        """List images of a store that are copies of each other, and which one is best to keep."""

        def find() -> CallToolResult:
            searcher = self._store(store)
            if (count := searcher.images(1, where=where).total) > _MAX_COMPARED:
                raise UsageError(
                    f"{count:,} images are too many to compare here, at most {_MAX_COMPARED:,}: "
                    "filter them with where, or run embedsearch duplicates"
                )
            config = DuplicateConfig(flips=flips, rotations=rotations, where=where)
            found = duplicates(store=searcher.store, config=config).groups
            groups = [
                [GroupMember(**row) for row in group.rows(number)]
                for number, group in enumerate(found, start=1)
            ]
            return _page(groups[offset : offset + k], len(groups), offset)

        return await self._work(Kind.FILTERS, find)

    async def list_stores(self) -> Annotated[CallToolResult, StoreList]:
        """List the stores, their content, and the columns that `where` can use."""
        return await self._work(Kind.RECORDS, lambda: _listed(self._stores))

    async def _work(self, kind: Kind, work: Callable[[], T]) -> T:
        """Do work in a thread, when it is its turn. Raises ToolError for our errors."""
        try:
            return await self._turns.run(kind, work)
        except EmbedSearchError as error:
            raise ToolError(str(error)) from error
        except Busy as error:
            raise ToolError("too many requests: try again in a second") from error

    def _store(self, name: str | None) -> Searcher:
        name = next(iter(self._stores)) if name is None else name
        if name not in self._stores:
            raise UsageError(f"there is no store {name!r}, but {', '.join(self._stores)}")
        return self._stores[name]

    def _query(
        self, searcher: Searcher, image: str | None, row: int | None, key: str | None
    ) -> Query:
        if image is None:
            return Key(_one_of(image=image, row=row, key=key))
        return image_of_client(image, self._allowed, partial(row_of, searcher))


def _one_of(**given: str | int | None) -> str | int:
    if len(values := [value for value in given.values() if value is not None]) != 1:
        raise UsageError(f"give one of {', '.join(given)}")
    return values[0]


def _found(searcher: Searcher, hits: Sequence[Hit], *, thumbnails: bool) -> CallToolResult:
    """Return hits as an answer, with as many facts and thumbnails as fit in."""
    values = [shortened(hit.to_dict()) for hit in hits]
    shown = fitting(values)
    values = values[:shown]
    lines = [_line(hit) for hit in values] or ["no image matches"]
    if shown < len(hits):
        lines.append(f"{shown} of {len(hits)} hits fit into an answer: go on with offset")
    content: list[Any] = [_text("\n".join(lines))]
    if thumbnails:
        pictures = Pictures(searcher, json_size(values) + json_size(lines))
        found, side = pictures.of_rows([hit.row for hit in hits[:shown]], _THUMBNAIL_SIDE)
        for hit, picture in zip(hits, found, strict=False):
            is_lost = isinstance(picture, UnreadableImage)
            content.append(_text(f"row {hit.row}: {picture}") if is_lost else _jpeg(str(picture)))
        if side < _THUMBNAIL_SIDE or len(found) < shown:
            which = "" if len(found) == shown else f", and only for the first {len(found)} hits"
            notice = f"thumbnails of {side} pixels{which}, to keep the answer small: lower k"
            content.insert(1, _text(notice))
    return CallToolResult(content=content, structured_content={"hits": values})


def _page(groups: list[list[GroupMember]], total: int, offset: int) -> CallToolResult:
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


def _listed(stores: Mapping[str, Searcher]) -> CallToolResult:
    """Return the stores as an answer, with as many columns as fit in."""
    facts: list[StoreFacts] = []
    notes: list[str] = []
    for name, searcher in stores.items():
        columns = list(searcher.columns.items())
        shown = fitting(columns, lambda column: len(stores) * json_size(column))
        if shown < len(columns):
            notes.append(f"{name}: {shown} of {len(columns)} columns fit into an answer")
        manifest = searcher.manifest
        facts.append(
            StoreFacts(
                name=name,
                images=manifest.live,
                generation=manifest.generation,
                model=manifest.model.name,
                takes_images=searcher.takes_images,
                folders=[unicode_text(root.path) for root in manifest.roots],
                columns=dict(columns[:shown]),
            )
        )
    return _said(StoreList(stores=facts), "; ".join(notes))


def _said(values: BaseModel, note: str) -> CallToolResult:
    content: list[Any] = [_text(values.model_dump_json())]
    if note:
        content.append(_text(note))
    return CallToolResult(content=content, structured_content=values.model_dump(mode="json"))


def _line(hit: dict[str, Any]) -> str:
    size = f"{hit['width']} x {hit['height']}"
    more = "".join(f", {name}: {value}" for name, value in hit["metadata"].items())
    start = f"{hit['rank']}. score {hit['score']:.3f}, row {hit['row']}, {size}"
    return printable(f"{start}, {hit['key']}{more}")


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def _jpeg(picture: str) -> ImageContent:
    return ImageContent(type="image", data=picture, mime_type="image/jpeg")
