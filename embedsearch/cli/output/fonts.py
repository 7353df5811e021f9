"""Text on pictures in any script; in: a text, out: runs of letters, each with a font that has them.

Fonts are tried in this order: Pillow's own, which is Latin, those of the system, and GNU Unifont,
which comes with the package and has nearly all letters. What none has is drawn as an escape, so
that names are told apart.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import TypeAlias

from PIL import ImageDraw, ImageFont

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
Run: TypeAlias = tuple[Font, str]
_ASKED_S = 5.0
_NO_LETTER = "\uffff"
# Fonts of many scripts where there is no fontconfig to ask.
_BROAD = (
    "/System/Library/Fonts/Supplemental/Arial Unicode.ttf",
    "/Library/Fonts/Arial Unicode.ttf",
    r"C:\Windows\Fonts\msyh.ttc",
    r"C:\Windows\Fonts\arial.ttf",
)
_UNIFONT = ("unifont_jp.otf", "unifont_upper.otf")  # all scripts; emoji
_UNIFONT_SIDE = 16  # pixels; it was drawn for this size


def runs(text: str, size: int) -> list[Run]:
    """Return a text in parts, each with its font, as few as there can be."""
    main = _main_font(text, size)
    fonts = [main if _has(main, char) else _font_of(char, size) for char in text]
    found: list[Run] = []
    for font, group in groupby(zip(fonts, text, strict=True), key=lambda pair: pair[0]):
        letters = "".join(char for _, char in group)
        shown = letters if font is not None else letters.encode("unicode_escape").decode()
        found.append((font or main, shown))
    return found


def text_width(text: str, size: int) -> float:
    """Return how wide a text is, in pixels."""
    return sum(font.getlength(part) for font, part in runs(text, size))


def draw_text(
    draw: ImageDraw.ImageDraw, left: float, baseline: float, text: str, size: int, fill: str
) -> None:
    """Draw a text on a baseline, from `left` to the right."""
    for font, part in runs(text, size):
        draw.text((left, baseline), part, fill=fill, font=font, anchor="ls")
        left += font.getlength(part)


def _main_font(text: str, size: int) -> Font:
    """Return the font with the most letters of a text: one look for all of it where possible."""
    best, fewest = _default(size), len(text) + 1
    for font in (_default(size), *_system_fonts(text, size)):
        lacking = sum(not _has(font, char) for char in set(text))
        if lacking < fewest:
            best, fewest = font, lacking
    return best


def _system_fonts(text: str, size: int) -> Iterator[Font]:
    """Yield fonts of the system for the first letter that Pillow's own lacks."""
    missing = next((char for char in text if not _has(_default(size), char)), None)
    if missing is not None:
        yield from (_opened(file, number, size) for file, number in _places(missing))


@cache
def _font_of(char: str, size: int) -> Font | None:
    """Return a font that has a letter, None where there is none."""
    found = [_default(size)]
    found += [_opened(file, number, size) for file, number in _places(char)]
    folder = files("embedsearch.cli.output").joinpath("unifont")
    found += [_opened(str(folder / name), 0, max(size, _UNIFONT_SIDE)) for name in _UNIFONT]
    return next((font for font in found if _has(font, char)), None)


@cache
def _default(size: int) -> Font:
    return ImageFont.load_default(size)


@cache
def _opened(file: str, number: int, size: int) -> Font:
    return ImageFont.truetype(file, size, number)


@cache
def _places(char: str) -> list[tuple[str, int]]:
    """Return files of fonts, and the number of the font in each, that may have a letter."""
    wanted = ["fc-match", "-f", "%{file}\n%{index}", f":charset={ord(char):x}"]
    try:
        asked = subprocess.run(wanted, capture_output=True, timeout=_ASKED_S, check=True)
        file, _, number = asked.stdout.decode(errors="surrogateescape").partition("\n")
        found = [(file, int(number or 0))]
    except (OSError, subprocess.SubprocessError, ValueError):  # no fontconfig here
        found = [(file, 0) for file in _BROAD]
    return [place for place in found if _opens(place)]


def _opens(place: tuple[str, int]) -> bool:
    try:
        _opened(*place, 12)
    except OSError:
        return False
    return True


@cache
def _has(font: Font, char: str) -> bool:
    """Return whether a font has a letter: without one, all letters look like one that is none."""
    if char.isascii() or not isinstance(font, ImageFont.FreeTypeFont):
        return char.isascii()
    return bytes(font.getmask(char)) != bytes(font.getmask(_NO_LETTER))
