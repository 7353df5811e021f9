"""Pictures on a terminal; in: pixels and captions, out: lines of text, or the terminal's graphics.

Half blocks work on every terminal: the upper half of a cell has the foreground color, the lower
half the background color. `textual-image` handles Sixel and kitty's protocol.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.color import Color, ColorSystem
from rich.console import Console

CELLS = 24  # the width of a thumbnail; three fit side by side into 80 columns
# Half a cell is about a square, as a cell is twice as high as wide; with the terminal's own
# graphics it gets this many pixels a side.
_PIXELS = 10
SIDE = CELLS * _PIXELS  # the best longer side of pictures, in pixels
_GAP = 2
_MAX_COLUMNS = 240  # kitty has fewer than 300 placeholders
_RESET = "\x1b[0m"


@dataclass(frozen=True)
class Thumbnail:
    """A picture, uint8 (H, W, 3), or None if it cannot be read, and its caption."""

    pixels: npt.NDArray[np.uint8] | None
    caption: str


class ThumbnailRows:
    """Shows thumbnails row by row, as many side by side as fit into the width."""

    def __init__(self, out: TextIO, columns: int, environ: Mapping[str, str] = os.environ) -> None:
        """Write to `out`, a terminal that is `columns` wide."""
        self._out = out
        self._cells = max(1, min(CELLS, columns))
        self._across = max(1, (min(columns, _MAX_COLUMNS) + _GAP) // (self._cells + _GAP))
        self._is_true_color = environ.get("COLORTERM") in {"truecolor", "24bit"}
        self._graphics = _graphics()

    def show(self, thumbnails: Sequence[Thumbnail]) -> None:
        """Write the thumbnails with their captions."""
        for start in range(0, len(thumbnails), self._across):
            row = thumbnails[start : start + self._across]
            if self._graphics is None:
                lines = half_blocks(_strip(row, self._cells, 1), self._is_true_color)
                self._out.writelines(line + "\n" for line in lines)
            else:
                self._draw(self._graphics, _strip(row, self._cells, _PIXELS))
            captions = (f"{t.caption[: self._cells]:^{self._cells}}" for t in row)
            self._out.write((" " * _GAP).join(captions).rstrip() + "\n\n")
        self._out.flush()

    def _draw(self, graphics: Any, strip: npt.NDArray[np.uint8]) -> None:
        """Draw a row of thumbnails as one picture, so that the cursor stays left of it."""
        rows, columns = strip.shape[0] // (2 * _PIXELS), strip.shape[1] // _PIXELS
        if rows == 0:
            return
        self._out.flush()  # the library does not write through it
        # Colors identify pictures in kitty's protocol: they must not be rounded.
        console = Console(
            file=self._out, width=columns + 1, force_terminal=True, color_system="truecolor"
        )
        console.print(graphics(Image.fromarray(strip), columns, rows), end="")


def half_blocks(pixels: npt.NDArray[np.uint8], is_true_color: bool) -> list[str]:
    """Return uint8 (H, W, 4), H even, as H / 2 lines of W cells, in 24-bit or in 256 colors.

    The fourth number is 0 where the terminal's background shows, else 255.
    """
    return [
        "".join(_cell(a, b, is_true_color) for a, b in zip(upper, lower, strict=True))
        for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True)
    ]


def _cell(above: list[int], below: list[int], is_true_color: bool) -> str:
    if above[3] and below[3]:
        upper, lower = _codes(above, is_true_color), _codes(below, is_true_color, ground=True)
        return f"\x1b[{upper};{lower}m▀{_RESET}"
    if above[3] or below[3]:
        codes = _codes(above if above[3] else below, is_true_color)
        return f"\x1b[{codes}m{'▀' if above[3] else '▄'}{_RESET}"
    return " "


def _codes(pixel: list[int], is_true_color: bool, ground: bool = False) -> str:
    """Return the codes that set the foreground color, or with `ground` the background color."""
    color = Color.from_rgb(*pixel[:3])
    if not is_true_color:
        color = color.downgrade(ColorSystem.EIGHT_BIT)
    return ";".join(color.get_ansi_codes(foreground=not ground))


def _strip(row: Sequence[Thumbnail], cells: int, scale: int) -> npt.NDArray[np.uint8]:
    """Return thumbnails side by side, uint8 (H, W, 4), `scale` pixels per cell width.

    They are aligned at the bottom; H is a multiple of two half cells, 0 without any picture.
    """
    side = cells * scale
    pictures = [None if t.pixels is None else _fit(Image.fromarray(t.pixels), side) for t in row]
    height = max((picture.height for picture in pictures if picture is not None), default=0)
    height += -height % (2 * scale)
    strip = Image.new("RGBA", ((len(row) * (cells + _GAP) - _GAP) * scale, height))
    for index, picture in enumerate(pictures):
        if picture is not None:
            left = index * (cells + _GAP) * scale + (side - picture.width) // 2
            strip.paste(picture, (left, height - picture.height))
    return np.asarray(strip)


def _fit(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture whose longer side has `side` pixels."""
    width, height = (max(1, round(side * size / max(picture.size))) for size in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _graphics() -> Any:
    """Return the class that draws with the terminal's own graphics, or None if it has none."""
    try:
        # On import, the library queries the terminal and reads the answer from stdin.
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            return None
        if os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp():  # the query would stop this process
            return None
        from textual_image.renderable import Image as Chosen, SixelImage, TGPImage
    except (ImportError, OSError):
        return None
    return Chosen if Chosen in (SixelImage, TGPImage) else None
