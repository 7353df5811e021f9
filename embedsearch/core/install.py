"""How to install a missing library; in: its name, out: a command with version bounds."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

DISTRIBUTION = "embedsearch-images"
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?P<extras>\[.*?\])?(?P<bounds>[^;]*)(?P<marker>;.*)?")


def install_command(*names: str) -> str:
    """Return the command that installs libraries, or the missing ones of an optional feature.

    A name is that of a library (`duckdb`) or of a feature in pyproject.toml (`serve`). The version
    bounds are those of this package's own metadata; without metadata the bare names remain. The
    command is that of what made this environment: pip, uv or pipx.
    """
    wanted = [text for name in names for text in _requirements(name) or [name]]
    quoted = (f"'{text}'" if re.search(r"[<>[]", text) else text for text in wanted)
    return " ".join([_installer(Path(sys.prefix)), *quoted])


def _installer(environment: Path) -> str:
    """Return the start of the command that installs into an environment; uv's have no pip."""
    if (environment / "pipx_metadata.json").exists():
        return f"pipx inject {DISTRIBUTION}"
    if (environment / "uv-receipt.toml").exists():
        return f"uv pip install --python {shlex.quote(str(environment))}"
    try:
        made_by = (environment / "pyvenv.cfg").read_text(errors="replace")
    except OSError:  # no virtual environment
        return "pip install"
    return "uv pip install" if re.search("(?m)^uv *=", made_by) else "pip install"


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
