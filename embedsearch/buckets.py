"""What lies on servers; in: a URL, out: the file system that it stands for, errors in words.

s3, gs and abfs by pyarrow.fs, other schemes by fsspec. Credentials are those of the environment:
none is ever part of a URL, which a store would keep.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from embedsearch.errors import MissingLibrary, StorageError, UsageError
from embedsearch.records import Reason

ATTEMPTS = 5  # of each request, with pauses that double
_CONNECT_S, _REQUEST_S = 10.0, 60.0
_NATIVE = {"s3", "gs", "gcs", "abfs", "abfss", "hdfs"}


def normal_url(url: str) -> str:
    """Return a URL as a store keeps it. Raises UsageError for one that holds a secret."""
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    if parts.username or parts.password:
        raise UsageError(f"{shown}: a URL with credentials is not kept: use the environment's")
    if parts.query or parts.fragment:
        raise UsageError(f"{shown}: a URL without ? and # is needed")
    if not parts.netloc:
        raise UsageError(f"{url}: it names no server and no bucket")
    return f"{parts.scheme.lower()}://{parts.netloc}{parts.path}".rstrip("/")


class Remote:
    """A file system and the path that a URL stands for. What fails raises StorageError."""

    def __init__(self, url: str) -> None:
        """Connect, which sends nothing yet. Raises UsageError and MissingLibrary."""
        self.url = normal_url(url)
        scheme, _, self.path = self.url.partition("://")
        try:
            self.files = _file_system(scheme, self.url)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UsageError(f"{self.url}: {words(error)}") from error
        if scheme not in _NATIVE:
            self.path = self.url

    def info(self, path: str) -> pafs.FileInfo:
        """Return what the server says of a path."""
        with self.told():
            return self.files.get_file_info(path)

    def listed(self, folder: str) -> list[pafs.FileInfo]:
        """Return what lies in a folder."""
        with self.told():
            return list(self.files.get_file_info(pafs.FileSelector(folder, allow_not_found=True)))

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Raise StorageError for what the server, or the way to it, makes fail."""
        try:
            yield
        except (pa.ArrowException, OSError, ValueError) as error:
            raise StorageError(f"{self.url}: {words(error)}") from error


def _file_system(scheme: str, url: str) -> pafs.FileSystem:
    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        options: dict[str, Any] = {"region": region} if region else {}
        if endpoint:
            parts = urlsplit(endpoint)
            options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
        elif not region:
            with contextlib.suppress(OSError):  # else the default one: the request will tell
                options["region"] = pafs.resolve_s3_region(urlsplit(url).netloc)
        return pafs.S3FileSystem(
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
            connect_timeout=_CONNECT_S,
            request_timeout=_REQUEST_S,
            **options,
        )
    if scheme in _NATIVE:
        return pafs.FileSystem.from_uri(url)[0]
    try:
        import fsspec

        return pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem(scheme)))
    except ImportError as error:
        raise MissingLibrary(f"{scheme}:// needs a library: {error}") from error


def reason_of(error: Exception) -> Reason:
    """Return the reason of a failure that stands for a failed request."""
    if isinstance(error, FileNotFoundError):
        return Reason.VANISHED
    is_shut = isinstance(error, PermissionError) or "ACCESS_DENIED" in str(error)
    return Reason.PERMISSION if is_shut else Reason.IO_ERROR


def words(error: BaseException) -> str:
    """Return what a library says of a failed request, on one line, without its wrapping."""
    text = " ".join(str(error).split())
    _, marker, rest = text.partition("AWS Error ")
    if "ACCESS_DENIED" in text or "INVALID_ACCESS_KEY_ID" in text or "SIGNATURE" in text:
        rest = f"{rest or text}; credentials are taken from the environment or a profile"
    return (rest if marker else text)[:240] or type(error).__name__
