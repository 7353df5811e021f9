"""JPEGs that need no reduced scale; in: an opened image and its file, out: its samples.

simplejpeg gives them as an array; Pillow's have to be copied into one. Both are libjpeg-turbo.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from PIL import Image

from embedsearch.images.decode.scaling import Samples

try:
    import simplejpeg
except ImportError:  # it costs its speed only
    simplejpeg = None

_MODES = {"RGB": "RGB", "L": "GRAY"}
_MOST_BYTES = 8 << 20


def plain_samples(image: Image.Image, file: BinaryIO) -> Samples | None:
    """Return uint8 (H, W, 3), or (H, W) of a gray picture.

    None where Pillow has to read it: another format or layout, and whatever is damaged.
    """
    if simplejpeg is None or image.format != "JPEG" or image.mode not in _MODES:
        return None
    file.seek(0)
    data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        return None
    try:
        samples = simplejpeg.decode_jpeg(data, _MODES[image.mode])
    except ValueError:  # Pillow says what is wrong, or reads what can be read
        return None
    found = np.asarray(samples[..., 0] if image.mode == "L" else samples)
    return found if found.shape[1::-1] == image.size else None
