"""Images on a server; in: a URL, out: refs, and temporary files of downloaded images."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias
from urllib.parse import unquote, unquote_to_bytes

import pyarrow.fs as pafs

from embedsearch.core import bounds
from embedsearch.core.ending import ending_signal
from embedsearch.core.errors import OverBound, StorageError
from embedsearch.core.paths import bounded, url_part
from embedsearch.core.records import Failure, ImageLocation, ImageRef, Reason, Stage
from embedsearch.core.remote import Remote, error_message, reason_of
from embedsearch.core.walks import Ignored, OnSkip, Skip
from embedsearch.images.sources.exclusion import WalkRules
from embedsearch.images.sources.kinds import has_image_name, is_hidden
from embedsearch.images.sources.sidecars import MAX_BYTES, beside_members, is_sidecar
from embedsearch.images.sources.source import Beside, Placed, Scanned, Source, lost
from embedsearch.images.temporary import TemporaryImages, discard

THREADS = 64  # requests at a time: most of the time is spent waiting
_AHEAD = 2 * THREADS
_USUAL_BYTES = 1 << 20  # of an image, before any has come
_PIECE_BYTES = 1 << 20
_POLL_S = 0.2  # between looks at whether the process is ending
_STRETCH, _STRETCHES = 8 << 20, 8  # bytes of an archive that are fetched together
_ODD = {b"", b".", b".."}  # parts of keys that are no names
_Outcome: TypeAlias = "tuple[ImageLocation | Failure, int]"  # of a request, with its bytes
_IN_ROW = 64  # images that cannot be fetched, one after the other, before the run ends


@dataclass
class RemoteFolder(Scanned):
    """The images below a URL, listed folder by folder."""

    root: int
    url: str
    scope: str
    temporary: TemporaryImages
    max_bytes: int
    is_wanted: Callable[[bytes], bool] = has_image_name  # by its name
    rules: WalkRules = field(default_factory=WalkRules, kw_only=True)

    def __post_init__(self) -> None:
        self._remote = Remote(self.url)

    def is_there(self) -> bool:
        """Return whether the server has anything of that name."""
        return bool(self._remote.info(self._path(self.scope)).type != pafs.FileType.NotFound)

    def digest(self, ref: ImageRef) -> bytes | None:
        """Return None: it would cost as much as embedding."""
        return None

    def __iter__(self) -> Iterator[ImageRef]:
        """Yield the images in the byte order of their keys."""
        looks: list[frozenset[str]] = []  # of the folders above: what each holds
        listings = [self._entries(self.scope, looks)]
        began, folders = time.monotonic(), 1
        while listings:
            del looks[len(listings) :]
            for key, info in listings[-1]:
                if info is None:
                    folders += 1
                    if why := _beyond(len(listings), folders, time.monotonic() - began):
                        self._over(key, why)
                        return
                    listings.append(self._entries(key, looks))
                    break
                size = -1 if info.size is None else bounded(info.size)
                mtime_ns = -1 if info.mtime_ns is None else bounded(info.mtime_ns)
                yield ImageRef(self.root, key, size, mtime_ns)
            else:
                listings.pop()

    def _entries(
        self, folder: str, looks: list[frozenset[str]]
    ) -> Iterator[tuple[str, pafs.FileInfo | None]]:
        """Yield (key, info) of each image and (key, None) of each folder, sorted as in a walk.

        A folder that lists what those above it list, in one another, holds itself.
        """
        prefix = folder + "/" if folder else ""
        found: list[tuple[bytes, pafs.FileInfo | None]] = []
        above, is_odd = self._path(folder), False
        try:
            listed = self._remote.listed(above)
        except OverBound as error:
            self._over(folder, str(error))
            return
        for info in listed:
            path = info.path.rstrip("/")  # a web server's folders end with a slash
            name = self._name(path, above)
            if name is None:
                continue  # a web server's link to another place
            if name in _ODD:
                is_odd = True
                continue
            if b"/" in name or b"\0" in name:
                self._note(path, "its name holds a slash or NUL")
                continue
            is_folder = info.type == pafs.FileType.Directory
            exclusion, key = self.rules.exclusion, prefix + os.fsdecode(name)
            if is_hidden(name):
                self.skip(Skip.HIDDEN, key)
            elif exclusion.folder(key) if is_folder else exclusion.file(key):
                self.skip(Skip.EXCLUDED, key)
            elif is_folder:
                found.append((name + b"/", None))
            elif self.is_wanted(name):
                found.append((name, info))
            else:
                self.pass_over(key, self.url)
        if is_odd:
            self._note_odd(above)
        looks.append(frozenset(os.fsdecode(name) for name, _ in found))
        if (
            any(file is None for _, file in found)
            and looks[-bounds.SAME_LISTINGS :] == [looks[-1]] * bounds.SAME_LISTINGS
        ):
            message = f"{bounds.SAME_LISTINGS} folders in one another list the same: a circle"
            self._over(folder, message)
            return
        for name, file in sorted(found, key=lambda entry: entry[0]):
            yield prefix + os.fsdecode(name.removesuffix(b"/")), file

    def _name(self, path: str, above: str) -> bytes | None:
        """Return the name of what was listed in a folder, None for what is elsewhere."""
        if not self._remote.is_web:
            # A folder that lists itself holds keys with an empty part.
            return (
                os.fsencode(path[len(above) + 1 :]) if f"{path}/".startswith(above + "/") else None
            )
        # Servers differ in what they encode; what is the same once it is decoded is the same.
        folder, _, name = path.rpartition("/")
        return unquote_to_bytes(name) if unquote(folder) == unquote(above) else None

    def _note_odd(self, above: str) -> None:
        """Note the images below a folder whose keys no file system can name, `x//b.jpg`."""
        for info in self._remote.listed(above, recursive=True):
            parts = info.path.removeprefix(above + "/").split("/")
            is_image = info.type == pafs.FileType.File and self.is_wanted(os.fsencode(parts[-1]))
            if is_image and os.fsencode(parts[0]) in _ODD:
                self._note(info.path, "a part of its key is empty, `.` or `..`: rename it")

    def _over(self, folder: str, why: str) -> None:
        self.failures.append(Failure(self.root, folder, Stage.SCAN, Reason.OVER_BOUND, why))

    def _note(self, path: str, why: str) -> None:
        key = path.removeprefix(self._remote.path + "/")
        self.failures.append(Failure(self.root, key, Stage.SCAN, Reason.UNSAFE_NAME, why))

    def places(self, refs: Iterable[ImageRef]) -> Iterator[Placed]:
        """Yield a temporary file for each ref, fetched ahead of time, many at once.

        Raises StorageError where the server does not answer any more.
        """
        in_row = 0
        for ref, outcome in fetched(refs, self._read):
            is_lost = isinstance(outcome, Failure) and outcome.reason.is_passing
            in_row = in_row + 1 if is_lost else 0
            if in_row >= _IN_ROW and isinstance(outcome, Failure):
                raise StorageError(
                    f"{self.url}: {_IN_ROW} images in a row could not be fetched "
                    f"({outcome.detail}); the same command goes on from there"
                )
            yield ref, outcome

    def beside(self, keys: Iterable[str]) -> Iterator[Beside]:
        """Yield the sidecars of images."""
        sidecars = RemoteFolder(self.root, self.url, "", self.temporary, MAX_BYTES, is_sidecar)
        return beside_members(sidecars, keys)

    def _read(self, ref: ImageRef) -> _Outcome:
        if ref.size > self.max_bytes:
            message = f"{ref.size} bytes are more than max_bytes {self.max_bytes}"
            return lost(ref, Reason.TOO_BIG, message), 0
        try:
            with self._remote.opened(self._path(ref.key)) as stream:
                if not _is_same(stream, ref):
                    return lost(ref, Reason.CHANGED, "changed since it was listed"), 0
                location, _ = self.temporary.keep_pieces(_pieces(stream, self.max_bytes))
                size = os.stat(os.path.join(location.folder, location.key)).st_size
        except _TooBig:
            return lost(ref, Reason.TOO_BIG, f"more than max_bytes {self.max_bytes}"), 0
        except StorageError:
            raise
        except Exception as error:  # each library behind fsspec has its own errors
            return lost(ref, reason_of(error), error_message(error)), 0
        if 0 <= ref.size != size:
            discard(location)
            return lost(ref, Reason.CHANGED, "changed while it was read"), 0
        return location, size

    def _path(self, key: str) -> str:
        name = url_part(key) if self._remote.is_web else key
        return f"{self._remote.path}/{name}" if key else self._remote.path


class _TooBig(Exception):
    """A file has more bytes than are read."""

    def __str__(self) -> str:
        return "it is longer than is read"


def _pieces(stream: Any, most: int) -> Iterator[bytes]:
    while piece := stream.read(min(_PIECE_BYTES, most + 1)):
        most -= len(piece)
        if most < 0:
            raise _TooBig
        yield piece


def fetched(
    refs: Iterable[ImageRef], read: Callable[[ImageRef], _Outcome]
) -> Iterator[tuple[ImageRef, ImageLocation | Failure]]:
    """Yield what `read` makes of each ref, in order, read by threads ahead of time.

    Of images whose size is not known, the mean of the others is taken. Ends early if the process
    is ending.
    """
    waiting: deque[tuple[ImageRef, Future[_Outcome]]] = deque()
    rest = iter(refs)
    images, whole = 1, _USUAL_BYTES

    def held(ref: ImageRef, future: Future[_Outcome]) -> int:
        is_there = future.done() and not future.cancelled() and future.exception() is None
        return future.result()[1] if is_there else max(ref.size, 0) or whole // images

    pool = ThreadPoolExecutor(THREADS, "fetch")
    try:
        while not ending_signal():
            ahead = sum(itertools.starmap(held, waiting))
            while len(waiting) < _AHEAD and (not waiting or ahead < bounds.AHEAD_BYTES):
                if (ref := next(rest, None)) is None:
                    break
                waiting.append((ref, pool.submit(read, ref)))
                ahead += held(*waiting[-1])
            if not waiting:
                return
            ref, future = waiting[0]
            if not wait([future], _POLL_S).done:
                continue
            waiting.popleft()
            outcome, size = future.result()
            images, whole = images + 1, whole + size
            yield ref, outcome
    finally:
        pool.shutdown(wait=not ending_signal(), cancel_futures=True)


class RemoteArchive:
    """The images of an archive at a URL: it is downloaded to a temporary file."""

    def __init__(
        self, url: str, temporary: TemporaryImages, opened: Callable[[str], Source]
    ) -> None:
        """`opened` makes a source of the file that was fetched."""
        self._remote = Remote(url)
        self._temporary = temporary
        self._opened = opened
        self._source: Source | None = None
        self._path = ""
        self._info: pafs.FileInfo | None = None
        self._version = ""
        self.failures: list[Failure] = []
        self.ignored = Ignored()
        self.on_skip: OnSkip | None = None
        self.unreachable: set[str] = set()
        self.hollow: dict[str, Failure] = {}
        self.held_bytes = 0

    def is_there(self) -> bool:
        """Return whether the server has a file of that name."""
        return bool(self._state().type == pafs.FileType.File)

    def version(self) -> str:
        """Return the size and the time of the file, and its tag: times are whole seconds."""
        if not self._version:
            info = self._state()
            with self._remote.told(), self._remote.files.open_input_file(info.path) as file:
                metadata: Mapping[Any, bytes] = file.metadata() or {}
                tag = metadata.get("ETag", b"").decode().strip('"')
            self._version = f"{info.size}:{info.mtime_ns}:{tag}"
        return self._version

    def close(self) -> None:
        """Remove the download; it is fetched again if needed."""
        if self._source is not None:
            self._source.close()
            self._source = None
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        self.held_bytes = 0

    def __iter__(self) -> Iterator[ImageRef]:
        """Yield the images in the byte order of their names."""
        source, info = self._fetched(), self._state()
        source.on_skip = self.on_skip
        for ref in source:
            yield replace(ref, mtime_ns=bounded(info.mtime_ns or -1))
        self.failures, self.ignored = source.failures, source.ignored
        self.unreachable = source.unreachable

    def digest(self, ref: ImageRef) -> bytes | None:
        """Return the sha256 of an image, or None where it cannot be read."""
        return self._fetched().digest(ref)

    def places(self, refs: Iterable[ImageRef]) -> Iterator[Placed]:
        """Yield a part of the fetched file for each ref, or a temporary file."""
        return self._fetched().places(refs)

    def beside(self, keys: Iterable[str]) -> Iterator[Beside]:
        """Yield the sidecars or columns of images."""
        return self._fetched().beside(keys)

    def _state(self) -> pafs.FileInfo:
        if self._info is None:
            self._info = self._remote.info(self._remote.path)
        return self._info

    def _fetched(self) -> Source:
        """Return the archive as a local file. Raises StorageError."""
        if self._source is None:
            self._path = self._temporary.reserve()
            self._download(self._state())
            self._source = self._opened(self._path)
            self.held_bytes = self._state().size or 0
        return self._source

    def _download(self, info: pafs.FileInfo) -> None:
        """Fetch the file in ranges, several at a time. Raises where it changes meanwhile."""
        if info.size is None and self._remote.is_web:  # in chunks, whose end is marked
            with (
                self._remote.told(),
                open(self._path, "xb") as file,
                self._remote.opened(self._remote.path) as stream,
            ):
                file.writelines(_pieces(stream, bounds.UNSIZED_BYTES))
            return
        with (
            self._remote.told(),
            open(self._path, "xb") as file,
            self._remote.files.open_input_file(self._remote.path) as stream,
            ThreadPoolExecutor(_STRETCHES, "fetch") as pool,
        ):
            size = stream.size()

            def fetch(start: int) -> None:
                length = min(_STRETCH, size - start)
                data = stream.read_at(length, start)  # type: ignore[call-arg]
                if len(data) != length:
                    raise OSError(f"{length} bytes were asked for, and {len(data)} came")
                os.pwrite(file.fileno(), data, start)

            list(pool.map(fetch, range(0, size, _STRETCH)))
        after = self._remote.info(self._remote.path)
        if (after.size, after.mtime_ns) != (info.size, info.mtime_ns) or size != after.size:
            raise StorageError(f"{self._remote.url} changed while it was fetched: try again")


def _beyond(depth: int, folders: int, seconds: float) -> str:
    """Return which bound the listing of all folders has reached, "" for none."""
    if depth > bounds.LISTING_DEPTH:
        return f"folders are more than {bounds.LISTING_DEPTH} deep"
    if folders > bounds.LISTING_FOLDERS:
        return f"there are more than {bounds.LISTING_FOLDERS} folders"
    is_late = seconds > bounds.LISTINGS_S
    return f"listing its folders takes over {bounds.LISTINGS_S:.0f} s" if is_late else ""


def _is_same(stream: Any, ref: ImageRef) -> bool:
    """Return whether what is about to be read has the time that it was listed with."""
    modified = (
        ref.mtime_ns >= 0
        and hasattr(stream, "metadata")
        and (stream.metadata() or {}).get("Last-Modified")
    )
    if not modified:
        return True
    text = modified.decode() if isinstance(modified, bytes) else modified
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = parsedate_to_datetime(text)
    return int(when.timestamp()) == ref.mtime_ns // 1_000_000_000
