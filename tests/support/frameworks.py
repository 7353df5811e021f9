"""What the tests of the frameworks' adapters share."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import embedsearch
from tests.support.library import REPOSITORY, SAMPLES

with (REPOSITORY / "examples" / "captions.csv").open(newline="") as file:
    CAPTIONS = {row["path"]: row["caption"] for row in csv.DictReader(file)}
_ROOT_MODULES = {
    "langchain": "langchain_core",
    "llama_index": "llama_index",
    "haystack": "haystack",
}


def make_store(path: Path) -> Path:
    """Index the sample images with captions, and with a column that is called like one of ours."""
    table = path.with_suffix(".csv")
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "caption", "score"])
        rows.writerows([key, caption, 7] for key, caption in CAPTIONS.items())
    embedsearch.index(SAMPLES, store=path, model="packaged", metadata=str(table))
    return path


def imported_without(adapter: str) -> str:
    """Return what importing an adapter says where its framework is not installed."""
    program = (
        f"import sys; sys.modules[{_ROOT_MODULES[adapter]!r}] = None\n"
        "from embedsearch.core.errors import MissingLibrary\n"
        f"try:\n    import embedsearch.integrations.{adapter}\n"
        "except MissingLibrary as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
