"""Groups of pictures as text; in: their rows, out: lines for a person, CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from embedsearch.cli.output.text import csv_lines, from_here, table
from embedsearch.core.names import FULL_PATH, PATHS

if TYPE_CHECKING:
    from embedsearch.curation.clusters import Cluster

GROUP_COLUMNS = [
    *("group", "what", "score", "row", *PATHS),
    *("width", "height", "size_bytes", "format", "sha256"),
]
CLUSTER_COLUMNS = ["cluster", "rank", "row", *PATHS]
OUTLIER_COLUMNS = ["score", "row", *PATHS]


def group_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return groups of copies as tables; the picture to keep comes first."""
    text = ""
    for number, members in groupby(rows, key=lambda row: row["group"]):
        cells = [
            (
                row["what"],
                "" if row["what"] == "keep" else f"{row['score']:.3f}",
                f"{row['width']} x {row['height']}" if row["width"] else "",
                f"{row['size_bytes'] / 1e3:,.0f} kB",
                from_here(row[FULL_PATH]),
            )
            for row in members
        ]
        text += table((f"group {number}", "score", "size", "file", "path"), cells, right=(1, 2, 3))
    return text


def picture_caption(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the caption lines of a picture of a group."""
    what = row["what"] if row["what"] == "keep" else f"{row['what']} · {row['score']:.3f}"
    size = (f"{row['width']} × {row['height']}",) if row["width"] else ()
    return (what, *size, f"{row['size_bytes'] / 1e3:,.0f} kB, {row['format']}")


def group_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return groups of copies as CSV with a header."""
    return ",".join(GROUP_COLUMNS) + "\n" + csv_lines(rows)


def cluster_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return clusters as a table, each with its most typical picture."""
    cells = [
        (
            str(row["cluster"]),
            f"{row['images']:,}",
            f"{row['cohesion']:.3f}",
            from_here(row["representatives"][0][FULL_PATH]),
        )
        for row in rows
    ]
    return table(("cluster", "images", "cohesion", "most typical"), cells, right=(0, 1, 2))


def cluster_csv(found: Iterable[Cluster]) -> str:
    """Return the members of clusters as CSV with a header, the most typical of each first."""
    rows = (
        {"cluster": cluster.number, "rank": rank, **member}
        for cluster in found
        for rank, member in enumerate(cluster.members(), start=1)
    )
    return ",".join(CLUSTER_COLUMNS) + "\n" + csv_lines(rows)


def outlier_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return outliers as CSV with a header, the least typical first."""
    return ",".join(OUTLIER_COLUMNS) + "\n" + csv_lines(rows)


def outlier_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return outliers as a table, the least typical first."""
    cells = [(f"{row['score']:.3f}", from_here(row[FULL_PATH])) for row in rows]
    return table(("score", "path"), cells, right=(0,))
