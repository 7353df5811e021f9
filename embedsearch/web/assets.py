"""The files of the page; out: their bytes by name, and the folder that they are served from.

The folder is named by their digest: a browser keeps them until one of them changes.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

TYPES = {"css": "text/css", "svg": "image/svg+xml", "js": "text/javascript"}
_TEMPLATE = "page.html"
_STYLES = ("tokens", "layout", "grid")
_LATER = {
    "crop.js",
    "facts.js",
    "folder_tree.js",
    "panel.js",
    "panels.js",
    "photo.js",
    "slider.js",
    "sql.js",
    "uploads.js",
    "viewer.js",
}  # loaded once they are asked for


@cache
def assets() -> dict[str, bytes]:
    """Return the files by their names below `static`."""
    found: dict[str, bytes] = {}

    def read(folder: Traversable, above: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                read(entry, f"{above}{entry.name}/")
            elif entry.name.rpartition(".")[2] in TYPES:
                found[above + entry.name] = entry.read_bytes()

    read(_static(), "")
    return found


@cache
def template() -> str:
    """Return the page as a template, with names in braces."""
    return _static().joinpath(_TEMPLATE).read_text("utf-8")


@cache
def folder() -> str:
    """Return the address of the files, relative to that of the server."""
    whole = hashlib.sha256()
    for name, content in sorted(assets().items()):
        whole.update(json.dumps([name, len(content)]).encode() + content)
    return f"static/{whole.hexdigest()[:12]}/"


def style_links(top: str) -> str:
    """Return the links to the style sheets."""
    return "\n".join(
        f'<link rel="stylesheet" href="{top}{folder()}css/{name}.css">' for name in _STYLES
    )


def script_links(top: str) -> str:
    """Return the links to the modules of the first view, which are loaded side by side."""
    names = (name.removeprefix("js/") for name in assets() if name.startswith("js/"))
    first = [name for name in sorted(names) if "/" not in name and name not in _LATER]
    links = [f'<link rel="modulepreload" href="{top}{folder()}js/{name}">' for name in first]
    return "\n".join([*links, f'<script src="{top}{folder()}js/main.js" type="module"></script>'])


def _static() -> Traversable:
    return files("embedsearch.web").joinpath("static")
