"""Fields of messages as options, on the command line alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import embedsearch
from embedsearch.cli.wording import with_options
from tests.support.library import run_cli

CASES = [
    ("workers must be at least 1", ["workers"], "--workers must be at least 1"),
    ("re-embed with rebuild=True", ["rebuild"], "re-embed with --rebuild"),
    ("use precision=auto, or more", ["precision"], "use --precision auto, or more"),
    ("wait_s must not be negative", ["wait_s"], "--wait must not be negative"),
    ("a/rebuild.txt: rebuild it", ["rebuild"], "a/rebuild.txt: --rebuild it"),
    ("max_pixels and max_bytes", ["max_pixels", "max_bytes"], "--max-pixels and --max-bytes"),
    ("workers must be at least 1", [], "workers must be at least 1"),
]


@pytest.mark.parametrize(("message", "fields", "shown"), CASES)
def test_fields_are_shown_as_options(message: str, fields: list[str], shown: str) -> None:
    assert with_options(message, fields) == shown


def test_python_hears_the_field_and_the_command_line_shows_the_option(tmp_path: Path) -> None:
    with pytest.raises(embedsearch.UsageError, match=r"^workers must be at least 1$") as caught:
        embedsearch.index(tmp_path, workers=0)
    assert caught.value.fields == ("workers",)
    done = run_cli("index", tmp_path, "--workers", "0", "--store", tmp_path / "s.es")
    assert (done.returncode, done.stderr) == (2, "embedsearch: --workers must be at least 1\n")


def test_what_the_user_typed_is_left_as_it_is(tmp_path: Path) -> None:
    assert with_options("metadata metadata: no", ["metadata"]) == "--metadata metadata: no"
    assert with_options("give token=auto, or a token", ["token"]) == "give --token auto, or a token"
    (tmp_path / "files").mkdir()
    done = run_cli("index", "files", cwd=tmp_path)
    assert done.stderr == "embedsearch: no images found in files; no store was made\n"
