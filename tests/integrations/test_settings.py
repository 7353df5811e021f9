"""Settings of the adapters are checked when an adapter is made, and a copy keeps them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ADAPTERS = ("langchain", "llama_index", "haystack")


def maker(name: str) -> Callable[..., Any]:
    adapter = pytest.importorskip(f"embedsearch.integrations.{name}")
    if name == "haystack":
        return lambda **settings: adapter.EmbedSearchImageRetriever(**settings)
    return lambda **settings: adapter.EmbedSearchRetriever(**settings)


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_column": "captoin"}, "no column captoin of your own: did you mean caption"),
        ({"min_score": 3.0}, "min_score must be a cosine"),
        ({"text_colum": "caption"}, "did you mean text_column"),
    ],
)
def test_a_wrong_setting_is_refused_when_the_adapter_is_made(
    name: str, settings: dict[str, Any], message: str, store: Path
) -> None:
    with pytest.raises(Exception, match=message):
        maker(name)(store=store, **settings)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_store_may_be_made_later(name: str, tmp_path: Path) -> None:
    maker(name)(store=tmp_path / "later.es", text_column="caption")


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_answers_too(name: str, copied: Callable[[Any], Any], store: Path) -> None:
    made = maker(name)(store=store, text_column="caption")
    first, second = made, copied(made)
    if name == "haystack":
        assert [d.id for d in second.run(query="boat")["documents"]] == [
            d.id for d in first.run(query="boat")["documents"]
        ]
    elif name == "langchain":
        assert [d.id for d in second.invoke("boat")] == [d.id for d in first.invoke("boat")]
    else:
        assert [n.node.id_ for n in second.retrieve("boat")] == [
            n.node.id_ for n in first.retrieve("boat")
        ]
