"""What MkDocs builds beside the pages of docs/: pages of the repository, and files they link to."""

from __future__ import annotations

import os
import posixpath
import re
from typing import Any

from mkdocs.structure.files import File, Files

from docs.support.pages import COMMANDS, DOCS, REPOSITORY

# Pages of the repository that the site holds, and their places in it.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "deploy/README.md": "deploy/index.md",
    "benchmarks/QUALITY.md": "benchmarks/QUALITY.md",
    "benchmarks/RELIABILITY.md": "benchmarks/RELIABILITY.md",
    "benchmarks/RESULTS.md": "benchmarks/RESULTS.md",
    "benchmarks/SCALE.md": "benchmarks/SCALE.md",
    "benchmarks/packaged_weights/README.md": "benchmarks/packaged_weights.md",
    "embedsearch/network/packaged/README.md": "model_card.md",
}
# The page and the documentation have one icon and one set of colors.
ASSETS = {
    "embedsearch/web/static/icon.svg": "assets/icon.svg",
    "embedsearch/web/static/css/tokens.css": "assets/tokens.css",
}
OTHERS = "files/"  # the folder of the site with what else pages link to
_LINK = re.compile(r"(\]\()(?!\w+:|#)([^)\s#]+)")


def on_config(config: Any) -> Any:
    """Put the pages of commands into the navigation, in the order of their first page."""
    first = (COMMANDS / "index.md").read_text()
    folder = COMMANDS.relative_to(DOCS).as_posix()
    links = re.findall(r"\[(\w+)\]\((\w+\.md)\)", first)
    pages = [{name: f"{folder}/{file}"} for name, file in links]
    for chapter in config.nav:
        for part in chapter.get("Reference", []):
            if isinstance(part, dict) and "Commands" in part:
                part["Commands"] += pages
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and assets, and every other file of the repository that a page links to."""
    places = {**PAGES, **ASSETS}
    waiting = [f"docs/{page.src_uri}" for page in files.documentation_pages()] + list(PAGES)
    while waiting:
        home = waiting.pop()
        for _, link in _LINK.findall((REPOSITORY / home).read_text()):
            target = _in_repository(home, link)
            is_outside = not target.startswith("docs/") and (REPOSITORY / target).is_file()
            if is_outside and target not in places:
                places[target] = f"{OTHERS}{target}"
                waiting += [target] if target.endswith(".md") else []
    for name, place in places.items():
        files.append(File.generated(config, place, abs_src_path=os.fspath(REPOSITORY / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links, which are right in the repository, to the same files in the site."""
    place = page.file.src_uri
    homes = {there: name for name, there in PAGES.items()}
    home = place.removeprefix(OTHERS) if place.startswith(OTHERS) else homes.get(place)
    home = home or f"docs/{place}"

    def moved(match: re.Match[str]) -> str:
        target = _in_repository(home, match[2])
        if target.startswith("docs/"):
            there = target.removeprefix("docs/")
        else:
            there = PAGES.get(target, f"{OTHERS}{target}")
        return match[1] + posixpath.relpath(there, posixpath.dirname(place) or ".")

    return _LINK.sub(moved, markdown)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Name what Material leaves without a name for those who hear a page."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')


def _in_repository(home: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(home), link))
