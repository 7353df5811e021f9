"""How to install a missing library; in: its name, out: a pip command with version bounds."""

from __future__ import annotations

import re

DISTRIBUTION = "embedsearch-images"
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?P<extras>\[.*?\])?(?P<bounds>[^;]*)(?P<marker>;.*)?")


def pip_install(*names: str) -> str:
    """Return the command that installs libraries, or the missing ones of an optional feature.

    A name is that of a library (`duckdb`) or of a feature in pyproject.toml (`serve`). The version
    bounds are those of this package's own metadata; without metadata the bare names remain.
    """
    wanted = [text for name in names for text in _requirements(name) or [name]]
    quoted = (f"'{text}'" if re.search(r"[<>[]", text) else text for text in wanted)
    return " ".join(["pip install", *quoted])


def _requirements(name: str) -> list[str]:
    """Return the requirements behind a name, with bounds; [] if the metadata has none."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        listed = list(filter(None, map(_REQUIREMENT.match, requires(DISTRIBUTION) or [])))
    except PackageNotFoundError:
        return []
    feature = re.compile(rf"extra == ['\"]{re.escape(name)}['\"]")
    of_feature = [match for match in listed if feature.search(match["marker"] or "")]
    missing = [match for match in of_feature if not _is_installed(match["name"])]
    library = [match for match in listed if match["name"] == name][:1]
    return [_text(match) for match in missing or of_feature or library]


def _text(match: re.Match[str]) -> str:
    """Return a requirement with its floor before its ceiling, as people write it."""
    bounds = sorted(match["bounds"].replace(" ", "").split(","), key=lambda bound: bound[:1] == "<")
    return match["name"] + (match["extras"] or "") + ",".join(bounds)


def _is_installed(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
