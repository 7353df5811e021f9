"""What is known of images; in: ordinals of rows, out: records."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedsearch.core.names import unicode_text
from embedsearch.core.paths import whole_path
from embedsearch.core.records import ImageRecord, JsonRecord
from embedsearch.searching.columns import RowColumns
from embedsearch.searching.ranking.page import place_of
from embedsearch.store.snapshot import Snapshot


@dataclass(frozen=True)
class ImageList(JsonRecord):
    """Some of the images that meet a condition, and their total number."""

    images: list[ImageRecord]
    total: int


def records_of(
    snapshot: Snapshot, columns: RowColumns, ordinals: npt.NDArray[np.int64]
) -> list[ImageRecord]:
    """Return what the store knows of the rows at ordinals, in their order."""
    images = snapshot.images(ordinals)
    facts = snapshot.facts(ordinals)
    users = columns.metadata([image.row for image in images]) if images else []
    return [
        ImageRecord(
            row=image.row,
            path=unicode_text(key := os.fsdecode(image.key)),
            full_path=whole_path(*place_of(snapshot.manifest, image)),
            key=key,
            width=image.width,
            height=image.height,
            format=more["format"],
            size_bytes=max(0, more["size"]),
            taken_at=more["taken_at"],
            camera=more["camera"],
            gps=more["gps"] and (more["gps"]["lat"], more["gps"]["lon"]),
            brightness=_rounded(more["brightness"], 4),
            sharpness=_rounded(more["sharpness"], 2),
            metadata=user,
        )
        for image, more, user in zip(images, facts, users, strict=True)
    ]


def _rounded(value: float | None, digits: int) -> float | None:
    """Return what a float32 was before it was stored."""
    return None if value is None else round(value, digits)
