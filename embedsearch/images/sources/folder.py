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
from dataclasses import dataclass

from embedsearch.core.paths import open_folder, open_regular, size_and_time
from embedsearch.core.records import Failure, ImageLocation, ImageRef, Reason, Stage
from embedsearch.images.sources.source import Beside, Placed, Scanned

SUFFIXES = frozenset(
    b"jpg jpeg jpe jfif mpo png apng webp gif bmp dib tif tiff avif heic heif hif".split()
)


def is_hidden(name: bytes) -> bool:
    """Return whether a name is hidden."""
    return name.startswith(b".") and not name.startswith(b"..")


def has_image_suffix(name: bytes) -> bool:
    """Return whether a name has the suffix of an image."""
    _, dot, suffix = name.rpartition(b".")
    return bool(dot) and suffix.strip().lower() in SUFFIXES


@dataclass
class FolderScan(Scanned):
    """Iterate over it once for the refs of a tree; its counts are complete afterwards.

    `scope` limits the scan to one folder below the root. A folder that holds a file named
    FORMAT beginning with `embedsearch ` is a store and is skipped.
    """

    root: int
    root_path: str
    scope: str = ""

    def is_there(self) -> bool:
        """Return whether the root is a folder."""
        return os.path.isdir(self.root_path)

    def places(self, refs: Iterable[ImageRef]) -> Iterator[Placed]:
        """Yield where the bytes of each ref are."""
        for ref in refs:
            yield ref, ImageLocation(self.root_path, ref.key, ref.size, ref.mtime_ns)

    def digest(self, ref: ImageRef) -> bytes | None:
        """Return the sha256 of a file, or None where it cannot be read: decoding will say why."""
        try:
            with os.fdopen(open_regular(self.root_path, ref.key), "rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError:
            return None

    def beside(self, keys: Iterable[str]) -> Iterator[Beside]:
        """Yield the sidecars of images."""
        from embedsearch.images.sources.sidecars import beside_files  # rarely needed

        return beside_files(self.root_path, keys)

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
        descriptor = open_folder(self.root_path, folder)
        try:
            for name in [] if _is_store(descriptor) else sorted(self._wanted(descriptor, folder)):
                size = mtime_ns = 0
                if not name.endswith(b"/"):
                    try:
                        facts = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                    except FileNotFoundError:  # deleted since the listing
                        continue
                    except OSError as error:
                        self._fail(folder, name, error)
                        continue
                    size, mtime_ns = size_and_time(facts)
                kept.append(name)
                sizes.append(size)
                times.append(mtime_ns)
            return kept, sizes, times
        finally:
            os.close(descriptor)

    def _wanted(self, descriptor: int, folder: str) -> Iterator[bytes]:
        """Yield the names of images and folders; an entry that cannot be read costs itself."""
        with os.scandir(descriptor) as entries:
            while True:
                try:
                    entry = next(entries)
                except StopIteration:
                    return
                except OSError as error:  # the names that were read before stay
                    self._fail(folder, b"", error)
                    return
                name = os.fsencode(entry.name)
                try:
                    kept = self._kept(entry, name)
                except OSError as error:
                    self._fail(folder, name, error)
                    continue
                if kept is not None:
                    yield kept

    def _kept(self, entry: os.DirEntry[str], name: bytes) -> bytes | None:
        """Return the name of an image, or of a folder with a slash; count the others."""
        if is_hidden(name):
            self.hidden += 1
        elif entry.is_file(follow_symlinks=False):  # first: nearly all entries are files
            if has_image_suffix(name):
                return name
            self.other_suffix += 1
        elif entry.is_dir(follow_symlinks=False):
            return name + b"/"
        elif entry.is_symlink():
            self.links += 1
        else:
            self.special += 1
        return None

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
