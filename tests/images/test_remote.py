"""Images on a server: a real S3 server and a plain web server on loopback, whole and broken."""

from __future__ import annotations

import http.server
import io
import os
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import embedsearch
from embedsearch.core import remote
from embedsearch.core.errors import NothingIndexed, StorageError, UsageError
from embedsearch.core.records import (
    Failure,
    ImageBatch,
    ImageFacts,
    ImageLocation,
    Reason,
    Root,
    RootKind,
    Stage,
)
from embedsearch.images import originals
from embedsearch.images.sources import remote as remote_source
from embedsearch.indexing.scope import ScanTarget, Sources
from tests.support.archives import MAKERS, make_parquet, make_tar, members_of
from tests.support.extractor import CountingExtractor
from tests.support.library import Library, counts, paint
from tests.support.stores import live_rows

pytest.importorskip("moto", reason="needs the test extra")
from tests.support.s3 import DENIED, SLOW_DOWN, Fault, S3Server

FACTS = ImageFacts(1, 1, "PNG", bytes(32))


def test_a_bucket_gives_what_its_folder_gives(s3: S3Server, library: Library, photos: Path) -> None:
    (photos / ".hidden.png").write_bytes(b"x")
    (photos / "note.txt").write_bytes(b"x")
    odd = photos / "a b+c%2F&é.png"
    paint(odd, 70)
    s3.put_folder(photos, "bucket/in/side")
    first = library.index("s3://bucket/in/")
    assert counts(first) == (13, 13, 0, 0, 0, 0, 0)
    assert (first.ignored.hidden, first.ignored.other_suffix) == (1, 1)
    library.index(photos)
    rows = live_rows(library.store)
    there, here = (
        sorted((row["digest"], row["vector"], row["size"]) for row in rows if row["root"] == root)
        for root in (0, 1)
    )
    assert there == here
    embedded = CountingExtractor.embedded
    s3.requests.clear()
    assert counts(library.index()) == (26, 0, 0, 0, 26, 0, 0)
    assert CountingExtractor.embedded == embedded
    assert not any(".png" in request for request in s3.requests)  # listed, not read
    with embedsearch.open_store(library.store) as searcher:
        hits = searcher.query(np.ones(512, np.float32) / 512**0.5, k=26)
        assert f"s3://bucket/in/side/{odd.name}" in {hit.full_path for hit in hits}
        thumbnail = searcher.thumbnail(f"s3://bucket/in/side/{odd.name}", 32)
        assert Image.open(io.BytesIO(thumbnail)).size == (32, 27)


def test_a_bucket_that_changes(s3: S3Server, library: Library, photos: Path) -> None:
    s3.put_folder(photos, "bucket/p")
    library.index("s3://bucket/p")
    s3.files().delete_file("bucket/p/a/01.png")
    s3.put("bucket/p/a/03.png", paint(photos / "x.png", 80, (60, 50)).read_bytes())
    s3.put("bucket/p/new.png", (photos / "b" / "00.png").read_bytes())
    assert counts(library.index("s3://bucket/p/a")) == (5, 0, 1, 0, 4, 0, 1)
    assert counts(library.index()) == (12, 1, 0, 0, 11, 0, 0)


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip", "a.parquet"])
def test_an_archive_in_a_bucket(
    name: str, s3: S3Server, library: Library, photos: Path, tmp_path: Path
) -> None:
    make = {**MAKERS, "a.parquet": make_parquet}[name]
    data = make(tmp_path / name, members_of(photos)).read_bytes()
    s3.put(f"bucket/{name}", data)
    assert counts(library.index(f"s3://bucket/{name}")) == (12, 12, 0, 0, 0, 0, 0)
    s3.requests.clear()
    assert counts(library.index()) == (12, 0, 0, 0, 12, 0, 0)
    assert {request.split()[0] for request in s3.requests} == {"HEAD"}  # not fetched again
    more = [*members_of(photos), ("b/new.png", paint(tmp_path / "n.png", 90).read_bytes())]
    s3.put(f"bucket/{name}", make(tmp_path / name, more).read_bytes())
    report = library.index()
    assert (report.added, report.images) == (1, 13)
    with embedsearch.open_store(library.store) as searcher:
        (hit,) = searcher.query(np.ones(512, np.float32) / 512**0.5, k=1)
        assert len(searcher.thumbnail(hit.row, 64)) > 500


def test_small_archives_stay_until_they_are_read(
    s3: S3Server, library: Library, photos: Path, tmp_path: Path
) -> None:
    """All of them are placed before the first one is decoded."""
    members = members_of(photos)
    urls = [f"s3://bucket/{number}.zip" for number in range(6)]
    for number in range(6):
        archive = MAKERS["a.zip"](tmp_path / f"{number}.zip", members[2 * number : 2 * number + 2])
        s3.put(f"bucket/{number}.zip", archive.read_bytes())
    assert counts(library.index(*urls)) == (12, 12, 0, 0, 0, 0, 0)
    for number in (0, 2):  # changed and new images: their archives are placed in turns
        shown = [paint(tmp_path / "n.png", 90 + number + seed).read_bytes() for seed in range(2)]
        names = members[2 * number][0], "z.png"
        archive = MAKERS["a.zip"](tmp_path / f"{number}.zip", zip(names, shown, strict=True))
        s3.put(f"bucket/{number}.zip", archive.read_bytes())
    report = library.index()
    assert (report.changed, report.added, report.failed) == (2, 2, 0)


def test_downloads_go_once_all_of_their_images_are_answered(
    s3: S3Server, photos: Path, tmp_path: Path
) -> None:
    members = members_of(photos)
    for number in range(3):
        s3.put(f"bucket/{number}.zip", MAKERS["a.zip"](tmp_path / "a.zip", members).read_bytes())
    roots = [Root(number, f"s3://bucket/{number}.zip", RootKind.ZIP) for number in range(3)]
    with Sources(10**6) as sources:
        opened = [sources.open(ScanTarget(root)) for root in roots]
        placed = list(sources.places([ref for source in opened for ref in source], roots))
        assert all(isinstance(place, ImageLocation) for _, place in placed) and len(placed) == 36
        assert all(source.held_bytes for source in opened), "nothing was decoded yet"
        done = [ref for ref, _ in placed[:24]]
        sources.answered(ImageBatch(done[1:], [FACTS] * 23, np.zeros((23, 1, 1, 3), np.uint8)), [])
        assert list(sources.places(done[:1], roots)) == placed[:1]
        assert [bool(source.held_bytes) for source in opened] == [True, False, True]
        failed = [Failure(0, done[0].key, Stage.DECODE, Reason.CORRUPT, "")] * 2
        sources.answered(ImageBatch([], [], np.zeros((0, 1, 1, 3), np.uint8)), failed)
        assert list(sources.places([], roots)) == []
        (again,) = sources.places(done[12:13], roots)
        assert isinstance(again[1], ImageLocation), "it is fetched once more"
        assert [bool(source.held_bytes) for source in opened] == [False, True, True]


def test_archives_that_made_room_for_others_leave_the_disk(
    s3: S3Server, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(originals, "_READ_S", -1.0)
    members = members_of(photos)
    data = MAKERS["a.zip"](tmp_path / "a.zip", members).read_bytes()
    for number in range(12):
        s3.put(f"bucket/{number}.zip", data)
    found = originals.Originals(10**7)
    places = [found.inside(f"s3://bucket/{n}.zip", members[0][0]) for n in range(12)]
    there = [os.path.exists(os.path.join(place.folder, place.key)) for place in places]
    assert there == [False] * 3 + [True] * 9, "eight are kept, and the last one to leave"
    monkeypatch.setattr(originals, "_READ_S", 60.0)
    again = [found.inside(f"s3://bucket/{n}.zip", members[0][0]) for n in range(12)]
    assert all(os.path.exists(os.path.join(place.folder, place.key)) for place in again)
    found.close()


def test_an_object_that_changes_while_it_is_read(
    s3: S3Server, library: Library, photos: Path
) -> None:
    s3.put_folder(photos, "bucket/p")
    bigger = paint(photos / "x.png", 81, (90, 90)).read_bytes()
    done = threading.Event()

    def fault(method: str, path: str) -> Fault:
        if method == "GET" and path.endswith("b/04.png") and not done.is_set():
            done.set()
            s3.put("bucket/p/b/04.png", bigger)
        if method == "HEAD" and path.endswith("b/06.png"):
            s3.delete("bucket/p/b/06.png")
        return None

    s3.fault = fault
    report = library.index("s3://bucket/p")
    assert (report.added, report.failed) == (10, 2)
    reasons = library.reasons()  # of one that grows behind its headers, the first bytes come
    assert reasons.pop("b/04.png") in {Reason.CHANGED, Reason.TRUNCATED}
    assert reasons == {"b/06.png": Reason.VANISHED}
    s3.fault = lambda method, path: None
    report = library.index()
    assert (report.added, report.failed, report.images) == (1, 0, 11)


def test_throttling_is_waited_out(s3: S3Server, library: Library, photos: Path) -> None:
    s3.put_folder(photos, "bucket/p")
    asked: dict[str, int] = {}

    def fault(method: str, path: str) -> Fault:
        asked[path] = asked.get(path, 0) + 1
        return SLOW_DOWN if method == "GET" and ".png" in path and asked[path] % 3 else None

    s3.fault = fault
    assert counts(library.index("s3://bucket/p")) == (12, 12, 0, 0, 0, 0, 0)


def test_a_server_that_stops_answering_ends_the_run(
    s3: S3Server, library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, and what was committed stays; a rerun completes."""
    for seed in range(20, 60):
        paint(photos / f"{seed}.png", seed)
    s3.put_folder(photos, "bucket/p")
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    monkeypatch.setattr(remote_source, "_IN_ROW", 8)
    monkeypatch.setattr(remote_source, "THREADS", 2)
    monkeypatch.setattr(remote_source, "_AHEAD", 2)
    fetched: list[str] = []

    def fault(method: str, path: str) -> Fault:
        if method == "GET" and path.endswith(".png"):
            fetched.append(path)
            return SLOW_DOWN if len(fetched) > 40 else None
        return None

    s3.fault = fault
    with pytest.raises(StorageError, match=r"8 images in a row .*goes on from there"):
        library.index("s3://bucket/p", checkpoint_images=1)
    s3.fault = lambda method, path: None
    report = library.index("s3://bucket/p")
    assert report.images == 52 and 0 < report.added <= 52
    assert report.failed == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [(DENIED, "ACCESS_DENIED.*credentials are taken from the environment"), (SLOW_DOWN, ".*503")],
)
def test_a_server_that_refuses(
    answer: Fault, words: str, s3: S3Server, library: Library, photos: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    s3.put_folder(photos, "bucket/p")
    library.index("s3://bucket/p")
    before = library.index().generation
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    s3.fault = lambda method, path: answer
    with pytest.raises(StorageError, match=f"s3://bucket/p: {words}") as raised:
        library.index()
    assert "\n" not in str(raised.value)
    s3.fault = lambda method, path: None
    assert library.index().generation == before


def test_what_has_vanished_is_not_dropped(s3: S3Server, library: Library, photos: Path) -> None:
    s3.put_folder(photos, "bucket/p")
    with pytest.raises(NothingIndexed, match="no images found in s3://bucket/nothing"):
        library.index("s3://bucket/nothing")
    library.index("s3://bucket/p")
    for place in ("s3://bucket/nothing", "s3://nobody/x.tar"):
        with pytest.raises(UsageError, match="does not exist"):
            library.index(place)
    s3.files().delete_dir_contents("bucket")
    with pytest.raises(UsageError, match="has vanished, and 12 images of it would leave"):
        library.index()
    s3.files().delete_dir("bucket")
    with pytest.raises(UsageError, match=r"has vanished.*Is its server the right one"):
        library.index()


def test_urls_that_are_refused(library: Library) -> None:
    for url, words in {
        "s3://key:secret@bucket/p": "credentials",
        "s3://bucket/p?endpoint_override=x": "must not contain",
        "s3://": "names no server",
        "nonsense://host/p": "nonsense",
    }.items():
        with pytest.raises((UsageError, embedsearch.EmbedSearchError), match=words) as raised:
            library.index(url)
        assert "secret" not in str(raised.value)
    assert not library.store.exists()


def test_an_archive_that_changes_while_it_is_fetched(
    s3: S3Server, library: Library, photos: Path, tmp_path: Path
) -> None:
    data = make_tar(tmp_path / "a.tar", members_of(photos)).read_bytes()
    s3.put("bucket/a.tar", data)

    def fault(method: str, path: str) -> Fault:
        if method == "GET" and path.endswith("a.tar"):
            s3.fault = lambda method, path: None
            s3.put("bucket/a.tar", data + bytes(10240))
        return None

    s3.fault = fault
    with pytest.raises(StorageError, match="changed while it was fetched"):
        library.index("s3://bucket/a.tar")
    assert library.index("s3://bucket/a.tar").added == 12


def test_a_web_server_that_lists_its_folders(library: Library, photos: Path) -> None:
    pytest.importorskip("aiohttp", reason="needs aiohttp, as https:// does")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = partial(Quiet, directory=str(photos))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{web.server_port}"
        report = library.index(url)
        assert counts(report) == (12, 12, 0, 0, 0, 0, 0)
        assert counts(library.index()) == (12, 0, 0, 0, 12, 0, 0)
        web.shutdown()
