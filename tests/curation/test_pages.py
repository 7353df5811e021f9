"""Files of several pages or frames: only the first is compared, so they are never offered to go."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedsearch import duplicates
from embedsearch.core.config import DecodeLimits
from embedsearch.images.decode.image import decode
from tests.curation.test_close_look import indexed, photo, removed, scaled
from tests.support.library import SAMPLES, run_cli

FIRST = photo(SAMPLES / "clocks" / "clocks_1.jpg")
OTHER = photo(SAMPLES / "boats" / "boats_1.jpg").resize(FIRST.size)
THIRD = photo(SAMPLES / "flowers" / "flowers_6.jpg").resize(FIRST.size)


def more(*images: Image.Image, **options: Any) -> tuple[Image.Image, dict[str, Any]]:
    return FIRST, {"save_all": True, "append_images": images, **options}


@pytest.mark.parametrize("suffix", ["tif", "png", "webp"])
def test_a_file_of_other_pages_stays(tmp_path: Path, suffix: str) -> None:
    lossless = {"lossless": True} if suffix == "webp" else {}
    store = indexed(
        tmp_path,
        {
            f"a.{suffix}": more(OTHER, **lossless),
            f"b.{suffix}": more(THIRD, OTHER, **lossless),
            "large.png": (scaled(FIRST, 2), {}),
            "still.png": (FIRST, {}),
        },
    )
    (group,) = duplicates(store).groups
    assert group.keep.key == "large.png"
    hows = {copy.picture.key: (copy.how, copy.is_copy) for copy in group.copies}
    assert hows == {
        **dict.fromkeys((f"a.{suffix}", f"b.{suffix}"), ("first page", False)),
        "still.png": ("copy", True),
    }
    run_cli("duplicates", "--store", store, "--script", tmp_path / "d.sh")
    assert removed(tmp_path / "d.sh") == ["still.png"]


def test_one_of_several_pages_is_kept_for_its_first_one(tmp_path: Path) -> None:
    store = indexed(tmp_path, {"a.tif": more(OTHER), "half.jpg": (scaled(FIRST, 0.5), {})})
    (group,) = duplicates(store).groups
    assert group.keep.key == "a.tif" and [copy.how for copy in group.copies] == ["copy"]
    (group,) = duplicates(store, keep=("format=JPEG",)).groups
    assert group.keep.key == "half.jpg" and [copy.how for copy in group.copies] == ["first page"]


def test_which_files_have_more() -> None:
    def has_more(data: bytes) -> bool:
        return decode(io.BytesIO(data), 64, DecodeLimits()).has_more

    def saved(form: str, *images: Image.Image) -> bytes:
        file = io.BytesIO()
        FIRST.save(file, form, **({"save_all": True, "append_images": images} if images else {}))
        return file.getvalue()

    for form in ("TIFF", "GIF", "PNG", "WEBP", "AVIF"):
        assert has_more(saved(form, OTHER)) and not has_more(saved(form)), form
    assert not has_more(saved("MPO", OTHER)), "a camera's second picture is of the same scene"
    tifffile = pytest.importorskip("tifffile", reason="reads the layout")
    for pages in (1, 2):  # of a layout that Pillow does not know
        file = io.BytesIO()
        plane = np.asarray(FIRST, np.uint16) * 256
        with tifffile.TiffWriter(file, bigtiff=True, byteorder=">") as writer:
            for _ in range(pages):
                writer.write(plane, photometric="rgb")
        assert has_more(file.getvalue()) is (pages == 2)
