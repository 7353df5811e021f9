"""What the arguments of public functions are taken as."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedsearch.core.arguments import checked
from embedsearch.core.config import SearchConfig
from embedsearch.core.errors import UsageError


@checked
def asked(
    image: str | int = 0,
    folders: str | Path | Sequence[str | Path] = (),
    store: str | os.PathLike[str] | None = None,
    k: int = 1,
    share: float = 0.5,
    where: str | None = None,
    config: SearchConfig | None = None,
    told: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Return what came in."""
    return locals()


def test_what_is_meant_is_taken() -> None:
    assert asked(5)["image"] == 5 and asked("a.jpg")["image"] == "a.jpg"
    assert asked(np.int64(5))["image"] == 5  # type: ignore[arg-type]
    assert asked(k=np.int64(3))["k"] == 3  # type: ignore[arg-type]
    assert asked(share=1)["share"] == 1.0
    assert asked(folders=Path("a"))["folders"] == Path("a")
    assert asked(folders=("a", Path("b")))["folders"] == ("a", Path("b"))
    assert asked(folders=b"a\xff")["folders"] == "a\udcff"  # type: ignore[arg-type]
    assert asked(config=SearchConfig(), told=print)["config"] == SearchConfig()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": 2.5}, "image must be text or a whole number"),
        ({"folders": 5}, "folders must be a list"),
        ({"folders": ["a", 5]}, "folders must be text or a path, not 5"),
        ({"store": "\ud800"}, "store is not valid text"),
        ({"where": Path("a")}, None),
        ({"where": 5}, "where must be text, not 5"),
        ({"config": {"k": 1}}, "config must be SearchConfig"),
        ({"told": 5}, "told must be a function"),
        ({"k": True}, "k must be a whole number"),
    ],
    ids=str,
)
def test_others_are_refused_by_name(options: dict[str, Any], words: str | None) -> None:
    if words is None:
        assert asked(**options)["where"] == "a"
        return
    with pytest.raises(UsageError, match=words):
        asked(**options)
