"""The page of pictures: hostile names are text, links lead back, the pictures are right."""

from __future__ import annotations

import base64
import io
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import pytest
from PIL import Image

from embedsearch.cli.output.page import Figure, Section, write_page
from embedsearch.cli.sheet import SheetRow, _cut, _shown
from embedsearch.core.errors import StorageError
from embedsearch.core.paths import file_url, printable
from embedsearch.core.records import Hit
from embedsearch.images.thumbnails import ThumbnailReader
from tests.support.library import paint, run_cli

HOSTILE = [
    b"<script>alert(1)<!script>.png",  # a slash cannot be part of a name
    b"\"quoted' &amp;.png",
    b"two\nlines.png",
    b"no unicode \xff\xfe.png",
    b"100%25 #1?.png",
    b"right\xe2\x80\xaegnp.png",  # an override of the direction
]


@dataclass
class Shown:
    """A figure as a browser would read it."""

    href: str = ""
    src: str = ""
    alt: str = ""
    is_query: bool = False
    text: list[str] = field(default_factory=list)


class Reader(HTMLParser):
    """Collects figures; fails on what the page must not hold."""

    VOID = frozenset({"meta", "img", "wbr"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.figures: list[Shown] = []
        self.headings: list[str] = []
        self.policy = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        assert tag not in {"script", "link", "iframe", "object", "base"}
        assert not [name for name in values if name.startswith("on") or name == "style"]
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "figure":
            self.figures.append(Shown(is_query=values.get("class") == "query"))
        elif tag == "a":
            self.figures[-1].href = values["href"]
        elif tag == "img":
            self.figures[-1].src, self.figures[-1].alt = values["src"], values["alt"]
        elif values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "figure" in self._open and data.strip():
            self.figures[-1].text.append(data)
        elif self._open and self._open[-1] == "h2":
            self.headings.append(data)


def picture(figure: Shown) -> Image.Image:
    kind, data = figure.src.split(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def linked(figure: Shown) -> bytes:
    """Return the bytes of the path that a figure links to."""
    parts = urlsplit(figure.href)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("file", "", "", "")
    return unquote_to_bytes(parts.path)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of pictures with such names, and a store beside it."""
    home = tmp_path_factory.mktemp("hostile")
    (home / "photos").mkdir()
    for seed, name in enumerate(HOSTILE):
        drawn = paint(home / "plain.png", seed, size=(60, 40) if seed % 2 else (40, 60))
        drawn.rename(home / "photos" / os.fsdecode(name))
    caption = "<b>bold</b> & https://example.org\nsecond line"
    (home / "captions.jsonl").write_text(
        '{"path": "100%25 #1?.png", "caption": ' + repr(caption).replace("'", '"') + "}\n"
    )
    done = run_cli(
        *("index", home / "photos", "--store", home / "s.es", "--model", "packaged"),
        *("--metadata", home / "captions.jsonl"),
    )
    assert done.returncode == 0, done.stderr
    yield home


def test_hostile_names_are_text_and_links_lead_back(hostile: Path) -> None:
    page = hostile / "out.html"
    script = os.fsdecode(HOSTILE[0])
    arguments = ["query", "--key", script, "--store", hostile / "s.es", "--html", page]
    done = run_cli(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout == run_cli(*arguments[:-2]).stdout
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text
    reader = Reader(page)
    assert reader.headings == [script]
    query, *hits = reader.figures
    assert query.is_query and not any(hit.is_query for hit in hits)
    assert query.text[0] == "query"
    assert len(hits) == len(HOSTILE)
    photos = os.fsencode(hostile) + b"/photos/"
    assert {linked(hit) for hit in hits} == {photos + name for name in HOSTILE}
    for hit in hits:
        path = linked(hit)
        shown = printable(os.fsdecode(path.removeprefix(photos)))
        assert hit.alt == shown and hit.text[1] == shown
        with Image.open(os.fsdecode(path)) as original, picture(hit) as thumbnail:
            assert thumbnail.size == original.size  # small ones are not enlarged
            assert hit.text[2] == f"{original.width} × {original.height}"
    ranks = [hit.text[0].split(" · ")[0] for hit in hits]
    assert ranks == ["1", "2", "3", "4", "5", "6"]
    (captioned,) = [hit for hit in hits if len(hit.text) > 3]
    assert captioned.alt == "100%25 #1?.png"
    assert captioned.text[3] == "caption: <b>bold</b> & https://example.org second line"


def test_the_page_needs_nothing_beside_it(hostile: Path) -> None:
    page = hostile / "alone.html"
    done = run_cli("query", "--key", "100%25 #1?.png", "--store", hostile / "s.es", "--html", page)
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    without_caption = text.replace("https://example.org", "")
    assert not re.search(r"https?://|url\(|@import", without_caption)
    policy = Reader(page).policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "prefers-color-scheme: dark" in text


def test_a_removed_image_is_said(tmp_path: Path) -> None:
    for seed in range(3):
        paint(tmp_path / "photos" / f"{seed}.png", seed)
    store = tmp_path / "s.es"
    assert run_cli("index", tmp_path / "photos", "--store", store, "--model", "packaged").stdout
    (tmp_path / "photos" / "1.png").unlink()
    page = tmp_path / "page.html"
    done = run_cli("query", "--key", "0.png", "--store", store, "--html", page)
    assert done.returncode == 0, done.stderr
    lost = [figure for figure in Reader(page).figures if not figure.src]
    assert [figure.text[0] for figure in lost] == ["cannot be read any more"]
    assert linked(lost[0]).endswith(b"/photos/1.png")


@pytest.mark.parametrize("shape", ["Landscape", "Portrait"])
def test_thumbnails_are_upright_and_in_proportion(shared_data: Path, shape: str) -> None:
    files = [str(shared_data / "exif_orientation" / f"{shape}_{n}.jpg") for n in range(9)]
    with ThumbnailReader(256) as pictures:
        jpegs = list(pictures.jpegs(files))
    with Image.open(files[1]) as upright:
        wanted = upright.size
        small = np.asarray(upright.convert("RGB").resize((24, 24)), np.float32)
    for data in jpegs:
        assert data is not None
        with Image.open(io.BytesIO(data)) as thumbnail:
            assert not thumbnail.getexif() and max(thumbnail.size) == 256
            ratio = thumbnail.width / thumbnail.height
            assert ratio == pytest.approx(wanted[0] / wanted[1], rel=0.02)
            theirs = np.asarray(thumbnail.resize((24, 24)), np.float32)
        # The pictures differ in the digit drawn on them, but not in which way is up.
        assert np.abs(theirs - small).mean() < 30
        assert np.abs(theirs[::-1] - small).mean() > 40


def test_any_number_of_images_a_few_at_a_time(tmp_path: Path) -> None:
    wide = paint(tmp_path / "wide.png", 1, size=(800, 100))
    asked = []

    def images() -> Iterator[str | bytes]:
        for number in range(70):
            asked.append(number)
            yield wide.read_bytes() if number == 1 else str(wide) if number % 7 else "/nowhere"

    with ThumbnailReader(256) as pictures:
        jpegs = pictures.jpegs(images())
        assert next(jpegs) is None and len(asked) == 32
        second = next(jpegs)
        assert second is not None and Image.open(io.BytesIO(second)).size == (256, 31)
        assert sum(jpeg is None for jpeg in jpegs) == 9
        (tile,) = pictures.tiles([str(wide)])
        (pixels,) = pictures.pixels([str(wide)])
    assert tile is not None and tile.shape == (256, 256, 3)
    assert pixels is not None and pixels.shape == (31, 256, 3)  # no row of the margin


def test_a_page_is_written_as_its_sections_come(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    sizes: list[int] = []

    def sections() -> Iterator[Section]:
        for number in range(40):
            sizes.extend(f.stat().st_size for f in tmp_path.iterdir())
            figure = Figure(b"\xff" * 9_000, f"{number}.jpg", ("1",), None)
            yield Section(f"number {number}", "", [figure])

    write_page(page, "A title", sections(), lead="and <what> it is")
    assert os.listdir(tmp_path) == ["page.html"]
    assert sizes[-1] > 30 * 12_000
    assert Reader(page).headings[-1] == "number 39"
    assert "<p>and &lt;what&gt; it is</p>" in page.read_text()


def test_a_folder_is_refused(hostile: Path, tmp_path: Path) -> None:
    arguments = ["query", "--key", "100%25 #1?.png", "--store", hostile / "s.es", "--html"]
    for target in (tmp_path, tmp_path / "no" / "page.html"):
        done = run_cli(*arguments, target)
        assert done.returncode == 4 and str(target) in done.stderr
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("the old one")
    code = (
        "import sys; from pathlib import Path\n"
        "from embedsearch.core.errors import StorageError\n"
        "from embedsearch.cli.output.page import Figure, Section, write_page\n"
        "figure = Figure(b'x' * 90_000, 'name', (), None)\n"
        "try:\n"
        "    write_page(Path(sys.argv[1]), 'title', [Section('one', '', [figure])] * 9)\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    command = [sys.executable, "-c", code, str(page)]
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=limit, check=True, timeout=60
    )
    assert "page.html: File too large" in done.stdout
    assert os.listdir(tmp_path) == ["page.html"] and page.read_text() == "the old one"
    with pytest.raises(StorageError, match="is a folder"):
        write_page(tmp_path, "title", [])


def hit(rank: int) -> Hit:
    return Hit(rank, 0.5, None, rank, str(rank), f"/p/{rank}", str(rank), 1, 1)


def test_too_many_pictures_are_cut_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [SheetRow("", "query", str(n), [hit(rank) for rank in range(1, 5)]) for n in range(4)]
    assert [len(row.hits) for row in _cut(rows, 12, "page")] == [4, 4, 1]
    assert "the page is cut after 12 pictures" in capsys.readouterr().err
    assert _cut(rows, 20, "page") == rows
    assert capsys.readouterr().err == ""


def test_columns_become_short_lines() -> None:
    assert _shown("two\n  lines") == "two lines"
    assert _shown({"a": [1, None]}) == '{"a": [1, null]}'
    assert len(_shown("x" * 1_000_000)) == 300


def test_urls_of_files() -> None:
    assert file_url(os.fsdecode(b"/a b/\xff%?#.png")) == "file:///a%20b/%FF%25%3F%23.png"
    assert file_url("/a", "my host") == "file://my%20host/a"
