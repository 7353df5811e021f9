"""Names of files: exact in an exchange, comparable where people type them, paths in every form."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pytest

from embedsearch.core.errors import UsageError
from embedsearch.core.names import (
    comparable,
    exact_bytes,
    existing,
    from_exact_bytes,
    meant,
    unicode_text,
)
from embedsearch.core.paths import local_path, printable, url_key, url_part, whole_path

NFC, NFD = unicodedata.normalize("NFC", "größe.jpg"), unicodedata.normalize("NFD", "größe.jpg")
LATIN = os.fsdecode(b"latin-\xe9.jpg")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("=1+1.jpg", "=1+1.jpg"),
        ("\U0001f469‍\U0001f467.jpg", "\U0001f469‍\U0001f467.jpg"),
        ("soft\xadhyphen\x1b[31m\n.jpg", "soft\xadhyphen\x1b[31m\n.jpg"),
        (LATIN, "latin-\\xe9.jpg"),
        ("half \ud83d pair", "half � pair"),
    ],
)
def test_names_in_an_exchange(name: str, text: str) -> None:
    assert unicode_text(name) == text
    assert json.loads(json.dumps(unicode_text(name)).encode()) == text
    exact = exact_bytes(name)
    if name == LATIN:
        assert exact is not None and from_exact_bytes(exact) == name
    else:
        assert exact is None


def test_what_is_shown() -> None:
    assert printable("\U0001f469‍\U0001f467 خانه‌ها") == "\U0001f469‍\U0001f467 خانه‌ها"
    assert printable("a\u202eb\x1b") == "a\\u202eb\\x1b"


def test_names_that_look_the_same(tmp_path: Path) -> None:
    assert NFC != NFD and comparable(NFC) == comparable(NFD)
    assert meant(NFC, [NFD, "b.jpg"]) == NFD
    assert meant(NFC, [NFD, NFC]) == NFC
    assert meant(NFC, ["b.jpg"]) is None
    folder = tmp_path / unicodedata.normalize("NFD", "Bücher")
    folder.mkdir()
    (folder / NFD).touch()
    typed = tmp_path / unicodedata.normalize("NFC", "Bücher")
    assert existing(str(typed / NFC)) == str(folder / NFD)
    assert existing(str(typed / "new é.csv")) == str(folder / "new é.csv")
    (folder / NFC).touch()
    assert existing(str(typed / NFC)) == str(folder / NFC)


def test_paths_that_no_shell_has_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert local_path("~/x.es") == f"{tmp_path}/x.es"
    assert local_path(Path("~/x.es")) == f"{tmp_path}/x.es"
    (tmp_path / "~").mkdir()
    assert local_path("~") == "~"  # what is there under that very name is meant
    for url in (f"file://{tmp_path}/a%20b.jpg", f"FILE://localhost{tmp_path}/a%20b.jpg"):
        assert local_path(url) == f"{tmp_path}/a b.jpg"
    assert local_path("file:///latin-%E9.jpg") == "/" + LATIN
    for kept in ("https://h//a", "s3://bucket/~/x", "plain.jpg", "~nobody-here/x"):
        assert local_path(kept) == kept
    with pytest.raises(UsageError, match="names the machine elsewhere"):
        local_path("file://elsewhere/a.jpg")
    with pytest.raises(UsageError, match="NUL"):
        local_path("a\0b")


def test_paths_of_images() -> None:
    assert whole_path("/", "data/bad.jpg") == "/data/bad.jpg"
    assert whole_path("/here", "https://h//a.jpg") == "https://h//a.jpg"
    assert whole_path("s3://b/p", "a b%20c.jpg") == "s3://b/p/a b%20c.jpg"
    for name in ("my photo.jpg", "100%.jpg", "q?x#1.jpg", LATIN, "é/%41.jpg"):
        assert url_key(url_part(name)) == name
        assert whole_path("https://h/p/", name) == f"https://h/p/{url_part(name)}"
