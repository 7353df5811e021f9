"""Animations: the first frame that shows something, and what a GIF leaves free."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import GifImagePlugin, Image

from embedsearch.core.config import DecodeLimits
from embedsearch.images.decode import image as decode_image
from embedsearch.images.decode.image import decode
from tests.support.pictures import encoded, picture

LIMITS = DecodeLimits()
FORMS = {"GIF": {}, "WEBP": {"lossless": True}, "PNG": {}, "AVIF": {}}


def apart(file: io.BytesIO, image: Image.Image, limits: DecodeLimits = LIMITS) -> float:
    file.seek(0)
    wanted = decode(encoded(image, "PNG"), 32, LIMITS).pixels.astype(int)
    return float(np.abs(decode(file, 32, limits).pixels - wanted).mean())


def animation(form: str, frames: list[Image.Image], **more: object) -> io.BytesIO:
    own = {**FORMS[form], **more}
    return encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50, **own)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ground", ["black", "white"])
def test_blank_frames_before_the_first_picture_are_passed_over(form: str, ground: str) -> None:
    blank = Image.new("RGB", (64, 48), ground)
    half = Image.blend(blank, picture(3), 0.2)
    file = animation(form, [blank, half, picture(3), picture(4)])
    assert apart(file, picture(3)) < 9
    first = animation(form, [picture(4), picture(3)])
    assert apart(first, picture(4)) < 9


def test_an_empty_first_frame_of_a_gif() -> None:
    empty = Image.new("RGBA", (64, 48), (0, 0, 0, 0))
    file = animation("GIF", [empty, picture(3).convert("RGBA")], disposal=2)
    assert apart(file, picture(3)) < 9


def test_of_blank_frames_only_the_first_counts() -> None:
    frames = [Image.new("RGB", (64, 48), color) for color in ("navy", "maroon", "olive")]
    assert apart(animation("WEBP", frames), frames[0]) < 2


def test_the_work_on_blank_frames_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("RGB", (64, 48), (number, 0, 0)) for number in range(6)]
    file = animation("GIF", [*frames, picture(3)])
    assert apart(file, picture(3)) < 9
    few = DecodeLimits(max_pixels=64 * 48 * 3)  # three frames
    assert apart(file, frames[0], few) < 2
    monkeypatch.setattr(decode_image, "_MAX_FRAMES", 4)
    assert apart(file, frames[0]) < 2


def test_a_broken_later_frame_costs_itself() -> None:
    frames = [Image.new("RGB", (64, 48)), picture(3), picture(4)]
    whole = animation("GIF", frames).getvalue()
    assert apart(io.BytesIO(whole[: len(whole) // 2]), Image.new("RGB", (64, 48))) < 40


def test_a_picture_of_one_frame_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a second frame was looked for")

    monkeypatch.setattr(GifImagePlugin.GifImageFile, "seek", refuse)
    decode(encoded(picture(3), "GIF"), 32, LIMITS)


def test_what_the_first_frame_of_a_gif_leaves_free_is_white() -> None:
    """As in browsers; the background color of the file is the red of the square."""
    header = b"GIF89a" + struct.pack("<HHBBB", 30, 30, 0x80, 0, 0) + bytes([255, 0, 0, 0, 0, 255])
    frame = b"," + struct.pack("<HHHHB", 5, 5, 10, 10, 0) + b"\2"
    codes = "".join(f"{code:03b}"[::-1] for code in [*[4, 0, 0] * 50, 5])
    codes += "0" * (-len(codes) % 8)
    data = bytes(int(codes[i : i + 8][::-1], 2) for i in range(0, len(codes), 8))
    file = io.BytesIO(header + frame + bytes([len(data)]) + data + b"\0;")
    pixels = decode(file, 30, LIMITS).pixels
    assert pixels[10, 10].tolist() == [255, 0, 0]
    assert pixels[1, 1].tolist() == pixels[25, 25].tolist() == [255, 255, 255]
