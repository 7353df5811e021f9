"""Requests for a search; in: the body and the query string, out: a query and its config.

The options of an uploaded image are in the query string; in a form of a browser without scripts
they may also be fields.

Any invalid input raises BadRequest, whatever pydantic, json or the form parser raised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from embedsearch.core.config import DEFAULT_K, SearchConfig
from embedsearch.core.scores import BOTH
from embedsearch.core.strict_json import strict_json
from embedsearch.searching.queries import Crop, Key, Mix, Query, Single, Text, query_of
from embedsearch.web.limits import ServerLimits
from embedsearch.web.problems import problems_of

MAX_K = 1000
MAX_OFFSET = 10_000
_MAX_DIM = 1 << 16
_MAX_EXAMPLES = 100
_PARTS = 4
_ROWS = rf"^\d{{1,12}}(,\d{{1,12}}){{0,{_MAX_EXAMPLES - 1}}}$"


class BadRequest(Exception):
    """An invalid request, the status of its answer, the code of the error, the wrong option."""

    def __init__(
        self,
        message: str,
        status: int = 400,
        code: str = "bad_request",
        field: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field


PageSize: TypeAlias = Annotated[int, Field(ge=1, le=MAX_K)]
Row: TypeAlias = Annotated[int, Field(ge=0, lt=10**12)]
Rows: TypeAlias = Annotated[list[Row], Field(max_length=_MAX_EXAMPLES)]
RowsText: TypeAlias = Annotated[str, Field(pattern=_ROWS, max_length=2000)]
Where: TypeAlias = Annotated[str | None, Field(max_length=10_000, description="SQL condition")]


class Options(BaseModel):
    """The options of a search, as of `embedsearch query`; SearchConfig checks their bounds."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    k: Annotated[PageSize, Field(description="hits")] = DEFAULT_K
    offset: Annotated[int, Field(le=MAX_OFFSET, description="hits left out")] = 0
    where: Where = None
    min_score: Annotated[float | None, Field(description="least cosine")] = None
    collapse: Annotated[float | None, Field(description="copies count once")] = None
    diverse: Annotated[float | None, Field(description="how different hits are")] = None
    expand: Annotated[int, Field(description="neighbors to ask again with")] = 0
    rerank: Annotated[bool, Field(description="hits that resemble others move up")] = False
    by: Annotated[str, Field(description="with an image and a text: picture, words or both")] = BOTH
    weight: Annotated[
        Sequence[str],
        BeforeValidator(lambda given: _weights(given)),
        Field(max_length=_MAX_EXAMPLES, description="NAME=NUMBER: what a ranking or column counts"),
    ] = ()

    def config(self) -> SearchConfig:
        """Return them as a SearchConfig. Raises UsageError."""
        return SearchConfig(**{name: getattr(self, name) for name in Options.model_fields})


Words: TypeAlias = Annotated[
    str | None,
    Field(max_length=10_000, description="words in captions, paths and names of cameras"),
]


Histogram: TypeAlias = Annotated[bool, Field(description="tell which cosines images have")]


class TextOptions(Options):
    """The options of a search in a query string or a form."""

    text: Words = None
    histogram: Histogram = False

    crop: Annotated[
        str | None,
        Field(
            pattern=r"^\d{1,9},\d{1,9},\d{1,9},\d{1,9}$",
            description="x,y,width,height: the part of the image to search for, in pixels",
        ),
    ] = None
    like: Annotated[RowsText, Field(description="rows that hits should also be like")] = ""
    unlike: Annotated[RowsText, Field(description="rows that hits should not be like")] = ""


class RowOptions(TextOptions):
    """A search for an image of the store, for words or for both, by a link."""

    row: Annotated[Row | None, Field(description="an image of the store")] = None


class SearchBody(Options):
    """A search in JSON: one of key, row and vector, or like, or text alone or beside them."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    text: Words = None
    histogram: Histogram = False
    key: Annotated[str | None, Field(min_length=1, max_length=65_536)] = None
    row: Annotated[int | None, Field(ge=0, lt=10**12)] = None
    vector: Annotated[list[float] | None, Field(max_length=_MAX_DIM, description="of length 1")] = (
        None
    )
    crop: Annotated[
        list[Annotated[int, Field(ge=0, lt=10**9)]] | None,
        Field(
            min_length=4,
            max_length=4,
            description="x, y, width, height: the part of the image to search for, in pixels",
        ),
    ] = None
    like: Annotated[Rows, Field(description="rows that hits should also be like")] = []
    unlike: Annotated[Rows, Field(description="rows that hits should not be like")] = []


class ListOptions(BaseModel):
    """The options of a list of images."""

    model_config = ConfigDict(extra="forbid")

    k: Annotated[PageSize, Field(description="images")] = DEFAULT_K
    offset: Annotated[int, Field(ge=0, lt=10**12, description="images left out")] = 0
    where: Where = None
    order: Annotated[
        str | None,
        Field(max_length=100, description="taken_at, path, size, modified or row; - is descending"),
    ] = None


@dataclass(frozen=True)
class SearchRequest:
    """A query, its config, and whether the spread of its cosines is wanted."""

    query: Query
    config: SearchConfig
    histogram: bool = False

    @property
    def has_picture(self) -> bool:
        """Return whether a picture is decoded and embedded for it."""
        return any(isinstance(part, bytes | Crop) for part in self._parts)

    @property
    def originals(self) -> list[str | int]:
        """Return the images of the store whose files are read for it."""
        cropped = (part.image for part in self._parts if isinstance(part, Crop))
        return [image.key for image in cropped if isinstance(image, Key)]

    @property
    def _parts(self) -> list[Any]:
        query = self.query
        return [*query.like, *query.unlike] if isinstance(query, Mix) else [query]

    @property
    def has_words(self) -> bool:
        """Return whether words are looked for."""
        return isinstance(self.query, Text) or bool(isinstance(self.query, Mix) and self.query.text)


async def read_search(request: Request, limits: ServerLimits) -> SearchRequest:
    """Read a request for a search. Raises BadRequest and UsageError."""
    if request.method == "GET":
        options = validated(RowOptions, parameters(request))
        if options.row is None and options.text is None:
            raise BadRequest("a search has a row or a text")
        return _of_text(None if options.row is None else Key(options.row), options)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _of_json(request, await request.body(), limits)
    fields = parameters(request)
    if kind == "multipart/form-data":
        image, more = await _of_form(request, limits)
        if fields.keys() & more.keys():
            raise BadRequest("a parameter comes twice")
        fields |= more
    elif kind.startswith("image/") or kind == "application/octet-stream":
        image = await request.body()
    else:
        raise BadRequest(
            "send JSON with the header Content-Type: application/json, an image with Content-Type: "
            "image/jpeg, or a form (multipart/form-data) with the image",
            415,
        )
    options = validated(TextOptions, fields)
    if not image:
        raise BadRequest("the image is empty")
    return _of_text(image, options)


def _of_text(image: bytes | Key | None, options: TextOptions) -> SearchRequest:
    crop = options.crop and [int(number) for number in options.crop.split(",")]
    like, unlike = (
        [Key(int(row)) for row in rows.split(",") if row] for rows in (options.like, options.unlike)
    )
    query = query_of(image, crop=crop or None, like=like, unlike=unlike, text=options.text)
    return SearchRequest(query, options.config(), options.histogram)


def _of_json(request: Request, body: bytes, limits: ServerLimits) -> SearchRequest:
    search = validated(SearchBody, json_body(request, body, limits))
    given = [name for name in ("key", "row", "vector") if getattr(search, name) is not None]
    if len(given) > 1 or not (given or search.like or search.text is not None):
        raise BadRequest("a search needs one of key, row, vector, like and text")
    first: Single | None = None
    if search.vector is not None:
        first = np.array(search.vector, np.float32)
    elif given:
        first = Key(getattr(search, given[0]))
    like, unlike = ([Key(row) for row in rows] for rows in (search.like, search.unlike))
    query = query_of(first, crop=search.crop, like=like, unlike=unlike, text=search.text)
    return SearchRequest(query, search.config(), search.histogram)


def json_body(request: Request, body: bytes, limits: ServerLimits) -> Any:
    """Return what a body in JSON says. Raises BadRequest."""
    if request.url.query:
        raise BadRequest("put the options of a JSON request into its body")
    if len(body) > limits.json_bytes:
        raise BadRequest(f"JSON is at most {limits.json_bytes >> 10} kB", 413, "too_large")
    try:
        return strict_json(body)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {str(error)[:200]}") from error


async def _of_form(request: Request, limits: ServerLimits) -> tuple[bytes, dict[str, str]]:
    """Return the bytes of the part `image`, and the fields that are not empty."""
    try:
        async with request.form(
            max_files=_PARTS, max_fields=_PARTS, max_part_size=limits.body_bytes
        ) as form:
            parts = form.multi_items()
            files = {name: value for name, value in parts if isinstance(value, UploadFile)}
            fields = {name: value for name, value in parts if isinstance(value, str)}
            if len(files) + len(fields) != len(parts):
                raise BadRequest("a part comes twice")
            if files.keys() != {"image"}:
                raise BadRequest("a form needs one file called image; its other fields are options")
            image = await files["image"].read()
            return image, {name: value for name, value in fields.items() if value}
    except (MultiPartException, HTTPException) as error:
        message = getattr(error, "message", None) or getattr(error, "detail", "")
        raise BadRequest(f"the form cannot be read: {message}") from error


def parameters(request: Request) -> dict[str, str]:
    """Return the query string by name, several weights as one. Raises BadRequest."""
    pairs = request.query_params.multi_items()
    weights = [value for name, value in pairs if name == "weight"]
    found = dict(pairs) | ({"weight": ",".join(weights)} if weights else {})
    if len(found) != len(pairs) - max(0, len(weights) - 1):
        raise BadRequest("a parameter comes twice")
    return found


def _weights(given: Any) -> Any:
    """Return NAME=NUMBER of each weight, also of an object or of a text with commas."""
    if isinstance(given, Mapping):
        return [f"{name}={number}" for name, number in given.items()]
    return given.split(",") if isinstance(given, str) else given


def validated(model: Any, values: Any) -> Any:
    """Return the values as a model. Raises BadRequest with what is wrong."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        place = error.errors(include_url=False)[0]["loc"]
        field = str(place[0])[:50] if place else None
        code = "bad_filter" if field == "where" else "bad_request"
        raise BadRequest(problems_of(error, model.model_fields), 400, code, field) from error
