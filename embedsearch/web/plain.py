"""Answers as HTML, for browsers without scripts; in: hits or an error, out: a page.

All text from files and users is escaped; a page holds no script and no inline style.
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
<link rel="icon" href="/static/icon.svg">
<link rel="stylesheet" href="/static/page.css">
</head>
<body class="plain">
<main>
<h1><a href="/">embedsearch</a></h1>
{form}
{content}
</main>
</body>
</html>
"""
FORM = """<form method="post" action="/search" enctype="multipart/form-data" class="plain-form">
<label>Image <input type="file" name="image" accept="image/*" required></label>
<label>Only images where <input name="where" placeholder="width &gt; 1000"></label>
<label>How many <input name="k" type="number" min="1" max="1000" value="24"></label>
<button>Search</button>
</form>"""


def hits_page(hits: Sequence[Hit], where: str | None, k: int) -> str:
    """Return the hits, best first; each links to similar images."""
    if not hits:
        return _page("<p>No image of the store matches.</p>")
    options = {"k": str(k)} | ({"where": where} if where else {})
    return _page('<ol class="grid">\n' + "\n".join(_tile(hit, options) for hit in hits) + "\n</ol>")


def error_page(message: str) -> str:
    """Return what went wrong."""
    return _page(f'<p class="error">{escape(message)}</p>')


def _tile(hit: Hit, options: dict[str, str]) -> str:
    name = escape(printable(hit.key))
    more = escape("/search?" + urlencode({"row": str(hit.row), **options}))
    # The size of an image whose vector was imported is not known.
    width = round(_HEIGHT * hit.width / hit.height) if hit.height else _HEIGHT
    return (
        f'<li><a href="{more}"><img src="/images/{hit.row}/thumbnail" alt="{name}" '
        f'width="{width}" height="{_HEIGHT}"></a><p>{hit.score:.3f} {name}</p></li>'
    )


def _page(content: str) -> str:
    return _PAGE.format(form=FORM, content=content)
