"""WHERE text to the rows that match it; in: SQL boolean text and columns, out: a mask.

The text is parsed and evaluated in another process (worker.py), with a bound of memory and time:
here it is only handed on. Each row is evaluated by itself.
"""

from __future__ import annotations

import binascii
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedsearch.core.cancelling import is_cancelled
from embedsearch.core.errors import FilterTooSlow, Interrupted, StorageError, UsageError
from embedsearch.core.lru import LRU
from embedsearch.core.names import comparable
from embedsearch.core.session import Session
from embedsearch.searching.filters.grammar import place_in_text
from embedsearch.searching.filters.process import Overdue, Pool, Worker, WorkerLost
from embedsearch.searching.filters.windows import Parts, Window, Windows, parts_of

if TYPE_CHECKING:
    from embedsearch.searching.vectordb.conditions import Condition
    from embedsearch.searching.vectordb.fields import Field

TIME_LIMIT_S = 10.0  # for all rows of a store
MAX_CHARACTERS = 10_000
_MASKS_KEPT = 8
_ANY_COLUMN = "row"  # counts the rows where a condition names no column

T = TypeVar("T")


class Filters:
    """The conditions on one generation's rows. Any number of threads may ask at once.

    No lock is held while a condition is evaluated: a slow one holds nobody but its asker.
    """

    def __init__(
        self,
        schema: pa.Schema,
        read: Callable[[Sequence[str]], Parts],
        rows: int,
        reading: threading.RLock | None = None,
    ) -> None:
        """`read` yields named columns in parts; it is called with the lock `reading` only."""
        self._schema = schema
        self._read = read
        self._rows = rows
        self._reading = reading or threading.RLock()
        self._pool = Pool()
        self._windows = Windows()
        self._masks: LRU[str, npt.NDArray[np.bool_]] = LRU(_MASKS_KEPT)

    def prepare(self, text: str) -> None:
        """Start what a condition will need, if it is a new one. Raises MissingLibrary."""
        if self._masks.find(text) is None:
            self._pool.prepare()

    def close(self) -> None:
        """End the processes and release the columns."""
        self._pool.close()
        self._windows.clear()
        self._masks.clear()

    def mask(self, text: str, session: Session) -> npt.NDArray[np.bool_]:
        """Return which rows meet a condition, bool (rows,): null counts as false.

        Names and texts that look the same are the same, however their accents are encoded.
        The last masks are kept, but for conditions that ask the clock. Raises UsageError,
        MissingLibrary, and Interrupted once nobody waits.
        """
        if (known := self._masks.find(text)) is not None:
            return known
        where = Where(text, self._schema)
        mask, lasts = self._asked(where, session, self._evaluated)
        if lasts:
            self._masks.keep(text, mask)
        return mask

    def condition(self, text: str, fields: Sequence[Field], session: Session) -> Condition:
        """Return a condition for a database with these fields.

        Raises UsageError for what is wrong here too, and for what the database cannot express.
        """
        from embedsearch.searching.vectordb.conditions import condition_of

        def made(turn: Turn) -> Condition:
            turn.parse()
            # Raises UsageError if types do not match.
            turn.holds(Window(0, self._schema.empty_table()), frozenset())
            return condition_of(turn, fields)

        return self._asked(Where(text, self._schema, is_exact=True), session, made)

    def _evaluated(self, turn: Turn) -> tuple[npt.NDArray[np.bool_], bool]:
        """Return which rows meet a condition, and whether that lasts."""
        columns, asks_clock = turn.parse()
        columns = columns or [_ANY_COLUMN]
        is_exact = turn.where.is_exact

        def parts() -> Iterator[tuple[int, pa.Table]]:
            for start, table in parts_of(self._read, columns, self._reading):
                turn.check()
                yield start, table if is_exact else _comparable(table)

        mask = np.zeros(self._rows, np.bool_)
        for window in self._windows.of((tuple(columns), is_exact), parts):
            found = turn.holds(window, self._windows.numbers())
            mask[window.start : window.start + window.rows] = found
        mask.setflags(write=False)  # it is shared by all who ask the same
        return mask, not asks_clock

    def _asked(self, where: Where, session: Session, work: Callable[[Turn], T]) -> T:
        """Do work with a process; a process that others have worn out is replaced once."""

        def check() -> None:
            session.check()
            if is_cancelled():
                raise Interrupted("nobody waits for this answer any more", 0)

        for fresh in (False, True):
            with self._pool.worker(check, fresh=fresh) as worker:
                try:
                    done = work(Turn(where, worker, check))
                except Overdue as error:
                    message = f"took more than {TIME_LIMIT_S:.0f} s: ask for less at once"
                    raise FilterTooSlow(str(where.refusal(message)), "where") from error
                except OSError as error:
                    what = f"a filter needs a file in memory: {error.strerror}"
                    raise StorageError(what) from error
                except WorkerLost as error:
                    if fresh or not error.used:
                        what = "takes too much memory" if error.spent else "cannot be evaluated"
                        raise where.refusal(f"{what}: ask for less at once") from error
                else:
                    worker.served()
                    return done
        raise AssertionError("the second process is a fresh one")


class Where:
    """A text that is not parsed yet."""

    def __init__(self, text: str, schema: pa.Schema, *, is_exact: bool = False) -> None:
        """Check what needs no parser. Raises UsageError.

        Unless it `is_exact`, texts that look the same are equal: an accent that the text has, and a
        name on the disk, may be encoded in two ways.
        """
        self.names: list[str] = sorted(schema.names)
        if not text.strip():
            raise UsageError("where is empty", "where")
        if len(text) > MAX_CHARACTERS:
            raise UsageError(f"where has more than {MAX_CHARACTERS:,} characters", "where")
        if "\0" in text:  # which ends a text in some databases
            at = text.index("\0") + 1
            raise UsageError(f"where: character {at} is NUL, which no text holds", "where")
        for at, letter in enumerate(text, 1):
            if "\ud800" <= letter <= "\udfff":  # half a pair, or a byte that is not UTF-8
                raise UsageError(f"where: character {at} is not Unicode: give it as UTF-8", "where")
        self.text = text if is_exact else comparable(text)
        self.is_exact = is_exact or text.isascii()

    def refusal(
        self, message: str, position: int = -1, hint: str = "", known: str = ""
    ) -> UsageError:
        """Return an error that quotes the text at byte `position`, and says what there is.

        That is `known`, or else the columns.
        """
        where = ""
        if position >= 0:
            before = self.text.encode()[:position].decode(errors="replace")
            rest = " ".join(self.text[len(before) :].split())
            at = f"at {rest[:30]!r}" if rest else "at the end"
            where = f", character {len(before) + 1} ({at})"
        message = " ".join(message.split())
        hint = f": {' '.join(hint.split())}" if hint else ""
        known = known or f"columns: {', '.join(self.names)}"
        return UsageError(f"where: {message}{where}{hint} ({known})", "where")


class Turn:
    """A condition and the process that answers it, with the time that is left for it."""

    def __init__(self, where: Where, worker: Worker, check: Callable[[], None]) -> None:
        self.where = where
        self.check = check
        self.tree: dict[str, Any] = {}  # the condition, as DuckDB serializes it
        self._worker = worker
        self._left_s = TIME_LIMIT_S

    def parse(self) -> tuple[list[str], bool]:
        """Return the columns that the text uses, and whether it asks what time it is."""
        names = self.where.names
        answer = self._ask({"do": "parse", "text": self.where.text, "names": names})
        try:
            self.tree = json.loads(answer["tree"])
        except RecursionError as error:
            raise self.where.refusal("too deeply nested") from error
        return answer["columns"], answer["clock"]

    def holds(self, window: Window, kept: Set[int]) -> npt.NDArray[np.bool_]:
        """Return which rows of a window meet the condition."""
        answer = self._ask({"do": "holds", "text": self.where.text}, window, kept)
        bits = np.frombuffer(binascii.a2b_base64(answer["bits"]), np.uint8)
        return np.unpackbits(bits, count=window.rows).view(np.bool_)

    def value(self, expression: dict[str, Any], kind: str | None = None) -> Any:
        """Return what an expression without columns stands for, as a type of SQL if one is given.

        Raises UsageError.
        """
        answer = self._ask({"do": "value", "expression": expression, "kind": kind})
        form, text = answer["value"]
        return _FORMS[form](text)

    def refusal(self, message: str, position: int) -> UsageError:
        """Return an error at a byte of the parsed query."""
        return self.where.refusal(message, place_in_text(position))

    def _ask(
        self,
        question: dict[str, Any],
        window: Window | None = None,
        kept: Set[int] = frozenset(),
    ) -> dict[str, Any]:
        began = time.monotonic()
        answer = self._worker.ask(question, max(0.0, self._left_s), self.check, window, kept)
        self._left_s -= time.monotonic() - began
        if "refused" in answer:
            hint, known = answer["hint"], answer["known"]
            raise self.where.refusal(answer["refused"], answer["position"], hint, known)
        return answer


_FORMS: dict[str, Callable[[str], Any]] = {
    "json": json.loads,
    "decimal": Decimal,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "other": lambda _: object(),  # which no field of a database compares with
}


def _comparable(table: pa.Table) -> pa.Table:
    """Return a table whose names and texts are in the form in which they are compared."""
    columns = [
        pa.chunked_array(list(map(normal, column.chunks)), column.type) for column in table.columns
    ]
    return pa.table(columns, [comparable(name) for name in table.column_names])


def normal(chunk: Any) -> Any:
    """Return values whose texts are NFC, also those in lists and structs."""
    import pyarrow.compute as pc  # 50 ms, which other filters need not spend

    from embedsearch.images.tables.held_values import with_values

    kind = chunk.type
    if pa.types.is_string(kind):
        return pc.utf8_normalize(chunk, form="NFC")  # type: ignore[attr-defined]  # not in the stubs
    if pa.types.is_list(kind):
        return with_values(chunk, normal(pc.list_flatten(chunk))).cast(kind)
    if pa.types.is_struct(kind):
        parts = list(map(normal, chunk.flatten()))
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=chunk.is_null())
    return chunk
