"""Pictures and links on a terminal: exact escape codes, and none where nobody would see them."""

from __future__ import annotations

import fcntl
import io
import os
import re
import subprocess
import sys
import termios
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import pytest

from embedsearch.cli.output import terminal
from embedsearch.cli.output.terminal import CELLS, Thumbnail, ThumbnailRows, half_blocks
from tests.support.library import paint, run_cli
from tests.support.terminal import all_shown, open_terminal

LINK = re.compile(r"\x1b\]8;;([^\x1b]*)\x1b\\(.*?)\x1b\]8;;\x1b\\")
NAMES = [b"plain.png", b"\xff%.png", b"esc\x1b[31m.png", b"trailing .png ", b"nl\n.png"]


def on_terminal(
    *arguments: object, columns: int = 80, controlling: bool = False, **environ: str
) -> tuple[int, str, str]:
    """Run the command line on a terminal; return its exit code, what it showed, and stderr."""
    master, slave = open_terminal(columns)
    command = [sys.executable, "-m", "embedsearch", *map(str, arguments)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", **environ}
    if not environ.get("NO_COLOR"):
        environment.pop("NO_COLOR", None)
    environment.pop("COLUMNS", None)

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
        preexec_fn=take_terminal if controlling else None,
    )
    os.close(slave)
    shown = all_shown(master)
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    return process.wait(60), shown.decode().replace("\r\n", "\n"), errors


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("terminal")
    (home / "photos").mkdir()
    for seed, name in enumerate(NAMES):
        drawn = paint(home / "drawn.png", seed, size=(60, 40))
        drawn.rename(home / "photos" / os.fsdecode(name))
    done = run_cli("index", home / "photos", "--store", home / "s.es", "--model", "packaged")
    assert done.returncode == 0, done.stderr
    return home / "s.es"


def rgba(rows: list[list[tuple[int, ...]]]) -> np.ndarray:
    return np.array([[(*pixel, 255)[:4] for pixel in row] for row in rows], np.uint8)


def test_half_blocks_are_exact() -> None:
    pixels = rgba([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (1, 2, 3)]])
    assert half_blocks(pixels, True) == [
        "\x1b[38;2;255;0;0;48;2;0;0;255m▀\x1b[0m\x1b[38;2;0;255;0;48;2;1;2;3m▀\x1b[0m"
    ]
    assert half_blocks(pixels, False) == [
        "\x1b[38;5;196;48;5;21m▀\x1b[0m\x1b[38;5;46;48;5;16m▀\x1b[0m"
    ]


def test_what_lies_beside_a_picture_stays_as_it_is() -> None:
    nothing = (0, 0, 0, 0)
    pixels = rgba([[(9, 9, 9), nothing, nothing], [nothing, (8, 8, 8), nothing]])
    assert half_blocks(pixels, True) == ["\x1b[38;2;9;9;9m▀\x1b[0m\x1b[38;2;8;8;8m▄\x1b[0m "]


def test_thumbnails_stand_side_by_side_and_wrap() -> None:
    wide = np.full((30, 90, 3), (200, 100, 50), np.uint8)
    out = io.StringIO()
    rows = ThumbnailRows(out, columns=2 * CELLS + 2, environ={"COLORTERM": "truecolor"})
    rows.show([Thumbnail(wide, "query"), Thumbnail(None, "1  0.900  lost"), Thumbnail(wide, "2")])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
    lines = CELLS // 3 // 2  # a third as high as wide, two of it a line
    block = "▀" * CELLS
    between = f"{block}  {' ' * CELLS}"
    assert plain[:lines] == [between] * lines
    assert plain[lines] == f"{'query':^{CELLS}}  {'1  0.900  lost':^{CELLS}}".rstrip()
    assert plain[lines + 1] == ""
    assert plain[lines + 2 : -2] == [block] * lines
    assert "\x1b[38;2;200;100;50;48;2;200;100;50m▀" in out.getvalue()


@pytest.mark.parametrize("columns", [1, 10, CELLS, 79, 80, 1000])
def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    picture = np.zeros((50, 40, 3), np.uint8)
    out = io.StringIO()
    rows = ThumbnailRows(out, columns, environ={})
    rows.show([Thumbnail(picture, f"{rank}  0.123") for rank in range(20)])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
    assert 0 < max(map(len, plain)) <= columns


def test_a_terminal_with_graphics_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    renderable = pytest.importorskip("textual_image.renderable", reason="needs `terminal`")
    monkeypatch.setattr(terminal, "_graphics", lambda: renderable.SixelImage)
    out = io.StringIO()
    ThumbnailRows(out, 80).show([Thumbnail(np.full((30, 30, 3), 200, np.uint8), "1  0.900")])
    assert "\x1bP" in out.getvalue() and "▀" not in out.getvalue()
    assert out.getvalue().endswith(f"{'1  0.900':^{CELLS}}".rstrip() + "\n\n")


def test_paths_are_links_on_a_terminal_only(store: Path) -> None:
    arguments = ["query", "--key", "plain.png", "--store", store]
    piped = run_cli(*arguments).stdout
    assert "\x1b" not in piped
    code, shown, errors = on_terminal(*arguments)
    assert (code, errors) == (0, "")
    links = LINK.findall(shown)
    photos = os.fsencode(store.parent) + b"/photos/"
    urls = [urlsplit(url) for url, _ in links]
    assert {url.scheme for url in urls} == {"file"} and all(url.netloc for url in urls)
    assert {unquote_to_bytes(url.path) for url in urls} == {photos + name for name in NAMES}
    # Without the links, it is what a pipe gets: nothing of a name reaches the terminal raw.
    assert LINK.sub(r"\2", shown) == piped
    assert on_terminal(*arguments, TERM="dumb")[1] == piped


def test_thumbnails_on_a_terminal(store: Path) -> None:
    arguments = ["query", "--key", "plain.png", "--store", store, "-k", "2", "--thumbnails"]
    code, shown, errors = on_terminal(*arguments)
    assert (code, errors) == (0, "")
    lines = [line for line in shown.splitlines() if "▀" in line]
    assert len(lines) == CELLS * 40 // 60 // 2
    assert all(line.count("▀") == 3 * CELLS for line in lines)
    assert "1  1.000" in shown and "38;2;" in shown
    _, shown, _ = on_terminal(*arguments, COLORTERM="")
    assert "38;5;" in shown and "38;2;" not in shown


def test_a_terminal_that_does_not_answer_gets_half_blocks(store: Path) -> None:
    """The optional library asks this one, which says nothing, what it can do."""
    arguments = ["query", "--key", "plain.png", "--store", store, "-k", "2", "--thumbnails"]
    code, shown, errors = on_terminal(*arguments, controlling=True)
    assert (code, errors) == (0, "") and "▀" in shown


def test_where_thumbnails_cannot_be_shown_that_is_said(store: Path) -> None:
    arguments = ["query", "--key", "plain.png", "--store", store]
    done = run_cli(*arguments, "--thumbnails")
    assert done.stdout == run_cli(*arguments).stdout
    assert done.stderr == (
        "embedsearch: without thumbnails: stdout is not a terminal that can show them\n"
    )
    code, shown, errors = on_terminal(*arguments, "--thumbnails", NO_COLOR="1")
    assert code == 0 and "▀" not in shown
    assert errors == "embedsearch: without thumbnails: NO_COLOR is set\n"
    done = run_cli(*arguments, "--thumbnails", "--json")
    assert done.returncode == 2 and "--thumbnails" in done.stderr
