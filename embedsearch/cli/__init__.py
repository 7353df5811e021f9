"""The command line: parse, call, present. Results on stdout, all else on stderr."""

from __future__ import annotations

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with a code of `errors.py`."""
    # While modules load, Ctrl-C ends the process at once: Python's exception would show a
    # traceback, or be lost in a callback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from embedsearch.cli.entry import enter

    enter()
