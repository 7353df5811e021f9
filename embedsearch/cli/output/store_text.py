"""What a store is, as text; in: the facts of `info`, out: lines that are safe to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embedsearch.cli.output.text import table
from embedsearch.cli.wording import center_words, input_words
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.paths import printable


def info_lines(facts: Mapping[str, Any], kernels: str = "") -> str:
    """Return the facts of `info` as aligned lines, and whose products FAISS uses."""
    model = facts["model"]
    shown = {
        "store": facts["store"],
        "images": f"{facts['images']:,} ({facts['failures']:,} files failed)"
        + (f"; {facts['pending']:,} are not in yet: embedsearch index" if facts["pending"] else ""),
        "folders": ", ".join(
            f"{root} (not there now)" if root in facts["missing_roots"] else root
            for root in facts["roots"]
        ),
        "left out": _left_out_text(facts),
        "model": f"{_model_text(model)}, fingerprint {model['fingerprint'][:16]}",
        "dims": str(facts["dim"]),
        "center": center_words(**facts["center"]),
        "generation": f"{facts['generation']}, {facts['created']}, by {facts['tool']}",
        "search": f"{_search_text(facts)}; {_size(facts['faiss_bytes'])} of FAISS files",
        "columns": f"{', '.join(facts['columns']) or 'none of your own'}",
        "words": _words_text(facts),
        "shards": f"{facts['shards']}, {_size(facts['shard_bytes'])}",
    }
    if wanted := model["stands_in_for"]:
        shown["in place of"] = (
            f"{wanted}, which could not be had; to re-embed with it: "
            f"embedsearch index --rebuild --model {wanted}"
        )
    if kernels:
        shown["kernels"] = f"{kernels}, in FAISS's OpenBLAS"
    if plan := facts["open_plan"]:
        shown["open plan"] = (
            f"{plan['done']} of {plan['units']} units done, {plan['images']:,} images; "
            "embedsearch commit adds them"
        )
    width = max(map(len, shown))
    return "".join(f"{name:<{width}}  {printable(text)}\n" for name, text in shown.items())


def _words_text(facts: Mapping[str, Any]) -> str:
    """Return where a text is looked for, and the size of the file of words."""
    if not facts["words_columns"]:
        return "collected at the first search for words; embedsearch index keeps them"
    return f"of {', '.join(facts['words_columns'])}; {_size(facts['words_bytes'])}"


def _left_out_text(facts: Mapping[str, Any]) -> str:
    """Return the patterns of what walks leave out, and whether the usual ones are among them."""
    excludes = facts["excludes"]
    usual = ["folders of systems and catalogs, such as @eaDir"] if excludes["defaults"] else []
    usual += [] if facts["follow_links"] else ["links"]
    return ", ".join([*usual, *excludes["patterns"]]) or "nothing"


def generation_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the generations on the disk as a table."""
    names = ("generation", "created", "images", "size", "")
    shown = [
        [
            str(row["generation"]),
            row["created"],
            f"{row['images']:,}",
            _size(row["bytes"]),
            "current" if row["is_current"] else "" if row["is_here"] else "files are missing",
        ]
        for row in rows
    ]
    return table(names, shown, right=(0, 2, 3))


def _model_text(model: Mapping[str, Any]) -> str:
    if model["architecture"] == ModelSpec.FOREIGN:
        return f"{model['name']}, made elsewhere"
    how = f"{model['architecture']}, {model['input_side']} px, {input_words(model)}"
    return f"{model['name']} ({how})"


def _search_text(facts: Mapping[str, Any]) -> str:
    """Return how a store is searched, with the measured recall and latency."""
    measured, budget = facts["search_measured"], facts["search_budget"]
    exact = measured["exact_latency_ms"]
    text = f"{facts['search']}"
    if measured["curve"]:
        last = measured["curve"][-1]
        text += (
            f": recall@10 {last['recall_at_10']:.3f} in {last['latency_ms']:.2f} ms at "
            f"{last['setting']}, exact takes {exact:.2f} ms"
        )
        if unlike := measured["unlike"]:
            text += (
                f"; of queries unlike the images {unlike['recall_at_10']:.3f} "
                f"in {unlike['latency_ms']:.2f} ms"
            )
    elif exact:
        text += f": {exact:.2f} ms"
    if not measured["reached"]:
        text += f"; not the wanted recall {budget['recall']} in {1000 * budget['latency_s']:g} ms"
    return text


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"
