"""The base of all commands: the app they register with, common options, notices, signals."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from embedsearch._version import __version__
from embedsearch.cli.completion import columns, devices, models, precisions
from embedsearch.cli.help import FILTERS, MAX_WIDTH, NETWORK, OUTPUT, HelpfulGroup
from embedsearch.cli.wording import with_options
from embedsearch.core.ending import guard_signals, keep_results
from embedsearch.core.errors import EmbedSearchError
from embedsearch.core.quantity import scaled, size_of
from embedsearch.core.session import Session

app = typer.Typer(
    name="embedsearch",
    help="Find images by image: folders of photos in, nearest neighbors out.",
    epilog="embedsearch index ~/Pictures\nembedsearch query ~/Pictures/beach.jpg\n"
    "embedsearch COMMAND --help",
    cls=HelpfulGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": MAX_WIDTH},
)

ENDED_S = 1.5  # after a signal
_show_traceback = False
_stop_signal = 0


def notice(message: str) -> None:
    """Print a line on stderr."""
    print(f"embedsearch: {message}", file=sys.stderr, flush=True)


def plain_session() -> Session:
    """Return a session for a command that a signal may end anywhere."""
    guard_signals(ENDED_S)
    return Session(notice=notice)


@contextmanager
def shown_session() -> Iterator[Session]:
    """Yield a session whose steps are shown while the block lasts."""
    from embedsearch.cli.output.progress import ProgressDisplay

    with ProgressDisplay(notice) as show:
        yield replace(session_with_signals(), step=show.step)


def session_with_signals() -> Session:
    """Return a session that the first signal stops gently; the second ends at once.

    What waits longer than ENDED_S for a file or a server is ended there, except to commit what was
    embedded.
    """

    def note(number: int, _: object) -> None:
        global _stop_signal
        if _stop_signal:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        _stop_signal = number

    guard_signals(ENDED_S)  # first: a signal between the two would be noted, and end nothing
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it on purpose
            signal.signal(number, note)
    return Session(notice=notice, stop=lambda: _stop_signal, keep=keep_results)


def explain(error: Exception) -> None:
    """Print an error as one line on stderr, after its traceback with -v."""
    if _show_traceback:
        traceback.print_exception(error)
    message = str(error)
    if isinstance(error, EmbedSearchError):
        message = with_options(message, error.fields)
    print(f"embedsearch: {message}", file=sys.stderr)


def show_tracebacks(value: bool) -> bool:
    """Record -v, whatever its position in the command."""
    global _show_traceback
    _show_traceback = _show_traceback or value
    return value


def _version(value: bool) -> None:
    if value:
        print(f"embedsearch {__version__}")
        raise typer.Exit


def seconds(text: str) -> float:
    """Return the seconds of `10ms`, `0.5 s` or `2`."""
    try:
        return scaled(text, {"ms": 1e-3, "s": 1.0, "": 1.0})
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def size(text: str) -> int:
    """Return the bytes of `700M`, `4G` or `4GB`."""
    try:
        return size_of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


_STORE_DEFAULT = "[default: EMBEDSEARCH_STORE, else the nearest .embedsearch]"
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="STORE", help=f"The store's folder or URL.  {_STORE_DEFAULT}"),
]
WrittenStoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="STORE", help=f"The store's folder.  {_STORE_DEFAULT}"),
]
DEVICE = typer.Option(
    metavar="DEVICE",
    autocompletion=devices,
    help="auto, cpu, cuda, cuda:N or mps.",
    rich_help_panel=NETWORK,
)
PRECISION = typer.Option(
    metavar="NAME",
    autocompletion=precisions,
    help="auto, fp32, bf16, fp16, or int8: faster, on a CPU.",
    rich_help_panel=NETWORK,
)
WHERE = typer.Option(
    metavar="CONDITION",
    autocompletion=columns,
    help='Only images that meet a SQL condition: "width > 1000".',
    rich_help_panel=FILTERS,
)
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="FILE",
        autocompletion=models,
        help="File of the store's weights, for a store from another machine. Needed once.",
        rich_help_panel=NETWORK,
    ),
]
DeviceOption = Annotated[str, DEVICE]
PrecisionOption = Annotated[str, PRECISION]
WhereOption = Annotated[str | None, WHERE]
ServeFromOption = Annotated[
    str | None,
    typer.Option(
        "--serve-from",
        metavar="URL",
        help="Find candidates in a vector database that `export --to` filled.",
    ),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option(
        help="Also write a page with the pictures, as one HTML file.", rich_help_panel=OUTPUT
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, for programs.", rich_help_panel=OUTPUT)
]
CsvOption = Annotated[
    bool, typer.Option("--csv", help="Print CSV with a header.", rich_help_panel=OUTPUT)
]
VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", "-v", callback=show_tracebacks, help="Show tracebacks of errors."),
]
WaitOption = Annotated[
    float, typer.Option("--wait", metavar="SECONDS", help="Wait this long for another writer.")
]


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
