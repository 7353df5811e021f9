"""`embedsearch serve` and `embedsearch mcp`: stores for other programs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from embedsearch.cli.app import (
    DeviceOption,
    PrecisionOption,
    ServeFromOption,
    StoreOption,
    notice,
    show_tracebacks,
)
from embedsearch.core.errors import MissingLibrary, UsageError, WeightsUnavailable
from embedsearch.core.install import pip_install
from embedsearch.core.paths import local_path
from embedsearch.core.session import Session

HostOption = Annotated[str, typer.Option(help="Address to listen on; any other needs a token.")]
TokenOption = Annotated[
    str | None, typer.Option(help="Token that clients must send; auto generates one and prints it.")
]
AllowHostOption = Annotated[
    list[str] | None, typer.Option(help="A name of this machine that clients may use. Repeatable.")
]
PublicUrlOption = Annotated[
    str | None, typer.Option(help="Address at which a proxy shows this, as https://x.org/photos/.")
]

LogOption = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        callback=show_tracebacks,
        help="Log every request over HTTP; show tracebacks of errors.",
    ),
]
PortOption = Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")]
HOST, PORT = "127.0.0.1", 8000


def serve(
    store: StoreOption = None,
    host: HostOption = HOST,
    port: PortOption = PORT,
    token: TokenOption = None,
    allow_host: AllowHostOption = None,
    public_url: PublicUrlOption = None,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    serve_from: ServeFromOption = None,
    verbose: LogOption = False,
) -> None:
    """Answer searches over HTTP: POST /search, thumbnails, an OpenAPI document."""
    try:
        from embedsearch.web import server
        from embedsearch.web.app import create_app
    except ModuleNotFoundError as error:
        raise _missing("serve", error) from error
    from embedsearch.searching.searcher import open_store
    from embedsearch.web.limits import ServerLimits

    access = server.access(host, tuple(allow_host or ()), token, public_url)
    with (
        open_store(
            store,
            device=device,
            precision=precision,
            follow=True,
            serve_from=serve_from,
            session=Session(notice=notice),
        ) as searcher,
        server.listen(host, port) as listening,
    ):
        try:
            searcher.warm_up()
        except (MissingLibrary, WeightsUnavailable) as error:
            notice(f"searching by image is unavailable, keys and vectors still work: {error}")
        notice(f"{len(searcher)} images at {server.address(listening, access)} (Ctrl-C ends)")
        server.serve(create_app(searcher, access), listening, ServerLimits(), log=verbose)


def mcp(
    store: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder or URL of a store. Repeatable.  "
            "[default: EMBEDSEARCH_STORE, else the nearest]"
        ),
    ] = None,
    allow: Annotated[
        list[Path] | None,
        typer.Option(help="A folder of images that agents may search with. Repeatable."),
    ] = None,
    http: Annotated[bool, typer.Option("--http", help="Serve HTTP, at /mcp, not stdin.")] = False,
    host: HostOption = HOST,
    port: PortOption = PORT,
    token: TokenOption = None,
    allow_host: AllowHostOption = None,
    public_url: PublicUrlOption = None,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    verbose: LogOption = False,
) -> None:
    """Serve stores to agents over the Model Context Protocol: similar images, thumbnails, facts."""
    try:
        from embedsearch.integrations import mcp as mcp_server
        from embedsearch.web import server
    except ModuleNotFoundError as error:
        raise _missing("mcp", error) from error
    from embedsearch.searching.searcher import open_store
    from embedsearch.store.locate import locate_store, url_of
    from embedsearch.web.limits import ServerLimits

    stores = store or [url_of(None) or str(locate_store(None))]
    for folder in allow or ():
        if not Path(local_path(folder)).is_dir():
            raise UsageError(f"--allow {folder}: there is no such folder")
    with ExitStack() as opened:
        searchers = {}
        for name, location in zip(mcp_server.names_of(stores), stores, strict=True):
            searcher = open_store(
                location,
                device=device,
                precision=precision,
                follow=True,
                session=Session(notice=notice),
            )
            searchers[name] = opened.enter_context(searcher)
        tools = mcp_server.create_server(searchers, allow or ())
        if not http:
            tools.run("stdio")
            return
        access = server.access(host, tuple(allow_host or ()), token, public_url)
        listening = opened.enter_context(server.listen(host, port))
        notice(f"tools at {server.address(listening, access, 'mcp')} (Ctrl-C ends)")
        app = mcp_server.http_app(tools, access, ServerLimits())
        server.serve(app, listening, ServerLimits(), log=verbose)


def _missing(extra: str, error: ModuleNotFoundError) -> MissingLibrary:
    return MissingLibrary(f"{error.name} is not installed: {pip_install(extra)}")
