"""The arithmetic of a center, and what no manifest may say of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from embedsearch.core.config import MODEL_CENTER, NO_CENTER, STORE_CENTER
from embedsearch.core.errors import IncompatibleStore
from embedsearch.core.model_spec import ModelSpec
from embedsearch.store.center import MODEL_SHARE, STORE_SHARE, Center, CenterRecord
from embedsearch.store.manifest import Manifest

DIM = 6


def units(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    vectors = np.abs(np.random.default_rng(seed).standard_normal((count, DIM))).astype(np.float32)
    of_length_1: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return of_length_1


def record_of(vectors: npt.NDArray[np.float32], kind: str = STORE_CENTER) -> CenterRecord:
    empty = CenterRecord(kind)
    return empty.added(vectors.sum(axis=0, dtype=np.float64), len(vectors))


def center_of(record: CenterRecord) -> Center:
    center = Center.of(record, DIM)
    assert center is not None
    return center


def test_a_center_is_a_share_of_the_mean_or_of_its_estimate() -> None:
    vectors, expected = units(150), units(1, 9)[0]
    wanted = STORE_SHARE * vectors.mean(axis=0)
    center = center_of(record_of(vectors).taken(expected))
    measured = center.measured(vectors)
    by_hand = vectors - wanted
    by_hand /= np.linalg.norm(by_hand, axis=1, keepdims=True)
    assert np.allclose(measured, by_hand, atol=1e-6)
    estimated = center_of(record_of(vectors, MODEL_CENTER).taken(expected))
    by_model = vectors - MODEL_SHARE * expected
    by_model /= np.linalg.norm(by_model, axis=1, keepdims=True)
    assert np.allclose(estimated.measured(vectors), by_model, atol=1e-6)
    assert Center.of(record_of(vectors, NO_CENTER).taken(expected), DIM) is None
    assert Center.of(None, DIM) is None


def test_counted_in_parts_is_counted_at_once() -> None:
    vectors = units(40)
    parts = record_of(vectors[:7])
    parts = parts.added(vectors[7:].sum(axis=0, dtype=np.float64), 33)
    at_once = record_of(vectors)
    assert parts.seen == at_once.seen == 40
    nothing = np.zeros(DIM, np.float32)
    close = center_of(parts.taken(nothing)).measured(vectors)
    assert np.allclose(close, center_of(at_once.taken(nothing)).measured(vectors), atol=1e-6)
    assert parts.added(np.zeros(DIM), 0) is parts


def test_what_is_measured_can_be_taken_back() -> None:
    vectors = units(50)
    center = center_of(record_of(vectors).taken(units(1, 3)[0]))
    assert np.allclose(center.plain(center.measured(vectors)), vectors, atol=1e-5)
    assert np.allclose(center.plain(center.measured(vectors[0])), vectors[0], atol=1e-5)
    anything = -vectors
    assert np.allclose(center.measured(center.plain(anything)), anything, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 100_000])
def test_equal_images_are_measured_as_themselves(count: int) -> None:
    """Their mean is themselves, and something is left of them."""
    one = units(1)
    center = center_of(record_of(np.repeat(one, count, axis=0)).taken(one[0]))
    assert np.allclose(center.measured(one), one, atol=1e-5)
    assert np.isfinite(center.rows(one.astype(np.float16))).all()


def test_a_center_is_out_of_date_when_it_would_move() -> None:
    expected = np.zeros(DIM, np.float32)
    before = record_of(units(200)).taken(expected)
    same = before.added(units(10, 5).sum(axis=0, dtype=np.float64), 10).taken(expected)
    assert not before.is_out_of_date(same, DIM)
    others = -units(200, 6)
    moved = before.added(others.sum(axis=0, dtype=np.float64), 200).taken(expected)
    assert before.is_out_of_date(moved, DIM)
    assert before.is_out_of_date(replace(before, kind=NO_CENTER, vector=""), DIM)
    assert CenterRecord(STORE_CENTER).is_out_of_date(before, DIM)


def manifest_with(center: CenterRecord | None) -> Manifest:
    model = ModelSpec("t", "resnet18", "0" * 64, DIM, 64)
    return Manifest(1, 0, "", "", model, (), 0, 0, center=center)


def test_a_manifest_keeps_it_and_older_versions_are_told() -> None:
    record = record_of(units(5)).taken(units(1, 3)[0])
    data = manifest_with(record).to_bytes()
    assert Manifest.from_bytes(data).center == record
    assert b'"min_reader_version": 2' in data, "who knows no center compares other vectors"
    for kind in (None, CenterRecord(NO_CENTER), CenterRecord(STORE_CENTER)):
        assert b'"min_reader_version": 1' in manifest_with(kind).to_bytes()
    with pytest.raises(IncompatibleStore, match="format 3"):
        Manifest.from_bytes(data.replace(b'"min_reader_version": 2', b'"min_reader_version": 3'))


def packed(values: Any) -> str:
    import base64

    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"vector": packed([np.nan] * DIM)}, "finite"),
        ({"vector": packed([np.inf] + [0] * (DIM - 1))}, "finite"),
        ({"vector": packed([0.1] * (DIM - 1))}, "components"),
        ({"vector": packed([0.4] * DIM)}, "too far"),  # of length 0.98
        ({"vector": packed([9.0] * DIM)}, "mean"),
        ({"vector": "no base64"}, "malformed"),
        ({"mean": packed([1.0] * DIM)}, "mean"),
        ({"kind": "elsewhere"}, "kind"),
        ({"vector": 7}, "malformed"),
    ],
)
def test_what_cannot_be_a_center(bad: dict[str, Any], message: str) -> None:
    record = replace(record_of(units(5)).taken(units(1, 3)[0]), **bad)
    with pytest.raises(ValueError, match=message):
        Manifest.from_bytes(manifest_with(record).to_bytes())
