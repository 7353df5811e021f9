"""Chosen images to take along: facts as CSV, files as a ZIP."""

from __future__ import annotations

import csv
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import embedsearch
from embedsearch.core.formulas import MARKED_BY
from embedsearch.searching.browsing.record_csv import csv_of
from tests.support.answers import CLOCK, failed, shortened
from tests.support.library import SAMPLES, paint
from tests.support.serving import Response, Served, served

pytest.importorskip("fastapi", reason="needs the extra `serve`")

FACTS = ["path", "full_path", "key", "width", "height", "format", "size_bytes"]
FACTS += ["taken_at", "camera"]


def post(server: Served, what: str, body: Any) -> Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.request("POST", f"/export/{what}", data, content_type="application/json")


def table(answer: Response) -> list[list[str]]:
    assert answer.status == 200, answer.body
    return list(csv.reader(io.StringIO(answer.body.decode(), newline="")))


def archive(answer: Response) -> zipfile.ZipFile:
    assert answer.status == 200, answer.body[:300]
    found = zipfile.ZipFile(io.BytesIO(unchunked(answer)))
    assert found.testzip() is None
    return found


def unchunked(answer: Response) -> bytes:
    """Return a body that came in chunks."""
    if answer.headers.get("transfer-encoding") != "chunked":
        return answer.body
    rest = answer.body
    parts: list[bytes] = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if not int(size, 16):
            return b"".join(parts)
        parts.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]


def test_facts_as_csv(server: Served, searcher: embedsearch.Searcher) -> None:
    rows = [5, 3, 5, 99, 0]
    answer = post(server, "csv", {"rows": rows})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="images.csv"'
    header, *lines = table(answer)
    clock = searcher.get("clocks/clocks_1.jpg").row
    assert header == [*FACTS, *(["caption"] if clock in rows else [])]
    records = [searcher.get(row) for row in (5, 3, 0)]
    for line, record in zip(lines, records, strict=True):
        values = record.to_dict()
        assert line[: len(FACTS)] == ["" if values[n] is None else str(values[n]) for n in FACTS]
    linked = server.get("/export/csv?rows=5,3,5,99,0")
    assert linked.body == answer.body
    header, line = table(server.get(f"/export/csv?rows={clock}"))
    assert (header[-1], line[-1]) == ("caption", "<script>alert(1)</script>")


def test_files_as_a_zip(server: Served, searcher: embedsearch.Searcher) -> None:
    clock = searcher.get("clocks/clocks_1.jpg").row
    answer = post(server, "zip", {"rows": [clock, 3, 0, clock]})
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == 'attachment; filename="images.zip"'
    found = archive(answer)
    keys = [searcher.get(row).key for row in (clock, 3, 0)]
    assert found.namelist() == keys
    for info in found.infolist():
        assert info.compress_type == zipfile.ZIP_STORED
        assert found.read(info) == (SAMPLES / info.filename).read_bytes()
        assert info.date_time[0] >= 1980
    assert found.read("clocks/clocks_1.jpg") == CLOCK
    assert archive(server.get(f"/export/zip?rows={clock}")).namelist() == keys[:1]


@pytest.mark.parametrize("what", ["csv", "zip"])
@pytest.mark.parametrize(
    "body",
    [
        *({}, {"rows": []}, {"rows": 1}, {"rows": "1,2"}, {"rows": [-1]}, {"rows": [1.5]}, []),
        *({"rows": ["1"]}, {"rows": [True]}, {"rows": [None]}, {"rows": [10**12]}, None, "x"),
        *({"rows": list(range(1001))}, {"rows": [1], "k": 1}, {"rows": [[1]]}, b"", b"{", b"\xff"),
        *(b'{"rows":[1],"rows":[2]}', b'{"rows":[NaN]}', b'{"rows":[1e999]}'),
    ],
    ids=lambda body: body if isinstance(body, str) else shortened(str(body)),
)
def test_bodies_that_cannot_be(server: Served, what: str, body: Any) -> None:
    failed(post(server, what, body), 400)


@pytest.mark.parametrize("what", ["csv", "zip"])
def test_links_and_forms_that_cannot_be(server: Served, what: str) -> None:
    for query in (
        *("", "?rows=", "?rows=a", "?rows=1,", "?rows=1,,2", "?rows=-1", "?rows=1&rows=2"),
        *("?row=1", "?rows=1&k=2", "?rows=%D9%A1", "?rows=1%0a", "?rows=" + "1," * 1000 + "1"),
    ):
        failed(server.get(f"/export/{what}{query}"), 400)
    failed(server.get(f"/export/{what}?rows=" + ",".join(["99"] * 1000)), 404)
    failed(server.request("POST", f"/export/{what}?rows=1", b'{"rows":[1]}'), 415)
    answer = server.request(
        "POST", f"/export/{what}?rows=1", b'{"rows":[1]}', content_type="application/json"
    )
    failed(answer, 400)
    form = "application/x-www-form-urlencoded"
    failed(server.request("POST", f"/export/{what}", b"rows=1", content_type=form), 415)


def test_the_most_rows(server: Served) -> None:
    rows = list(range(1000))
    assert len(table(post(server, "csv", {"rows": rows}))) == 55
    assert len(archive(post(server, "zip", {"rows": rows})).namelist()) == 55  # one says what lacks


NAMES = [
    "=cmd|' /C calc'!A0.png",
    "+1.png",
    "-1.png",
    "@SUM(1).png",
    'quote"comma,semi;.png',
    "line\nbreak.png",
    "größe/日本.png",
    "Größe/日本.PNG",
    "back\\slash/..\\x.png",
    "c:/drive.png",
    "ends./with space .png",
    "x" * 250 + ".png",
    "\u202egnp.exe.png",
    "nul.png",
    "not_included.txt.png",
]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    """A server of pictures with names that hurt, and captions that do."""
    folder = tmp_path_factory.mktemp("odd")
    photos = folder / "photos"
    for seed, name in enumerate(NAMES):
        paint(photos / name, seed)
    (photos / "a").mkdir()
    shutil.copy(photos / "+1.png", os_path(photos, b"bytes\xe9.png"))
    lines = [["name", "caption", "=head", "stars"]]
    lines += [
        ["-1.png", "=1+1", "+x", "-5"],
        ["+1.png", "\tx", "a\rb", "4"],
        ["nul.png", "@a", "", ""],
    ]
    with (folder / "c.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    store = folder / "s.es"
    embedsearch.index(photos, store=store, model="packaged", metadata=str(folder / "c.csv"))
    with served(store) as server:
        yield server, photos


def os_path(folder: Path, name: bytes) -> Path:
    import os

    return folder / os.fsdecode(name)


def test_its_columns_say_that_formulas_are_marked() -> None:
    assert set(csv_of([]).strip().split(",")) >= MARKED_BY


def test_no_cell_is_a_formula(odd: tuple[Served, Path]) -> None:
    server, photos = odd
    images = server.get("/images?k=100").json["images"]
    assert len(images) == len(NAMES) + 1
    by_key = {image["key"]: image for image in images}
    header, *lines = table(post(server, "csv", {"rows": [image["row"] for image in images]}))
    assert header == [*FACTS, "caption", "'=head", "stars"]
    cells = {line[2]: line for line in lines}
    assert cells["'=cmd|' /C calc'!A0.png"][1] == str(photos / NAMES[0])
    for key, image in by_key.items():
        is_formula = key.startswith(("=", "+", "-", "@"))
        assert cells["'" + key if is_formula else key][3] == str(image["width"])
    assert cells["'-1.png"][-3:] == ["'=1+1", "'+x", "-5"]  # a number is none
    assert cells["'+1.png"][-3:] == ["'\tx", "a\rb", "4"]
    assert cells["nul.png"][-3:] == ["'@a", "", ""]
    for line in lines:
        for cell in line[:-1]:
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


def test_names_in_a_zip_are_safe_everywhere(odd: tuple[Served, Path], tmp_path: Path) -> None:
    server, photos = odd
    images = server.get("/images?k=100").json["images"]
    found = archive(post(server, "zip", {"rows": [image["row"] for image in images]}))
    names = found.namelist()
    assert len(names) == len(images) == len({name.casefold() for name in names})
    for name in names:
        assert not name.startswith("/") and not set(name) & set('\\:*?"<>|\n\u202e')
        for part in name.split("/"):
            assert part and part.strip(".") and len(part.encode()) <= 255
            assert part == part.rstrip(". ")
    assert {"_nul.png", "Größe/日本.PNG", "größe/日本-2.png"} <= set(names)
    assert {len(name) for name in names if name.startswith("xxx")} == {254}
    contents = {path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    assert {found.read(name) for name in names} == contents
    found.extractall(tmp_path / "out")
    assert sum(path.is_file() for path in (tmp_path / "out").rglob("*")) == len(images)


def test_what_cannot_be_read_is_listed(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for seed in range(5):
        paint(photos / f"{seed}.png", seed)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    (photos / "1.png").unlink()
    (photos / "2.png").unlink()
    (photos / "2.png").symlink_to("/etc/passwd")
    (photos / "3.png").write_bytes(b"another")
    with served(tmp_path / "s.es") as server:
        found = archive(post(server, "zip", {"rows": [0, 1, 2, 3, 4, 77]}))
        assert found.namelist() == ["0.png", "4.png", "not_included.txt"]
        text = found.read("not_included.txt").decode()
        for words in ("row 77: the store does not have it", "1.png: ", "2.png: ", "3.png: changed"):
            assert words in text
        assert str(tmp_path) not in text
        assert archive(post(server, "zip", {"rows": [1]})).namelist() == ["not_included.txt"]


def test_a_zip_has_bounds(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    sizes = [paint(photos / f"{seed}.png", seed).stat().st_size for seed in range(4)]
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es", export_bytes=sum(sizes[:3])) as server:
        assert len(archive(post(server, "zip", {"rows": [0, 1, 2]})).namelist()) == 3
        answer = post(server, "zip", {"rows": [0, 1, 2, 3]})
        failed(answer, 413)
        assert answer.json["code"] == "too_large"
        assert len(table(post(server, "csv", {"rows": [0, 1, 2, 3]}))) == 5


def test_a_client_that_goes_frees_its_turn(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for seed in range(3):
        path = paint(photos / f"{seed}.png", seed)
        with path.open("ab") as file:
            file.write(bytes(8 << 20))
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    with served(tmp_path / "s.es", shares={"originals": (1, 1)}) as server:
        for _ in range(8):
            with server.connect() as connection:
                host = f"localhost:{server.port}"
                line = f"GET /export/zip?rows=0,1,2 HTTP/1.1\r\nhost: {host}\r\n\r\n"
                connection.sendall(line.encode())
                assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        assert len(archive(server.get("/export/zip?rows=0,1,2")).namelist()) == 3
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        assert not [fd for fd in descriptors.iterdir() if str(photos) in link(fd)]


def link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
