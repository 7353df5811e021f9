"""Long harnesses that try to make a store lose something; `python -m tests.soak --help`.

Each harness is a file with `run(Trial) -> Finding`. The parent process only imports, injects and
judges; what it judges happens in children forked from it, as new as a first run. A harness that
cannot fail proves nothing: each has mutants (mutants.py), defects that it has to catch.
"""
