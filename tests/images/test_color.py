"""Colors: the same picture in another color space has the same pixels in sRGB."""

from __future__ import annotations

import io
import struct

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from embedsearch.core.config import DecodeLimits
from embedsearch.core.model_spec import SQUASHED
from embedsearch.images.decode import color
from embedsearch.images.decode.image import decode, square
from tests.support.pictures import chunk, encoded, picture, png

LIMITS = DecodeLimits()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PLACES = {
    SRGB[132 + 12 * i : 136 + 12 * i]: struct.unpack(">I", SRGB[136 + 12 * i : 140 + 12 * i])[0]
    for i in range(struct.unpack(">I", SRGB[128:132])[0])
}
# Linear BT.2020 from linear sRGB: ITU-R BT.2087.
TO_2020 = np.array(
    [[0.627404, 0.329283, 0.043313], [0.069097, 0.91954, 0.011362], [0.016391, 0.088013, 0.895595]]
)


def profile(**columns: tuple[float, float, float]) -> bytes:
    """Return the profile of sRGB with other primaries, under the same name."""
    changed = bytearray(SRGB)
    for name, values in columns.items():
        place = PLACES[name.encode()] + 8
        changed[place : place + 12] = struct.pack(">3i", *(round(v * 65536) for v in values))
    return bytes(changed)


WIDE = profile(
    rXYZ=(0.7977, 0.2880, 0.0), gXYZ=(0.1352, 0.7119, 0.0), bXYZ=(0.0313, 0.0001, 0.8249)
)


def shown(file: io.BytesIO) -> npt.NDArray[np.int64]:
    return decode(file, 32, LIMITS).pixels.astype(np.int64)


def apart(file: io.BytesIO, image: Image.Image) -> float:
    return float(np.abs(shown(file) - shown(encoded(image, "PNG"))).mean())


def linear(image: Image.Image) -> npt.NDArray[np.float64]:
    value = np.asarray(image) / 255
    bent: npt.NDArray[np.float64] = ((value + 0.055) / 1.055) ** 2.4
    return np.where(value <= 0.04045, value / 12.92, bent)


def eight(values: npt.NDArray[np.float64]) -> Image.Image:
    return Image.fromarray((np.clip(values, 0, 1) * 255).round().astype(np.uint8))


@pytest.mark.parametrize(
    ("form", "more"),
    [("PNG", {}), ("TIFF", {}), ("JPEG", {"quality": 98}), ("WEBP", {"lossless": True}),
     ("AVIF", {"quality": 95})],
)  # fmt: skip
def test_a_profile_of_a_wide_space_is_applied(form: str, more: dict[str, object]) -> None:
    own = ImageCms.ImageCmsProfile(io.BytesIO(WIDE))
    moved = ImageCms.profileToProfile(picture(3), ImageCms.createProfile("sRGB"), own)
    assert moved is not None
    moved.info.clear()  # else each encoder would write a profile
    file = encoded(moved, form, icc_profile=WIDE, **more)
    assert apart(file, picture(3)) < (7 if form in {"JPEG", "AVIF"} else 3)
    assert apart(encoded(moved, form, **more), picture(3)) > 8  # the mutant: no profile


def test_a_profile_with_exchanged_channels_though_it_is_called_srgb() -> None:
    names = (b"rXYZ", b"bXYZ")
    red, blue = (
        tuple(v / 65536 for v in struct.unpack(">3i", SRGB[PLACES[n] + 8 : PLACES[n] + 20]))
        for n in names
    )
    swapped = profile(rXYZ=blue, bXYZ=red)
    exchanged = Image.fromarray(np.asarray(picture(3))[..., ::-1].copy())
    file = encoded(exchanged, "PNG", icc_profile=swapped)
    assert apart(file, picture(3)) < 1.5
    file.seek(0)
    with Image.open(file) as image:  # what a query with a Pillow image sees
        assert np.abs(square(image, 32, SQUASHED).astype(int) - shown(file)).max() == 0


def test_alpha_survives_a_profile() -> None:
    image = picture(3).convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 32, 48))
    left = shown(encoded(image, "PNG", icc_profile=WIDE))[:, :15]
    assert left.min() == 255


def test_srgb_and_broken_profiles_change_nothing() -> None:
    plain = shown(encoded(picture(3), "JPEG"))
    for icc in (SRGB, SRGB[:200], b"no profile", bytes(5000)):
        assert np.array_equal(shown(encoded(picture(3), "JPEG", icc_profile=icc)), plain)
    assert color._transform(SRGB, "RGB") is None  # found out once, by what it does


def test_a_gray_picture_with_a_profile_for_colors() -> None:
    gray = picture(3).convert("L")
    assert apart(encoded(gray, "JPEG", icc_profile=SRGB), gray) < 2


def test_a_gray_profile_bends_the_curve() -> None:
    """Linear gray: a profile of one curve, of gamma 1."""
    gray = picture(3).convert("L")
    curve = struct.pack(">4sIIH2x", b"curv", 0, 1, 256)  # gamma 1.0
    white = struct.pack(">4sI3i", b"XYZ ", 0, 63190, 65536, 54061)
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"gray\0" + bytes(78 + 1)
    start = 128 + 4 + 3 * 12
    table = struct.pack(">I", 3)
    body = b""
    for tag, data in ((b"desc", name), (b"kTRC", curve), (b"wtpt", white)):
        table += struct.pack(">4sII", tag, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(
        ">I4sI4s4s4s", start + len(body), b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ "
    )
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    icc = head.ljust(128, b"\0") + table + body
    file = encoded(eight(linear(gray)), "PNG", icc_profile=icc)
    assert apart(file, gray) < 4
    assert apart(encoded(eight(linear(gray)), "PNG"), gray) > 20


def test_gamma_and_primaries_of_a_png() -> None:
    samples = np.asarray(eight((np.asarray(picture(3)) / 255) ** 2.2))
    gamma = chunk(b"gAMA", struct.pack(">I", 100000))
    assert apart(png(samples, 8, gamma), picture(3)) < 6
    assert apart(png(samples, 8, gamma, chunk(b"sRGB", b"\0")), eight(samples / 255)) == 0
    usual = chunk(b"gAMA", struct.pack(">I", 45455))
    xy = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    usual += chunk(b"cHRM", struct.pack(">8I", *xy))
    assert apart(png(np.asarray(picture(3)), 8, usual), picture(3)) == 0
    for nonsense in (chunk(b"gAMA", bytes(4)), chunk(b"cHRM", bytes(32))):
        shown(png(np.asarray(picture(3)), 8, nonsense))


def as_pq(image: Image.Image) -> Image.Image:
    y = (linear(image) @ TO_2020.T * 203 / 10000) ** 0.1593017578125
    return eight(((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375)


def as_hlg(image: Image.Image) -> Image.Image:
    nits = linear(image) @ TO_2020.T * 203
    luminance = np.maximum(nits @ [0.2627, 0.678, 0.0593], 1e-6)[..., None] / 1000
    scene = nits / 1000 * luminance ** (1 / 1.2 - 1)
    bent = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return eight(np.where(scene <= 1 / 12, np.sqrt(3 * scene), bent))


@pytest.mark.parametrize(("transfer", "encode"), [(16, as_pq), (18, as_hlg)])
@pytest.mark.parametrize("form", ["AVIF", "PNG"])
def test_pq_and_hlg_are_tone_mapped(transfer: int, encode: object, form: str) -> None:
    assert callable(encode)
    hdr = encode(picture(3))
    if form == "PNG":
        file = png(np.asarray(hdr), 8, chunk(b"cICP", bytes([9, transfer, 0, 1])))
    else:
        data = bytearray(encoded(hdr, "AVIF", quality=95).getvalue())
        place = data.index(b"colrnclx") + 8
        data[place : place + 4] = struct.pack(">HH", 9, transfer)
        file = io.BytesIO(bytes(data))
    assert apart(file, picture(3)) < (8 if form == "AVIF" else 3)
    assert apart(encoded(hdr, "PNG"), picture(3)) > 15  # the mutant


def test_highlights_are_compressed_and_not_cut() -> None:
    ramp = np.linspace(0, 0.9, 64)[None, :, None].repeat(64, 0).repeat(3, 2)  # up to 3,900 nits
    file = png((ramp * 255).astype(np.uint8), 8, chunk(b"cICP", bytes([9, 16, 0, 1])))
    row = shown(file)[16, :, 0]
    assert (np.diff(row) >= 0).all() and row[-1] > 240 and len(np.unique(row)) > 24


def test_the_primaries_of_p3() -> None:
    data = bytearray(encoded(picture(3), "AVIF", quality=95).getvalue())
    place = data.index(b"colrnclx") + 8
    data[place : place + 4] = struct.pack(">HH", 12, 13)
    more_vivid = shown(io.BytesIO(bytes(data))) - shown(encoded(picture(3), "PNG"))
    assert 1 < np.abs(more_vivid).mean() < 20
    ours = color._to_srgb_primaries(color._PRIMARIES[12])
    assert np.allclose(ours[0], [1.2249, -0.2247, 0.0], atol=2e-3)
