"""The command line: parse, call, present. Results on stdout, all else on stderr."""

from embedsearch.cli.app import app
from embedsearch.cli.entry import main, run

__all__ = ["app", "main", "run"]
