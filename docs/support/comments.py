"""Comments beside the fields of a record become their documentation, for mkdocstrings."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import griffe

_COMMENT = re.compile(r"\s*# (.*)")


class Comments(griffe.Extension):  # type: ignore[misc]
    """Gives each field the comment behind it, with the lines of comment above it."""

    def on_attribute_instance(
        self, *, node: ast.AST | griffe.ObjectNode, attr: griffe.Attribute, **_: Any
    ) -> None:
        """Take the comment of an annotated field of a class."""
        if not isinstance(node, ast.AnnAssign) or not isinstance(attr.parent, griffe.Class):
            return
        if attr.docstring is None and isinstance(attr.filepath, Path):
            text = comment(attr.filepath.read_text().splitlines(), node)
            if text:
                attr.docstring = griffe.Docstring(text, parent=attr)


def comment(lines: list[str], node: ast.AnnAssign) -> str:
    """Return the comment of a field: the lines of comment above it, and what stands behind it."""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    above: list[str] = []
    while first > 0 and (found := _COMMENT.fullmatch(lines[first - 1])):
        above.insert(0, found[1])
        first -= 1
    behind = lines[last].encode()[node.end_col_offset or 0 :].decode()
    said = [*above, *_COMMENT.findall(behind)]
    text = " ".join(said).strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '…')) else '.'}" if text else ""
