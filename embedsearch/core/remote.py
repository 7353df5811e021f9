"""Objects and folders at URLs; in: a URL, out: a file system with plain error messages.

s3, gs and abfs by pyarrow.fs, other schemes by fsspec. Credentials come from the environment;
they are never part of a URL, because stores keep URLs.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from embedsearch.core import bounds
from embedsearch.core.errors import EmbedSearchError, MissingLibrary, StorageError, UsageError
from embedsearch.core.install import install_command
from embedsearch.core.records import Reason
from embedsearch.core.retry import retried

ATTEMPTS = 5  # of each request; pauses double
_HASTY_ATTEMPTS, _HASTY_CONNECT_S = 2, 3.0  # if there is an alternative to the request
_FIRST_PAUSE_S = 0.2
_NATIVE = {"s3", "gs", "gcs", "abfs", "abfss", "hdfs"}
_WEB = {"http", "https"}
# What the messages of the S3 library contain if access is denied.
_DENIED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE", "HTTP status 403")
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # status codes of temporary failures


class NotThere(StorageError):
    """The server answers, but has no such file."""


class Refused(StorageError):
    """The server answers, but denies access."""


def normal_url(url: str) -> str:
    """Return a URL as a store keeps it. Raises UsageError for one that holds a secret."""
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    if parts.username or parts.password:
        raise UsageError(f"{shown}: a URL must not hold credentials: set them in the environment")
    if parts.query or parts.fragment:
        raise UsageError(f"{shown}: a URL must not contain ? or #")
    if not parts.netloc:
        raise UsageError(f"{url}: the URL names no server and no bucket")
    return f"{parts.scheme.lower()}://{parts.netloc}{parts.path}".rstrip("/")


class Remote:
    """A file system and a path in it, for a URL. Failures raise StorageError."""

    def __init__(self, url: str, *, hasty: bool = False) -> None:
        """Prepare the connection; nothing is sent yet. `hasty` gives up within seconds.

        Raises UsageError and MissingLibrary.
        """
        self.url = normal_url(url)
        scheme, _, self.path = self.url.partition("://")
        self.is_native = scheme in _NATIVE
        self.is_web = scheme in _WEB  # names in its paths are percent-encoded
        self.attempts = _HASTY_ATTEMPTS if hasty else ATTEMPTS
        connect_s = _HASTY_CONNECT_S if hasty else bounds.CONNECT_S
        try:
            self.files = _file_system(scheme, self.url, self.attempts, connect_s)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UsageError(f"{self.url}: {error_message(error)}") from error
        if not self.is_native:
            self.path = self.url

    @property
    def fsspec(self) -> Any:
        """Return the fsspec file system behind this one."""
        files: Any = self.files
        return files.handler.fs

    @property
    def identity(self) -> str:
        """Return a unique identity: the URL and the server endpoint."""
        endpoint = _endpoint() if self.url.startswith("s3://") else None
        return f"{self.url} {endpoint or ''}".rstrip()

    def info(self, path: str) -> pafs.FileInfo:
        """Return the server's information on a path."""
        with self.told():
            return self.files.get_file_info(path)

    def listed(self, folder: str, *, recursive: bool = False) -> list[pafs.FileInfo]:
        """Return the content of a folder, or of all folders below it too."""
        selector = pafs.FileSelector(folder, allow_not_found=True, recursive=recursive)
        with self.told():
            return list(self.files.get_file_info(selector))

    def opened(self, path: str) -> Any:
        """Return a file to read from its start, by a single request where the server allows it."""
        if self.is_web:  # a size that is given is not asked for, and not believed
            return self.fsspec.open(path, "rb", block_size=0, size=1)
        return self.files.open_input_stream(path)

    def has_bucket(self) -> bool:
        """Return whether the bucket of the URL exists; True if none is needed."""
        if not self.is_native:
            return True
        return bool(self.info(self.path.split("/")[0]).type != pafs.FileType.NotFound)

    @contextlib.contextmanager
    def told(self, name: str = "") -> Iterator[None]:
        """Raise StorageError for failures of the server or the connection at `name`.

        It is NotThere or Refused if the server answered so.
        """
        # Each library behind fsspec has its own errors.
        failures = (pa.ArrowException, OSError, ValueError) if self.is_native else (Exception,)
        try:
            yield
        except EmbedSearchError:
            raise
        except failures as error:
            location = f"{self.url}/{name}" if name else self.url
            raise _kind(error)(f"{location}: {error_message(error)}") from error


class RemoteFile:
    """A file below a URL, read in parts of equal length by any number of threads."""

    def __init__(self, remote: Remote, name: str, size: int, part_bytes: int) -> None:
        """Take a file that should have `size` bytes; reading the first part opens it."""
        self.name = name
        self.parts = max(1, -(-size // part_bytes))
        self._remote = remote
        self._path = f"{remote.path}/{name}"
        self._size = size
        self._part_bytes = part_bytes
        self._opening = threading.Lock()
        self._file: Any = None
        # For a server without ranges: the next part to read, -1 after a failure.
        self._turn = threading.Condition()
        self._next = 1

    def part(self, number: int) -> bytes:
        """Return a part; the last one has an extra byte if the file is longer than it should be.

        Raises StorageError.
        """
        start = number * self._part_bytes
        length = min(self._part_bytes, self._size - start) + (number == self.parts - 1)
        with self._remote.told(self.name):
            if self._remote.is_native:
                return self._native(start, length)
            try:
                return retried(
                    lambda _: self._ranged(start, length),
                    _is_passing,
                    tries=self._remote.attempts,
                    pause_s=lambda number: _FIRST_PAUSE_S * 2**number,
                )
            except ValueError as error:
                if "range requests" not in str(error):
                    raise
            return self._in_turn(number, start, length)

    def close(self) -> None:
        """Close the file if it is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _native(self, start: int, length: int) -> bytes:
        with self._opening:
            if self._file is None:
                self._file = self._remote.files.open_input_file(self._path)
        return b"" if start >= self._file.size() else bytes(self._file.read_at(length, start))

    def _ranged(self, start: int, length: int) -> bytes:
        """Read one part by a new handle that is only for this part."""
        is_web = self._path.partition("://")[0] in _WEB
        size = {"size": self._size + 1} if is_web else {}  # else it is requested first
        files = self._remote.fsspec
        with files.open(self._path, "rb", cache_type="none", **size) as file:
            file.seek(start)
            # One request: from a web server without ranges, a second one gets the start again.
            return bytes(file.read(length)) if is_web else _read(file, length)

    def _in_turn(self, number: int, start: int, length: int) -> bytes:
        """Read from the single stream, after the threads that read earlier parts."""
        with self._turn:
            self._turn.wait_for(lambda: self._next in {number, -1}, number * bounds.SILENT_S)
            if self._next != number:
                raise OSError("an earlier part could not be read")
            self._next = -1
            try:
                if self._file is None:
                    files = self._remote.fsspec
                    self._file = files.open(self._path, "rb", block_size=0, size=self._size + 1)
                    _read(self._file, start)
                data = _read(self._file, length)
                self._next = number + 1
            finally:
                self._turn.notify_all()
            return data


def _read(file: Any, length: int) -> bytes:
    """Return `length` bytes, fewer only at the end of the file."""
    chunks = []
    while length and (chunk := file.read(length)):
        chunks.append(chunk)
        length -= len(chunk)
    return b"".join(chunks)


def _is_passing(error: Exception) -> bool:
    status = getattr(error, "status", None)
    is_final = isinstance(error, FileNotFoundError | PermissionError | ValueError)
    return not is_final and (status is None or status in _PASSING)


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _file_system(scheme: str, url: str, attempts: int, connect_s: float) -> pafs.FileSystem:
    if scheme == "s3":
        endpoint = _endpoint()
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        options: dict[str, Any] = {"region": region} if region else {}
        if endpoint:
            parts = urlsplit(endpoint)
            options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
        elif not region:
            with contextlib.suppress(OSError):  # else the default region, right or wrong
                options["region"] = pafs.resolve_s3_region(urlsplit(url).netloc)
        return pafs.S3FileSystem(
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=attempts),
            connect_timeout=connect_s,
            request_timeout=bounds.SILENT_S,
            **options,
        )
    if scheme in _NATIVE:
        return pafs.FileSystem.from_uri(url)[0]
    try:
        handler: Any = pafs.FSSpecHandler
        if scheme in _WEB:
            from embedsearch.core.web_files import WebFiles

            return pafs.PyFileSystem(handler(WebFiles(url, connect_s)))
        import fsspec

        return pafs.PyFileSystem(handler(fsspec.filesystem(scheme)))
    except ImportError as error:
        raise MissingLibrary(
            f"{scheme}:// needs a library ({error}): {install_command('web')}"
        ) from error


def _kind(error: Exception) -> type[StorageError]:
    status, text = getattr(error, "status", None), str(error)
    if status in {401, 403} or reason_of(error) is Reason.PERMISSION:
        return Refused
    is_gone = isinstance(error, FileNotFoundError) or status in {404, 410}
    return NotThere if is_gone or "NO_SUCH" in text else StorageError


def reason_of(error: Exception) -> Reason:
    """Return the Reason of a failed request."""
    if isinstance(error, FileNotFoundError):
        return Reason.VANISHED
    is_denied = isinstance(error, PermissionError) or any(sign in str(error) for sign in _DENIED)
    return Reason.PERMISSION if is_denied else Reason.IO_ERROR


def error_message(error: BaseException) -> str:
    """Return a library's message for a failed request, on one line, without its prefix."""
    text = " ".join(str(error).split())
    _, marker, rest = text.partition("AWS Error ")
    if any(sign in text for sign in _DENIED):
        rest = f"{rest or text}; credentials are taken from the environment or a profile"
    return (rest if marker else text)[:240] or type(error).__name__
