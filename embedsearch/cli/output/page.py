"""A page of pictures; in: sections of figures, out: one self-contained HTML file.

No script, no other file, no network: the pictures are embedded, and its policy forbids all else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from embedsearch.core.errors import StorageError
from embedsearch.core.paths import file_url, printable
from embedsearch.images.output_files import output_files

THUMBNAIL_SIDE = 256
MAX_FIGURES = 2_000  # more, at about 15 kB each, make a page that browsers open slowly

# All text has a contrast of at least 4.5 in light and dark mode (WCAG 2.2, AA).
_STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --card: #ffffff; --ink: #1c1c1c;
  --faint: #5f6368; --line: #dcdcd8; --frame: #1f6feb; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181b; --card: #202327; --ink: #ececec; --faint: #a5abb3;
    --line: #363a40; --frame: #6cb0ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 100rem; background: var(--paper);
  color: var(--ink); font: 15px/1.4 system-ui, sans-serif; }
h1, h2, p { margin: 0; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; }
h2 { font-size: 1.05rem; }
p { color: var(--faint); }
section { margin-top: 1.5rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
.figures { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 1rem;
  margin-top: .75rem; }
figure { width: min-content; min-width: 8.5rem; margin: 0; padding: .5rem; border-radius: .5rem;
  background: var(--card); border: 1px solid var(--line); }
figure.query { border-color: var(--frame); box-shadow: 0 0 0 2px var(--frame); }
a { color: inherit; text-decoration: none; }
a:focus-visible { outline: 3px solid var(--frame); outline-offset: 2px; }
img { display: block; margin: 0 auto; max-height: 180px; }
.lost { display: grid; place-items: center; min-height: 7.5rem; padding: .5rem;
  border: 1px dashed var(--faint); color: var(--faint); text-align: center; }
figcaption { margin-top: .4rem; font-size: .85rem; overflow-wrap: anywhere; }
figcaption span { display: block; color: var(--faint); }
figcaption .name { color: var(--ink); }
figcaption strong { font-variant-numeric: tabular-nums; }
@media (max-width: 40rem) {
  body { padding: 1rem; }
  .figures { gap: .5rem; }
  figure { padding: .35rem; }
  img { max-height: 116px; }
}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; img-src data:; style-src 'sha256-{_STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Figure:
    """A picture and its captions; the first of `words` is highlighted.

    `jpeg` is None for a picture that cannot be read, `path` for one that is not a file.
    """

    jpeg: bytes | None
    name: str
    words: tuple[str, ...]
    path: str | None
    is_query: bool = False


@dataclass(frozen=True)
class Section:
    """Figures that belong together, under a heading."""

    heading: str
    words: str
    figures: Sequence[Figure]


def write_page(path: Path, title: str, sections: Iterable[Section], lead: str = "") -> None:
    """Write sections as an HTML page, each as it comes: only one is held in memory.

    On StorageError, `path` is unchanged.
    """
    if path.is_dir():
        raise StorageError(f"{path} is a folder: name a file to write")
    with output_files([path]) as (temporary,), temporary.open("w", encoding="utf-8") as file:
        file.write(_head(title, lead))
        for section in sections:
            file.writelines(_section(section))
        file.write("</main>\n</body>\n</html>\n")


def _head(title: str, lead: str) -> str:
    shown = f"<p>{_text(lead)}</p>\n" if lead else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{_text(title)}</h1>\n{shown}"
    )


def _section(section: Section) -> Iterator[str]:
    yield f"<section>\n<h2>{_text(section.heading)}</h2>\n"
    if section.words:
        yield f"<p>{_text(section.words)}</p>\n"
    yield '<div class="figures">\n'
    for figure in section.figures:
        yield _figure(figure)
    yield "</div>\n</section>\n"


def _figure(figure: Figure) -> str:
    name = _text(figure.name)
    if figure.jpeg is None:
        picture = '<div class="lost">cannot be read any more</div>'
    else:
        data = base64.b64encode(figure.jpeg).decode()
        picture = f'<img alt="{name}" src="data:image/jpeg;base64,{data}">'
    first, *others = figure.words or ("",)
    caption = f"<strong>{_text(first)}</strong>" if first else ""
    caption += f'<span class="name">{name.replace("/", "/<wbr>")}</span>'
    caption += "".join(f"<span>{_text(line)}</span>" for line in others)
    if figure.path is not None:
        picture = f'<a href="{escape(file_url(figure.path))}">{picture}</a>'
    kind = ' class="query"' if figure.is_query else ""
    return f"<figure{kind}>{picture}<figcaption>{caption}</figcaption></figure>\n"


def _text(text: str) -> str:
    """Return text escaped for a page: without markup or deceptive characters."""
    return escape(printable(text))
