"""`embedsearch serve`: the store for other programs."""

from __future__ import annotations

from typing import Annotated

import typer

from embedsearch.cli.app import (
    DeviceOption,
    PrecisionOption,
    StoreOption,
    VerboseOption,
    notice,
)
from embedsearch.errors import MissingLibrary
from embedsearch.session import Session

HostOption = Annotated[
    str, typer.Option(help="Where to listen; others than this machine need a token.")
]
TokenOption = Annotated[
    str | None, typer.Option(help="What clients have to know; auto makes one up and shows it.")
]
AllowHostOption = Annotated[
    list[str] | None, typer.Option(help="A name of this machine that clients may use. Repeatable.")
]


def serve(
    store: StoreOption = None,
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    token: TokenOption = None,
    allow_host: AllowHostOption = None,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    verbose: VerboseOption = False,
) -> None:
    """Answer searches over HTTP: POST /search, thumbnails, an OpenAPI document."""
    try:
        from embedsearch.web import server
        from embedsearch.web.app import create_app
    except ModuleNotFoundError as error:
        raise _missing("serve", error) from error
    from embedsearch.searching import open_store
    from embedsearch.web.limits import ServerLimits

    access = server.access(host, tuple(allow_host or ()), token)
    with (
        open_store(
            store, device=device, precision=precision, follow=True, session=Session(notice=notice)
        ) as searcher,
        server.listen(host, port) as listening,
    ):
        place = server.address(listening, access)
        notice(f"{len(searcher)} images at {place}; Ctrl-C ends")
        server.serve(create_app(searcher, access), listening, ServerLimits(), log=verbose)


def _missing(extra: str, error: ModuleNotFoundError) -> MissingLibrary:
    return MissingLibrary(f"{error.name} is not installed: pip install 'embedsearch[{extra}]'")
