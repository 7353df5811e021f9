"""pyarrow without pandas, which it loads to ask whether a list is a Series."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder

import pyarrow as pa


class _Refusal(MetaPathFinder):
    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """Raise ModuleNotFoundError for pandas."""
        if name == "pandas":
            raise ModuleNotFoundError(name)


def spare_pandas() -> None:
    """Let pyarrow do without pandas in this process; for commands, whose process is their own.

    Loading pandas takes as long as a small run. pyarrow looks for it once, with the first list.
    """
    refusal = _Refusal()
    sys.meta_path.insert(0, refusal)
    try:
        pa.array([""])
    finally:
        sys.meta_path.remove(refusal)
