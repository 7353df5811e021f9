"""Defects on purpose, one a name: put into a child before it works, for a harness to catch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import tarfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedsearch.curation import script
from embedsearch.store import files, writer
from embedsearch.store.manifest import Manifest

MUTANTS: dict[str, Callable[[], None]] = {}


def apply(name: str | None) -> None:
    """Put a defect into this process."""
    if name is not None:
        MUTANTS[name]()


def put(place: str, value: object) -> None:
    """Put something in the place of what a dotted name leads to, for as long as this process is."""
    pytest.MonkeyPatch().setattr(place, value)


def _mutant(defect: Callable[[], None]) -> Callable[[], None]:
    MUTANTS[defect.__name__] = defect
    return defect


@_mutant
def pointer_in_place() -> None:
    """CURRENT is overwritten where it stands."""

    def in_place(store: Path, name: str, content: bytes) -> None:
        try:
            with (store / name).open("wb", buffering=0) as file:
                for start in range(0, len(content), 40):
                    file.write(content[start : start + 40])
                    time.sleep(0.005)
        except OSError as error:
            raise files.storage_error(store, error) from error

    put("embedsearch.store.writer.replace_file", in_place)


@_mutant
def pointer_first() -> None:
    """CURRENT names a manifest that is written afterwards."""
    point, write_new = writer.point, files.write_new
    waiting: list[Any] = []

    def write(store: Path, kind: str, generation: int, suffix: str, data: Any) -> Any:
        if kind != "m":
            return write_new(store, kind, generation, suffix, data)
        content = b"".join(data)
        name = f"m-{generation:08d}.json"
        record = files.FileRecord(name, len(content), hashlib.sha256(content).hexdigest())
        point(store, generation, record)
        waiting.append(generation)
        return write_new(store, kind, generation, suffix, [content])

    put("embedsearch.store.writer.write_new", write)
    put(
        "embedsearch.store.writer.point",
        lambda *arguments: None if waiting else point(*arguments),
    )


@_mutant
def sweep_first() -> None:
    """The files of the generation before are removed before the new one counts."""
    point = writer.point

    def late(store: Path, generation: int, record: Any) -> None:
        manifest = Manifest.from_bytes((store / record.relative).read_bytes())
        kept = {item.relative for item in manifest.files()} | {record.relative}
        for folder in ("shards", "ann", "manifests"):
            for path in (store / folder).glob("*"):
                if f"{folder}/{path.name}" not in kept:
                    path.unlink()
        time.sleep(0.05)
        point(store, generation, record)

    put("embedsearch.store.writer.point", late)


@_mutant
def no_fsync() -> None:
    """Files are renamed before their bytes are on the disk."""
    put("embedsearch.store.files._sync", lambda descriptor: None)


@_mutant
def no_folder_fsync() -> None:
    """Folders are not flushed: a rename may be lost."""
    for module in ("files", "writer"):
        put(f"embedsearch.store.{module}.sync_folder", lambda folder: None)


@_mutant
def no_hash() -> None:
    """Nothing is compared with its sha256."""
    for module in ("store.files", "searching.row_sources", "store.shards", "store.snapshot"):
        put(f"embedsearch.{module}.verify", lambda *arguments: None)


@_mutant
def no_lock() -> None:
    """Everyone gets the lock."""
    put("embedsearch.store.lock.WriterLock._acquire", lambda *arguments: None)


@_mutant
def loses_a_row() -> None:
    """A generation leaves a shard out, and its counts agree."""
    to_bytes = Manifest.to_bytes

    def fewer(self: Manifest) -> bytes:
        values = json.loads(to_bytes(self))
        if len(values["shards"]) > 1:
            values["live"] -= values["shards"].pop(0)["rows"]
        return json.dumps(values).encode()

    put("embedsearch.store.manifest.Manifest.to_bytes", fewer)


@_mutant
def columns_later() -> None:
    """A generation is committed without the user's columns, and they come with the next one."""
    from embedsearch.indexing.store_update import StoreUpdate

    commit = StoreUpdate.commit

    def late(self: StoreUpdate, run: Any) -> None:
        table, self._user_columns, self.brings_columns = self._user_columns, None, False
        commit(self, run)
        if table is not None:
            self.set_user_columns(table)
            commit(self, run)

    put("embedsearch.indexing.store_update.StoreUpdate.commit", late)


@_mutant
def shared_fate() -> None:
    """A worker that dies takes all that it was given with it. The decoder dies of some files."""
    os.environ["SOAK_MUTANT"] = "shared_fate"  # for the workers, see pictures.py
    from embedsearch.core.records import Reason
    from embedsearch.images.decode.crew import _failed

    def bury(self: Any, worker: Any, finished: Any) -> None:
        worker.ended()
        while worker.tasks:
            finished.append((worker.tasks.popleft(), _failed(Reason.DECODER_CRASH, "it died")))
        self._replace(worker)

    put("embedsearch.images.decode.crew.Crew._bury", bury)


@_mutant
def runs_code() -> None:
    """A decoder starts a process."""
    os.environ["SOAK_MUTANT"] = "runs_code"  # for the workers, see pictures.py


@_mutant
def newer_only() -> None:
    """A file counts as changed only if its time is later than it was."""

    def is_same(self: Any, place: int, ref: Any) -> bool:
        same_size = bool(self._size[place] == ref.size)
        return same_size and bool(self._mtime_ns[place] >= ref.mtime_ns)

    put("embedsearch.indexing.known_rows.KnownRows.is_same", is_same)


@_mutant
def whole_seconds() -> None:
    """Times are compared in whole seconds."""

    def is_same(self: Any, place: int, ref: Any) -> bool:
        same_size = bool(self._size[place] == ref.size)
        return same_size and bool(self._mtime_ns[place] // 10**9 == ref.mtime_ns // 10**9)

    put("embedsearch.indexing.known_rows.KnownRows.is_same", is_same)


@_mutant
def believes_files() -> None:
    """What a file system states is taken as it is."""
    put("embedsearch.core.paths.bounded", lambda number: number)


@_mutant
def keeps_deleted() -> None:
    """Files that have gone keep their rows."""
    put("embedsearch.indexing.store_update.StoreUpdate.delete", lambda self, rows: None)


@_mutant
def leaks() -> None:
    """Sixteen kilobytes an image are kept for ever."""
    from embedsearch.indexing import store_update

    add = store_update.StoreUpdate.add
    kept: list[bytearray] = []

    def leaking(self: Any, batch: Any) -> Any:
        kept.extend(bytearray(16_384) for _ in range(len(batch.refs)))
        return add(self, batch)

    put("embedsearch.indexing.store_update.StoreUpdate.add", leaking)


@_mutant
def unchecked() -> None:
    """The script that deletes copies looks at nothing but whether a file is there."""
    head = script._HEAD.replace('[ "$seconds" = "$3" ] || return 1', "return 0")
    put("embedsearch.curation.script._HEAD", head.replace("-eq", "-ge"))


@_mutant
def deaf() -> None:
    """Signals are not heard."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    put("signal.signal", lambda number, handler: None)


@_mutant
def trusts_write() -> None:
    """What a write returns, and the error that it raises, are not looked at."""

    def careless(path: Path, data: Any, digest: Any) -> int:
        size = 0
        with path.open("xb", buffering=0) as file:
            for chunk in data:
                view = memoryview(chunk).cast("B")
                digest.update(view)
                size += len(view)
                with contextlib.suppress(OSError):
                    file.write(view)
        return size

    put("embedsearch.store.files._write", careless)


@_mutant
def lets_through() -> None:
    """What pyarrow says of damaged pages reaches the caller as it is."""
    put("embedsearch.store.shards.DamageGuard.__exit__", lambda *arguments: None)


@_mutant
def tells_all() -> None:
    """An answer to a request that cannot be followed shows where in the program that was seen."""
    from embedsearch.web import answers

    json_answer = answers.json_answer

    def answer(values: Any, status: int = 200, headers: Any = None) -> Any:
        if status >= 400:
            values = {"error": "".join(traceback.format_stack())}
        return json_answer(values, status, headers)

    put("embedsearch.web.answers.json_answer", answer)


@_mutant
def clears_others() -> None:
    """A table's columns take the place of all that the store has of them."""
    put("embedsearch.indexing.user_columns.merged", lambda old, new, user: (new, []))


@_mutant
def believes_archives() -> None:
    """What the library says of a damaged archive goes through to the user."""

    read = tarfile.TarInfo.frombuf.__func__  # type: ignore[attr-defined]

    def frombuf(cls: type[tarfile.TarInfo], *arguments: Any) -> Any:
        try:
            return read(cls, *arguments)
        except tarfile.HeaderError as error:
            raise LookupError(str(error)) from error

    put("tarfile.TarInfo.frombuf", classmethod(frombuf))


@_mutant
def tells_agents_all() -> None:
    """An error of a tool has the trace of the program."""
    from embedsearch.core import errors

    say = errors.EmbedSearchError.__str__

    def tell(self: errors.EmbedSearchError) -> str:
        return say(self) + "".join(traceback.format_stack())

    put("embedsearch.core.errors.EmbedSearchError.__str__", tell)
