"""Copy a store at a URL to a local folder; in: a URL and a folder, out: an ordinary store there.

Fetched files are verified as in `store.fetch`. Nothing in the folder is lost: a store that is not
from that URL, or was changed since, is left unchanged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embedsearch.core.arguments import checked
from embedsearch.core.errors import UsageError
from embedsearch.core.paths import is_url, local_path
from embedsearch.core.records import JsonRecord, Progress
from embedsearch.core.remote import normal_url
from embedsearch.core.session import Session
from embedsearch.indexing.images_table import refresh_images_table
from embedsearch.store.current import current_pointer, pointed_at, read_current
from embedsearch.store.fetch import FetchMonitor, FetchPlan, Upstream, take
from embedsearch.store.files import FileRecord, pulled_from
from embedsearch.store.lock import WriterLock
from embedsearch.store.writer import check_creatable, create_store


@dataclass(frozen=True)
class PullReport(JsonRecord):
    """What one `pull` did."""

    url: str
    store: str
    generation: int
    former: int  # generation that the folder held before, 0 for none
    images: int
    files: int  # fetched, without the manifest and CURRENT
    fetched_bytes: int
    bytes: int  # of the whole generation
    removed: int  # files that no generation needs any more
    elapsed_s: float


@checked
def pull(
    url: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    wait_s: float = 0.0,
    session: Session | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> PullReport:
    """Copy the store at a URL to a folder, or update the copy; only new files are fetched.

    By default the folder is named like the last part of the URL. Progress is in megabytes. Raises
    UsageError for a folder with another store or a locally changed one, StoreNotFound,
    DamagedStore, StorageError and StoreLocked.
    """
    if not is_url(url):
        raise UsageError(f"{url} is not a URL, such as s3://bucket/photos.es")
    url = normal_url(url)
    store = Path(os.path.abspath(local_path(folder) if folder else url.rpartition("/")[2]))
    began = time.monotonic()
    check_creatable(store)
    upstream = Upstream(url)
    upstream.pointer()  # create no folder if there is no store at the URL
    create_store(store)
    former = whole_bytes = 0

    def planned(plan: FetchPlan) -> None:
        nonlocal former, whole_bytes
        former, whole_bytes = _check_own(url, store, plan.record), plan.whole_bytes

    def progressed(done: int, total: int) -> None:
        megabytes = round(done / 1e6), round(total / 1e6)
        on_progress(Progress(*megabytes, failed=0, elapsed_s=time.monotonic() - began))

    session = session or Session()
    lock = WriterLock(store, wait_s, session.check, session.notice)
    try:
        watch = FetchMonitor(session, planned, progressed)
        fetched = take(upstream, store, watch, keep_former=True)
        refresh_images_table(store, fetched.manifest)
    finally:
        lock.release()
    return PullReport(
        url=url,
        store=str(store),
        generation=fetched.manifest.generation,
        former=former,
        images=fetched.manifest.live,
        files=fetched.files,
        fetched_bytes=fetched.bytes,
        bytes=whole_bytes,
        removed=fetched.removed,
        elapsed_s=round(time.monotonic() - began, 3),
    )


def _check_own(url: str, store: Path, wanted: FileRecord) -> int:
    """Return the generation that a folder holds, 0 for none, if it may be replaced.

    Raises UsageError for a generation that did not come from the URL, and DamagedStore.
    """
    if (pointer := current_pointer(store)) is None:
        return 0
    manifest = read_current(store)
    here = pointed_at(pointer).sha256
    pulled = pulled_from(store)
    is_from_there = pulled is not None and pulled[0] == url and here in pulled[1]
    if here == wanted.sha256 or is_from_there:
        return manifest.generation
    held = "another store" if pulled is None else f"a store from {pulled[0]}, changed since"
    if pulled is not None and here in pulled[1]:
        held = f"a store from {pulled[0]}"
    raise UsageError(
        f"{store} holds {held} (generation {manifest.generation}), which pull does not "
        f"overwrite: name another folder: embedsearch pull {url} FOLDER"
    )
