"""Fonts for names on pictures; in: a text, out: a font that has its letters, and what it lacks.

Pillow's own font is Latin. A letter that no font of the system has is drawn as an escape, so that
names are told apart.
"""

from __future__ import annotations

import os
import subprocess
from functools import cache
from typing import TypeAlias

from PIL import ImageFont

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
_ASKED_S = 5.0
_NO_LETTER = "\uffff"
# Fonts of many scripts where there is no fontconfig to ask.
_BROAD = (
    "/System/Library/Fonts/Supplemental/Arial Unicode.ttf",
    "/Library/Fonts/Arial Unicode.ttf",
    r"C:\Windows\Fonts\msyh.ttc",
    r"C:\Windows\Fonts\arial.ttf",
)


def font_for(text: str, size: int) -> tuple[Font, str]:
    """Return the font of that size with the most letters of a text, and the text to draw."""
    best: Font = ImageFont.load_default(size)
    shown, fewest = text, len(text) + 1
    for font in _fonts(text, size):
        lacking = {char for char in text if not _has(font, char)}
        if len(lacking) < fewest:
            best, fewest = font, len(lacking)
            shown = "".join(_escaped(char) if char in lacking else char for char in text)
        if not lacking:
            break
    return best, shown


def _fonts(text: str, size: int) -> list[Font]:
    default: Font = ImageFont.load_default(size)
    missing = next((char for char in text if not _has(default, char)), None)
    if missing is None:
        return [default]
    return [default, *(ImageFont.truetype(file, size, number) for file, number in _places(missing))]


@cache
def _places(char: str) -> list[tuple[str, int]]:
    """Return files of fonts, and the number of the font in each, that may have a letter."""
    wanted = ["fc-match", "-f", "%{file}\n%{index}", f":charset={ord(char):x}"]
    try:
        asked = subprocess.run(wanted, capture_output=True, timeout=_ASKED_S, check=True)
        file, _, number = os.fsdecode(asked.stdout).partition("\n")
        found = [(file, int(number or 0))]
    except (OSError, subprocess.SubprocessError, ValueError):  # no fontconfig here
        found = [(file, 0) for file in _BROAD]
    return [place for place in found if _opens(place)]


def _opens(place: tuple[str, int]) -> bool:
    try:
        ImageFont.truetype(place[0], 12, place[1])
    except OSError:
        return False
    return True


def _has(font: Font, char: str) -> bool:
    """Return whether a font has a letter: without one, all letters look like one that is none."""
    if char.isascii() or not isinstance(font, ImageFont.FreeTypeFont):
        return char.isascii()
    return bytes(font.getmask(char)) != bytes(font.getmask(_NO_LETTER))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
