"""What is asked for; in: the body and the query string of a request, out: a query and its config.

What cannot be read is a BadRequest, whatever pydantic, json or the form parser raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from embedsearch.config import DEFAULT_K, SearchConfig
from embedsearch.queries import Crop, Key, Query
from embedsearch.store.files import strict_json
from embedsearch.web.limits import ServerLimits

MAX_K = 1000
MAX_OFFSET = 10_000
_MAX_DIM = 1 << 16
_PARTS = 4
_SHOWN = 3  # of what is wrong with a request


class BadRequest(Exception):
    """A request that cannot be followed, and the status that says so."""

    def __init__(self, words: str, status: int = 400) -> None:
        super().__init__(words)
        self.status = status


class Options(BaseModel):
    """The options of a search, as those of `embedsearch query`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    k: Annotated[int, Field(ge=1, le=MAX_K, description="hits")] = DEFAULT_K
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET, description="hits left out")] = 0
    where: Annotated[str | None, Field(max_length=10_000, description="SQL condition")] = None
    min_score: Annotated[float | None, Field(ge=-1, le=1, description="least cosine")] = None
    collapse: Annotated[float | None, Field(gt=0, le=1, description="copies count once")] = None
    diverse: Annotated[float | None, Field(ge=0, le=1, description="how different hits are")] = None
    expand: Annotated[int, Field(ge=0, le=100, description="neighbours to ask again with")] = 0

    def config(self) -> SearchConfig:
        """Return them as the searcher takes them. Raises UsageError."""
        return SearchConfig(**{name: getattr(self, name) for name in Options.model_fields})


class UploadOptions(Options):
    """The options of a search with an image that is handed over."""

    crop: Annotated[
        str | None,
        Field(
            pattern=r"^\d{1,9},\d{1,9},\d{1,9},\d{1,9}$",
            description="x,y,width,height: the part of the image that is meant, in pixels",
        ),
    ] = None


class SearchBody(Options):
    """A search with what the store has, or with a vector: exactly one of key, row and vector."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    key: Annotated[str | None, Field(min_length=1, max_length=65_536)] = None
    row: Annotated[int | None, Field(ge=0, lt=10**12)] = None
    vector: Annotated[list[float] | None, Field(max_length=_MAX_DIM, description="of length 1")] = (
        None
    )


@dataclass(frozen=True)
class Asked:
    """A query, and what is to be returned."""

    query: Query
    config: SearchConfig


async def asked(request: Request, limits: ServerLimits) -> Asked:
    """Read a request for a search. Raises BadRequest and UsageError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _of_json(request, await request.body(), limits)
    options = _validated(UploadOptions, _parameters(request))
    if kind == "multipart/form-data":
        image = await _of_form(request, limits)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        image = await request.body()
    else:
        raise BadRequest("a search is JSON, or an image, as it is or as a form's part", 415)
    if not image:
        raise BadRequest("the image is empty")
    query: Query = image
    if options.crop is not None:
        query = Crop(image, *map(int, options.crop.split(",")))
    return Asked(query, options.config())


def _of_json(request: Request, body: bytes, limits: ServerLimits) -> Asked:
    if request.url.query:
        raise BadRequest("the options of a JSON search stand in its body")
    if len(body) > limits.json_bytes:
        raise BadRequest(f"JSON is at most {limits.json_bytes >> 10} kB", 413)
    try:
        values = strict_json(body)
    except ValueError as error:
        raise BadRequest(f"the body is no JSON: {str(error)[:200]}") from error
    search = _validated(SearchBody, values)
    given = [name for name in ("key", "row", "vector") if getattr(search, name) is not None]
    if len(given) != 1:
        raise BadRequest("a search has one of key, row and vector")
    if search.vector is not None:
        return Asked(np.array(search.vector, np.float32), search.config())
    return Asked(Key(getattr(search, given[0])), search.config())


async def _of_form(request: Request, limits: ServerLimits) -> bytes:
    """Return the bytes of the part `image`; names of files mean nothing."""
    try:
        async with request.form(
            max_files=_PARTS, max_fields=_PARTS, max_part_size=limits.body_bytes
        ) as form:
            parts = form.multi_items()
            if len(parts) == 1 and parts[0][0] == "image" and isinstance(parts[0][1], UploadFile):
                return await parts[0][1].read()
    except (MultiPartException, HTTPException) as error:
        words = getattr(error, "message", None) or getattr(error, "detail", "")
        raise BadRequest(f"the form cannot be read: {words}") from error
    raise BadRequest("a form has one part, the file `image`")


def _parameters(request: Request) -> dict[str, str]:
    pairs = request.query_params.multi_items()
    if len({name for name, _ in pairs}) != len(pairs):
        raise BadRequest("a parameter comes twice")
    return dict(pairs)


def _validated(model: Any, values: Any) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part)[:50] for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)[:_SHOWN]
        ]
        raise BadRequest("; ".join(problems)) from error
