"""A folder tree as a sorted stream of `ImageRef`; in: a root path, out: refs and folder failures.

Refs come in the byte order of their keys, which lets `indexing` merge them with the rows of a
store without holding either in memory; one folder's names are held at a time.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from embedsearch.core.paths import open_folder, open_regular, size_and_time
from embedsearch.core.records import Failure, ImageLocation, ImageRef, Reason, Stage
from embedsearch.core.walks import Skip
from embedsearch.images.sources.exclusion import WalkRules
from embedsearch.images.sources.kinds import Kind, file_starts_an_image, is_hidden, kind_of
from embedsearch.images.sources.links import Link, Reach, is_truly_gone
from embedsearch.images.sources.source import Beside, Placed, Scanned


@dataclass
class FolderScan(Scanned):
    """Iterate over it once for the refs of a tree; its counts are complete afterwards.

    `scope` limits the scan to one folder below the root. A folder that holds a file named
    FORMAT beginning with `embedsearch ` is a store and is skipped. Files whose name says nothing
    are images if they begin like one.
    """

    root: int
    root_path: str
    scope: str = ""
    rules: WalkRules = field(default_factory=WalkRules)

    def __post_init__(self) -> None:
        self._reach = Reach(self.root_path, self.rules)

    def is_there(self) -> bool:
        """Return whether the root is a folder."""
        return os.path.isdir(self.root_path)

    def places(self, refs: Iterable[ImageRef]) -> Iterator[Placed]:
        """Yield where the bytes of each ref are."""
        for ref in refs:
            place = ImageLocation(self.root_path, ref.key, ref.size, ref.mtime_ns)
            yield ref, replace(place, follows=self._follows)

    def digest(self, ref: ImageRef) -> bytes | None:
        """Return the sha256 of a file, or None where it cannot be read: decoding will say why."""
        try:
            descriptor = open_regular(self.root_path, ref.key, follow=self._follows)
            with os.fdopen(descriptor, "rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError:
            return None

    def beside(self, keys: Iterable[str]) -> Iterator[Beside]:
        """Yield the sidecars of images."""
        from embedsearch.images.sources.sidecars import beside_files  # rarely needed

        return beside_files(self.root_path, keys, follow=self._follows)

    @property
    def _follows(self) -> bool:
        return self.rules.follow_links

    def __iter__(self) -> Iterator[ImageRef]:
        """Yield the refs in the byte order of their keys. An unreadable folder is a failure."""
        open_listings = [self._entries(self.scope)]
        while open_listings:
            for key, size, mtime_ns in open_listings[-1]:
                if size is None:
                    open_listings.append(self._entries(key))
                    break
                yield ImageRef(self.root, key, size, mtime_ns)
            else:
                open_listings.pop()

    def _entries(self, folder: str) -> Iterator[tuple[str, int | None, int]]:
        """Yield (key, size, mtime_ns) of each image and (key, None, 0) of each folder, sorted."""
        try:
            listing = self._list(folder)
        except OSError as error:
            self._fail(folder, b"", error)
            return
        prefix = folder + "/" if folder else ""
        for name, size, mtime_ns in zip(*listing, strict=True):
            if name.endswith(b"/"):
                yield prefix + os.fsdecode(name[:-1]), None, 0
            else:
                yield prefix + os.fsdecode(name), size, mtime_ns

    def _list(self, folder: str) -> tuple[list[bytes], array[int], array[int]]:
        """Return names, sizes and times of one folder; a sub-folder's name ends with a slash.

        That slash makes the order of the walk the byte order of whole keys: `a-b` before `a/c`.
        """
        kept: list[bytes] = []
        sizes, times = array("q"), array("q")
        descriptor = open_folder(self.root_path, folder, follow=self._follows)
        try:
            if _is_store(descriptor):
                return kept, sizes, times
            if self._reach.is_seen_before(folder, descriptor):
                self.skip(Skip.SEEN, folder)
                return kept, sizes, times
            if self._reach.is_link(folder) and not os.listdir(descriptor):
                self._note_hollow(folder, "a link to a folder with nothing in it (a disk?)")
                return kept, sizes, times
            linked: dict[bytes, tuple[int, int]] = {}
            for name in sorted(self._wanted(descriptor, folder, linked)):
                if (facts := linked.get(name) or self._facts(name, descriptor, folder)) is None:
                    continue
                kept.append(name)
                sizes.append(facts[0])
                times.append(facts[1])
            return kept, sizes, times
        finally:
            os.close(descriptor)

    def _facts(self, name: bytes, descriptor: int, folder: str) -> tuple[int, int] | None:
        """Return size and time of a file, zeros of a folder; None for what is gone or broken."""
        if name.endswith(b"/"):
            return 0, 0
        try:
            return size_and_time(os.stat(name, dir_fd=descriptor, follow_symlinks=False))
        except FileNotFoundError:  # deleted since the listing
            return None
        except OSError as error:
            self._fail(folder, name, error)
            return None

    def _wanted(
        self, descriptor: int, folder: str, linked: dict[bytes, tuple[int, int]]
    ) -> Iterator[bytes]:
        """Yield the names of images and folders; an entry that cannot be read costs itself.

        Size and time of what is behind links are put into `linked`.
        """
        links: list[bytes] = []
        for entry in self._scanned(descriptor, folder):
            name = os.fsencode(entry.name)
            try:
                kept = self._kept(entry, name, descriptor, folder, links)
            except OSError as error:
                self._fail(folder, name, error)
                continue
            if kept is not None:
                yield kept
        # Sorted, so that of two links to one thing the same one counts each time; and folders
        # first, as a link to a file in one of them is one too many.
        followed = [self._followed(name, descriptor, folder) for name in sorted(links)]
        for link in sorted(filter(None, followed), key=lambda link: not link.is_folder):
            if (facts := self._reach.taken(link)) is None:
                self.skip(Skip.SEEN, link.key)
            else:
                name = link.name + (b"/" if link.is_folder else b"")
                linked[name] = facts
                yield name

    def _scanned(self, descriptor: int, folder: str) -> Iterator[os.DirEntry[str]]:
        with os.scandir(descriptor) as entries:
            while True:
                try:
                    entry = next(entries)
                except StopIteration:
                    return
                except OSError as error:  # the names that were read before stay
                    self._fail(folder, b"", error)
                    return
                yield entry

    def _kept(
        self,
        entry: os.DirEntry[str],
        name: bytes,
        descriptor: int,
        folder: str,
        links: list[bytes],
    ) -> bytes | None:
        """Return the name of an image, or of a folder with a slash; count the others."""
        key = f"{folder}/{entry.name}" if folder else entry.name
        if is_hidden(name):
            self.skip(Skip.HIDDEN, key)
        elif entry.is_file(follow_symlinks=False):  # first: nearly all entries are files
            if self.rules.exclusion.file(key):
                self.skip(Skip.EXCLUDED, key)
            elif self._is_image(name, descriptor):
                return name
            else:
                self.pass_over(key, self.root_path)
        elif entry.is_dir(follow_symlinks=False):
            if not self.rules.exclusion.folder(key):
                return name + b"/"
            self.skip(Skip.EXCLUDED, key)
        elif not entry.is_symlink():
            self.skip(Skip.SPECIAL, key)
        elif self._follows:
            links.append(name)
        else:
            self.skip(Skip.LINK, key)
        return None

    def _is_image(self, name: bytes, folder: int) -> bool:
        """Return whether a file is an image, by its name or, where that says nothing, its start."""
        if (kind := kind_of(name)) is not Kind.UNKNOWN:
            return kind is Kind.IMAGE
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=folder)
        except OSError:  # nothing says that it is one
            return False
        try:
            return file_starts_an_image(descriptor)
        finally:
            os.close(descriptor)

    def _followed(self, name: bytes, descriptor: int, folder: str) -> Link | None:
        """Return what a link leads to; count and note the others."""
        key = f"{folder}/{os.fsdecode(name)}" if folder else os.fsdecode(name)
        exclusion = self.rules.exclusion
        if exclusion.file(key) or exclusion.folder(key):
            self.skip(Skip.EXCLUDED, key)
            return None
        try:
            link = Link.at(name, descriptor, os.path.join(self.root_path, folder), key)
        except IsADirectoryError:  # a device, or the like
            self.skip(Skip.SPECIAL, key)
            return None
        except OSError as error:
            if error.errno == errno.ENOENT and not is_truly_gone(os.path.join(self.root_path, key)):
                self.unreachable.add(key)
            if kind_of(name) in {Kind.IMAGE, Kind.UNKNOWN}:
                self._fail(folder, name, error)
            else:  # what it is called says that it led to no image, but perhaps to a folder
                self.skip(Skip.LINK, key)
                self._note_hollow(key, f"a link: {error.strerror}")
            return None
        if link.is_folder or link.is_image:
            return link
        self.pass_over(key, self.root_path)
        return None

    def _note_hollow(self, key: str, detail: str) -> None:
        self.hollow[key] = Failure(self.root, key, Stage.SCAN, Reason.VANISHED, detail)

    def _fail(self, folder: str, name: bytes, error: OSError) -> None:
        """Note an entry that cannot be read, or without a name the folder."""
        parts = filter(None, [folder, os.fsdecode(name)])
        self.failures.append(scan_failure(self.root, "/".join(parts), error))


def _is_store(folder: int) -> bool:
    try:
        descriptor = os.open("FORMAT", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return False
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return regular and os.read(descriptor, 12) == b"embedsearch "
    except OSError:  # what it says cannot be read: it is no store that answers
        return False
    finally:
        os.close(descriptor)


def scan_failure(root: int, key: str, error: OSError) -> Failure:
    """Return the failure of a file or a folder that cannot be looked at."""
    reasons = {
        errno.EACCES: Reason.PERMISSION,
        errno.EPERM: Reason.PERMISSION,
        errno.ENOENT: Reason.VANISHED,
        errno.ENOTDIR: Reason.CHANGED,  # replaced by a file or a link since its parent was listed
        errno.ELOOP: Reason.CHANGED,
        errno.ENAMETOOLONG: Reason.NAME_TOO_LONG,
    }
    reason = reasons.get(error.errno or 0, Reason.IO_ERROR)
    return Failure(root, key, Stage.SCAN, reason, error.strerror or str(error))
