"""Keyword arguments of frameworks; in: what a caller gave, out: options of a query.

What is not known is refused with the nearest name. A `filter` of equal values, as LangChain passes
it, becomes a condition.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from embedsearch.core.config import DEFAULT_K, SearchConfig
from embedsearch.core.errors import StoreNotFound, UsageError
from embedsearch.core.field_types import shown
from embedsearch.core.options import SearchOptions
from embedsearch.exchange.texts import FIELDS, TEXT
from embedsearch.integrations.adapters import OpenedStore
from embedsearch.searching.columns import BUILT_IN
from embedsearch.searching.searcher import Searcher

FILTER = "filter"
_EXAMPLE = "where=\"format = 'PNG'\""
# What other stores call the number of hits, the least score, and the condition.
_COUNT = {"k", "top_k", "similarity_top_k", "n_results", "limit", "num_results"}
_SCORE = {"score_threshold", "similarity_cutoff", "threshold", "min_similarity"}
# Comparisons of other stores, as {"width": {"$gt": 600}}, and SQL's.
_SIGNS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<=", "$eq": "=", "$ne": "<>"}
_WHERE = {"filter", "filters", "expr", "where_document", "condition", "metadata_filters"}


def refuse_unknown(given: Iterable[str], known: Iterable[str], what: str = "option") -> None:
    """Raise UsageError for a name that is not known, with the nearest one."""
    names = list(known)
    for name in given:
        if name in names:
            continue
        if name in _WHERE and "where" in names:
            raise UsageError(f"there is no {what} {name}: give a condition, as {_EXAMPLE}")
        meant = ("k", "top_k") if name in _COUNT else ("min_score",) if name in _SCORE else ()
        near = [other for other in meant if other in names] or _nearest(name, names)
        hint = f": did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(names))}"
        raise UsageError(f"there is no {what} {name}{hint}")


def query_options(given: Mapping[str, Any], searcher: Searcher) -> dict[str, Any]:
    """Return the options of `Searcher.query` that a caller means. Raises UsageError."""
    known = ["k", FILTER, "like", "unlike", *SearchOptions.__annotations__]
    refuse_unknown(given, known)
    options = {name: value for name, value in given.items() if name != FILTER}
    where = options.get("where")
    if where is not None and not isinstance(where, str):
        raise UsageError(f"where must be text, as {_EXAMPLE}, not {shown(where)}", "where")
    if (condition := filter_condition(given.get(FILTER), searcher)) is not None:
        options["where"] = condition if where is None else f"({where}\n) AND {condition}"
    SearchConfig(**{n: v for n, v in options.items() if n not in {"like", "unlike"}})
    return options


def filter_condition(values: Any, searcher: Searcher) -> str | None:
    """Return a mapping of equal values as a condition; a list means one of its values.

    In a store of texts the names are those of their fields. Raises UsageError.
    """
    if values is None or values == {}:
        return None
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise UsageError(
            f"filter maps columns to equal values, as {{'format': 'PNG'}}, not {shown(values)}; "
            f"for other conditions give {_EXAMPLE}"
        )
    columns = searcher.columns
    in_fields = {TEXT, FIELDS} <= columns.keys()
    parts = []
    for name, value in values.items():
        if name.startswith("$"):
            raise UsageError(f"filter: {name} is not supported; give {_EXAMPLE}")
        if isinstance(value, Mapping):
            example = _EXAMPLE if in_fields else _compared(name, value, columns)
            raise UsageError(
                f"filter: {name} is compared for equal values only, not {shown(value)}; give "
                f"{example}"
            )
        listed = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
        makes = _field if in_fields else _column(name, columns)
        equal = [makes(name, each) for each in listed] or ["FALSE"]
        parts.append(f"({' OR '.join(equal)})")
    return " AND ".join(parts)


def check_settings(
    opened: OpenedStore, text_column: str | None, k: int = DEFAULT_K, **options: Any
) -> None:
    """Raise UsageError for settings of an adapter that no query could be asked with.

    A store that is not there yet may have any column.
    """
    SearchConfig(k=k, **options)
    if text_column is None:
        return
    try:
        searcher = opened.searcher
    except StoreNotFound:
        return
    check_text_column(text_column, searcher)


def check_text_column(column: str | None, searcher: Searcher) -> None:
    """Raise UsageError for a column of text that the store does not have."""
    if column is None:
        return
    own = [name for name in searcher.columns if name not in BUILT_IN]
    if column not in own:
        near = _nearest(column, own)
        hint = f": did you mean {near[0]}?" if near else f"; there are {', '.join(own) or 'none'}"
        message = f"text_column: the store has no column {column} of your own{hint}"
        raise UsageError(message, "text_column")


def _nearest(name: str, names: list[str]) -> list[str]:
    """Return the name that is most alike, in any case of letters, or none."""
    folded = {other.lower(): other for other in names}
    return [folded[low] for low in get_close_matches(name.lower(), folded, 1)]


def _column(name: str, columns: Mapping[str, str]) -> Any:
    """Return a function that compares a column with a value. Raises UsageError for no column."""
    folded = {column.lower() for column in columns}
    parts = [name] if name.lower() in folded else name.split(".")
    if parts[0].lower() not in folded:
        refuse_unknown([name], columns, "column")
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in parts)

    def equal(_: str, value: Any) -> str:
        return f"{quoted} IS NULL" if value is None else f"{quoted} = {_literal(name, value)}"

    return equal


def _compared(name: str, wanted: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """Return comparisons of a column, as another store writes them, as `where`, or an example."""
    if name not in columns or not name.isidentifier() or not wanted.keys() <= _SIGNS.keys():
        return _EXAMPLE
    try:
        parts = [f"{name} {_SIGNS[sign]} {_literal(name, wanted[sign])}" for sign in wanted]
    except UsageError:
        return _EXAMPLE
    return f'where="{" AND ".join(parts)}"' if parts else _EXAMPLE


def _field(name: str, value: Any) -> str:
    """Return the comparison of a field of a text, which is kept as JSON, with a value."""
    pointer = _quoted("/" + name.replace("~", "~0").replace("/", "~1"))
    text = f"json_extract_string({FIELDS}, {pointer})"
    kind = f"json_type({FIELDS}, {pointer})"
    if value is None:
        return f"{text} IS NULL"
    if isinstance(value, str):
        return f"({text} = {_quoted(value)} AND {kind} = 'VARCHAR')"
    if isinstance(value, bool):
        return f"({text} = {_quoted(json.dumps(value))} AND {kind} = 'BOOLEAN')"
    number = f"TRY_CAST({text} AS DOUBLE) = {_literal(name, value)}"
    return f"({kind} NOT IN ('VARCHAR', 'BOOLEAN') AND {number})"


def _literal(name: str, value: Any) -> str:
    """Return a value as SQL. Raises UsageError for one that no column can be equal to."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return _quoted(str(value))
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    raise UsageError(f"filter: {name} cannot be equal to {shown(value)}; give {_EXAMPLE}")


def _quoted(text: str) -> str:
    if "\0" in text:
        raise UsageError(f"filter: a text cannot contain NUL: {shown(text)}")
    return "'" + text.replace("'", "''") + "'"
