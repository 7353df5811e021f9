"""Counters of a server, in the text format of Prometheus."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from embedsearch.searching.searcher import Searcher
from embedsearch.web.limits import Kind
from embedsearch.web.turns import Turns

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_METHODS = {"GET", "POST"}


class Metrics:
    """Counters of one server, and gauges of its store and its queue."""

    def __init__(self, searcher: Searcher, turns: Turns) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "embedsearch_requests",
            "Answers by route, method and status",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "embedsearch_request_seconds",
            "From the headers of a request to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        for name, description, value in (
            ("images", "Images of the store", lambda: len(searcher)),
            ("generation", "Its generation", lambda: searcher.manifest.generation),
            ("degraded", "1: a newer generation cannot be read", lambda: bool(searcher.trouble)),
        ):
            gauge = Gauge(f"embedsearch_{name}", description, registry=self._registry)
            gauge.set_function(value)
        for name, description, count in (
            ("requests_running", "Requests that are worked on, by kind", turns.running),
            ("requests_waiting", "Requests that wait for that, by kind", turns.waiting),
        ):
            gauge = Gauge(f"embedsearch_{name}", description, ["kind"], registry=self._registry)
            for kind in Kind:
                gauge.labels(kind.value).set_function(partial(count, kind))

    def watch(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answer; requests without a route share one name."""
        route = route or "none"
        method = method if method in _METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return all of them."""
        return generate_latest(self._registry)
