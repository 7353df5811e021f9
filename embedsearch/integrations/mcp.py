"""Stores for agents, by the Model Context Protocol; in: open stores, out: a server of tools.

Nothing is written or fetched, and only images of the stores and files in allowed folders can be
used as queries.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePath
from typing import Annotated, Any, TypeVar

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp.types import CallToolResult, Tool, ToolAnnotations
from pydantic import Field, ValidationError

from embedsearch._version import __version__
from embedsearch.core.config import MAX_EXPAND, DuplicateConfig, SearchConfig
from embedsearch.core.errors import EmbedSearchError, UnreadableImage, UsageError
from embedsearch.core.paths import local_path, printable
from embedsearch.core.scores import BOTH
from embedsearch.curation.duplicates import duplicates
from embedsearch.images.thumbnails import MAX_SIDE
from embedsearch.integrations.image_argument import image_of_client, row_of
from embedsearch.integrations.keywords import refuse_unknown
from embedsearch.integrations.mcp_answers import (
    IMAGE_URI,
    THUMBNAIL_SIDE,
    THUMBNAIL_URI,
    DuplicateResult,
    GroupMember,
    ImageResult,
    ImagesResult,
    SearchResult,
    StoreList,
    found_answer,
    groups_answer,
    images_answer,
    jpeg_part,
    stores_answer,
    text_part,
)
from embedsearch.integrations.mcp_schema import plain_schema
from embedsearch.integrations.mcp_size import Pictures, json_size, shortened
from embedsearch.searching.queries import Key, Single, query_of
from embedsearch.searching.searcher import Searcher
from embedsearch.web.limits import Kind, ServerLimits
from embedsearch.web.problems import problems_of
from embedsearch.web.turns import Busy, Turns

T = TypeVar("T")
MAX_K = 50
_IMAGE_SIDE = 768
_INSTRUCTIONS = (
    "Finds images by words, by an image, or by both. Call search_similar_images with text for the "
    "words of captions, paths and cameras, with the path of an image, an image as a data: URI, or "
    "an image of the store by its row or key. `where` filters by the columns that list_stores "
    "lists, and list_images lists by it alone. get_image shows an image; find_duplicates lists "
    "copies."
)
_MAX_EXAMPLES = 100
_MAX_COMPARED = 200_000  # images, by find_duplicates: takes seconds and half a gigabyte
_READ_ONLY = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)

StoreName = Annotated[str | None, Field(description="A name from list_stores; default: the first")]
Row = Annotated[
    int | None, Field(ge=0, le=10**12 - 1, description="The row of an image of the store")
]
Rows = Annotated[
    Sequence[Annotated[int, Field(ge=0, le=10**12 - 1)]], Field(max_length=_MAX_EXAMPLES)
]
KeyName = Annotated[
    str | None,
    Field(description="The path of an image of the store, full or relative to its folder"),
]


def create_server(
    stores: Mapping[str, Searcher],
    allowed: Sequence[str | os.PathLike[str]] = (),
    turns: Turns | None = None,
) -> MCPServer:
    """Return a server of tools over open stores, by name.

    A query image must be an image of the store, or a file in an `allowed` folder. `turns` say how
    many calls run at once.
    """
    folders = [os.path.realpath(local_path(folder)) for folder in allowed]
    tools = _Tools(stores, folders, turns or Turns(ServerLimits()))
    server = _Server(
        "embedsearch",
        title="Search images by words and by image",
        version=__version__,
        instructions=_INSTRUCTIONS,
        log_level="ERROR",
    )
    for tool in (
        tools.search_similar_images,
        tools.get_image,
        tools.list_images,
        tools.find_duplicates,
        tools.list_stores,
    ):
        server.tool(annotations=_READ_ONLY)(tool)
    for uri, name, side in (
        (IMAGE_URI, "image", _IMAGE_SIDE),
        (THUMBNAIL_URI, "thumbnail", THUMBNAIL_SIDE),
    ):
        words = f"An image of a store by its row, its longer side {side} pixels"
        server.resource(uri, name=name, description=words, mime_type="image/jpeg")(
            tools.picture(side)
        )
    return server


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
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if type(error) is ToolError and isinstance(error.__cause__, ValidationError):
                raise ToolError(problems_of(error.__cause__, ())) from error
            raise


class _Tools:
    """The tools; their signatures and docstrings are what an agent reads."""

    def __init__(self, stores: Mapping[str, Searcher], allowed: list[str], turns: Turns) -> None:
        self._stores = stores
        self._allowed = allowed
        self._turns = turns

    async def search_similar_images(
        self,
        text: Annotated[
            str | None,
            Field(max_length=10_000, description='Words: red shoes, "a phrase", -not, caption:red'),
        ] = None,
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
        like: Annotated[
            Rows, Field(description="Rows of images that hits should also be like")
        ] = (),
        unlike: Annotated[Rows, Field(description="Rows of images hits should not be like")] = (),
        crop: Annotated[
            list[int] | None,
            Field(min_length=4, max_length=4, description="x, y, width, height in pixels: a part"),
        ] = None,
        by: Annotated[str, Field(description="With text and image: picture, words or both")] = BOTH,
        collapse: Annotated[
            float | None, Field(description="Leave out copies: hits this like a better one, 0.95")
        ] = None,
        diverse: Annotated[
            float | None, Field(ge=0, le=1, description="How much hits should differ")
        ] = None,
        expand: Annotated[
            int, Field(ge=0, le=MAX_EXPAND, description="Ask again with so many neighbors")
        ] = 0,
        thumbnails: Annotated[bool, Field(description="Show the hits, as small JPEGs")] = False,
    ) -> Annotated[CallToolResult, SearchResult]:
        """Find images of a store by words, by an image (image, row or key), or by both."""

        def search() -> CallToolResult:
            searcher = self._store(store)
            config = SearchConfig(k=k, offset=offset, where=where, min_score=min_score, by=by)
            config = replace(config, collapse=collapse, diverse=diverse, expand=expand)
            first = self._image(searcher, image, row, key)
            alike, others = ([Key(number) for number in rows] for rows in (like, unlike))
            query = query_of(first, crop=crop, like=alike, unlike=others, text=text)
            (answer,) = searcher.answers([query], config=config)
            if answer.failure is not None:
                raise answer.failure
            name = next(iter(self._stores)) if store is None else store
            return found_answer(searcher, name, answer.hits, thumbnails=thumbnails)

        kind = Kind.RECORDS if image is None and crop is None else Kind.PICTURES
        kind = Kind.THUMBNAILS if thumbnails else kind
        is_slow = where is not None or (text is not None and image is None)
        return await self._work(Kind.FILTERS if is_slow else kind, search)

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
            content: list[Any] = [text_part(f"row {record.row}: {printable(record.full_path)}")]
            used = 2 * json_size(facts)
            (picture, *_), shown = Pictures(searcher, used).of_rows([record.row], side)
            if isinstance(picture, UnreadableImage):
                raise picture
            if shown < side:
                content.append(text_part(f"reduced to {shown} pixels, to keep the answer small"))
            return CallToolResult(
                content=[*content, jpeg_part(picture)], structured_content={"image": facts}
            )

        return await self._work(Kind.THUMBNAILS, get)

    async def list_images(
        self,
        store: StoreName = None,
        where: Annotated[
            str | None, Field(description='An SQL condition: "width > 1000 and camera is null"')
        ] = None,
        k: Annotated[int, Field(ge=1, le=MAX_K, description="How many images")] = 20,
        offset: Annotated[int, Field(ge=0, le=10**9, description="Images to leave out")] = 0,
    ) -> Annotated[CallToolResult, ImagesResult]:
        """List images of a store that meet a condition, in the store's order, and their number."""

        def listed() -> CallToolResult:
            found = self._store(store).images(k, where=where, offset=offset)
            return images_answer(found.images, found.total, offset)

        return await self._work(Kind.RECORDS if where is None else Kind.FILTERS, listed)

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
            return groups_answer(groups[offset : offset + k], len(groups), offset)

        return await self._work(Kind.FILTERS, find)

    def picture(self, side: int) -> Callable[[str, int], Awaitable[bytes]]:
        """Return what reads a picture as JPEG, its longer side at most so many pixels."""

        async def read(store: str, row: int) -> bytes:
            try:
                return await self._work(
                    Kind.THUMBNAILS, lambda: self._store(store).thumbnail(row, side)
                )
            except ToolError as error:
                raise ResourceError(str(error)) from error

        return read

    async def list_stores(self) -> Annotated[CallToolResult, StoreList]:
        """List the stores, their content, and the columns that `where` can use."""
        return await self._work(Kind.RECORDS, lambda: stores_answer(self._stores))

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

    def _image(
        self, searcher: Searcher, image: str | None, row: int | None, key: str | None
    ) -> Single | None:
        """Return the image of a query, None if it has none. Raises UsageError."""
        if (image, row, key) == (None, None, None):
            return None
        one = _one_of(image=image, row=row, key=key)
        if image is None:
            return Key(one)
        return image_of_client(image, self._allowed, partial(row_of, searcher))


def _one_of(**given: str | int | None) -> str | int:
    if len(values := [value for value in given.values() if value is not None]) != 1:
        raise UsageError(f"give one of {', '.join(given)}")
    return values[0]
