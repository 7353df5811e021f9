"""What one target of a scan holds, compared with the rows that the store has of it."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field

from embedsearch.core.errors import UsageError
from embedsearch.core.paths import is_url
from embedsearch.core.records import Failure
from embedsearch.core.session import Session
from embedsearch.core.walks import Ignored
from embedsearch.indexing.scope import ScanTarget


@dataclass(frozen=True)
class ScannedTarget:
    """What one target holds, compared with the rows that the store has of it."""

    target: ScanTarget
    missing: list[int]  # positions of known rows whose file is gone
    failures: list[Failure]
    vanished: list[int] = field(default_factory=list)  # the same, where no image is left at all
    problem: str = ""  # what is wrong with that
    known_failed: int = 0
    unchanged: int = 0
    found: int = 0
    scan_failures: int = 0
    ignored: Ignored = field(default_factory=Ignored)

    def check(self, unmatched: frozenset[int], session: Session) -> None:
        """Raise UsageError for images that are neither here nor anywhere else.

        `unmatched` are the positions of the missing rows that have no other file either.
        """
        if not self.problem:
            return
        folder = os.path.join(self.target.root.path, self.target.scope).rstrip("/") or "/"
        lost = len(unmatched.intersection(self.vanished))
        if self.vanished and not lost:
            session.notice(f"{folder} {self.problem}: its images moved, all are found elsewhere")
            return
        held = "rebuild would drop what the store holds of it"
        if lost:
            held = f"{lost} image{'' if lost == 1 else 's'} of it would leave the store"
        ask = "Is its server the right one?" if is_url(folder) else "Is its disk plugged in?"
        raise UsageError(
            f"{folder} {self.problem}, and {held}; nothing was changed. {ask} If it "
            f"moved: embedsearch relocate {shlex.quote(folder)} NEW. If it is gone for good: "
            f"embedsearch forget {shlex.quote(folder)}. allow_empty goes on without its images",
            "rebuild",
            "allow_empty",
        )
