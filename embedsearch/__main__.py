"""`python -m embedsearch` is the command line."""

from embedsearch.cli import main

main()
