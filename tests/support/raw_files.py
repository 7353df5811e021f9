"""DNGs as cameras write them: samples behind color filters, with or without a preview."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from embedsearch.images.decode.formats import raw
from embedsearch.images.sources import kinds
from tests.support.pictures import encoded

SIZE = (640, 480)
_WHITE = 4095
_SRGB_FROM_XYZ = (32406, -15372, -4986, -9689, 18758, 415, 557, -2040, 10570)  # of 10,000
_SHORT, _LONG, _RATIONAL, _SIGNED, _BYTE, _TEXT = 3, 4, 5, 10, 1, 2


def dng(
    image: Image.Image, preview: Image.Image | None, orientation: int = 1, **jpeg: Any
) -> bytes:
    """Return a DNG of an image, with a preview in the first directory or without one."""
    tifffile = pytest.importorskip("tifffile", reason="writes the file")
    about = [
        (50706, _BYTE, 4, (1, 4, 0, 0), True), (50707, _BYTE, 4, (1, 1, 0, 0), True),
        (50708, _TEXT, 0, "Maker Camera", True), (271, _TEXT, 0, "Maker", True),
        (272, _TEXT, 0, "Camera", True), (306, _TEXT, 0, "2021:05:06 07:08:09", True),
        (274, _SHORT, 1, orientation, True), (50778, _SHORT, 1, 21, True),
        (50721, _SIGNED, 9, [n for m in _SRGB_FROM_XYZ for n in (m, 10_000)], True),
        (50728, _RATIONAL, 3, (1, 1, 1, 1, 1, 1), True),
    ]  # fmt: skip
    of_samples = [
        (33421, _SHORT, 2, (2, 2), True), (33422, _BYTE, 4, (0, 1, 1, 2), True),
        (50717, _LONG, 1, _WHITE, True),
    ]  # fmt: skip
    samples: dict[str, Any] = {"photometric": 32803, "subfiletype": 0, "metadata": None}
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        if preview is None:
            tags = [*about, *of_samples]
            writer.write(mosaic(image), software=False, extratags=tags, **samples)
        else:
            writer.write(
                iter([encoded(preview, "JPEG", quality=95, **jpeg).getvalue()]),
                shape=(preview.height, preview.width, 3), dtype="u1", photometric="ycbcr",
                compression="jpeg", subfiletype=1, subifds=1, rowsperstrip=preview.height,
                extratags=about, metadata=None, software=False,
            )  # fmt: skip
            writer.write(mosaic(image), extratags=of_samples, **samples)
    return file.getvalue()


def with_library(is_there: bool, patch: pytest.MonkeyPatch) -> None:
    """Let this process have the library that reads RAW, or not; its workers keep it."""
    if is_there:
        patch.undo()
    else:
        patch.setitem(sys.modules, "rawpy", None)
    for known in (raw._rawpy, kinds.reads_raw):
        known.cache_clear()


def mosaic(image: Image.Image) -> npt.NDArray[np.uint16]:
    """Return (H, W): linear samples behind filters of red, green, green and blue."""
    linear = (np.asarray(image.convert("RGB")) / 255.0) ** 2.2
    colors = np.tile([[0, 1], [1, 2]], (image.height // 2, image.width // 2))
    chosen = np.take_along_axis(linear, colors[..., None], axis=2)[..., 0]
    return np.round(chosen * _WHITE).astype(np.uint16)
