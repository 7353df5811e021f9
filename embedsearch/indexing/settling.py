"""The end of a run that changed rows; in: a ledger, out: its last commit.

Small shards are merged, FAISS files written, and the way of searching chosen anew if that is due.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedsearch.core.config import SearchBudget
from embedsearch.core.errors import Interrupted
from embedsearch.core.session import Session
from embedsearch.indexing.store_update import Ledger
from embedsearch.searching.tuning_due import Due, due


def settle(ledger: Ledger, budget: SearchBudget, run: Mapping[str, Any], session: Session) -> None:
    """Commit what is to be tidied. Raises Interrupted where a new index has to wait."""
    ledger.tidy()
    stopped = None
    if due(ledger.manifest, budget) is not Due.NOTHING:
        from embedsearch.searching.tuning import (
            tune,  # a run that changes nothing does without FAISS
        )

        try:
            ledger.manifest = tune(ledger.writer, ledger.manifest, budget, session)
        except Interrupted as error:
            stopped = Interrupted(
                f"interrupted; all {ledger.images} images are committed, the same command goes "
                "on with the search index",
                error.exit_code - 128,
            )
    if not ledger.is_tidy:
        ledger.commit(run)
    if stopped is not None:
        raise stopped
