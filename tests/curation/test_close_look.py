"""What only a close look tells apart, and what it must not: photos, drawn dialogs and people."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, ImageOps

import embedsearch
from embedsearch.core.config import DuplicateConfig
from embedsearch.curation.duplicates import duplicates
from embedsearch.curation.turns import AS_IT_IS, BOTH, FLIPS, ROTATIONS, Turn
from embedsearch.images.close_look import SIDE, Look, Verdict, verdict
from tests.support.library import BOAT, CLOCK, SAMPLES, run_cli

PHOTOS = sorted(SAMPLES.glob("*/*.jpg"))[::6]


def look(image: Image.Image, quality: int | None = None) -> Look:
    """Return the look of an image, saved as a JPEG of a quality, or without loss."""
    file = io.BytesIO()
    image.save(file, "PNG" if quality is None else "JPEG", quality=quality)
    again = Image.open(file).convert("RGB")
    square = again.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return Look.of(np.asarray(square), image.size)


def photo(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def scaled(image: Image.Image, share: float) -> Image.Image:
    size = (round(image.width * share), round(image.height * share))
    return image.resize(size, Image.Resampling.LANCZOS)


def sepia(image: Image.Image) -> Image.Image:
    return ImageOps.colorize(image.convert("L"), "#241a10", "#fff0d0")


def other_hue(image: Image.Image) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point([(level + 60) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def other_white(image: Image.Image) -> Image.Image:
    bands = zip(image.split(), (1.12, 1.0, 0.88), strict=True)
    return Image.merge(
        "RGB", [band.point(lambda x, k=k: min(255, int(x * k))) for band, k in bands]
    )


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_versions_of_a_photo(path: Path) -> None:
    image = photo(path)
    kept = look(image, 92)
    for copy in (
        look(image, 30),
        look(scaled(image, 0.5), 80),
        look(scaled(image, 0.37), 90),
        look(scaled(image, 1.5), 90),
    ):
        assert verdict(kept, copy) is verdict(copy, kept) is Verdict.COPY
    gray = look(image.convert("L"), 80)
    assert verdict(kept, gray) is Verdict.GRAY and verdict(gray, kept) is Verdict.IN_COLOR
    for other in (sepia(image), other_white(image), image.point(lambda level: level * 0.8)):
        assert verdict(kept, look(other, 90)) is Verdict.RECOLORED
    assert verdict(kept, look(other_hue(image), 90)) in {Verdict.RECOLORED, Verdict.DIFFERENT}


def dialog(words: str) -> Image.Image:
    image = scaled(photo(BOAT), 1.0)
    draw = ImageDraw.Draw(image)
    width, height = image.size
    box = (width * 0.28, height * 0.37, width * 0.72, height * 0.63)
    draw.rectangle(box, fill=(240, 240, 240), outline=(80, 80, 80))
    font = ImageFont.load_default(height // 26)
    draw.text((width * 0.31, height * 0.46), words, font=font, fill=0)
    return image


def frame(place: float) -> Image.Image:
    """Return what a fixed camera sees: a person of an eighth of the height."""
    image = photo(BOAT)
    draw = ImageDraw.Draw(image)
    width, height = image.size
    left, top = width * (0.06 + 0.19 * place), height * 0.66
    draw.rectangle((left, top, left + width / 40, top + height / 8), fill=(30, 30, 90))
    draw.ellipse((left, top - height / 30, left + width / 40, top), fill=(60, 40, 30))
    return image


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (dialog("File not found"), dialog("Disk is full")),
        (dialog("Access denied"), scaled(dialog("Save changes?"), 0.7)),
        (frame(0), frame(1)),
        (frame(2), scaled(frame(3), 0.6)),
        (photo(BOAT), frame(2)),
    ],
    ids=["dialogs", "dialogs, one smaller", "frames", "frames, one smaller", "one person more"],
)
def test_small_differences(one: Image.Image, other: Image.Image) -> None:
    for quality in (None, 85):
        assert verdict(look(one, quality), look(other, quality)) is Verdict.DIFFERENT


def test_a_lamp_of_another_color() -> None:
    """As light as before, so that only the color tells."""
    red, green = photo(CLOCK), photo(CLOCK)
    for image, color in ((red, (200, 40, 40)), (green, (40, 122, 40))):
        ImageDraw.Draw(image).ellipse((300, 200, 350, 250), fill=color)
    assert verdict(look(red), look(green)) is Verdict.RECOLORED


@pytest.mark.parametrize("turn", [AS_IT_IS, *FLIPS, *ROTATIONS, *BOTH], ids=lambda turn: turn.how)
def test_turned_looks(turn: Turn) -> None:
    image = photo(CLOCK)
    turned = Image.fromarray(np.ascontiguousarray(turn.square(np.asarray(image))))
    assert verdict(look(image).turned(turn.square), look(turned)) is Verdict.COPY


def indexed(tmp_path: Path, pictures: dict[str, tuple[Image.Image, dict[str, Any]]]) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, (image, options) in pictures.items():
        image.save(photos / name, **options)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    return tmp_path / "s.es"


def removed(script: Path) -> list[str]:
    """Return the names that a script removes."""
    lines = script.read_text().splitlines()
    return sorted(
        os.path.basename(line.split()[1]) for line in lines if line.startswith("remove /")
    )


def test_only_copies_are_offered_for_deletion(tmp_path: Path) -> None:
    other = photo(CLOCK)
    pictures: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "true-a.jpg": (other, {"quality": 92}),
        "true-b.jpg": (scaled(other, 0.5), {"quality": 70}),
        "true-c.png": (other.convert("L"), {}),
        "true-d.jpg": (sepia(other), {"quality": 92}),
    }
    for number, words in enumerate(("File not found", "Disk is full", "Access denied")):
        pictures[f"dialog-{number}.png"] = (dialog(words), {})
        pictures[f"camera-{number}.jpg"] = (frame(number), {"quality": 90})
    store = indexed(tmp_path, pictures)
    report = duplicates(store)
    (group,) = report.groups
    hows = {copy.picture.key: copy.how for copy in group.copies}
    assert group.keep.key == "true-a.jpg"
    assert hows == {"true-b.jpg": "copy", "true-c.png": "gray", "true-d.jpg": "recolored"}
    assert (report.copies, report.others) == (2, 1)
    done = run_cli("duplicates", "--store", store, "--script", tmp_path / "d.sh")
    assert "2 of them copies" in done.stderr and "1 more" in done.stderr, done.stderr
    assert removed(tmp_path / "d.sh") == ["true-b.jpg", "true-c.png"]
    # Where the gray one is to be kept, the best one in color is, too.
    config = DuplicateConfig(keep=("format=PNG",))
    groups = {group.keep.key: group.copies for group in duplicates(store, config=config).groups}
    assert [copy.how for copy in groups["true-c.png"]] == ["in color"]
    assert [copy.picture.key for copy in groups["true-a.jpg"]] == ["true-b.jpg"]
    config = DuplicateConfig(keep=("format=PNG",), where="path like '%-a.jpg' or path like '%.png'")
    (group,) = duplicates(store, config=config).groups
    assert group.keep.key == "true-c.png"
    assert [(copy.how, copy.is_copy) for copy in group.copies] == [("in color", False)]


def page(total: str) -> Image.Image:
    """Return a page of text in which one number of eight digits may differ."""
    image = Image.new("RGB", (1240, 1754), "white")
    draw = ImageDraw.Draw(image)
    for line in range(42):
        words = " ".join(f"word{(line * 7 + n * 13) % 97}" for n in range(11))
        draw.text((110, 120 + 32 * line), words, font=ImageFont.load_default(22), fill="black")
    draw.text((110, 1560), f"Total: {total} EUR", font=ImageFont.load_default(24), fill="black")
    return image


def dated(date: str) -> Image.Image:
    """Return a large photo with a small date in its corner."""
    image = photo(BOAT).resize((1600, 1200), Image.Resampling.BICUBIC)
    font = ImageFont.load_default(28)
    ImageDraw.Draw(image).text((1250, 1150), date, font=font, fill=(255, 140, 0))
    return image


def test_other_words_on_a_page_and_other_dates(tmp_path: Path) -> None:
    pictures: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "bill-1.png": (page("1,204.50"), {}),
        "bill-2.png": (page("7,836.10"), {}),
        "bill-2-smaller.jpg": (scaled(page("7,836.10"), 0.7), {"quality": 80}),
        "date-1.jpg": (dated("2019-03-04 11:20:31"), {"quality": 92}),
        "date-2.jpg": (dated("2021-08-17 23:59:08"), {"quality": 92}),
        "date-2-again.jpg": (dated("2021-08-17 23:59:08"), {"quality": 60}),
    }
    report = duplicates(indexed(tmp_path, pictures))
    found = {g.keep.key: [copy.picture.key for copy in g.copies] for g in report.groups}
    assert found == {"bill-2.png": ["bill-2-smaller.jpg"], "date-2.jpg": ["date-2-again.jpg"]}


def test_large_copies_that_were_turned(tmp_path: Path) -> None:
    image = dated("2019-03-04 11:20:31")
    pictures: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "a.jpg": (image, {"quality": 92}),
        "turned.jpg": (image.transpose(Image.Transpose.ROTATE_90), {"quality": 80}),
        "other.jpg": (dated("1999").transpose(Image.Transpose.ROTATE_90), {"quality": 80}),
    }
    store = indexed(tmp_path, pictures)
    (group,) = duplicates(store, config=DuplicateConfig(rotations=True)).groups
    assert [(copy.picture.key, copy.how) for copy in group.copies] == [
        ("turned.jpg", "turned left")
    ]
    photos = store.parent / "photos"
    (photos / "new").mkdir()
    for name in ("turned.jpg", "other.jpg"):
        (photos / name).rename(photos / "new" / name)
    (photos / "old").mkdir()
    (photos / "a.jpg").rename(photos / "old" / "a.jpg")
    embedsearch.index(photos, store=store)
    config = DuplicateConfig(rotations=True)
    (group,) = duplicates(store, photos / "new", against=photos / "old", config=config).groups
    assert (group.keep.key, [copy.picture.key for copy in group.copies]) == (
        "old/a.jpg",
        ["new/turned.jpg"],
    )


def test_look_alikes_are_not_offered_for_deletion(tmp_path: Path) -> None:
    store = indexed(
        tmp_path,
        {f"dialog-{n}.png": (dialog(words), {}) for n, words in enumerate(("One", "Two", "Six"))},
    )
    done = run_cli(
        "duplicates", "--store", store, "--similar", "0.9", "--script", tmp_path / "d.sh"
    )
    assert "0 of them copies" in done.stderr and "2 more" in done.stderr, done.stderr
    assert removed(tmp_path / "d.sh") == []


def _hard(path: Path, target: Path) -> None:
    path.hardlink_to(target)


@pytest.mark.parametrize("link", [_hard], ids=["hard link"])
def test_names_of_one_file(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, path in (("a.jpg", CLOCK), ("c.jpg", BOAT)):
        shutil.copy(path, photos / name)
    link(photos / "again.jpg", photos / "a.jpg")
    link(photos / "c-twice.jpg", photos / "c.jpg")
    (photos / "c-copy.jpg").write_bytes((photos / "c.jpg").read_bytes())
    store = tmp_path / "s.es"
    embedsearch.index(photos, store=store, model="packaged")
    done = run_cli("duplicates", "--store", store, "--script", tmp_path / "d.sh")
    assert done.stdout.count("same file") == 2 and done.stdout.count("same bytes") == 1
    size = (photos / "c.jpg").stat().st_size
    assert f"1 of them copies of others, {size / 1e6:,.1f} MB" in done.stderr
    assert removed(tmp_path / "d.sh") == ["c-copy.jpg"]


def test_what_cannot_be_read_is_not_checked(tmp_path: Path) -> None:
    image = photo(CLOCK)
    store = indexed(
        tmp_path,
        {"a.jpg": (image, {"quality": 92}), "b.jpg": (scaled(image, 0.5), {"quality": 80})},
    )
    (tmp_path / "photos" / "b.jpg").unlink()
    (group,) = duplicates(store).groups
    assert [(copy.picture.key, copy.how) for copy in group.copies] == [("b.jpg", "not checked")]
    run_cli("duplicates", "--store", store, "--script", tmp_path / "d.sh")
    assert removed(tmp_path / "d.sh") == []
