"""Paint the sample pictures: nine groups of six small illustrations, made of polygons and noise.

In: nothing but the seed below; no photograph, no download, no font but Pillow's own.
Out: `<folder of this script>/<group>/<group>_<n>.<jpg|png|webp>`, byte-identical on every run
with the same Pillow and NumPy.
Run: `python sample_images/render.py [another target folder]`

Every picture is its own composition, a function marked with `@picture`. Lengths in a scene are in
hundredths of its short side, so a composition does not depend on the size in pixels; y grows
downwards. Things that occur more than once are drawn in a frame of their own (`Scene.at`), whose
unit is the thing's size. RGB is float, 0 to 1.
"""

from __future__ import annotations

import copy
import sys
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFilter, ImageFont

Array = NDArray[Any]
Paint = str | Callable[[Array, Array], Array]
"""A colour name, or a function of x (1, w) and y (h, 1) that returns RGB or RGBA (h, w, 3 or 4)."""

SEED = 2024
SUPERSAMPLING = 2
BLACK = "#140c0a"
LIGHT = np.array([-0.50, -0.58, 0.64], dtype=np.float32)


# ---------------------------------------------------------------------------------- colour, noise


@cache
def rgb(colour: str) -> Array:
    return np.array(ImageColor.getrgb(colour)[:3], dtype=np.float32) / 255


def smooth(low: float, high: float, value: Array) -> Array:
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def mix(first: Array, second: Array, share: Array) -> Array:
    return np.asarray(first + (second - first) * share[..., None])


def ramp(position: Array, colours: Sequence[str]) -> Array:
    """The colour at `position` (0 to 1) of a gradient through evenly spaced colours."""
    steps = np.linspace(0, 1, len(colours))
    fine = np.linspace(0, 1, 2048)
    stops = np.array([rgb(colour) for colour in colours])
    table = np.stack([np.interp(fine, steps, stops[:, c]) for c in range(3)], axis=-1)
    index = (np.clip(position, 0, 1) * 2047).astype(np.intp)
    return np.asarray(table.astype(np.float32)[index])


def with_alpha(colour: str, alpha: Array) -> Array:
    return np.concatenate(
        [np.broadcast_to(rgb(colour), (*alpha.shape, 3)), alpha[..., None]], axis=-1
    )


@cache
def fractal(roughness: float) -> Array:
    """A periodic 1024 x 1024 noise field in 0..1 whose largest blobs are 64 texels across."""
    white = np.random.default_rng(SEED).standard_normal((1024, 1024))
    fy, fx = np.fft.fftfreq(1024)[:, None], np.fft.rfftfreq(1024)[None, :]
    frequency = np.maximum(np.hypot(fx, fy), 1 / 128)
    field = np.fft.irfft2(np.fft.rfft2(white) * frequency ** (roughness - 3))
    field = (field - field.mean()) / field.std()
    return np.asarray(np.clip(0.5 + 0.2 * field, 0, 1), dtype=np.float32)


class Noise:
    """Smooth random values in 0..1 as a function of place; a blob is about `cell` long."""

    def __init__(
        self, rng: np.random.Generator, cell: float, tall: float = 1.0, roughness: float = 1.0
    ) -> None:
        self.cell = (cell, cell * tall)
        self.offset = rng.uniform(0, 16, 2).astype(np.float32)
        self.field = fractal(roughness)

    def __call__(self, x: Array, y: Array) -> Array:
        u = (x / self.cell[0] + self.offset[0]) * 64
        v = (y / self.cell[1] + self.offset[1]) * 64
        i, j = np.floor(u).astype(np.intp), np.floor(v).astype(np.intp)
        fu, fv = (u - i).astype(np.float32), (v - j).astype(np.float32)
        i, j, right, below = i & 1023, j & 1023, (i + 1) & 1023, (j + 1) & 1023
        upper = self.field[j, i] * (1 - fu) + self.field[j, right] * fu
        lower = self.field[below, i] * (1 - fu) + self.field[below, right] * fu
        return np.asarray(upper * (1 - fv) + lower * fv)


# --------------------------------------------------------------------------------------- outlines


def points(*pairs: tuple[float, float]) -> Array:
    return np.array(pairs, dtype=np.float32)


def rect(left: float, top: float, right: float, bottom: float) -> Array:
    return points((left, top), (right, top), (right, bottom), (left, bottom))


def turned(outline: Array, x: float, y: float, angle: float) -> Array:
    """The outline, turned clockwise by `angle` (radians) around the point (x, y)."""
    c, s = np.cos(angle), np.sin(angle)
    centre = np.array([x, y])
    return np.asarray((outline - centre) @ np.array([[c, s], [-s, c]]) + centre)


def oval(x: float, y: float, rx: float, ry: float | None = None, angle: float = 0.0) -> Array:
    t = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    flat = np.stack([x + rx * np.cos(t), y + (rx if ry is None else ry) * np.sin(t)], axis=1)
    return turned(flat, x, y, angle)


def polar(x: float, y: float, radius: Callable[[Array], Array], angle: float = 0.0) -> Array:
    """An outline around (x, y); `radius` gets the angle from straight up, in -pi..pi."""
    t = np.linspace(-np.pi, np.pi, 180, endpoint=False)
    r = radius(t)
    return turned(np.stack([x + r * np.sin(t), y - r * np.cos(t)], axis=1), x, y, angle)


def bezier(*pairs: tuple[float, float], steps: int = 32) -> Array:
    t = np.linspace(0, 1, steps)[:, None, None]
    curve = np.broadcast_to(points(*pairs), (steps, len(pairs), 2))
    while curve.shape[1] > 1:
        curve = curve[:, :-1] * (1 - t) + curve[:, 1:] * t
    return np.asarray(curve[:, 0])


def closed(*curves: Sequence[tuple[float, float]]) -> Array:
    """The outline that runs along one Bezier curve after the other."""
    return np.vstack([bezier(*curve) for curve in curves])


def moved(outline: Array, dx: float, dy: float) -> Array:
    return np.asarray(outline + np.array([dx, dy]))


def below(xs: Array, ys: Array) -> Array:
    """Everything below the line (xs, ys)."""
    return np.vstack([np.stack([xs, ys], axis=1), [[xs[-1], 300], [xs[0], 300]]])


def ribbon(line: Array, width: float, end_width: float | None = None) -> Array:
    """The outline of a line that is `width` wide at its start and `end_width` at its end."""
    along = np.gradient(line, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    half = np.linspace(width, width if end_width is None else end_width, len(line))[:, None] / 2
    return np.concatenate([line + normal * half, (line - normal * half)[::-1]])


# ----------------------------------------------------------------------------------------- paints


def gradient(start: tuple[float, float], end: tuple[float, float], *colours: str) -> Paint:
    dx, dy = end[0] - start[0], end[1] - start[1]

    def paint(x: Array, y: Array) -> Array:
        return ramp(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), colours)

    return paint


def glow(x0: float, y0: float, radius: float, colour: str, strength: float = 1.0) -> Paint:
    def paint(x: Array, y: Array) -> Array:
        return with_alpha(colour, strength * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / radius**2))

    return paint


def textured(paint: Paint, noise: Noise, amount: float) -> Paint:
    def grained(x: Array, y: Array) -> Array:
        base = rgb(paint) if isinstance(paint, str) else paint(x, y)[..., :3]
        return np.asarray(base * (1 + amount * (noise(x, y) - 0.5))[..., None])

    return grained


def speckled(noise: Noise, colour: str, low: float, high: float, strength: float = 1.0) -> Paint:
    """`colour` only where the noise is high: clouds, streaks, stains."""

    def paint(x: Array, y: Array) -> Array:
        return with_alpha(colour, strength * smooth(low, high, noise(x, y)))

    return paint


def rounded(outline: Array, *colours: str, gloss: float = 0.0) -> Paint:
    """A solid bulging out of the outline (seen from its middle), from shade to full light."""
    centre = outline.mean(axis=0)
    offset = outline - centre
    bearing = np.arctan2(offset[:, 1], offset[:, 0])
    order = np.argsort(bearing)
    bearing, radius = bearing[order], np.hypot(offset[:, 0], offset[:, 1])[order]

    def paint(x: Array, y: Array) -> Array:
        dx, dy = x - centre[0], y - centre[1]
        reach = np.interp(np.arctan2(dy, dx), bearing, radius, period=2 * np.pi)
        u, v = dx / reach, dy / reach
        w = np.sqrt(np.clip(1 - u * u - v * v, 0, 1))
        facing = np.asarray(u * LIGHT[0] + v * LIGHT[1] + w * LIGHT[2])
        shine = gloss * np.clip(facing, 0, 1) ** 40
        return mix(ramp(0.2 + 0.8 * facing, colours), rgb("white"), shine)

    return paint


# ------------------------------------------------------------------------------------- the canvas


class Scene:
    """A picture being painted, `w` by `h` units (the short side is 100 units)."""

    def __init__(self, width: int, height: int, rng: np.random.Generator) -> None:
        self.k = min(width, height) * SUPERSAMPLING / 100
        self.w, self.h = width * SUPERSAMPLING / self.k, height * SUPERSAMPLING / self.k
        self.rng = rng
        self.origin: Array = np.zeros(2)
        shape = (height * SUPERSAMPLING, width * SUPERSAMPLING, 3)
        self.pixels: Array = np.zeros(shape, dtype=np.float32)

    def at(self, x: float, y: float, size: float) -> Scene:
        """The same picture with its origin at (x, y) and a unit that is `size` times as long."""
        frame = copy.copy(self)
        frame.origin = self.origin + np.array([x, y]) * self.k
        frame.k = self.k * size
        return frame

    def noise(self, cell: float, tall: float = 1.0, roughness: float = 1.0) -> Noise:
        return Noise(self.rng, cell, tall, roughness)

    def fill(self, outline: Array, paint: Paint, blur: float = 0.0, opacity: float = 1.0) -> None:
        corners = outline * self.k + self.origin
        margin = 3 * blur * self.k + 1
        low = np.maximum(np.floor(corners.min(axis=0) - margin), 0).astype(int)
        high = np.ceil(corners.max(axis=0) + margin).astype(int)
        high = np.minimum(high, self.pixels.shape[1::-1])
        if (high <= low).any():
            return
        mask = Image.new("L", tuple(2 * (high - low)))
        ImageDraw.Draw(mask).polygon([(x, y) for x, y in 2 * (corners - low)], fill=255)
        mask = mask.reduce(2)
        if blur:
            mask = mask.filter(ImageFilter.GaussianBlur(blur * self.k))
        self._blend(mask, int(low[0]), int(low[1]), paint, opacity)

    def wash(self, paint: Paint, opacity: float = 1.0) -> None:
        self.fill(rect(-1, -1, self.w + 1, self.h + 1), paint, opacity=opacity)

    def stroke(
        self,
        colour: Paint,
        *pairs: tuple[float, float],
        width: float,
        end: float | None = None,
        opacity: float = 1.0,
    ) -> None:
        """A line (a curve if there are more than two points), `width` wide, or `end` at its end."""
        self.fill(ribbon(bezier(*pairs), width, end), colour, opacity=opacity)

    def disc(self, x: float, y: float, radius: float, *colours: str, gloss: float = 0.0) -> None:
        self.fill(oval(x, y, radius), rounded(oval(x, y, radius), *colours, gloss=gloss))

    def cast(self, outline: Array, reach: float, opacity: float = 0.45) -> None:
        """The shadow that a thing keeps on what lies just behind it, to the lower right."""
        self.fill(moved(outline, 0.8 * reach, reach), BLACK, reach, opacity)

    def stand(self, x: float, y: float, width: float, opacity: float = 0.5) -> None:
        """The shadow of a thing `width` wide on the ground it stands on."""
        far = oval(x + width * 0.22, y, width * 0.62, width * 0.13)
        self.fill(far, BLACK, width * 0.07, opacity)
        self.fill(oval(x, y, width * 0.4, width * 0.06), BLACK, width * 0.03, opacity)

    def text(
        self, words: str, x: float, y: float, size: float, colour: str, angle: float = 0
    ) -> None:
        side = int(4 * size * self.k)
        mask = Image.new("L", (side, side))
        font = ImageFont.load_default(size * self.k)
        ImageDraw.Draw(mask).text((side / 2, side / 2), words, fill=255, font=font, anchor="mm")
        mask = mask.rotate(-np.degrees(angle), Image.Resampling.BICUBIC)
        left, top = (int(c) for c in np.array([x, y]) * self.k + self.origin - side / 2)
        inside = mask.crop((max(-left, 0), max(-top, 0), side, side))
        self._blend(inside, max(left, 0), max(top, 0), colour, 1.0)

    def mirror(self, shore: float, tint: str, share: float, ripple: float) -> None:
        """Turn everything below `shore` into water that reflects what is above it."""
        row = int(shore * self.k)
        height, width = self.pixels.shape[:2]
        depth = np.arange(height - row)[:, None]
        x, y = np.arange(width)[None, :] / self.k, depth / self.k
        wave = (self.noise(9, 0.14)(x, y * 12 / (4 + y)) - 0.5) * (0.3 + y / 14)
        source_y = np.clip(row - 1 - depth - wave * ripple * 5 * self.k, 0, row - 1).astype(int)
        source_x = np.clip(np.arange(width) + wave * ripple * 2 * self.k, 0, width - 1).astype(int)
        image = self.pixels[source_y, source_x] * (1 + 0.5 * ripple * wave[..., None])
        self.pixels[row:] = image + (rgb(tint) - image) * share

    def picture(self) -> Image.Image:
        pixels = (np.clip(self.pixels, 0, 1) * 255 + 0.5).astype(np.uint8)
        return Image.fromarray(pixels).reduce(SUPERSAMPLING)

    def _blend(self, mask: Image.Image, left: int, top: int, paint: Paint, opacity: float) -> None:
        part = self.pixels[top : top + mask.height, left : left + mask.width]
        alpha = np.asarray(mask, dtype=np.float32)[: part.shape[0], : part.shape[1]]
        alpha = alpha * (opacity / 255)
        columns = np.arange(part.shape[1], dtype=np.float32) + (left + 0.5 - self.origin[0])
        rows = np.arange(part.shape[0], dtype=np.float32) + (top + 0.5 - self.origin[1])
        x, y = (columns / self.k)[None, :], (rows / self.k)[:, None]
        colour = rgb(paint) if isinstance(paint, str) else paint(x, y)
        if colour.shape[-1] == 4:
            alpha = alpha * colour[..., 3]
        part += (colour[..., :3] - part) * alpha[..., None]


Painter = Callable[[Scene], None]
PICTURES: dict[str, list[tuple[Painter, str]]] = {}


def picture(group: str, form: str) -> Callable[[Painter], Painter]:
    """Mark a function as the next picture of a group; `form` is size and file type."""

    def enter(painter: Painter) -> Painter:
        PICTURES.setdefault(group, []).append((painter, form))
        return painter

    return enter


# --------------------------------------------------------------------- what several groups contain


def sky(scene: Scene, bottom: float, *colours: str) -> None:
    scene.wash(gradient((0, 0), (0, bottom), *colours))


def clouds(scene: Scene, colour: str, bottom: float, cover: float, strength: float = 0.9) -> None:
    noise = scene.noise(45, 0.35, 1.1)

    def paint(x: Array, y: Array) -> Array:
        density = smooth(0.72 - cover / 2, 0.95 - cover / 2, noise(x, y))
        return with_alpha(colour, strength * density * smooth(bottom, bottom * 0.5, y))

    scene.wash(paint)


def haze(scene: Scene, y: float, depth: float, colour: str, strength: float) -> None:
    def paint(_: Array, rows: Array) -> Array:
        return with_alpha(colour, strength * np.exp(-(((rows - y) / depth) ** 2)))

    scene.wash(paint)


def leaf(scene: Scene, x: float, y: float, length: float, angle: float, *colours: str) -> None:
    frame = scene.at(x, y, length)
    blade = turned(
        closed([(0, 0), (0.35, -0.38), (1, 0)], [(1, 0), (0.5, 0.3), (0, 0)]), 0, 0, angle
    )
    tip = (float(np.cos(angle)), float(np.sin(angle)))
    frame.fill(blade, gradient((0, 0), tip, *colours))
    frame.stroke(colours[0], (0, 0), tip, width=0.04, end=0.005, opacity=0.8)


def table(scene: Scene, edge: float, wall: tuple[str, str], wood: tuple[str, str, str]) -> None:
    """A wall in soft light and a wooden table top that begins at `edge`."""
    scene.wash(textured(gradient((0, 0), (scene.w, edge), *wall), scene.noise(30), 0.12))
    scene.wash(glow(scene.w * 0.25, edge * 0.3, scene.w * 0.4, "#fff6e0", 0.35))
    grain = scene.noise(60, 0.03, 1.1)

    def boards(x: Array, y: Array) -> Array:
        depth = (y - edge) / (scene.h - edge)
        tone = 0.25 + 0.5 * depth + 1.3 * (grain(x + 3 * np.sin(y / 9), y) - 0.5)
        seam = np.abs((np.sqrt(np.clip(depth, 0, 1)) * 3.2) % 1 - 0.5) > 0.485
        return np.asarray(ramp(tone, wood) * (1 - 0.35 * seam[..., None]))

    scene.fill(rect(-1, edge, scene.w + 1, scene.h + 1), boards)
    scene.fill(rect(-1, edge - 0.5, scene.w + 1, edge + 1.5), BLACK, 1.2, 0.35)


def planks(scene: Scene, light: str, dark: str) -> None:
    """A wooden floor or desk seen from above."""
    wood = gradient((0, 0), (scene.w, scene.h), light, dark)
    scene.wash(textured(wood, scene.noise(50, 0.05), 0.55))


# -------------------------------------------------------------------------------------- mountains


def ridge(
    scene: Scene, base: float, height: float, cell: float, rock: tuple[str, str], snow: float = -1
) -> None:
    """A range of mountains; `rock`: lit, in shade; white above the share `snow` of its height."""
    xs = np.linspace(-5, scene.w + 5, 600)
    profile = np.abs(2 * scene.noise(cell)(xs, np.zeros(1)) - 1)
    ys = base - height * (1 - 1.4 * profile)
    slope = np.gradient(np.convolve(np.pad(ys, 6, "edge"), np.ones(13) / 13, "valid"), xs)
    folds, drifts = scene.noise(height * 0.9, 1.5), scene.noise(height * 0.25, 0.5, 1.4)
    lit, shade = rgb(rock[0]), rgb(rock[1])

    def relief(x: Array, y: Array) -> Array:
        return np.asarray(np.abs(2 * folds(x, y) - 1))

    def paint(x: Array, y: Array) -> Array:
        depth = np.clip((y - np.interp(x, xs, ys)) / height, 0, 2)
        tilt = (relief(x, y) - relief(x + 0.6, y + 0.3)) * 6 * smooth(0, 0.15, depth)
        bent = x + (folds(x, y) - 0.5) * height * 1.6 * depth
        fall = np.interp(bent, xs, slope) * (1 - 0.4 * smooth(0, 1, depth))
        light = smooth(-0.75, 0.75, tilt - 0.6 * fall)
        white = mix(shade * 0.5 + 0.38, np.minimum(lit * 0.15 + 0.86, 1), light)
        level = (y - base) / height + 1 + (drifts(x, y) - 0.5) * 0.8 - 0.25 * light
        return mix(mix(shade, lit, light), white, smooth(snow + 0.04, snow - 0.04, level))

    scene.fill(below(xs, ys), paint)


def pines(scene: Scene, base: float, size: float, colours: tuple[str, str], gap: float) -> None:
    x = -2.0
    while x < scene.w + 2:
        height = size * scene.rng.uniform(0.6, 1.2)
        tree = scene.at(x, base + scene.rng.uniform(0, size * 0.25), height)
        right = [(0.0, -1.0)]
        for level in range(9):
            reach, tip = (0.03 + 0.024 * level) * scene.rng.uniform(0.8, 1.2), 0.11 * level - 0.94
            right += [(reach, tip), (reach * 0.5, tip - 0.015)]
        outline = np.vstack([points(*right), (points(*right) * [-1, 1])[::-1]])
        tree.fill(outline, gradient((-0.25, 0), (0.25, 0), *colours))
        x += gap * scene.rng.uniform(0.4, 1.6)


def meadow(scene: Scene, top: float, *colours: str) -> None:
    xs = np.linspace(-5, scene.w + 5, 80)
    ys = top + 12 * (scene.noise(90, roughness=0.2)(xs, np.zeros(1)) - 0.5)
    grass = textured(gradient((0, top), (0, scene.h), *colours), scene.noise(2.5, 1.5), 0.3)
    scene.fill(below(xs, ys), textured(grass, scene.noise(40, 0.4), 0.35))


@picture("mountains", "720x480.jpg")
def mountain_lake(scene: Scene) -> None:
    sky(scene, 70, "#2f74c0", "#7fb4e6", "#d6ebf7")
    clouds(scene, "#ffffff", 60, 0.25)
    ridge(scene, 66, 42, 80, ("#a3b1c6", "#6c7f9d"), 0.75)
    ridge(scene, 70, 25, 60, ("#7d8c83", "#475b5e"), 0.2)
    pines(scene, 70, 9, ("#3d6b47", "#1f3f30"), 2.2)
    scene.mirror(71, "#2c5f86", 0.3, 1.0)


@picture("mountains", "480x640.jpg")
def great_peak_at_dawn(scene: Scene) -> None:
    sky(scene, 95, "#41578f", "#a58fb4", "#f6b99b", "#ffe0b0")
    scene.wash(glow(scene.w * 0.2, 70, 45, "#fff0c4", 0.8))
    ridge(scene, 92, 70, 120, ("#ffc49d", "#6f6391"), 0.62)
    haze(scene, 90, 14, "#f3cdbb", 0.8)
    ridge(scene, 112, 24, 60, ("#7b6a83", "#3f4165"))
    pines(scene, 128, 26, ("#33395a", "#1a2140"), 5)


@picture("mountains", "720x480.png")
def ranges_behind_a_low_sun(scene: Scene) -> None:
    sky(scene, 60, "#f7c873", "#fbe2ac", "#fdf1d8")
    scene.wash(glow(scene.w * 0.66, 24, 26, "#ffffff"))
    lights = ("#e3d3bb", "#bcb7b0", "#93a0a8", "#66809a", "#3d6080")
    shades = ("#b3aca6", "#8a929c", "#5f7388", "#395370", "#1d3854")
    for step, rock in enumerate(zip(lights, shades, strict=True)):
        ridge(scene, 46 + 13 * step, 26, 70 - 6 * step, rock, 0.4 - 0.2 * step)
        haze(scene, 50 + 13 * step, 5, "#fdeccb", 0.45 - 0.06 * step)


@picture("mountains", "800x500.webp")
def summer_valley(scene: Scene) -> None:
    sky(scene, 55, "#4a97d8", "#a6d0ef", "#eef7fa")
    clouds(scene, "#ffffff", 50, 0.4)
    ridge(scene, 58, 36, 90, ("#b6b3ad", "#6d7485"), 0.35)
    ridge(scene, 64, 20, 70, ("#6f9a58", "#3b6b45"))
    meadow(scene, 64, "#a8c95a", "#6fa53c", "#3f7a2c")
    pines(scene, 74, 16, ("#3d7040", "#1d4128"), 14)
    bends = (scene.w * 0.95, 108.0), (scene.w * 0.3, 88.0), (scene.w * 0.75, 78.0), (83.2, 66.0)
    scene.stroke(textured("#d9c79c", scene.noise(4), 0.3), *bends, width=12, end=0.8)


@picture("mountains", "720x450.jpg")
def red_evening(scene: Scene) -> None:
    sky(scene, 70, "#2a2458", "#7d3b74", "#e0644f", "#ffb35c")
    clouds(scene, "#ff9d6b", 66, 0.45, 0.6)
    ridge(scene, 64, 46, 100, ("#f08a63", "#5b3158"), 0.3)
    ridge(scene, 80, 26, 70, ("#8f4150", "#2e1b3c"))
    ridge(scene, 98, 22, 90, ("#3b1e38", "#170f22"))


@picture("mountains", "480x640.jpg")
def winter(scene: Scene) -> None:
    sky(scene, 80, "#8fb0cf", "#c9dbe8", "#f2f3f1")
    ridge(scene, 78, 58, 70, ("#dfe8f1", "#7d97b8"), 1.0)
    ridge(scene, 96, 34, 50, ("#c6d5e4", "#5c7899"), 1.1)
    meadow(scene, 100, "#eaf1f7", "#f8fbfd", "#cddcea")
    pines(scene, 106, 20, ("#4f6f73", "#233d47"), 8)
    pines(scene, 122, 34, ("#3d5c60", "#182e38"), 24)


# ------------------------------------------------------------------------------------------ boats

WHITE_SAILS = ("#ffffff", "#f3efe4", "#b9c4cf")
WOOD = "#4d3626"


def sea(scene: Scene, horizon: float, swell: float, *colours: str) -> None:
    waves, shimmer = scene.noise(10, 0.5), scene.noise(60, 0.08, 0.8)

    def paint(x: Array, y: Array) -> Array:
        depth = np.maximum(y - horizon, 0.3)
        near = 60 / (depth + 6)
        crest = waves((x - scene.w / 2) * near * 0.5, 40 * near) - 0.5
        light = (shimmer(x, y) - 0.5) * 0.25 + crest * swell * smooth(0, 30, depth)
        colour = ramp(depth / (scene.h - horizon) + 0.3 * light, colours)
        return np.asarray(colour * (1 + light[..., None]))

    scene.fill(rect(-1, horizon, scene.w + 1, scene.h + 1), paint)


def glitter(scene: Scene, x: float, horizon: float, width: float, colour: str) -> None:
    """The broken path of light that a low sun lays on the sea."""
    for _ in range(260):
        depth = scene.rng.uniform(0, 1) ** 1.6 * (scene.h - horizon)
        where = x + scene.rng.normal(0, width * (0.35 + depth / 60) / 2)
        length = scene.rng.uniform(0.6, 1.4) * (0.8 + depth / 14)
        dash = oval(where, horizon + 0.3 + depth, length, 0.12 + depth / 110)
        scene.fill(dash, colour, opacity=scene.rng.uniform(0.25, 0.9))


def float_on(boat: Scene, parts: Sequence[tuple[Array, Paint]]) -> None:
    """Paint the parts of a boat whose waterline is y = 0, after their image in the water."""
    for outline, paint in reversed(parts):
        image = outline * [1, -0.55]
        image[:, 0] += 0.015 * np.sin(image[:, 1] * 60) * np.clip(image[:, 1] * 12, 0, 1)
        boat.fill(image, paint if isinstance(paint, str) else "#dfe3e2", 0.012, 0.3)
    for outline, paint in parts:
        boat.fill(outline, paint)


def sail(
    top: tuple[float, float], foot: tuple[float, float], tack: tuple[float, float], belly: float
) -> Array:
    """A triangular sail whose free edge, from top to foot, bulges sideways by `belly`."""
    middle = ((top[0] + foot[0]) / 2 + belly, (top[1] + foot[1]) / 2)
    low = ((foot[0] + tack[0]) / 2, (foot[1] + tack[1]) / 2 + abs(belly) * 0.3)
    return closed([top, middle, foot], [foot, low, tack])


def yacht(
    scene: Scene, x: float, y: float, size: float, hull: str, sails: Sequence[str], way: int = 1
) -> None:
    """A sailing boat with its mast at x, its waterline at y; way: 1 has the bow to the right."""
    deck, keel = (
        [(-0.5, -0.15), (0, -0.1), (0.58, -0.17)],
        [(0.5, -0.02), (0.3, 0.05), (-0.44, 0.01)],
    )
    body = closed(deck, keel)
    main = sail((0.01, -1.3), (-0.55, -0.24), (-0.02, -0.22), -0.13)
    jib = sail((0.05, -1.15), (0.54, -0.2), (0.1, -0.22), 0.02)
    parts: list[tuple[Array, Paint]] = [
        (main, gradient((0, -1.3), (-0.55 * way, -0.24), *sails)),
        (jib, gradient((0.1 * way, -1.15), (0.54 * way, -0.2), *sails)),
        (rect(-0.01, -1.36, 0.018, -0.1), "#6b4a32"),
        (body, gradient((0, -0.16), (0, 0), hull, "#1d2430")),
        (moved(body * [1, 0.28], 0, -0.108), "#f4efe2"),
    ]
    float_on(scene.at(x, y, size), [(outline * [way, 1], paint) for outline, paint in parts])


def trawler(scene: Scene, x: float, y: float, size: float, hull: str, house: str) -> None:
    """A small fishing boat with a wheelhouse, bow to the left."""
    deck, keel = [(-0.6, -0.34), (-0.2, -0.16), (0.55, -0.2)], [(0.52, 0), (0, 0.05), (-0.42, 0.01)]
    body = closed(deck, keel)
    parts: list[tuple[Array, Paint]] = [
        (rect(-0.235, -0.95, -0.205, -0.2), WOOD),
        (ribbon(points((-0.22, -0.9), (0.5, -0.25)), 0.012), WOOD),
        (ribbon(points((-0.22, -0.9), (-0.58, -0.32)), 0.012), WOOD),
        (rect(-0.12, -0.5, 0.32, -0.15), gradient((0, 0), (0.3, 0), house, "#b9b5a8")),
        (rect(-0.16, -0.54, 0.36, -0.49), "#8c3a2f"),
        *[(rect(left, -0.44, left + 0.09, -0.34), "#32485c") for left in (-0.08, 0.05, 0.18)],
        (body, gradient((0, -0.3), (0, 0), hull, "#16202b")),
        (moved(body * [1, 0.22], 0, -0.203), "#f2ead8"),
    ]
    float_on(scene.at(x, y, size), parts)


def square_sail(x: float, top: float, half: float) -> Array:
    low, inner = top + 0.22, half * 0.8
    return closed(
        [(x - inner, top), (x + inner, top)],
        [(x + inner, top), (x + half * 1.4, top + 0.11), (x + half, low)],
        [(x + half, low), (x, low - 0.05), (x - half, low)],
        [(x - half, low), (x - half * 0.5, top + 0.11), (x - inner, top)],
    )


def tall_ship(scene: Scene, x: float, y: float, size: float, sails: Sequence[str]) -> None:
    bowsprit = ribbon(points((0.4, -0.15), (0.78, -0.32)), 0.025, 0.01)
    parts: list[tuple[Array, Paint]] = [(bowsprit, WOOD)]
    for mast, height in ((-0.34, 0.75), (-0.02, 0.95), (0.28, 0.82)):
        parts.append((rect(mast - 0.01, -height, mast + 0.01, 0), WOOD))
        for level in range(3):
            top, half = 0.04 + 0.25 * level - height, 0.085 + 0.03 * level
            canvas = gradient((mast - half, top), (mast + half, top + 0.22), *sails)
            parts.append((square_sail(mast, top, half), canvas))
    jib = sail((0.3, -0.72), (0.74, -0.31), (0.4, -0.2), 0.0)
    deck, keel = [(-0.55, -0.22), (0, -0.06), (0.5, -0.17)], [(0.42, 0), (0, 0.05), (-0.48, 0)]
    parts.append((jib, gradient((0.3, -0.7), (0.74, -0.3), *sails)))
    parts.append((closed(deck, keel), gradient((0, -0.2), (0, 0), "#3a2024", "#0f0a0c")))
    float_on(scene.at(x, y, size), parts)


def lighthouse(scene: Scene, x: float, y: float, size: float) -> None:
    frame = scene.at(x, y, size)
    rock = polar(0, 0.1, lambda t: 0.42 + 0.05 * np.sin(5 * t) + 0.03 * np.sin(11 * t))
    stone = rounded(rock, "#2f2f33", "#6e6a66", "#9b948a")
    frame.fill(rock * [1.4, 0.6], textured(stone, frame.noise(0.12), 0.6))
    for band in range(5):
        foot, low, high = -0.26 * band, 0.155 - 0.014 * band, 0.141 - 0.014 * band
        tower = points((-high, foot - 0.26), (high, foot - 0.26), (low, foot), (-low, foot))
        colours = ("#f4f1ea", "#a9a7a6") if band % 2 else ("#d2453b", "#7d1f22")
        frame.fill(tower, gradient((-0.1, 0), (0.16, 0), *colours))
    frame.fill(rect(-0.12, -1.36, 0.12, -1.3), "#333a44")
    frame.fill(rect(-0.065, -1.5, 0.065, -1.36), "#ffeaa0")
    frame.fill(points((-0.1, -1.5), (0, -1.64), (0.1, -1.5)), "#a92f2c")


@picture("boats", "720x480.jpg")
def white_yacht(scene: Scene) -> None:
    sky(scene, 60, "#3c86c9", "#8fc1e8", "#e2f1f8")
    clouds(scene, "#ffffff", 56, 0.3)
    sea(scene, 60, 0.9, "#7fb3cf", "#2d7fae", "#0f4f7d")
    yacht(scene, scene.w * 0.18, 63, 7, "#b4463c", WHITE_SAILS)
    yacht(scene, scene.w * 0.58, 80, 46, "#24486e", WHITE_SAILS)


@picture("boats", "720x450.jpg")
def regatta(scene: Scene) -> None:
    sky(scene, 40, "#5ea5dc", "#b9dcf2", "#f3f8f6")
    clouds(scene, "#ffffff", 38, 0.45)
    sea(scene, 38, 0.9, "#86c1c8", "#2f93a4", "#0c566c")
    red, yellow = ("#ff8d6b", "#d8412f", "#96231f"), ("#ffe48a", "#f2b632", "#b97a16")
    green, violet = ("#9be0b4", "#2f9b6b", "#17603f"), ("#c3b3f0", "#6e58b8", "#3c2f77")
    for place, sails in enumerate((red, yellow, WHITE_SAILS, green, violet, WHITE_SAILS)):
        near, way = place / 5, 1 if place % 2 else -1
        x = scene.w * (0.12 + 0.62 * (place * 0.37 % 1) + 0.12 * near)
        yacht(scene, x, 44 + 44 * near**1.3, 11 + 19 * near, "#f0ebe0", sails, way)


@picture("boats", "768x512.webp")
def tall_ship_at_sunset(scene: Scene) -> None:
    sky(scene, 66, "#5a6aa8", "#b98aa8", "#f5b083", "#ffe2a6")
    clouds(scene, "#ffd3a8", 60, 0.3, 0.6)
    scene.wash(glow(scene.w * 0.3, 58, 30, "#ffe9a8", 0.9))
    scene.fill(oval(scene.w * 0.3, 58, 6.5), "#fff6d4")
    sea(scene, 66, 0.8, "#e8b48c", "#7d7fa6", "#2d4678")
    glitter(scene, scene.w * 0.3, 66, 9, "#ffe3a1")
    tall_ship(scene, scene.w * 0.6, 76, 56, ("#ffe2b8", "#d98f73", "#7a4a5c"))


@picture("boats", "640x480.jpg")
def fishing_boats_and_lighthouse(scene: Scene) -> None:
    sky(scene, 62, "#7e96a8", "#b9c7cd", "#e9e6da")
    clouds(scene, "#f6f3ea", 58, 0.6, 0.7)
    sea(scene, 62, 0.8, "#b3c3c4", "#668b95", "#2c4f5d")
    lighthouse(scene, scene.w * 0.83, 60, 34)
    trawler(scene, scene.w * 0.16, 68, 18, "#3d7a5c", "#f1ead9")
    trawler(scene, scene.w * 0.44, 84, 44, "#2f5f96", "#f7f1e2")


@picture("boats", "480x640.jpg")
def two_boats_before_an_island(scene: Scene) -> None:
    sky(scene, 78, "#8aa5d6", "#d9b6d1", "#ffcfb5", "#ffeccb")
    ridge(scene, 79, 14, 60, ("#b497a9", "#8d7f9f"))
    sea(scene, 78, 0.6, "#f2cdbf", "#a9a0c4", "#52699f")
    glitter(scene, scene.w * 0.24, 78, 8, "#fff3dc")
    sails = ("#fffaf0", "#f7dcc6", "#c298a8")
    yacht(scene, scene.w * 0.26, 88, 22, "#5c5a88", sails, -1)
    yacht(scene, scene.w * 0.66, 112, 38, "#8d3f4e", sails)


@picture("boats", "720x480.png")
def heavy_weather(scene: Scene) -> None:
    sky(scene, 60, "#2d3a48", "#5b6c79", "#a4aca6")
    clouds(scene, "#1f2833", 62, 0.65, 0.75)
    sea(scene, 52, 1.5, "#70878a", "#3a5f66", "#14313b")
    yacht(scene, scene.w * 0.74, 58, 12, "#7a3129", ("#f2efe6", "#d4d6d2", "#88959c"), -1)
    yacht(scene, scene.w * 0.36, 82, 36, "#a8432f", ("#e8b08a", "#c4683f", "#7c3524"))


# ------------------------------------------------------------------------------------ brick walls

BRICK_RED = ("#7a2f22", "#a8452f", "#bb5a3d", "#8d3a2c")


def brickwork(
    scene: Scene, length: float, mortar: str, bricks: Sequence[str], flemish: bool = False
) -> Callable[[Array, Array], Array]:
    """Bricks as a function of place on the wall: each has its own tone, rough edges and relief."""
    tones = scene.rng.uniform(0, 1, 4096)
    wobble, grit, stain = scene.noise(2.2, 1, 1.5), scene.noise(1.2, 1, 1.8), scene.noise(30, 1.5)
    height, period, shift = length * 0.365, 1.0 + 0.5 * flemish, 0.5 + 0.25 * flemish
    gap = height * 0.09

    def paint(x: Array, y: Array) -> Array:
        row = np.floor(y / height)
        place = x / length + row % 2 * shift + 0.06 * np.sin(row * 7)
        column = np.floor(place / period)
        along = place - column * period
        header = flemish & (along > 1)
        across, down = (along - header) * length, y - row * height
        side = np.minimum(across, np.where(header, 0.5, 1.0) * length - across)
        edge = np.minimum(side, np.minimum(down, height - down))
        solid = smooth(gap * 0.6, gap * 1.2, edge + (wobble(x, y) - 0.5) * gap * 1.4)
        tone = tones[(row * 131 + column * 17 + header * 7).astype(np.intp) & 4095]
        rim = smooth(gap * 2.2, gap * 0.8, down) - smooth(gap * 2.2, gap * 0.8, height - down)
        grain = grit(x, y) - 0.5
        body = ramp(tone, bricks) * ((1 + 0.35 * grain) * (1 + 0.16 * rim))[..., None]
        wall = mix(rgb(mortar) * (0.86 + 0.3 * grain)[..., None], body, solid)
        return np.asarray(wall * (0.85 + 0.3 * stain(x, y))[..., None])

    return paint


def ivy(scene: Scene, x: float, y: float, reach: float, count: int) -> None:
    """Leaves around (x, y), densest there, the upper ones in more light."""
    for place, (dx, dy) in enumerate(scene.rng.normal(0, reach / 2, (count, 2))):
        frame = scene.at(x + 0.8 * dx, y + 1.3 * dy, scene.rng.uniform(2.2, 4.2))
        shape = polar(0, 0, lambda t: 0.72 + 0.28 * np.cos(5 * t), scene.rng.uniform(0, 6))
        frame.cast(shape, 0.25, 0.5)
        light = int(np.clip(3 * (place / count + scene.rng.uniform(-0.3, 0.3)), 0, 2))
        green = ("#2c5220", "#3f7426", "#6d9c39")[light]
        frame.fill(shape, rounded(shape, "#1a3013", green, green))


def window(scene: Scene, left: float, top: float, right: float, bottom: float) -> None:
    """A sash window with a stone lintel and sill."""
    stone = textured("#cfc4ae", scene.noise(3, 1, 1.5), 0.35)
    pane = gradient((left, top), (right, bottom), "#27394a", "#7f9db3", "#33485a")
    lintel, sill = (
        rect(left - 4, top - 7, right + 4, top),
        rect(left - 4, bottom, right + 4, bottom + 4),
    )
    frame = rect(left, top, right, bottom)
    for part, paint in ((frame, "#f3efe6"), (lintel, stone), (sill, stone)):
        scene.cast(part, 2)
        scene.fill(part, paint)
    wide, high = (right - left) / 2, (bottom - top) / 2
    for x in (left, left + wide):
        for y in (top, top + high):
            scene.fill(rect(x + 1.6, y + 1.6, x + wide - 1.6, y + high - 1.6), pane)


@picture("brick_walls", "640x480.jpg")
def old_red_wall(scene: Scene) -> None:
    scene.wash(brickwork(scene, 22, "#b9aa97", BRICK_RED))
    scene.wash(gradient((0, 0), (scene.w, scene.h), "#ffe9c4", "#b58a6a", "#2a1712"), 0.22)


@picture("brick_walls", "720x480.webp")
def ochre_bond_under_ivy(scene: Scene) -> None:
    scene.wash(brickwork(scene, 19, "#d8cdb6", ("#a8683f", "#c78a58", "#9a5a3a", "#d19a66"), True))
    ivy(scene, scene.w * 0.98, 6, 34, 150)


@picture("brick_walls", "480x600.jpg")
def wall_with_a_window(scene: Scene) -> None:
    scene.wash(brickwork(scene, 19, "#c4b8a8", ("#91402e", "#b2573c", "#7d3527")))
    window(scene, scene.w * 0.46, 34, scene.w * 0.84, 86)
    scene.wash(gradient((0, scene.h), (scene.w, 0), "#1d1020", "#8f6a5c", "#fff0d0"), 0.15)


@picture("brick_walls", "640x427.jpg")
def wall_along_a_pavement(scene: Scene) -> None:
    sky(scene, 30, "#6fa9d8", "#d3e6f0")
    right, eye = scene.w + 1, scene.w + 26
    wall = brickwork(scene, 20, "#a99a8a", BRICK_RED[1:])

    def receding(x: Array, y: Array) -> Array:
        near = 90 / (eye - x)
        return wall(180 * near, (y - 52) * near)

    scene.fill(points((-1, -44), (right, 36), (right, 62), (-1, 104)), receding)
    scene.fill(points((-1, -44), (right, 36), (right, 38.5), (-1, -36)), "#d0c3ae")
    pavement = points((-1, 104), (right, 62), (right, 101), (-1, 105))
    scene.fill(pavement, textured("#8d8c8a", scene.noise(5, 0.4, 1.5), 0.5))
    scene.fill(points((-1, 100), (right, 60.5), (right, 65), (-1, 114)), BLACK, 2, 0.5)


@picture("brick_walls", "720x480.jpg")
def shade_of_a_tree(scene: Scene) -> None:
    scene.wash(brickwork(scene, 24, "#a8a097", ("#6d4238", "#8a5347", "#9c6350", "#5c3a36")))
    scene.wash(speckled(scene.noise(34, 1.0, 0.7), "#0c0a14", 0.46, 0.6, 0.42))
    scene.wash(glow(scene.w * 0.7, 20, 60, "#ffdca8", 0.22))


@picture("brick_walls", "480x360.png")
def flaking_whitewash(scene: Scene) -> None:
    scene.wash(brickwork(scene, 20, "#c9bba7", ("#99432f", "#b65f45", "#a34f39")))
    flakes, white = (
        scene.noise(30, 0.8, 1.3),
        brickwork(scene, 20, "#c6c5bd", ("#efece2", "#f7f4ec")),
    )

    def whitewash(x: Array, y: Array) -> Array:
        alpha = 0.8 * smooth(0.6, 0.66, flakes(x, y))
        return np.concatenate([white(x, y), alpha[..., None]], axis=-1)

    scene.wash(whitewash)


# ----------------------------------------------------------------------------------------- cities

Style = tuple[str, str, str, str]
"""The colours of a building: front, side in shade, dark window, lit window."""


def facade(
    scene: Scene,
    ends: tuple[float, float],
    top: float,
    cell: float,
    wall: str,
    style: Style,
    lit: float,
) -> Paint:
    """A wall between the x of both `ends` with windows, of which the share `lit` has light on."""
    panes = scene.rng.uniform(0, 1, (64, 256))
    half_pane, half_storey = scene.rng.choice([(0.3, 0.3), (0.5, 0.25), (0.2, 0.5), (0.36, 0.22)])
    left, right = ends
    columns = max(2, round((right - left) / cell))

    def paint(x: Array, y: Array) -> Array:
        u, v = (x - left) / (right - left) * columns, (y - top) / (cell * 1.25) - 0.6
        pane = panes[np.floor(u).astype(np.intp) & 63, np.floor(v).astype(np.intp) & 255]
        across, down = np.abs(u % 1 - 0.5) < half_pane, np.abs(v % 1 - 0.5) < half_storey
        light = mix(rgb(style[2]), rgb(style[3]), (pane < lit) * (0.6 + 0.4 * pane / lit))
        glass = light * (0.9 + 0.2 * pane[..., None])
        return mix(rgb(wall), glass, across * down * (v > 0) * 1.0)

    return paint


def tower(
    scene: Scene, x: float, ground: float, width: float, height: float, style: Style, lit: float
) -> None:
    """A tower block with a flat, stepped, pointed, domed or slanting top and a side in shade."""
    frame, cell, top = scene.at(x, ground, width), 2.6 / width, -height / width
    roof = str(scene.rng.choice(["flat", "flat", "steps", "spire", "dome", "slant"]))
    if roof == "steps":
        tower(frame, 0.2, top, 0.6, 0.16 * height / width, style, lit)
    elif roof == "spire":
        frame.fill(points((0.38, top), (0.5, top - 1.1), (0.62, top)), style[1])
    elif roof == "dome":
        frame.fill(oval(0.5, top, 0.42, 0.5), gradient((0, 0), (1, 0), *style[:2]))
    rise = 0.5 * (roof == "slant")
    front = points((0, top - rise), (0.7, top - rise * 0.3), (0.7, 0.1), (0, 0.1))
    side = points((0.7, top - rise * 0.3), (1, top), (1, 0.1), (0.7, 0.1))
    frame.fill(front, facade(scene, (0, 0.7), top, cell, style[0], style, lit))
    frame.fill(side, facade(scene, (0.7, 1), top, cell * 0.8, style[1], style, lit))


def skyline(
    scene: Scene,
    ground: float,
    height: tuple[float, float],
    width: tuple[float, float],
    styles: Sequence[Style],
    lit: float,
    gap: float = 0.0,
) -> None:
    """Towers side by side, the highest about the middle."""
    x = -float(scene.rng.uniform(0, width[0]))
    middle = scene.w * scene.rng.uniform(0.35, 0.65)
    while x < scene.w:
        wide = scene.rng.uniform(*width)
        rise = 0.55 + 0.45 * np.exp(-(((x - middle) / (scene.w * 0.3)) ** 2))
        style = styles[int(scene.rng.integers(len(styles)))]
        tower(scene, x, ground, wide, scene.rng.uniform(*height) * rise, style, lit)
        x += wide + scene.rng.uniform(-0.1, 1) * gap


def canal_house(
    scene: Scene, x: float, ground: float, width: float, height: float, colours: tuple[str, str]
) -> None:
    """A narrow house with a stepped or a bell gable and white window frames."""
    frame, top = scene.at(x, ground, width), -height / width
    stairs = [(0.09 * (k + j), top - 0.13 * k) for k in range(5) for j in (0, 1)]
    bell = bezier((0, top), (0.3, top), (0.2, top - 0.7), (0.5, top - 0.65))
    half = points(*stairs[:-1]) if scene.rng.uniform() < 0.5 else bell
    gable = np.vstack([[(0, 0)], half, moved(half * [-1, 1], 1, 0)[::-1], [(1, 0)]])
    frame.cast(gable, 0.03)
    frame.fill(gable, textured(gradient((0, 0), (1, 0), *colours), frame.noise(0.3), 0.15))
    floors = max(3, int(height / width * 2))
    for floor in range(floors):
        for left in (0.14, 0.41, 0.68):
            high = -top * 0.6 / floors
            y = top - top * (floor + 0.15) / floors
            if floor == floors - 1 and left == 0.41:
                frame.fill(rect(left, y, left + 0.18, 0), "#2c3f35")
                continue
            frame.fill(rect(left - 0.02, y - 0.02, left + 0.2, y + high + 0.02), "#f4f0e6")
            pane = gradient((0, y), (0, y + 0.45), "#2f4354", "#8fa9b8")
            frame.fill(rect(left, y, left + 0.18, y + high), pane)
    frame.fill(oval(0.5, top - 0.2, 0.08), "#f4f0e6")


def street_front(scene: Scene, eye: tuple[float, float], side: int, block: int) -> None:
    """A block of one side (-1, 1) of a street that runs to the vanishing point `eye`."""
    walls = ("#8d7f86", "#a88d7c", "#7b8796") if side < 0 else ("#6f6a78", "#86746c", "#626e80")
    wall, rise = walls[block % 3], scene.rng.uniform(0.8, 1.3) * scene.h
    near, far = 0.13 + 0.17 * block, 0.13 + 0.17 * (block + 1)
    x0, x1 = (eye[0] + side * scene.w * 0.72 * share for share in (near, far))
    outline = points(
        (x0, eye[1] - rise * near),
        (x1, eye[1] - rise * far),
        (x1, eye[1] + scene.h * 0.36 * far),
        (x0, eye[1] + scene.h * 0.36 * near),
    )
    style = (wall, wall, "#33404f", "#ffd98f")
    ends = (min(x0, x1), max(x0, x1))
    scene.fill(
        outline, facade(scene, ends, eye[1] - rise * far, 2.2 + 1.6 * block, wall, style, 0.25)
    )
    scene.fill(outline, "#f3c79a", opacity=0.38 - 0.09 * block)


@picture("cities", "800x450.jpg")
def glass_towers_by_a_river(scene: Scene) -> None:
    sky(scene, 70, "#3f8bd0", "#9ccbed", "#e9f4f8")
    clouds(scene, "#ffffff", 66, 0.35)
    far = ("#b7cbd9", "#9db4c6", "#93aec2", "#d9e8f0")
    skyline(scene, 70, (22, 38), (7, 12), [far], 0.4)
    panes = ("#3f627f", "#a8cbe0")
    walls = (
        ("#d9d3c6", "#a89f92"),
        ("#8fb2cc", "#5d84a3"),
        ("#c98e6b", "#8f5d48"),
        ("#e8e6df", "#b0b3b5"),
    )
    skyline(scene, 72, (22, 54), (9, 15), [(*wall, *panes) for wall in walls], 0.35, 3)
    scene.mirror(73, "#2f6288", 0.45, 0.6)


@picture("cities", "720x480.jpg")
def lights_at_dusk(scene: Scene) -> None:
    sky(scene, 95, "#26305e", "#6a4f86", "#d9767a", "#ffbf80")
    far = ("#6b5580", "#574670", "#54456e", "#ffc987")
    skyline(scene, 100, (34, 58), (9, 15), [far], 0.35)
    walls = (("#3a3560", "#292548"), ("#4a3a66", "#332a50"), ("#2f3560", "#212648"))
    styles = [(*wall, "#262447", "#ffd27a") for wall in walls]
    skyline(scene, 101, (24, 70), (12, 19), styles, 0.5, 5)


@picture("cities", "480x640.png")
def canal_houses(scene: Scene) -> None:
    sky(scene, 80, "#7fb3da", "#cfe3ee", "#f5efe2")
    clouds(scene, "#ffffff", 70, 0.4)
    x = -6.0
    for colours in (
        ("#b5523b", "#8a3b2c"),
        ("#e0b765", "#b98d42"),
        ("#5f7f8f", "#44606f"),
        ("#d9cfc0", "#aa9f90"),
        ("#8c3f45", "#672c33"),
        ("#6f8f6a", "#516f4f"),
    ):
        width = scene.rng.uniform(17, 22)
        canal_house(scene, x, 101, width, scene.rng.uniform(46, 66), colours)
        x += width
    scene.fill(rect(-1, 100, scene.w + 1, 105), "#8d8376")
    scene.mirror(105, "#34505c", 0.4, 0.6)


@picture("cities", "720x480.webp")
def night_over_the_water(scene: Scene) -> None:
    sky(scene, 75, "#070b1f", "#12204a", "#37467c")
    far = ("#1d2a52", "#172246", "#1a2549", "#b7a878")
    skyline(scene, 74, (24, 40), (7, 12), [far], 0.4)
    walls = (("#16203f", "#0e1630"), ("#241f45", "#191533"), ("#13283f", "#0c1c2e"))
    styles = [(*wall, "#101a35", "#ffe09a") for wall in walls]
    skyline(scene, 75, (18, 58), (9, 15), styles, 0.6, 2)
    scene.mirror(75, "#050a1c", 0.3, 0.6)


@picture("cities", "720x400.jpg")
def towers_in_morning_fog(scene: Scene) -> None:
    sky(scene, 90, "#8fa5cf", "#d8c3d3", "#ffe6cc")
    scene.wash(glow(scene.w * 0.75, 34, 24, "#ffffff", 0.9))
    walls = (("#c9bccb", "#b8aabe"), ("#978fae", "#837b9e"), ("#5f5f86", "#4a4a70"))
    for step, (wall, shade) in enumerate(walls):
        ground, width = 88 + 8 * step, (11 + 2 * step, 17 + 3 * step)
        style = (wall, shade, shade, "#ffe9bd")
        skyline(scene, ground, (34, 74 - 6 * step), width, [style], 0.5, 5)
        haze(scene, ground, 16, "#f6e3d8", 0.6 - 0.2 * step)


@picture("cities", "480x720.jpg")
def down_a_street(scene: Scene) -> None:
    w, h, eye = scene.w, scene.h, (scene.w * 0.52, scene.h * 0.72)
    sky(scene, 110, "#6f86b8", "#d9a79f", "#ffd9a0", "#fff0cf")
    scene.fill(rect(-1, eye[1], w + 1, h + 1), "#8f8580")
    road = points((-1, h + 1), (eye[0] - 3, eye[1]), (eye[0] + 3, eye[1]), (w + 1, h + 1))
    scene.fill(road, gradient((0, eye[1]), (0, h), "#b9a99c", "#4c4a52"))
    for block in range(5):
        street_front(scene, eye, -1, block)
        street_front(scene, eye, 1, block)
    for share in 0.12 * 1.5 ** np.arange(6):
        y = eye[1] + h * 0.3 * share
        ends = (eye[0], y), (eye[0], y + 6 * share)
        scene.stroke("#e9e2d2", *ends, width=2 * share, end=3 * share, opacity=0.8)


# ---------------------------------------------------------------------------------------- flowers

DAISY = ("#cfd6d8", "#ffffff", "#fbf6f0")
YOLK = ("#a8650a", "#f4b91e", "#ffe680")
SUN = ("#c25e06", "#f7a90f", "#ffdc45")
SEEDS = ("#1c0d06", "#5a3214", "#8a5a2a")
POPPY = ("#5e0710", "#d3202a", "#f8604a")
COSMOS = ("#b03a8a", "#ee86c4", "#ffd9ee")


def blurred_garden(scene: Scene, *colours: str) -> None:
    """What lies far behind a flower: soft colours and discs of light."""
    patches = scene.noise(50, 0.8, 0.3)

    def paint(x: Array, y: Array) -> Array:
        return ramp(y / (scene.h * 1.1) + 1.2 * (patches(x, y) - 0.5), colours)

    scene.wash(paint)
    for _ in range(34):
        x, y, r = scene.rng.uniform([0, 0, 2], [scene.w, scene.h, 9])
        scene.fill(oval(x, y, r), "#f4f8d4", 0.8, scene.rng.uniform(0.06, 0.3))


def grass(scene: Scene, height: float) -> None:
    """Blades from the lower edge up, the nearer the darker."""
    greens = (("#b5d97a", "#6fa845"), ("#8cc055", "#4a8a35"), ("#5f9a3f", "#2a5f26"))
    y = scene.h + 2
    for colours in greens:
        paint = gradient((0, y - height), (0, y), *colours)
        for _ in range(int(scene.w / 3)):
            x, lean, rise = scene.rng.uniform([-5, -9, 0.35], [scene.w + 5, 9, 1.0])
            tip = (x + lean, y - height * rise)
            blade = (x, y), (x + lean * 0.2, y - height * rise * 0.6), tip
            scene.stroke(paint, *blade, width=1.7, end=0.1)


def petal(
    scene: Scene, length: float, width: float, angle: float, squash: float, colours: Sequence[str]
) -> None:
    """One petal from (0, 0) outwards; `squash` flattens it as if the flower looked up."""
    half = np.vstack([bezier((0, 0), (0.3, 0.42), (0.85, 0.75), (1, 0.12)), [(0.97, 0)]])
    shape = np.vstack([half, (half * [1, -1])[::-1]]) * [length, width]
    shape = turned(shape, 0, 0, angle) * [1, squash]
    tip = (length * np.cos(angle), length * np.sin(angle) * squash)
    scene.cast(shape, 0.04, 0.3)
    scene.fill(shape, gradient((0, 0), tip, *colours))
    vein = (tip[0] * 0.75, tip[1] * 0.75)
    scene.stroke(colours[0], (0, 0), vein, width=width * 0.1, end=width * 0.02, opacity=0.35)


def bloom(
    scene: Scene,
    x: float,
    y: float,
    r: float,
    petals: int,
    shape: tuple[float, float, int],
    colours: Sequence[str],
    heart: Sequence[str],
) -> None:
    """A flower of radius r; shape: petal width, squash, rings of petals; heart: shade to light."""
    wide, squash, rings = shape
    frame = scene.at(x, y, r)
    start = scene.rng.uniform(0, 6)
    for ring in range(rings):
        reach = 1 - 0.8 * ring / max(rings, 2)
        for step in range(petals):
            angle = start + (step + ring * 0.5) * 2 * np.pi / petals + scene.rng.normal(0, 0.05)
            length = reach * scene.rng.uniform(0.92, 1.06)
            petal(frame, length, reach * wide, angle, squash, colours)
    core = oval(0, -0.03, 0.3, 0.12 + 0.18 * squash)
    frame.cast(core, 0.04)
    frame.fill(core, textured(rounded(core, *heart), frame.noise(0.06, 1, 1.5), 1.0))


def stem(
    scene: Scene, x: float, y: float, foot: tuple[float, float], width: float, leaves: int = 0
) -> None:
    line = bezier((x, y), (x, (y + foot[1]) / 2), foot)
    green = gradient((x - width, 0), (x + width, 0), "#7fae45", "#2c5a22")
    scene.fill(ribbon(line, width, width * 1.3), green)
    for place in range(leaves):
        lx, ly = line[10 + 9 * place]
        leaf(scene, lx, ly, width * 11, (-0.6, -2.5)[place % 2], "#2d5f27", "#86b54c")


def tulip(scene: Scene, x: float, y: float, r: float, *colours: str) -> None:
    """A closed cup whose foot is at (x, y); colours: shade, body, light."""
    cup = scene.at(x, y, r)
    back = closed(
        [(-0.5, -0.7), (-0.5, -1.8), (-0.1, -2.1)], [(0.1, -2.1), (0.5, -1.8), (0.5, -0.7)]
    )
    cup.fill(back, gradient((0, -2.1), (0, 0), colours[1], colours[0]))
    outer = closed(
        [(0, 0), (1.1, -0.05), (0.95, -1.2), (0.72, -2)], [(0.72, -2), (0.1, -1.4), (0, 0)]
    )
    for side in (-1, 1):
        cup.fill(outer * [side, 1], gradient((-1, -2), (1, 0), *colours[::-1]))
    left = [(0.0, 0.0), (-0.85, -0.3), (-0.55, -1.4), (0.0, -1.75)]
    front = closed(left, [(-px, py) for px, py in left[::-1]])
    cup.cast(front, 0.05)
    cup.fill(front, rounded(front, *colours, gloss=0.15))


@picture("flowers", "720x480.jpg")
def daisies(scene: Scene) -> None:
    blurred_garden(scene, "#9ccf7a", "#5f9f3f", "#2f6b2a")
    grass(scene, 50)
    far = ((0.12, 36, 9), (0.36, 28, 11), (0.62, 34, 10), (0.9, 40, 11))
    for x, y, r in (*far, (0.24, 58, 16), (0.76, 60, 17), (0.49, 66, 20)):
        stem(scene, scene.w * x, y, (scene.w * x + 4, scene.h + 4), r * 0.1)
        bloom(scene, scene.w * x, y, r, 17, (0.17, 0.78, 1), DAISY, YOLK)


@picture("flowers", "480x640.webp")
def sunflowers(scene: Scene) -> None:
    sky(scene, scene.h, "#3f8fd6", "#a9d5f2", "#eef6f3")
    clouds(scene, "#ffffff", scene.h, 0.35)
    grass(scene, 46)
    for x, y, r in ((16, 78, 17), (86, 84, 19), (50, 46, 34)):
        stem(scene, x, y + 6, (x + 4, scene.h + 4), 1 + r / 13, 2)
        bloom(scene, x, y, r, 19, (0.15, 0.95, 2), SUN, SEEDS)
        bloom(scene, x, y, r * 0.86, 21, (0.14, 0.95, 1), SUN, SEEDS)


@picture("flowers", "720x480.jpg")
def tulips_among_daisies(scene: Scene) -> None:
    blurred_garden(scene, "#cfe6ef", "#a8cf9a", "#4d8a45")
    grass(scene, 55)
    kinds = ("#8f1230", "#e0355a", "#ff94a6"), ("#b36a06", "#f6b21d", "#ffe38a")
    for place in range(4):
        x, y = scene.w * (0.14 + 0.24 * place), 40 + 9 * scene.rng.uniform(-1, 1)
        stem(scene, x, y, (x + 3, scene.h + 4), 2.2, 2)
        tulip(scene, x, y, 11 + place % 2, *kinds[place % 2])
    for place in range(9):
        x, y = scene.w * (0.02 + 0.12 * place), (63 if place % 2 else 81) + scene.rng.uniform(-3, 3)
        stem(scene, x, y, (x, scene.h + 4), 1.3)
        bloom(scene, x, y, 14, 15, (0.18, 0.8, 1), DAISY, YOLK)


@picture("flowers", "600x450.png")
def poppies(scene: Scene) -> None:
    blurred_garden(scene, "#ffe9ae", "#d9bd7a", "#86a04c", "#4a7a35")
    grass(scene, 50)
    for x, y, r in ((0.14, 34, 12), (0.5, 26, 11), (0.87, 36, 13), (0.3, 60, 19), (0.7, 62, 22)):
        stem(scene, scene.w * x, y, (scene.w * x - 5, scene.h + 4), 1.2)
        bloom(
            scene, scene.w * x, y, r, 7, (0.62, 0.72, 1), POPPY, ("#3a2a0c", "#b08a2a", "#ffe680")
        )


@picture("flowers", "640x480.jpg")
def cosmos(scene: Scene) -> None:
    blurred_garden(scene, "#8fbf7a", "#5a954f", "#2f6a3c")
    grass(scene, 50)
    for x, y, r in ((0.12, 26, 13), (0.52, 22, 12), (0.9, 34, 15), (0.3, 56, 25), (0.7, 62, 29)):
        stem(scene, scene.w * x, y, (scene.w * x + 5, scene.h + 4), 1.6, 1)
        bloom(scene, scene.w * x, y, r, 8, (0.52, 0.82, 1), COSMOS, YOLK)


@picture("flowers", "480x640.jpg")
def bunch_of_all_kinds(scene: Scene) -> None:
    blurred_garden(scene, "#e3efc9", "#a3cf85", "#5f9f52")
    rose = (8, (0.34, 0.85, 2), ("#a11d3f", "#ef5a7a", "#ffc0c8"))
    gold = (13, (0.22, 0.85, 3), ("#c77a08", "#fbc23c", "#fff0b0"))
    white = (12, (0.24, 0.85, 1), DAISY)
    low = ((30, 62, 15, rose), (72, 64, 15, gold), (51, 72, 17, white))
    high = ((50, 30, 14, white), (22, 36, 13, gold), (80, 36, 13, rose))
    spots = (*high, *low, (37, 48, 13, white), (63, 47, 14, gold))
    for x, y, *_ in spots:
        stem(scene, x, y, (50, 132), 1.4, 1)
    for x, y, r, kind in spots:
        bloom(scene, x, y, r, *kind, YOLK)


# ------------------------------------------------------------------------------------------ fruit

RED = ("#4f0710", "#c01f2a", "#f3705c", "#f2b84c")
GREEN = ("#3c5a0c", "#8dbb2b", "#d8ef86", "#e9f0a0")
YELLOW = ("#6b6410", "#c5bd3a", "#f0ea97", "#b0662a")
RUSSET = ("#5a300f", "#b9772d", "#ecc27c", "#7d3d1a")


def dimple(t: Array) -> Array:
    """The outline of an apple: its radius by the angle from straight up."""
    return np.asarray(
        1 + 0.06 * np.cos(t) - 0.05 * np.cos(2 * t) - 0.2 * np.exp(-((t / 0.32) ** 2))
    )


def apple(
    scene: Scene, x: float, y: float, r: float, colours: Sequence[str], lean: float = 0.0
) -> None:
    """An apple that stands at (x, y); colours: shade, body, light, streaks."""
    scene.stand(x, y, 2 * r)
    frame = scene.at(x, y - r * 0.92, r)
    body = polar(0, 0, dimple, lean)
    frame.fill(body, rounded(body, *colours[:3], gloss=0.6))
    frame.fill(body, speckled(frame.noise(0.35, 3), colours[3], 0.45, 0.85, 0.4))
    tx, ty = 0.72 * np.sin(lean), -0.72 * np.cos(lean)
    frame.fill(oval(tx, ty, 0.24, 0.1, lean), colours[0], 0.06, 0.7)
    frame.stroke(WOOD, (tx, ty + 0.05), (tx, ty - 0.3), (tx + 0.16, ty - 0.5), width=0.08, end=0.12)


def pear(
    scene: Scene, x: float, y: float, r: float, colours: Sequence[str], lean: float = 0.0
) -> None:
    scene.stand(x, y, 2 * r)
    frame = scene.at(x, y - r * 0.93, r)
    body = polar(0, 0, lambda t: 1 + 0.78 * np.exp(-((np.abs(t) / 0.5) ** 2.2)), lean)
    frame.fill(body, rounded(body, *colours[:3], gloss=0.35))
    frame.fill(body, speckled(frame.noise(0.12), colours[3], 0.62, 0.8, 0.35))
    frame.fill(body, speckled(frame.noise(1.5), colours[3], 0.45, 0.9, 0.5))
    tx, ty = 1.74 * np.sin(lean), -1.74 * np.cos(lean)
    frame.stroke(
        WOOD, (tx, ty + 0.06), (tx, ty - 0.25), (tx + 0.2, ty - 0.42), width=0.07, end=0.12
    )


def orange(scene: Scene, x: float, y: float, r: float) -> None:
    scene.stand(x, y, 2 * r)
    frame = scene.at(x, y - r * 0.95, r)
    peel = rounded(oval(0, 0, 1), "#8a3204", "#ef8413", "#ffc05a", gloss=0.35)
    frame.fill(oval(0, 0, 1, 0.97), textured(peel, frame.noise(0.12, 1, 0.2), 0.22))
    frame.fill(polar(-0.1, -0.62, lambda t: 0.09 + 0.03 * np.cos(5 * t)), "#5d6b22")


def lemon(scene: Scene, x: float, y: float, r: float, angle: float) -> None:
    scene.stand(x, y, 2.3 * r)
    frame = scene.at(x, y - r * 0.85, r)
    body = polar(
        0, 0, lambda t: 0.92 + 0.12 * np.sin(t) ** 2 + 0.26 * np.abs(np.sin(t)) ** 14, angle
    )
    peel = rounded(body, "#9a7205", "#f4cf1f", "#fff08a", gloss=0.4)
    frame.fill(body, textured(peel, frame.noise(0.1, 1, 0.2), 0.12))


def lemon_half(scene: Scene, x: float, y: float, r: float) -> None:
    scene.stand(x, y + r * 0.75, 2 * r, 0.4)
    frame = scene.at(x, y, r)
    frame.fill(oval(0, 0, 1, 0.9), "#e6bb12")
    frame.fill(oval(0, 0, 0.95, 0.855), "#fdf6d0")
    flesh = textured(gradient((0, -1), (0, 1), "#ffe873", "#f2c51f"), frame.noise(0.2), 0.25)
    for start in np.arange(9) * 2 * np.pi / 9:
        t = np.linspace(start + 0.07, start + 0.63, 12)
        tip = [[0.1 * np.cos(start + 0.35), 0.09 * np.sin(start + 0.35)]]
        frame.fill(np.vstack([tip, np.stack([0.84 * np.cos(t), 0.76 * np.sin(t)], axis=1)]), flesh)


def bananas(scene: Scene, x: float, y: float, length: float) -> None:
    frame = scene.at(x, y, length)
    frame.stand(0.1, 0, 0.9)
    for lift in (0.26, 0.13, 0.0):
        tip = (0.55, -0.34 - lift)
        line = bezier((-0.5, -0.4), (-0.3, 0.12 - lift * 1.5), (0.3, 0.06 - lift), tip)
        half = 0.095 * np.sin(np.linspace(0.25, np.pi - 0.2, len(line)))[:, None] ** 0.5
        along = np.gradient(line, axis=0)
        normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
        normal = half * normal / np.linalg.norm(normal, axis=1, keepdims=True)
        body = np.vstack([line - normal, (line + normal)[::-1]])
        frame.cast(body, 0.012)
        frame.fill(body, gradient((0, -0.4), (0, 0), "#ffe36a", "#f0bd22", "#a8740c"))
        upper = np.vstack([line - normal, (line - normal * 0.1)[::-1]])
        frame.fill(upper, "#fff0a0", 0.007, 0.55)
        frame.fill(oval(*tip, 0.025), WOOD)
    frame.fill(oval(-0.5, -0.42, 0.05, 0.07, -0.5), "#6b5a1c")


def grapes(scene: Scene, x: float, y: float, r: float, *colours: str) -> None:
    """A bunch that hangs down from (x, y) to the left; r is the radius of one grape."""
    frame = scene.at(x, y, r)
    frame.stand(-4, 7.4, 12)
    frame.stroke("#5b4526", (0, 0), (1, -2), (3, -2.5), width=0.4, end=0.6)
    for row, count in enumerate((4, 5, 5, 4, 3, 2)):
        for place in range(count):
            dx, dy = scene.rng.uniform(-0.3, 0.3, 2)
            gx = 1.6 * (place - (count - 1) / 2) - 0.9 * row + dx
            frame.disc(gx, 1.28 * row + 0.5 + dy, 1, *colours, gloss=0.7)


def cherries(scene: Scene, x: float, y: float, r: float) -> None:
    """Two cherries on one fork of stalks."""
    frame = scene.at(x, y, r)
    for cx, cy in ((-1, 0), (1.1, 1.0)):
        frame.stand(cx, cy, 2)
        frame.disc(cx, cy - 1, 1, "#3d0309", "#b3111f", "#f0475a", gloss=0.9)
        frame.stroke("#5f7a2b", (cx, cy - 1.7), (cx, cy - 3.5), (0.6, -5), width=0.13, end=0.2)


def bowl(scene: Scene, x: float, y: float, r: float, front: bool, colours: Sequence[str]) -> None:
    """A bowl whose rim is at height y: its hollow, or its front that hides what lies within."""
    frame = scene.at(x, y, r)
    if not front:
        frame.stand(0, 0.78, 1.7)
        frame.fill(oval(0, 0, 1, 0.17), gradient((0, -0.17), (0, 0.1), colours[0], colours[1]))
        return
    lip = oval(0, 0, 1, 0.17)[:46]
    sides = closed([(-1, 0), (-0.9, 0.75), (-0.35, 0.8)], [(0.35, 0.8), (0.9, 0.75), (1, 0)])
    glaze = gradient((-1, -0.3), (1, 0.4), colours[1], colours[2], colours[1], colours[0])
    frame.fill(np.vstack([lip, sides]), glaze)
    frame.fill(ribbon(lip, 0.045), colours[2])
    frame.fill(ribbon(moved(lip, 0, 0.16), 0.04), colours[3])
    frame.fill(rect(-0.36, 0.76, 0.36, 0.84), colours[0])


@picture("fruit", "720x480.jpg")
def bowl_of_apples_and_oranges(scene: Scene) -> None:
    table(scene, 58, ("#e8d9bd", "#c9ab84"), ("#5b3218", "#9a6034", "#c98d55"))
    china, x = ("#27466f", "#5f8fc4", "#dbe9f5", "#f6f3e8"), scene.w / 2
    bowl(scene, x, 55, 42, False, china)
    apple(scene, x - 22, 51, 12, RED, lean=-0.35)
    orange(scene, x + 17, 52, 12)
    orange(scene, x, 47, 13)
    apple(scene, x - 11, 60, 13, GREEN, lean=-0.2)
    apple(scene, x + 13, 60, 13, RED, lean=0.2)
    bowl(scene, x, 55, 42, True, china)
    apple(scene, scene.w * 0.86, 92, 11, RED, lean=0.2)


@picture("fruit", "720x480.jpg")
def three_pears(scene: Scene) -> None:
    table(scene, 66, ("#7ea3bd", "#4a6c8a"), ("#8a633d", "#c1935f", "#e2bf8d"))
    pear(scene, scene.w * 0.24, 86, 17, YELLOW, lean=-0.12)
    pear(scene, scene.w * 0.52, 86, 15, RUSSET, lean=0.1)
    pear(scene, scene.w * 0.77, 86, 18, YELLOW, lean=0.22)
    leaf(scene, scene.w * 0.77 + 9, 39, 13, -0.3, "#2f5d1f", "#7fb043")


@picture("fruit", "640x480.webp")
def plate_of_lemons(scene: Scene) -> None:
    table(scene, 46, ("#dfe9e2", "#9fbfb4"), ("#6f7f86", "#a8b6b8", "#d6dfdd"))
    w = scene.w
    scene.cast(oval(w * 0.5, 73, 56, 19), 3)
    scene.fill(oval(w * 0.5, 73, 56, 19), gradient((20, 55), (w, 90), "#ffffff", "#b9cbd4"))
    scene.fill(oval(w * 0.5, 73, 44, 13.5), gradient((w, 60), (20, 90), "#f6fafb", "#c6d6dd"))
    lemon(scene, w * 0.33, 68, 15, 0.25)
    lemon(scene, w * 0.56, 64, 14, -0.3)
    lemon(scene, w * 0.72, 78, 14, 0.15)
    lemon_half(scene, w * 0.47, 72, 12)
    leaf(scene, w * 0.25, 52, 15, -2.5, "#255c2a", "#6fae4a")


@picture("fruit", "600x480.jpg")
def grapes_out_of_the_dark(scene: Scene) -> None:
    table(scene, 64, ("#4a3a2c", "#15100d"), ("#1f120b", "#4e2d19", "#7a4a29"))
    pear(scene, scene.w * 0.72, 84, 18, RUSSET, lean=0.1)
    apple(scene, scene.w * 0.47, 80, 15, GREEN, lean=-0.1)
    grapes(scene, scene.w * 0.38, 50, 5.4, "#170824", "#4f2a6b", "#a183c4")
    leaf(scene, scene.w * 0.4, 47, 19, -2.7, "#2b4a17", "#86a548")
    apple(scene, scene.w * 0.87, 93, 13, RED, lean=0.2)


@picture("fruit", "720x480.png")
def apples_and_cherries(scene: Scene) -> None:
    table(scene, 40, ("#f7e6c9", "#f0c998"), ("#b98a55", "#dcb57e", "#f3dcb2"))
    apple(scene, scene.w * 0.3, 64, 17, GREEN, lean=-0.1)
    apple(scene, scene.w * 0.62, 60, 16, RED, lean=0.15)
    apple(scene, scene.w * 0.46, 82, 19, RED)
    apple(scene, scene.w * 0.85, 78, 15, GREEN, lean=0.2)
    cherries(scene, scene.w * 0.14, 84, 4.6)
    cherries(scene, scene.w * 0.7, 90, 4.6)


@picture("fruit", "480x640.jpg")
def bananas_before_a_pear(scene: Scene) -> None:
    table(scene, 78, ("#e9a98c", "#b8695a"), ("#4b2a1c", "#7f4d33", "#b47c52"))
    pear(scene, scene.w * 0.7, 96, 19, YELLOW, lean=0.12)
    orange(scene, scene.w * 0.28, 96, 17)
    bananas(scene, scene.w * 0.5, 118, 70)
    orange(scene, scene.w * 0.8, 124, 14)


# ----------------------------------------------------------------------------------------- clocks

ROMAN = ("XII", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI")


def around(hour: float, distance: float) -> tuple[float, float]:
    angle = hour * np.pi / 6
    return distance * np.sin(angle), -distance * np.cos(angle)


def dial(
    face: Scene, rim: tuple[str, str], plate: tuple[str, str], ink: str, numerals: str
) -> None:
    """Rim, face, ticks and numerals ("roman", "arabic" or "none") around (0, 0), radius 1."""
    corners = (-1.0, -1.0), (1.0, 1.0)
    face.cast(oval(0, 0, 1.12), 0.07)
    face.fill(oval(0, 0, 1.12), gradient(*corners, *rim))
    face.fill(oval(0, 0, 1.02), gradient(*corners, *rim[::-1]))
    face.fill(oval(0, 0, 0.97), gradient(*corners, *plate))
    for minute in np.arange(60) / 5:
        start, width = (0.84, 0.028) if minute % 1 == 0 else (0.88, 0.01)
        face.stroke(ink, around(minute, start), around(minute, 0.92), width=width)
    for hour in range(12):
        if numerals == "roman":
            face.text(ROMAN[hour], *around(hour, 0.7), 0.17, ink, hour * np.pi / 6)
        elif numerals == "arabic":
            face.text(str(hour or 12), *around(hour, 0.7), 0.22, ink)


def hands(face: Scene, time: float, ink: str, second: str = "") -> None:
    """Both hands at `time` (hours), a thin third one if it has a colour, and the shine of glass."""
    shapes = [(time, 0.5, 0.085, ink), (time % 1 * 12, 0.78, 0.06, ink)]
    if second:
        shapes.append((time * 97 % 12, 0.82, 0.022, second))
    for hour, reach, width, colour in shapes:
        line = points(around(hour + 6, reach * 0.18), around(hour, reach))
        face.cast(ribbon(line, width, width * 0.45), 0.025, 0.35)
        face.fill(ribbon(line, width, width * 0.45), colour)
    face.disc(0, 0, 0.06, "#1b1b1b", second or ink, "#d8d8d8")
    shine = closed(
        [(-0.85, 0), (-0.8, -0.85), (0.1, -0.92)], [(0.1, -0.92), (-0.5, -0.6), (-0.85, 0)]
    )
    face.fill(shine, "#ffffff", 0.03, 0.22)


def wallpaper(scene: Scene, colours: tuple[str, str], stripe: float, relief: float) -> None:
    def paint(x: Array, y: Array) -> Array:
        band = smooth(-0.2, 0.2, np.sin(x * 2 * np.pi / stripe) + 0 * y)
        tone = (x + y) / (scene.w + scene.h)
        return np.asarray(ramp(tone, colours) * (1 - relief * band[..., None]))

    scene.wash(textured(paint, scene.noise(2), 0.06))
    scene.wash(glow(scene.w * 0.2, scene.h * 0.15, scene.h * 0.7, "#fff8e4", 0.4))


def bells_and_feet(face: Scene, metal: tuple[str, str], dark: str) -> None:
    """What makes an alarm clock of a dial."""
    for side in (-1, 1):
        face.stroke(dark, (side * 0.6, 0.8), (side * 0.85, 1.35), width=0.16, end=0.1)
        neck = turned(points((0, -1), (0, -1.4)), 0, 0, side * 0.55)
        face.fill(ribbon(neck, 0.09), dark)
        bell = turned(oval(0, -1.28, 0.42)[45:], 0, 0, side * 0.55)
        face.fill(bell, gradient((-1, -2), (1, -1), *metal))
    face.stroke(dark, (0, -1), (0, -1.42), width=0.06)
    face.fill(oval(0, -1.42, 0.12, 0.09), dark)


def pendulum_case(face: Scene) -> None:
    """The wooden case of a pendulum clock around its dial."""
    brown = gradient((-1.5, 0), (1.5, 0), "#8d5a30", "#6a3d1d", "#3f220f")
    wood = textured(brown, face.noise(0.14, 12), 0.7)
    roof = points((-1.7, -1.35), (0, -2.1), (1.7, -1.35))
    for part in (rect(-1.4, -1.4, 1.4, 3.3), roof, rect(-1.65, 3.2, 1.65, 3.5)):
        face.cast(part, 0.08)
        face.fill(part, wood)
    face.fill(rect(-0.95, 1.35, 0.95, 3), gradient((0, 1), (0, 3), "#120a06", "#38221a"))
    face.stroke("#caa24a", (0, 1.35), (0.22, 2.5), width=0.06)
    face.disc(0.22, 2.5, 0.3, "#6b4710", "#d6a93f", "#fff0b5", gloss=0.5)


@picture("clocks", "640x480.jpg")
def school_clock(scene: Scene) -> None:
    wallpaper(scene, ("#9fc3b0", "#5f8f7c"), 400, 0.0)
    face = scene.at(scene.w / 2, 50, 38)
    dial(face, ("#d9dde0", "#6c757c"), ("#ffffff", "#e3e6e6"), "#1d2226", "arabic")
    hands(face, 10.15, "#1d2226", "#d23128")


@picture("clocks", "480x640.jpg")
def pendulum_clock(scene: Scene) -> None:
    wallpaper(scene, ("#e7d3ae", "#c2a377"), 9, 0.1)
    face = scene.at(scene.w / 2, 50, 22)
    pendulum_case(face)
    dial(face, ("#f0d284", "#8a6420"), ("#fffaf0", "#eadfc6"), "#2a1a10", "roman")
    hands(face, 4.7, "#2a1a10")


@picture("clocks", "600x480.png")
def alarm_clock_at_the_bedside(scene: Scene) -> None:
    table(scene, 78, ("#c9d8ea", "#8aa3c4"), ("#a06f45", "#c99663", "#e8c796"))
    scene.stand(scene.w * 0.6, 91, 58)
    face = scene.at(scene.w * 0.6, 54, 27)
    bells_and_feet(face, ("#ff8d78", "#8f1f1c"), "#59201d")
    dial(face, ("#f2705e", "#a3241f"), ("#fffdf4", "#f0e6cf"), "#222222", "arabic")
    hands(face, 7.02, "#222222", "#d8452f")
    for book, colours in (
        ((6, 80, 42, 88), ("#33658a", "#1f3f5c")),
        ((9, 73, 40, 80), ("#e4b04a", "#a3742a")),
    ):
        scene.cast(rect(*book), 1.2, 0.3)
        scene.fill(rect(*book), gradient((6, 0), (42, 0), *colours))


@picture("clocks", "480x600.webp")
def golden_figures_on_black(scene: Scene) -> None:
    wallpaper(scene, ("#7b3b46", "#4d1f2b"), 14, 0.14)
    face = scene.at(scene.w * 0.47, 58, 34)
    dial(face, ("#f4d98d", "#7c5716"), ("#26303f", "#121823"), "#e8c777", "roman")
    hands(face, 1.84, "#f0d590")


@picture("clocks", "640x480.jpg")
def pocket_watch_on_a_desk(scene: Scene) -> None:
    planks(scene, "#8c5a35", "#4a2a16")
    letter = turned(rect(78, 8, 150, 90), 100, 50, 0.2)
    scene.cast(letter, 1.5)
    scene.fill(letter, "#f1e8d2")
    chain = bezier((52, 20), (40, -8), (95, -5), (110, 26), (150, 20), steps=26)
    for step, (x, y) in enumerate(chain):
        scene.fill(ribbon(oval(x, y, 2.6, 1.7, step), 0.9), "#d8b04e" if step % 2 else "#9c7626")
    scene.fill(ribbon(oval(50, 19, 5), 1.6), "#c79c3c")
    face = scene.at(54, 58, 30)
    dial(face, ("#ffe9a6", "#8b6118"), ("#ffffff", "#efe6d0"), "#20242c", "arabic")
    hands(face, 8.38, "#1f3c70", "#1f3c70")


@picture("clocks", "480x640.jpg")
def station_clock(scene: Scene) -> None:
    w = scene.w
    sky(scene, scene.h, "#5d7f9c", "#c3d3da", "#efe9d8")
    for step in range(5):
        wire = (-5, 6 + 14 * step), (w + 5, -18 + 22 * step)
        scene.stroke("#4a5661", *wire, width=1.2, opacity=0.5)
    roof = points((0, 0), (w, 0), (w, 18), (0, 30))
    scene.fill(roof, gradient((0, 0), (0, 30), "#20282f", "#46525b"))
    scene.fill(rect(w * 0.5 - 1.6, 20, w * 0.5 + 1.6, 45), "#252d34")
    face = scene.at(w * 0.5, 76, 33)
    dial(face, ("#3b4650", "#12171c"), ("#ffffff", "#dfe5e8"), "#101418", "none")
    hands(face, 11.56, "#101418", "#d9261c")


# ---------------------------------------------------------------------------------------- planets

Surface = Callable[[Array, Array], Array]
"""The colour of a planet by longitude and latitude, -pi/2..pi/2."""


def space(scene: Scene, *nebula: str) -> None:
    """Black sky with gas clouds and stars, the bright ones with a halo."""
    gas, veil = scene.noise(70, 0.8, 0.9), scene.noise(40, 1.0, 1.1)

    def paint(x: Array, y: Array) -> Array:
        density = smooth(0.35, 0.95, gas(x, y))
        return np.asarray(ramp(veil(x, y), nebula) * density[..., None] + rgb("#050816"))

    scene.wash(paint)
    for _ in range(330):
        x, y = scene.rng.uniform([0, 0], [scene.w, scene.h])
        size = 0.12 + 0.1 * scene.rng.exponential()
        if size > 0.4:
            scene.fill(oval(x, y, 5 * size), glow(x, y, 2 * size, "#bcd4ff", 0.6))
        scene.fill(oval(x, y, size), str(scene.rng.choice(["#ffffff", "#cfe0ff", "#ffe6c4"])))


def globe(
    scene: Scene, x: float, y: float, r: float, surface: Surface, sun: float, air: str
) -> None:
    """A planet lit from the angle `sun`, in a halo of `air`."""
    frame, c, s = scene.at(x, y, r), np.cos(sun), np.sin(sun)
    frame.fill(oval(0, 0, 2.6), glow(0.06 * c, 0.06 * s, 1.05, air, 0.45))

    def paint(u: Array, v: Array) -> Array:
        depth = np.sqrt(np.clip(1 - u * u - v * v, 0, 1))
        tilted_u, tilted_v = u * 0.94 - v * 0.34, u * 0.34 + v * 0.94
        colour = surface(np.arctan2(tilted_u, depth), np.arcsin(np.clip(tilted_v, -1, 1)))
        day = smooth(-0.15, 0.95, 0.85 * (c * u + s * v) + depth * 0.5)
        rim = mix(colour, rgb(air), 0.7 * (1 - depth) ** 3)
        return np.asarray(rim * (0.03 + 1.1 * day)[..., None])

    frame.fill(oval(0, 0, 1), paint)


def banded(scene: Scene, stripes: float, *colours: str) -> Surface:
    layers, swirl = scene.noise(1.0, 1.0, 0.9), scene.noise(0.5, 0.25)

    def surface(lon: Array, lat: Array) -> Array:
        bent = lat + 0.07 * (swirl(lon, lat) - 0.5)
        return ramp(0.5 + 1.3 * (layers(0.04 * lon, bent * stripes) - 0.5), colours)

    return surface


def rocky(scene: Scene, *colours: str) -> Surface:
    land, grit = scene.noise(1.1, 1.0, 1.1), scene.noise(0.3, 1.0, 1.4)

    def surface(lon: Array, lat: Array) -> Array:
        return ramp(1.7 * land(lon, lat) + 0.4 * grit(lon, lat) - 0.55, colours)

    return surface


def oceans(scene: Scene) -> Surface:
    land, grit, weather = scene.noise(1.0), scene.noise(0.4), scene.noise(0.9, 0.5, 1.1)

    def surface(lon: Array, lat: Array) -> Array:
        water = ramp(land(lon, lat) * 1.4, ("#08244f", "#0f4f94", "#2f86b8"))
        soil = ramp(grit(lon, lat) + 0.3 * np.abs(lat), ("#2f6b34", "#8a9a4d", "#c9ac74"))
        ground = mix(water, soil, smooth(0.52, 0.54, land(lon, lat)))
        ice = smooth(1.05, 1.2, np.abs(lat) + 0.4 * (grit(lon, lat) - 0.5))
        white = np.maximum(ice, 0.9 * smooth(0.52, 0.78, weather(lon, lat)))
        return mix(ground, rgb("#f7fbff"), white)

    return surface


def craters(scene: Scene, x: float, y: float, r: float, sun: float, count: int) -> None:
    """Craters on the lit side of a moon."""
    frame = scene.at(x, y, r)
    for _ in range(count):
        away, angle = np.sqrt(scene.rng.uniform(0, 0.75)), sun + scene.rng.uniform(-1.7, 1.7)
        size = 0.025 + 0.03 * scene.rng.exponential()
        flat = size * np.sqrt(1 - away * away)
        pit = oval(away * np.cos(angle), away * np.sin(angle), flat, size, angle)
        frame.fill(moved(pit, 0.18 * size, 0.18 * size), "#ffffff", size * 0.1, 0.14)
        frame.fill(pit, "#0f0d14", size * 0.12, 0.26)


def ring(frame: Scene, flat: float, tilt: float, grooves: Noise, front: bool) -> None:
    """Half of a planet's ring, radius 1: the front hides the planet, the planet hides the back."""
    t = np.linspace(0, np.pi, 90) + (0 if front else np.pi)
    arc = np.stack([np.cos(t), np.sin(t) * flat], axis=1)
    c, s = np.cos(tilt), np.sin(tilt)

    def paint(x: Array, y: Array) -> Array:
        radius = np.hypot(x * c + y * s, (y * c - x * s) / flat)
        tone = grooves(radius * 3, np.zeros(1))
        alpha = 0.95 * smooth(0.25, 0.5, tone) * smooth(1, 0.97, radius)
        colour = ramp(tone, ("#5a4630", "#c9ab7a", "#f6e7c4"))
        return np.concatenate([colour, alpha[..., None]], axis=-1)

    frame.fill(turned(np.vstack([arc, arc[::-1] * 0.58]), 0, 0, tilt), paint)


@picture("planets", "720x480.jpg")
def ringed_giant(scene: Scene) -> None:
    space(scene, "#1a2a6b", "#6b3fa0", "#203a7d")
    sand = banded(scene, 3, "#7a5a3a", "#c9a36b", "#f2dcae", "#b98a58", "#fff0cf")
    rings, grooves = scene.at(scene.w * 0.52, 50, 62), scene.noise(0.5, 1.0, 1.3)
    ring(rings, 0.3, -0.35, grooves, False)
    globe(scene, scene.w * 0.52, 50, 29, sand, -2.4, "#ffe9bf")
    ring(rings, 0.3, -0.35, grooves, True)
    globe(scene, scene.w * 0.12, 80, 5, rocky(scene, "#4a5a7a", "#a9b7cf"), -2.4, "#9fb4e0")


@picture("planets", "600x480.webp")
def blue_world(scene: Scene) -> None:
    space(scene, "#0d2a4a", "#14506b", "#2a2a6b")
    globe(scene, scene.w * 0.44, 56, 35, oceans(scene), -2.5, "#7fc4ff")
    moon = rocky(scene, "#55535a", "#8f8c8a", "#cfcac2")
    globe(scene, scene.w * 0.86, 20, 8, moon, -2.5, "#cfd4e0")
    craters(scene, scene.w * 0.86, 20, 8, -2.5, 12)


@picture("planets", "640x480.png")
def half_moon(scene: Scene) -> None:
    space(scene, "#1a2238", "#2a3a5c", "#141a2c")
    moon = rocky(scene, "#6f6c6d", "#a8a49f", "#e6e1d6")
    globe(scene, scene.w * 0.5, 50, 38, moon, 0.5, "#d9dde6")
    craters(scene, scene.w * 0.5, 50, 38, 0.5, 55)


@picture("planets", "480x640.jpg")
def red_planet(scene: Scene) -> None:
    space(scene, "#5c1f2a", "#7d3a2a", "#3a1a3f")
    rust = rocky(scene, "#5a1f12", "#b3502a", "#e08a52", "#f2c08a")
    globe(scene, scene.w * 0.62, 88, 44, rust, -2.2, "#ff9f6b")
    moon = rocky(scene, "#4d4642", "#9a8f84", "#d9cdbb")
    globe(scene, scene.w * 0.24, 30, 9, moon, -2.2, "#e0c9b0")
    globe(scene, scene.w * 0.74, 16, 4.5, moon, -2.2, "#d0c0d9")


@picture("planets", "720x480.jpg")
def moons_before_a_giant(scene: Scene) -> None:
    space(scene, "#0f3a4a", "#1d5a5a", "#1a2a5c")
    storms = banded(scene, 4, "#8f4a2a", "#e0b48a", "#f7ead4", "#c47a4a", "#fff6e4")
    globe(scene, scene.w * 0.74, 66, 62, storms, -2.7, "#ffd9b0")
    sulphur = rocky(scene, "#8a7a3a", "#d9c46b", "#fff0b0")
    globe(scene, scene.w * 0.2, 30, 11, sulphur, -2.7, "#ffe9a0")
    ice = rocky(scene, "#4a6a8a", "#a9c9e0", "#ffffff")
    globe(scene, scene.w * 0.36, 78, 6, ice, -2.7, "#bfe0ff")


@picture("planets", "720x450.jpg")
def parade_before_the_sun(scene: Scene) -> None:
    space(scene, "#3a1a5c", "#1a2a6b", "#5c1f4a")
    scene.wash(glow(-22, 50, 62, "#ff9a3c", 0.9))
    scene.disc(-22, 50, 44, "#ff8a1f", "#ffc23c", "#fff3b8")
    dust = rocky(scene, "#6b5a4a", "#c9b08f")
    sand = banded(scene, 3, "#7a5a3a", "#c9a36b", "#f2dcae", "#b98a58", "#fff0cf")
    methane = banded(scene, 1.5, "#1f4fa0", "#4f9ae0", "#a9e0ff")
    worlds = ((0.27, 62, 6, dust), (0.43, 36, 10, oceans(scene)), (0.63, 62, 17, sand))
    for x, y, r, surface in (*worlds, (0.88, 34, 12, methane)):
        globe(scene, scene.w * x, y, r, surface, np.pi, "#a9c4ff")


# ---------------------------------------------------------------------------------------- tartans

ROYAL = "#b3161f 34 #123a2c 12 #f2d24a 2 #14264f 10 #f4f1e8 2 #b3161f 8 #0f1a2b 4"
WATCH = "#23508f 18 #11171f 4 #23508f 4 #11171f 10 #2c8055 18 #11171f 3 #e9e2c9 2"
CAMEL = "#c9a676 26 #17171a 6 #f3ede0 4 #17171a 6 #c9a676 10 #b3262b 3"
HEATHER = "#7d5a94 20 #3f4a63 10 #e6dcec 3 #56784f 14 #3f2b52 6"
PICNIC = "#d9242b 16 #f9f4ea 16 #8f1219 3"
MODERN = "#1f7f86 22 #f4efe2 6 #e2762b 5 #123c4a 16 #f0c44c 2"


def tartan(sett: str, thread: float) -> Callable[[Array, Array], Array]:
    """A 2/2 twill with the same stripes (colour, number of threads), mirrored, in both ways."""
    words = sett.split()
    stripes = list(zip(words[::2], map(int, words[1::2]), strict=True))
    mirrored = stripes + stripes[-2:0:-1]
    colours = np.array([rgb(colour) for colour, count in mirrored for _ in range(count)])

    def cloth(u: Array, v: Array) -> Array:
        across, along = u / thread, v / thread
        i, j = np.floor(across).astype(np.intp), np.floor(along).astype(np.intp)
        over = (i + j) % 4 < 2
        colour = np.where(over[..., None], colours[i % len(colours)], colours[j % len(colours)])
        rib = np.where(over, np.sin(np.pi * (across - i)), np.sin(np.pi * (along - j)))
        return np.asarray(colour * (0.82 + 0.26 * rib)[..., None])

    return cloth


def draped(
    scene: Scene, sett: str, thread: float, angle: float, fold: float, tall: float, depth: float
) -> Paint:
    """The cloth turned by `angle`, lying in folds about `fold` wide and `tall` times as long."""
    cloth = tartan(sett, thread)
    height, fuzz = scene.noise(fold, tall, 0.0), scene.noise(1.0, 1.0, 1.8)
    c, s = np.cos(angle), np.sin(angle)

    def paint(x: Array, y: Array) -> Array:
        lift = height(x, y)
        dx, dy = height(x + 1, y) - lift, height(x, y + 1) - lift
        bent_x, bent_y = x + depth * fold * dx * 1.5, y + depth * fold * dy * 1.5
        colour = cloth(bent_x * c + bent_y * s, bent_y * c - bent_x * s)
        light = 1 - depth * fold * 0.36 * (dx + 0.6 * dy) + 0.25 * (fuzz(x, y) - 0.5)
        return np.asarray(colour * (np.clip(light, 0.35, 1.5) * (0.75 + 0.5 * lift))[..., None])

    return paint


def fringe(scene: Scene, left: float, right: float, y: float, colours: Sequence[str]) -> None:
    for x in np.arange(left, right, 0.8):
        sway, length = scene.rng.normal(0, 0.9, 2), scene.rng.uniform(10, 13)
        strand = (x, y), (x + sway[0], y + length / 2), (x + sway[1], y + length)
        scene.stroke(str(scene.rng.choice(colours)), *strand, width=0.75, end=0.4)


def folded(scene: Scene, sett: str, base: float) -> None:
    """A blanket folded in two, its round edges to the front, that lies on `base`."""
    left = scene.w * 0.12 + scene.rng.uniform(-2, 4)
    right = scene.w * 0.88 + scene.rng.uniform(-4, 2)
    tilt = scene.rng.uniform(-0.05, 0.05)
    top = base - 23.5
    back = points((left + 4, top - 5), (right - 4, top - 5), (right, top + 3), (left, top + 3))
    scene.fill(back, draped(scene, sett, 0.55, tilt, 30, 1, 0.2))
    for low in (base, base - 11.75):
        mid, high = low - 6.25, low - 12.5
        edge = closed(
            [(left, low), (right, low)],
            [(right, low), (right + 5, mid), (right, high)],
            [(right, high), (left, high)],
            [(left, high), (left - 5, mid), (left, low)],
        )
        scene.cast(edge, 1.5, 0.5)
        scene.fill(edge, draped(scene, sett, 0.55, tilt, 20, 0.5, 0.3))
        scene.fill(edge, gradient((0, high), (0, low), "#ffffff", "#777777", "#000000"), 0, 0.28)


@picture("tartans", "640x480.jpg")
def red_wool(scene: Scene) -> None:
    scene.wash(draped(scene, ROYAL, 0.62, 0.08, 55, 1.6, 1.3))


@picture("tartans", "480x600.jpg")
def hanging_kilt(scene: Scene) -> None:
    scene.wash(draped(scene, WATCH, 0.7, 0.0, 26, 14, 1.5))


@picture("tartans", "720x480.webp")
def scarf_on_a_floor(scene: Scene) -> None:
    planks(scene, "#8a6a4f", "#5c4331")
    right = scene.w - 14
    scene.cast(rect(16, -4, right, 82), 3)
    fringe(scene, 16.5, right - 0.5, 80, ("#c9a676", "#a98658", "#efe6d2", "#4a3a2c"))
    scene.fill(rect(16, -4, right, 82), draped(scene, CAMEL, 0.66, 0.0, 40, 2.4, 1.5))


@picture("tartans", "640x480.jpg")
def heather_shawl(scene: Scene) -> None:
    scene.wash(draped(scene, HEATHER, 0.7, -0.1, 60, 0.9, 0.8))


@picture("tartans", "480x480.png")
def pile_of_blankets(scene: Scene) -> None:
    wall = gradient((0, 0), (0, scene.h), "#e6ddd0", "#b8a894")
    scene.wash(textured(wall, scene.noise(30), 0.15))
    shelf = textured("#6b4a33", scene.noise(40, 0.06), 0.6)
    scene.fill(rect(-1, 92, scene.w + 1, scene.h + 1), shelf)
    for place, sett in enumerate((WATCH, MODERN, ROYAL)):
        folded(scene, sett, 94 - 24.5 * place)


@picture("tartans", "720x480.jpg")
def picnic_cloth(scene: Scene) -> None:
    lawn = textured("#5f9a3a", scene.noise(2, 2), 0.9)
    scene.wash(textured(lawn, scene.noise(30), 0.5))
    w, h = scene.w, scene.h
    corners = points((w * 0.06, 14), (w * 0.9, -6), (w + 14, 84), (w * 0.1, h + 12))
    scene.cast(corners, 2.5, 0.6)
    scene.fill(corners, draped(scene, PICNIC, 0.72, -0.12, 50, 1.0, 0.7))


# ----------------------------------------------------------------------------------------- output


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        # A palette keeps the noisy PNGs small; Pillow dithers only towards a palette it is given.
        image.quantize(palette=image.quantize(256)).save(path, optimize=True)
    elif path.suffix == ".webp":
        image.save(path, quality=86, method=4)
    else:
        image.save(path, quality=88, optimize=True, progressive=True)


def main(target: Path) -> None:
    for group, entries in PICTURES.items():
        for number, (painter, form) in enumerate(entries, start=1):
            name = f"{group}_{number}"
            size, _, suffix = form.partition(".")
            width, height = map(int, size.split("x"))
            rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
            scene = Scene(width, height, rng)
            painter(scene)
            save(scene.picture(), target / group / f"{name}.{suffix}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent)
