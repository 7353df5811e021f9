"""Answers as HTML, for browsers without scripts; in: images, hits or an error, out: a page.

All text from files and users is escaped; a page holds no script and no inline style. Its links are
relative, since a proxy may show the server below a path of its own: `top` leads from the address of
the page to that of the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Protocol
from urllib.parse import urlencode

from embedsearch.core.paths import printable
from embedsearch.core.records import Hit, ImageRecord
from embedsearch.web.assets import folder, style_links

_HEIGHT = 176  # of a tile, in pixels
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>embedsearch</title>
<link rel="icon" href="{top}{folder}icon.svg">
{styles}
<link rel="stylesheet" href="{top}{folder}css/plain.css">
</head>
<body class="plain">
<main>
<h1><a href="{top}">embedsearch</a></h1>
{form}
{content}
</main>
</body>
</html>
"""
_FORM = """<form class="plain-form" action="{top}search">
<label>Words <input name="text" type="search" maxlength="1000"></label>
<button>Search</button>
</form>
<form class="plain-form" method="post" action="{top}search" enctype="multipart/form-data">
<label>Photo <input type="file" name="image" accept="image/*" required></label>
<label>Filter <input name="where" type="text" placeholder="width &gt; 1000"></label>
<label>How many <input name="k" type="number" min="1" max="1000" value="24"></label>
<button>Search</button>
</form>"""


class Listed(Protocol):
    """What a list was asked for."""

    k: int
    offset: int
    where: str | None


def form(top: str) -> str:
    """Return the forms of a search."""
    return _FORM.format(top=top)


def first_tiles(images: Sequence[ImageRecord], top: str) -> str:
    """Return the images that come with the page; each links to similar ones.

    Their classes stand for their proportions: the page allows no inline style.
    """
    return "\n".join(
        f'<div class="tile r{_percent(image)}" role="listitem">'
        f'<a href="{top}search?row={image.row}" title="{(name := escape(printable(image.key)))}">'
        f'<img src="{top}images/{image.row}/thumbnail?fill=256" alt="{name}"></a></div>'
        for image in images
    )


def page_links(options: Listed, total: int, top: str) -> str:
    """Return links to the pages before and after, for browsers without scripts."""
    links = []
    if options.offset:
        links.append(("Previous", max(0, options.offset - options.k)))
    if options.offset + options.k < total:
        links.append(("Next", options.offset + options.k))
    shared = {"k": options.k} | ({"where": options.where} if options.where else {})
    written = " ".join(
        f'<a href="{top}?{escape(urlencode({"offset": offset, **shared}))}">{words}</a>'
        for words, offset in links
    )
    nav = f'<nav class="plain pages" aria-label="Pages">{written}</nav>'
    return f"<noscript>{nav}</noscript>" if links else ""


def hits_page(hits: Sequence[Hit], where: str | None, k: int, top: str) -> str:
    """Return the hits, best first; each links to similar images."""
    if not hits:
        return _page("<p>No image of the store matches.</p>", top)
    options = {"k": str(k)} | ({"where": where} if where else {})
    tiles = "\n".join(_tile(hit, options, top) for hit in hits)
    return _page(f'<ol class="grid">\n{tiles}\n</ol>', top)


def error_page(message: str, top: str) -> str:
    """Return what went wrong."""
    return _page(f'<p class="error">{escape(message)}</p>', top)


def _tile(hit: Hit, options: dict[str, str], top: str) -> str:
    name = escape(printable(hit.key))
    more = escape(f"{top}search?" + urlencode({"row": str(hit.row), **options}))
    # The size of an image whose vector was imported is not known.
    width = round(_HEIGHT * hit.width / hit.height) if hit.height else _HEIGHT
    return (
        f'<li><a href="{more}"><img src="{top}images/{hit.row}/thumbnail" alt="{name}" '
        f'width="{width}" height="{_HEIGHT}"></a><p>{hit.ranked_by:.3f} {name}</p></li>'
    )


def _percent(image: ImageRecord) -> int:
    """Return the width in percent of the height, in steps of 4, as grid.css has them."""
    ratio = image.width / image.height if image.height else 1.0
    return 4 * round(25 * min(2.6, max(0.56, ratio)))


def _page(content: str, top: str) -> str:
    styles = style_links(top)
    return _PAGE.format(form=form(top), content=content, top=top, folder=folder(), styles=styles)
