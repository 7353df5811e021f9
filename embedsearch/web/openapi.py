"""What the OpenAPI document says of a route; in: models of answers and options, out: its parts."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from fastapi import Path
from pydantic import BaseModel
from starlette.responses import Response

from embedsearch.web.answers import ErrorAnswer

Row: TypeAlias = Annotated[str, Path(pattern="^[0-9]{1,12}$")]
_FAILED: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 404, 422, 503)
}


def told(found: dict[str, Any], request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the arguments that describe a route: what it answers, and what it takes."""
    return {
        "response_class": Response,
        "responses": {200: found, **_FAILED},
        "openapi_extra": request,
    }


def in_query(options: type[BaseModel], note: str = "") -> list[dict[str, Any]]:
    """Return the fields of options as parameters of a query string."""
    described = options.model_json_schema()
    return [
        {
            "name": name,
            "in": "query",
            "required": name in described.get("required", ()),
            "schema": schema,
            "description": note + schema.get("description", ""),
        }
        for name, schema in described["properties"].items()
    ]
