"""Answers as HTML, for browsers without scripts; in: hits or an error, out: a page.

All text from files and users is escaped; a page holds no script and no inline style. Its links are
relative, since a proxy may show the server below a path of its own: `top` leads from the address of
the page to that of the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from urllib.parse import urlencode

from embedsearch.core.paths import printable
from embedsearch.core.records import Hit

_HEIGHT = 176  # of a tile, in pixels
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>embedsearch</title>
<link rel="icon" href="{top}static/icon.svg">
<link rel="stylesheet" href="{top}static/page.css">
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
_FORM = """<form class="plain-form" method="post" action="{top}search"
enctype="multipart/form-data">
<label>Image <input type="file" name="image" accept="image/*" required></label>
<label>Only images where <input name="where" placeholder="width &gt; 1000"></label>
<label>How many <input name="k" type="number" min="1" max="1000" value="24"></label>
<button>Search</button>
</form>"""


def form(top: str) -> str:
    """Return the form of a search."""
    return _FORM.format(top=top)


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


def _page(content: str, top: str) -> str:
    return _PAGE.format(form=form(top), content=content, top=top)
