"""The store and the server; out: what they hold, how they are, counters."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import Response

from embedsearch._version import __version__
from embedsearch.web.metrics import CONTENT_TYPE
from embedsearch.web.probes import DEGRADED, LIVE, NOT_READY, OK, READY, Readiness
from embedsearch.web.service import Service


class Health(BaseModel):
    """`degraded`: a newer generation cannot be read, and the previous one still answers."""

    status: str
    generation: int


class Probe(BaseModel):
    """`ok`, or `not ready`."""

    status: str


class StoreInfo(BaseModel):
    """The content of the store. Without `takes_images` a query is a key, a row or a vector.

    With `reads_text` the model compares a text with pictures; words are looked for in any store.
    """

    version: str
    images: int
    generation: int
    created: str
    model: str
    dim: int
    takes_images: bool
    reads_text: bool
    words: list[str]  # columns whose words are searched
    columns: dict[str, str]  # usable in `where`, with their types


class StoreRoutes:
    """`/info`, `/health`, `/metrics`, and the probes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        searcher = service.searcher
        self._readiness = Readiness(service.turns, lambda: searcher.images(1))

    def add_to(self, app: FastAPI) -> None:
        """Register the routes."""
        app.get(LIVE)(self.live)
        app.get(READY, responses={503: {"model": Probe}})(self.ready)
        app.get("/health")(self.health)
        app.get("/info")(self.info)
        app.get("/metrics", response_class=Response)(self.metrics)

    async def live(self) -> Probe:
        """Return that the server runs; a probe that gets no answer restarts it."""
        return Probe(status=OK)

    async def ready(self, response: Response) -> Probe:
        """Return whether searches are answered now; 503 if not, to keep clients away."""
        if await self._readiness.is_ready():
            return Probe(status=OK)
        response.status_code = 503
        return Probe(status=NOT_READY)

    async def health(self) -> Health:
        """Return the state of the server."""
        status = DEGRADED if self._service.searcher.trouble else OK
        return Health(status=status, generation=self._service.generation)

    async def info(self) -> StoreInfo:
        """Return the content of the store."""
        return store_info(self._service)

    async def metrics(self) -> Response:
        """Return counters, for Prometheus."""
        return Response(self._service.metrics.text(), media_type=CONTENT_TYPE)


def store_info(service: Service) -> StoreInfo:
    """Return the content of the store."""
    searcher = service.searcher
    manifest = searcher.manifest
    return StoreInfo(
        version=__version__,
        images=manifest.live,
        generation=manifest.generation,
        created=manifest.created,
        model=manifest.model.name,
        dim=manifest.model.dim,
        takes_images=searcher.takes_images,
        reads_text=manifest.model.takes_texts,
        words=[] if manifest.words is None else list(manifest.words.columns),
        columns=searcher.columns,
    )
