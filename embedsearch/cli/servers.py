"""`embedsearch serve` and `embedsearch mcp`: stores for other programs."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedsearch.cli.app import (
    DeviceOption,
    PrecisionOption,
    ServeFromOption,
    StoreOption,
    WeightsOption,
    notice,
    show_tracebacks,
)
from embedsearch.cli.help import LIMITS, NETWORK, SERVER
from embedsearch.cli.options import with_config
from embedsearch.cli.wording import with_options
from embedsearch.core.errors import MissingLibrary, UsageError, WeightsUnavailable
from embedsearch.core.install import install_command
from embedsearch.core.paths import local_path
from embedsearch.core.session import Session
from embedsearch.web.limits import CONCURRENCY, QUEUE, ServerLimits, shares

if TYPE_CHECKING:
    import socket

    from embedsearch.searching.searcher import Searcher
    from embedsearch.web.access import Access
    from embedsearch.web.tokens import Token

OVER_HTTP = {
    "host": typer.Option(
        metavar="ADDRESS",
        help="Address to listen on; 0.0.0.0 is all. Beyond this machine it needs a token.",
        rich_help_panel=SERVER,
    ),
    "port": typer.Option(
        metavar="N", help="Port to listen on; 0 picks a free one.", rich_help_panel=SERVER
    ),
    "token_file": typer.Option(
        metavar="FILE",
        help="File with the token that clients must send.  [default: EMBEDSEARCH_TOKEN]",
        rich_help_panel=SERVER,
    ),
    "token": typer.Option(
        metavar="auto", help="Make a token, and print it.", rich_help_panel=SERVER
    ),
    "allow_host": typer.Option(
        metavar="NAME",
        help="Also answer to this host name. A pattern: *.example.org; * needs a token. "
        "Repeatable.",
        rich_help_panel=SERVER,
    ),
    "public_url": typer.Option(
        "--public-url",
        "--root-path",
        metavar="URL",
        help="Address at which a proxy shows this server, as https://x.org/photos/, or its path, "
        "as /photos.",
        rich_help_panel=SERVER,
    ),
    "trusted_proxy": typer.Option(
        metavar="ADDRESS",
        help="A proxy elsewhere, or a network of them, whose X-Forwarded-For names the client in "
        "the log. Repeatable.",
        rich_help_panel=SERVER,
    ),
    "log": typer.Option(
        metavar="FORMAT",
        help="Log every request: text, or json, one object a line.",
        rich_help_panel=SERVER,
    ),
    "concurrency": typer.Option(
        metavar="N", help="Requests of a kind that run at once.", rich_help_panel=LIMITS
    ),
    "queue": typer.Option(
        metavar="N",
        help="Requests of a kind that wait; further ones get 503.",
        rich_help_panel=LIMITS,
    ),
}
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        callback=show_tracebacks,
        help="Log every request over HTTP; show tracebacks of errors.",
    ),
]


AllStoresOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STORE",
        help="Folder or URL of a store. Repeatable.  "
        "[default: EMBEDSEARCH_STORE, else the nearest]",
    ),
]
AllWeightsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE",
        help="File of a store's weights, for a store from another machine. Needed once. "
        "Repeatable.",
        rich_help_panel=NETWORK,
    ),
]


@dataclass(frozen=True)
class OverHttp:
    """How a server is reached over HTTP."""

    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    token: str | None = field(default=None, repr=False)
    allow_host: tuple[str, ...] = ()
    public_url: str | None = None
    trusted_proxy: tuple[str, ...] = ()
    log: Literal["text", "json"] | None = None
    concurrency: int = CONCURRENCY
    queue: int = QUEUE

    def given(self) -> list[str]:
        """Return the names of the options that are not as they would be by themselves."""
        return [f.name for f in fields(self) if getattr(self, f.name) != f.default]

    def logging(self, verbose: bool) -> Callable[[str], None]:
        """Begin to log, and return what writes a line for a person there."""
        from embedsearch.web.logs import log_to_stderr

        log_to_stderr(self.log or ("text" if verbose else None))
        return logging.getLogger("embedsearch").info if self.log == "json" else notice

    def access(self, say: Callable[[str], None]) -> tuple[Access, Token | None]:
        """Return the access rules and the token, with a notice where it is not what it seems.

        Raises UsageError.
        """
        from embedsearch.web.access import access
        from embedsearch.web.tokens import AUTO, VARIABLE, find_token

        option = "--token-file" if self.token is None else "--token"
        if VARIABLE in os.environ and (self.token is not None or self.token_file is not None):
            say(f"{VARIABLE} is not used: {option} is given")
        found = find_token(self.token, self.token_file)
        if self.token not in {None, AUTO}:
            say(
                "others on this machine can read --token in its list of processes: --token-file "
                f"or {VARIABLE} keeps it secret"
            )
        value = found.value if found else None
        rules = access(self.host, self.allow_host, value, self.public_url, self.trusted_proxy)
        return rules, found

    def limits(self) -> ServerLimits:
        """Return the bounds. Raises UsageError."""
        return ServerLimits(shares=shares(self.concurrency, self.queue))


@with_config(OverHttp, OVER_HTTP, name="over_http")
def serve(
    over_http: OverHttp,
    store: StoreOption = None,
    model: WeightsOption = None,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    serve_from: ServeFromOption = None,
    verbose: VerboseOption = False,
) -> int:
    """Show a store as a web page, and answer over HTTP."""
    try:
        from embedsearch.web import server
        from embedsearch.web.app import create_app
    except ModuleNotFoundError as error:
        raise _missing("serve", error) from error
    from embedsearch.searching.searcher import open_store

    say = over_http.logging(verbose)
    access, token = over_http.access(say)
    limits = over_http.limits()
    with (
        server.ending_on_signal(),
        open_store(
            store,
            device=device,
            precision=precision,
            follow=True,
            serve_from=serve_from,
            model=model,
            session=Session(notice=say),
        ) as searcher,
        server.listen(over_http.host, over_http.port) as listening,
    ):
        try:
            searcher.warm_up()
        except (MissingLibrary, WeightsUnavailable) as error:
            why = with_options(str(error), error.fields)
            say(f"searching by image is unavailable, keys and vectors still work: {why}")
        say(f"{len(searcher)} images at {_address(listening, token)}")
        return server.serve(create_app(searcher, access, limits), listening, limits)


@with_config(OverHttp, OVER_HTTP, name="over_http")
def mcp(
    over_http: OverHttp,
    store: AllStoresOption = None,
    allow: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="A folder of images that agents may search with. Repeatable.",
        ),
    ] = None,
    http: Annotated[
        bool, typer.Option("--http", help="Serve HTTP at /mcp, not stdin.", rich_help_panel=SERVER)
    ] = False,
    model: AllWeightsOption = None,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    verbose: VerboseOption = False,
) -> int:
    """Serve stores to agents, by the Model Context Protocol."""
    try:
        from embedsearch.integrations import mcp as mcp_server
        from embedsearch.web import server
    except ModuleNotFoundError as error:
        raise _missing("mcp", error) from error
    from embedsearch.network.weights import resolve
    from embedsearch.searching.searcher import open_store
    from embedsearch.store.locate import locate_store, url_of

    if not http and (given := over_http.given()):
        raise UsageError(f"{given[0]} needs http: without it, nothing listens", given[0], "http")
    say = over_http.logging(verbose) if http else notice
    serve_tools = _tools_over_http(over_http, say) if http else _tools_by_stdio
    stores = store or [url_of(None) or str(locate_store(None))]
    for folder in allow or ():
        if not Path(local_path(folder)).is_dir():
            raise UsageError(f"--allow {folder}: there is no such folder")
    for weights in model or ():
        resolve(weights, Session(notice=say))
    with ExitStack() as opened:
        if http:
            opened.enter_context(server.ending_on_signal())
        searchers = {}
        for name, location in zip(mcp_server.names_of(stores), stores, strict=True):
            searcher = open_store(
                location,
                device=device,
                precision=precision,
                follow=True,
                session=Session(notice=say),
            )
            searchers[name] = opened.enter_context(searcher)
        return serve_tools(searchers, allow or ())


def _tools_by_stdio(searchers: Mapping[str, Searcher], allow: Sequence[Path]) -> int:
    from embedsearch.integrations.mcp import create_server

    tools = create_server(searchers, allow)
    if sys.stdin.isatty():
        notice(
            "waiting for an agent on the standard input, which starts this command by itself; to "
            "serve agents over HTTP: --http (Ctrl-C ends)"
        )
        # A thread that reads from a terminal is not broken off by an exception.
        signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))
    tools.run("stdio")
    return 0


def _tools_over_http(
    over_http: OverHttp, say: Callable[[str], None]
) -> Callable[[Mapping[str, Searcher], Sequence[Path]], int]:
    """Return what serves tools over HTTP; its options are checked before a store is opened."""
    from embedsearch.integrations.mcp import create_server
    from embedsearch.integrations.mcp_http import http_app
    from embedsearch.web import server
    from embedsearch.web.turns import Turns

    access, token = over_http.access(say)
    limits = over_http.limits()

    def serve_tools(searchers: Mapping[str, Searcher], allow: Sequence[Path]) -> int:
        turns = Turns(limits)
        tools = create_server(searchers, allow, turns)
        with server.listen(over_http.host, over_http.port) as listening:
            say(f"tools at {_address(listening, token, 'mcp')}")
            app = http_app(tools, searchers, access, limits, turns)
            return server.serve(app, listening, limits)

    return serve_tools


def _address(listening: socket.socket, token: Token | None, path: str = "") -> str:
    """Return where a server is, and how it ends."""
    from embedsearch.web import server

    needed = "" if token is None or token.is_made_here else "with the token, "
    return f"{server.address(listening, token, path)} ({needed}Ctrl-C ends)"


def _missing(extra: str, error: ModuleNotFoundError) -> MissingLibrary:
    return MissingLibrary(f"{error.name} is not installed: {install_command(extra)}")
