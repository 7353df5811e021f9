"""The entry point: run one command, and turn its outcome into an exit code."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from embedsearch.cli.app import app, explain
from embedsearch.cli.bench import bench
from embedsearch.cli.curate import clusters, duplicates, map_, outliers
from embedsearch.cli.examples import EXAMPLES
from embedsearch.cli.exchange import export, import_, pull
from embedsearch.cli.help import HelpfulCommand
from embedsearch.cli.hints import in_our_words
from embedsearch.cli.index import commit, index
from embedsearch.cli.learn import evaluate, train
from embedsearch.cli.prepare import prepare
from embedsearch.cli.query import query
from embedsearch.cli.servers import mcp, serve
from embedsearch.cli.stores import check, failures, forget, info, models, relocate, repair
from embedsearch.core.errors import EmbedSearchError

# In the order of --help.
_GROUPS: dict[str, dict[str, Callable[..., object]]] = {
    "Search": {"query": query},
    "Collection": {
        "index": index,
        "info": info,
        "failures": failures,
        "check": check,
        "repair": repair,
        "relocate": relocate,
        "forget": forget,
        "commit": commit,
    },
    "Clean up": {
        "duplicates": duplicates,
        "clusters": clusters,
        "outliers": outliers,
        "map": map_,
    },
    "Learn": {"models": models, "evaluate": evaluate, "train": train, "bench": bench},
    "Share": {"export": export, "import": import_, "pull": pull},
    "Serve": {"serve": serve, "mcp": mcp, "prepare": prepare},
}
for _group, _commands in _GROUPS.items():
    for _name, _command in _commands.items():
        _examples = "\n".join(EXAMPLES[_name])
        app.command(_name, cls=HelpfulCommand, rich_help_panel=_group, epilog=_examples)(_command)


def enter() -> NoReturn:
    """Run the command line and exit with its code."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # started with a closed stream, as by `>&-`
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  open until exit
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack characters of a file name
            stream.reconfigure(errors="backslashreplace")
    _allow_many_files()
    gc.set_threshold(100_000)  # collecting during imports takes 5 % of a cold query
    # typer's pydantic would search every installed package for plugins of its own.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # What OpenVINO converts models with, and does without; ours are converted in another process.
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # the exit code already tells
            stream.flush()
    # Everything is closed and flushed by now; a normal exit takes OpenVINO's runtime apart, which
    # is a seventh of a cold query.
    os._exit(code)


def _allow_many_files() -> None:
    """Raise the soft limit of open files: a reader of millions of rows holds hundreds open."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16384 if hard == resource.RLIM_INFINITY else min(hard, 16384)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS has a lower limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; an error is one line on stderr."""
    try:
        code = app(arguments, standalone_mode=False, prog_name="embedsearch")
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        message = in_our_words(error.format_message().rstrip("."), arguments)
        shown = message if "\n" in message else f"embedsearch: {message}; see --help"
        print(shown, file=sys.stderr)
        return error.exit_code
    except EmbedSearchError as error:
        explain(error)
        return error.exit_code
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise  # the end of a shell completion
        # The reader of our output is gone, as with `| head`; typer raises SystemExit for it.
        # Keep Python from reporting it when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return 128 + signal.SIGINT
    except OSError as error:
        explain(error)
        return 4
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        explain(OSError(f"{error}: the system allows this user no more threads (ulimit -u)"))
        return 4
