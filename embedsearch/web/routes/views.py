"""Views of the whole store: copies, groups, outliers, a map; out: what there is to tidy up.

Nothing here deletes anything: `/copies/script` is a file to read and to run.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from embedsearch.core.names import path_fields, unicode_text
from embedsearch.curation.collection import Picture
from embedsearch.curation.copies import DuplicateGroup
from embedsearch.curation.script import delete_script
from embedsearch.curation.views import (
    CopiesView,
    GroupsView,
    MapView,
    OutliersView,
    copies_view,
    groups_view,
    map_view,
    outliers_view,
)
from embedsearch.web.answers import json_answer
from embedsearch.web.kept_views import KeptViews
from embedsearch.web.limits import Kind
from embedsearch.web.openapi import in_query, told
from embedsearch.web.routes.images import ListAnswer
from embedsearch.web.routes.view_models import (
    CopiesAnswer,
    CopiesOptions,
    GroupOptions,
    GroupsAnswer,
    GroupsOptions,
    MapAnswer,
    MapOptions,
    OutliersAnswer,
    PageOptions,
)
from embedsearch.web.search_request import BadRequest, parameters, validated
from embedsearch.web.service import Service

SCRIPT_NAME = "delete_copies.sh"
_MAX_MEMBERS = 20_000  # of an answer, some 6 MB
_NUMBER = re.compile(r"[1-9][0-9]{0,5}")
_DIGITS = 4


class ViewRoutes:
    """`/copies`, `/groups`, `/outliers` and `/map`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._views = KeptViews(service.turns)

    def add_to(self, app: FastAPI) -> None:
        """Register the routes."""
        asked = {"parameters": in_query(CopiesOptions)}
        app.get("/copies", **told({"model": CopiesAnswer}, asked))(self.copies)
        script = {"content": {"text/x-shellscript": {"schema": {"type": "string"}}}}
        app.get("/copies/script", **told(script, asked))(self.script)
        asked = {"parameters": in_query(GroupsOptions)}
        app.get("/groups", **told({"model": GroupsAnswer}, asked))(self.groups)
        asked = {"parameters": in_query(GroupOptions)}
        app.get("/groups/{number}", **told({"model": ListAnswer}, asked))(self.group)
        asked = {"parameters": in_query(PageOptions)}
        app.get("/outliers", **told({"model": OutliersAnswer}, asked))(self.outliers)
        asked = {"parameters": in_query(MapOptions)}
        app.get("/map", **told({"model": MapAnswer}, asked))(self.map)

    async def copies(self, request: Request) -> Response:
        """Return groups of copies. Nothing is deleted."""
        view = await self._copies(validated(CopiesOptions, parameters(request)))
        return await self._service.turns.run(Kind.RECORDS, lambda: _copies_answer(view))

    async def script(self, request: Request) -> Response:
        """Return a shell script that deletes copies, to read first and then to run."""
        view = await self._copies(validated(CopiesOptions, parameters(request)))
        script = await self._service.turns.run(
            Kind.RECORDS, lambda: delete_script(SCRIPT_NAME, view.report.groups)
        )
        headers = {
            "cache-control": "no-store",
            "content-disposition": f'attachment; filename="{SCRIPT_NAME}"',
        }
        return Response(script, 200, headers, "text/x-shellscript")

    async def groups(self, request: Request) -> Response:
        """Return all images in groups of similar ones."""
        options = validated(GroupsOptions, parameters(request))
        view = await self._groups(options.k)
        groups = [
            {
                "number": number,
                "images": len(group.rows),
                "cohesion": round(group.cohesion, _DIGITS),
                "representatives": _shown(group.representatives),
            }
            for number, group in enumerate(view.groups, start=1)
        ]
        return json_answer({"groups": groups, "total": len(groups), "generation": view.generation})

    async def group(self, request: Request, number: str) -> Response:
        """Return the images of a group, the most typical first."""
        options = validated(GroupOptions, parameters(request))
        view = await self._groups(options.groups)
        if not _NUMBER.fullmatch(number) or int(number) > len(view.groups):
            raise BadRequest("there is no such group", 404, code="no_such_group")
        rows = view.groups[int(number) - 1].rows
        images = await self._records(rows[options.offset :][: options.k])
        return json_answer(
            {
                "images": list(images.values()),
                "total": len(rows),
                "generation": view.generation,
            }
        )

    async def outliers(self, request: Request) -> Response:
        """Return the images that are least like their nearest neighbors, the oddest first."""
        options = validated(PageOptions, parameters(request))
        view = await self._outliers()
        images = await self._records(view.rows[options.offset :][: options.k])
        scores = dict(zip(view.rows.tolist(), view.scores.tolist(), strict=True))
        odd = [{**image, "score": round(scores[row], _DIGITS)} for row, image in images.items()]
        return json_answer({"images": odd, "total": len(view.rows), "generation": view.generation})

    async def map(self, request: Request) -> Response:
        """Return where images are on a plane on which similar ones are near each other."""
        options = validated(MapOptions, parameters(request))
        store = self._service.searcher.store
        view: MapView = await self._views.get(
            ("map", options.max_images, self._service.generation),
            lambda session: map_view(store, options.max_images, session),
        )
        return await self._service.turns.run(Kind.RECORDS, lambda: _map_answer(view))

    async def _copies(self, options: CopiesOptions) -> CopiesView:
        config, store = options.config(), self._service.searcher.store
        return await self._views.get(
            ("copies", config, self._service.generation),
            lambda session: copies_view(store, config, session),
        )

    async def _groups(self, k: int | None) -> GroupsView:
        store = self._service.searcher.store
        return await self._views.get(
            ("groups", k, self._service.generation),
            lambda session: groups_view(store, k, session),
        )

    async def _outliers(self) -> OutliersView:
        store = self._service.searcher.store
        return await self._views.get(
            ("outliers", self._service.generation),
            lambda session: outliers_view(store, session),
        )

    async def _records(self, rows: npt.NDArray[np.int64]) -> dict[int, dict[str, Any]]:
        """Return the records of rows, in order; one deleted meanwhile has none."""
        records = await self._service.records(rows.tolist())
        return {record.row: record.to_dict() for record in records}


def _copies_answer(view: CopiesView) -> Response:
    report, groups, members = view.report, [], 0
    for group in report.groups:
        members += 1 + len(group.copies)
        if members > _MAX_MEMBERS:
            break
        groups.append(_group(group))
    return json_answer(
        {
            "groups": groups,
            "total": len(report.groups),
            "truncated": len(groups) < len(report.groups),
            "images": report.images,
            "copies": report.copies,
            "others": report.others,
            "bytes": report.bytes,
            "generation": view.generation,
        }
    )


def _group(group: DuplicateGroup) -> dict[str, Any]:
    copies = [_member(copy.picture, copy.how, copy.score) for copy in group.copies]
    return {"keep": _member(group.keep, "keep", 1.0), "copies": copies}


def _member(picture: Picture, what: str, score: float) -> dict[str, Any]:
    return {
        "row": picture.row,
        **path_fields(picture.key, picture.full_path),
        "key": unicode_text(picture.key),
        "width": picture.width,
        "height": picture.height,
        "size_bytes": picture.size_bytes,
        "format": picture.format,
        "what": what,
        "score": round(score, _DIGITS),
    }


def _shown(pictures: list[Picture]) -> list[dict[str, Any]]:
    return [
        {
            "row": picture.row,
            "key": unicode_text(picture.key),
            "width": picture.width,
            "height": picture.height,
        }
        for picture in pictures
    ]


def _map_answer(view: MapView) -> Response:
    x, y = np.round(view.plane.astype(np.float64), _DIGITS).T.tolist()
    return json_answer(
        {
            "rows": view.rows.tolist(),
            "x": x,
            "y": y,
            "images": view.images,
            "generation": view.generation,
        }
    )
