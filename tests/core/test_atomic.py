"""Outputs: a file is replaced in one step; a pipe, a device or a link stays what it is."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from embedsearch.core.atomic import in_place
from embedsearch.core.errors import StorageError
from tests.support.library import REPOSITORY


def written(path: Path | str, text: str = "new") -> None:
    with in_place([Path(path)]) as (temporary,):
        temporary.write_text(text)


def test_a_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "o.txt"
    file.write_text("old and longer")
    file.chmod(0o640)
    written(file)
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o640)
    assert os.listdir(tmp_path) == ["o.txt"]


@pytest.mark.parametrize("name", ["写" * 80 + ".html", "é" * 120 + ".parquet", "a" * 255])
def test_names_may_be_as_long_as_can_be(tmp_path: Path, name: str) -> None:
    written(tmp_path / name)
    assert (tmp_path / name).read_text() == "new"


def test_a_link_leads_to_the_file_that_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "dangling").symlink_to("later")
    for name in ("link", "dangling"):
        written(tmp_path / name)
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "target").read_text() == (tmp_path / "later").read_text() == "new"


def test_a_pipe_is_written_to_or_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError):  # nobody reads it
        written(tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    for _ in range(100):  # until it reads
        try:
            written(tmp_path / "pipe", "x" * 200_000)
            break
        except StorageError:
            reader.join(0.05)
    reader.join(10)
    assert got == ["x" * 200_000] and (tmp_path / "pipe").is_fifo()
    written("/dev/null")
    assert Path("/dev/null").is_char_device()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no file system in /dev")
def test_files_below_dev_are_files() -> None:
    file = Path(f"/dev/shm/embedsearch-test-{os.getpid()}")
    try:
        written(file, "first, and longer")
        written(file)
        assert file.read_text() == "new"
    finally:
        file.unlink()


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_what_is_open_is_gone_on_with(tmp_path: Path, name: str) -> None:
    """As in `(echo A; embedsearch … --html /dev/stdout; echo B) > log`, and with >> log."""
    log = tmp_path / "log"
    log.write_text("before\n")
    program = (
        "import sys; from pathlib import Path; from embedsearch.core.atomic import in_place\n"
        "print('A')\n"
        f"with in_place([Path({name!r})]) as (t,): t.write_text('new\\n')\n"
        "print('B')"
    )
    with log.open("a") as out:
        subprocess.run([sys.executable, "-c", program], stdout=out, cwd=REPOSITORY, check=True)
    assert log.read_text() == "before\nA\nnew\nB\n"
