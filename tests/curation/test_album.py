"""Looks of images, read once while they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from embedsearch.core.session import Session
from embedsearch.curation.album import Album
from embedsearch.curation.collection import Picture
from embedsearch.images.decode.shared import SharedDecoder
from tests.support.library import paint


def test_what_was_read_or_cannot_be_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint(tmp_path / "0.png", 0)
    (tmp_path / "1.png").write_bytes(b"no picture")
    pictures = [
        Picture(row, str(tmp_path), f"{row}.png", 40, 30, 1, "png", None, 1) for row in range(3)
    ]
    read: list[int] = []
    decode = SharedDecoder.__call__

    def counted(self: SharedDecoder, files: Any) -> Any:
        read.append(len(files))
        return decode(self, files)

    monkeypatch.setattr(SharedDecoder, "__call__", counted)
    with Album(Session()) as album:
        first, second = (list(album.looks(pictures)) for _ in range(2))
    assert [look is None for look in first] == [False, True, True]
    assert second[0] is first[0] and second[1:] == [None, None]
    assert sum(read) == 3
