"""Colors as sRGB; in: a small image and what its file states of colors, out: the image in sRGB.

Nothing is done for a file that states nothing. All of it happens on the reduced image.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from embedsearch.images.decode.stated import Stated

# Profiles differ by device, and those of a folder are few. Printers' profiles have megabytes.
_CACHED_PROFILES = 16
_SAME = 3  # of 255: a profile that moves no color further is sRGB
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# xy of white, red, green and blue, by the number of ITU-T H.273.
_D65 = (0.3127, 0.3290)
_SRGB = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES = {
    1: _SRGB,
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
_PQ, _HLG = 16, 18
_POWERS = {4: 2.2, 5: 2.8, 8: 1.0}
_WHITE_NITS = 203.0  # of diffuse white in PQ and HLG: ITU-R BT.2408
_HLG_PEAK_NITS, _HLG_GAMMA = 1000.0, 1.2  # of the reference display: ITU-R BT.2100
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_NEAR = 0.01  # gammas and primaries that differ less are those of sRGB

_Colors: TypeAlias = "npt.NDArray[np.float64]"  # (H, W, 3), 0 to 1, above 1 for highlights


def to_srgb(small: Image.Image, stated: Stated) -> Image.Image:
    """Return the image in sRGB, as RGB or RGBA; L stays L where its file states nothing."""
    cicp, icc = stated.cicp, stated.icc
    if cicp is not None:
        return _colors_of(small, lambda color: _from_cicp(color, *cicp))
    if icc is not None:
        return _colors_of(small, lambda color: _from_profile(color, icc))
    if stated.gamma is not None or stated.primaries is not None:
        return _colors_of(small, lambda color: _from_gamma(color, stated.gamma, stated.primaries))
    return small


def is_cmyk(icc: bytes | None) -> bool:
    """Return whether it is a profile for CMYK."""
    return icc is not None and _mode_of(icc) == "CMYK"


def _colors_of(small: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Return the image with its colors converted and its alpha kept."""
    if small.mode != "RGBA":
        return convert(small)
    color = convert(small.convert("RGB"))
    color.putalpha(small.getchannel("A"))
    return color


def _from_profile(color: Image.Image, icc: bytes) -> Image.Image:
    """Return the image in sRGB by its ICC profile, as it is if the profile is for another mode."""
    mode = _mode_of(icc)
    if color.mode == "L" and mode == "RGB":
        color = color.convert("RGB")
    transform = _transform(icc, mode) if color.mode == mode else None
    if transform is not None:
        color = transform.apply(color)
    return color.convert("RGB")


@lru_cache(maxsize=_CACHED_PROFILES)
def _mode_of(icc: bytes) -> str:
    """Return the mode of the images that a profile is for, "" for a broken one."""
    try:
        return _MODES.get(_profile(icc).profile.xcolor_space, "")
    except Exception:  # whatever a broken profile makes the library raise; it costs only itself
        return ""


@lru_cache(maxsize=_CACHED_PROFILES)
def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what turns images of `mode` into sRGB, None for a broken profile and for sRGB's.

    The name in a profile says nothing: it is compared by what it does.
    """
    try:
        made: Any = ImageCms.buildTransform(
            _profile(icc),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        samples = _samples(mode)
        after = np.asarray(made.apply(samples), dtype=int)
    except Exception:  # as above
        return None
    before = np.asarray(samples.convert("RGB"), dtype=int)
    transform: ImageCms.ImageCmsTransform = made
    return None if mode != "CMYK" and np.abs(after - before).max() <= _SAME else transform


def _profile(icc: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(icc))


def _samples(mode: str) -> Image.Image:
    """Return an image of the colors by which two transforms are compared."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 6).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * len(mode)), axis=-1)
    size = grid.size // len(mode)
    return Image.frombytes(mode, (size, 1), np.ascontiguousarray(grid).tobytes())


def _from_cicp(color: Image.Image, primaries: int, transfer: int) -> Image.Image:
    """Return the image in sRGB from primaries and transfer by the numbers of ITU-T H.273."""
    own = _PRIMARIES.get(primaries, _SRGB)
    if transfer in {_PQ, _HLG}:
        values = np.asarray(color.convert("RGB"), dtype=np.float64) / 255.0
        light = (_pq(values) if transfer == _PQ else _hlg(values, own)) / _WHITE_NITS
        return _encoded(_tone_mapped(light @ _to_srgb_primaries(own).T))
    power = _POWERS.get(transfer)
    return _from_gamma(color, power and 1.0 / power, own)


def _from_gamma(
    color: Image.Image, gamma: float | None, primaries: tuple[float, ...] | None
) -> Image.Image:
    """Return the image in sRGB from PNG's gAMA and cHRM, of which both may be absent."""
    own = primaries if primaries is not None and len(primaries) == 8 else _SRGB
    power = 1.0 / gamma if gamma is not None and 0.1 <= gamma <= 3.0 else None
    is_plain = power is None or abs(1.0 / power - 1.0 / 2.2) < _NEAR
    if is_plain and np.abs(np.subtract(own, _SRGB)).max() < _NEAR:
        return color
    values = np.asarray(color.convert("RGB"), dtype=np.float64) / 255.0
    light = _srgb_light(values) if is_plain or power is None else values**power
    try:
        return _encoded(light @ _to_srgb_primaries(own).T)
    except np.linalg.LinAlgError:  # primaries on one line
        return color


def _pq(values: _Colors) -> _Colors:
    """Return nits of PQ samples: SMPTE ST 2084."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    root = values ** (1 / m2)
    nits: _Colors = 10000.0 * (np.maximum(root - c1, 0.0) / (c2 - c3 * root)) ** (1 / m1)
    return nits


def _hlg(values: _Colors, primaries: tuple[float, ...]) -> _Colors:
    """Return nits of HLG samples on the reference display: ITU-R BT.2100."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    scene = np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12)
    luminance = scene @ _xyz(primaries)[1]
    gain = np.maximum(luminance, 1e-9)[..., None] ** (_HLG_GAMMA - 1)
    nits: _Colors = _HLG_PEAK_NITS * scene * gain
    return nits


def _tone_mapped(light: _Colors) -> _Colors:
    """Return light of 0 to 1, of light of which 1 is diffuse white.

    Reinhard et al., "Photographic tone reproduction for digital images" (2002), equation 4: what
    is without highlights stays as it is.
    """
    luminance = np.maximum(light @ _LUMINANCE, 1e-9)
    white = max(1.0, float(np.percentile(luminance, 99.9)))
    mapped: _Colors = light * ((1 + luminance / white**2) / (1 + luminance))[..., None]
    return mapped


def _xyz(primaries: tuple[float, ...]) -> _Colors:
    """Return the matrix from RGB to XYZ; its second row is the luminance, which adds up to 1."""
    white, *colors = (
        np.array([x / y, 1.0, (1 - x - y) / y])
        for x, y in zip(primaries[0::2], (max(y, 1e-6) for y in primaries[1::2]), strict=True)
    )
    matrix = np.stack(colors, axis=1)
    scaled: _Colors = matrix * np.linalg.solve(matrix, white)
    return scaled


def _to_srgb_primaries(primaries: tuple[float, ...]) -> _Colors:
    """Return the matrix from linear RGB to that of sRGB. White becomes white, whichever it is."""
    matrix = np.linalg.solve(_xyz(_SRGB), _xyz(primaries))
    kept: _Colors = matrix / matrix.sum(axis=1, keepdims=True)
    return kept


def _srgb_light(values: _Colors) -> _Colors:
    """Return the linear light of sRGB samples: IEC 61966-2-1."""
    light: _Colors = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return light


def _encoded(light: _Colors) -> Image.Image:
    """Return linear light as an sRGB image."""
    light = np.clip(light, 0.0, 1.0)
    values = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return Image.fromarray((values * 255.0 + 0.5).astype(np.uint8))
