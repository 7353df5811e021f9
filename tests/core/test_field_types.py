"""The values that users give to settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from embedsearch.core.config import (
    DecodeLimits,
    DuplicateConfig,
    IndexConfig,
    SearchBudget,
    SearchConfig,
    TrainConfig,
)
from embedsearch.core.errors import UsageError

CONFIGS = [DecodeLimits, DuplicateConfig, IndexConfig, SearchBudget, SearchConfig, TrainConfig]
FIELDS = [(kind, field.name) for kind in CONFIGS for field in fields(kind)]
ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.complex_numbers(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.sampled_from(
        [
            np.int64(3),
            np.float32(0.5),
            np.array([1, 2]),
            np.array(3),
            np.bool_(True),
            Path("a"),
            object(),
            "\ud800",
            "a\0b",
            float("nan"),
            10**30,
        ]
    ),
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(FIELDS), ODD)
def test_a_value_is_taken_as_its_type_or_refused_by_name(
    where: tuple[Callable[..., Any], str], value: Any
) -> None:
    kind, name = where
    try:
        config = kind(**{name: value})
    except UsageError as error:
        assert str(error)
        return
    kept = getattr(config, name)
    assert type(kept) in {bool, int, float, str, tuple, type(None), DecodeLimits}
    assert kept == kept, "no NaN"
    hash(config)


def test_numbers_of_numpy_and_paths_are_taken() -> None:
    search: Any = SearchConfig
    index: Any = IndexConfig
    duplicates: Any = DuplicateConfig
    config = search(k=np.int64(3), min_score=np.float32(0.5))
    assert (config.k, type(config.k), config.min_score) == (3, int, 0.5)
    assert index(files=Path("a.txt")).files == "a.txt"
    assert index(exclude="*.tmp").exclude == ("*.tmp",)
    assert duplicates(flips=np.bool_(True)).flips is True


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 2.5}, "k must be a whole number, not 2.5"),
        ({"k": True}, "k must be a whole number"),
        ({"where": 5}, "where must be text, not 5"),
        ({"where": b"a"}, "where must be text"),
        ({"min_score": "0.5"}, "min_score must be a number"),
        ({"min_score": float("nan")}, "min_score must be a number"),
    ],
    ids=str,
)
def test_others_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SearchConfig(**options)
