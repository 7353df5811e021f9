"""An S3 server of our own on loopback, by moto, that can be slow, full of errors, or gone."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.fs as pafs
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

Fault = tuple[str, bytes] | None  # what is answered in the server's place: status and body
SLOW_DOWN = ("503 Slow Down", b"<Error><Code>SlowDown</Code><Message>slow</Message></Error>")
DENIED = ("403 Forbidden", b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")

# Nobody looks at the signature, only at the service.
_SIGNED = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, Signature=0"


class S3Server:
    """`fault` is asked before each request: it may sleep, and answer in the server's place."""

    def __init__(self) -> None:
        self.requests: list[str] = []  # method and path
        self.delay_s = 0.0
        self.fault: Any = lambda method, path: None  # None, or (status, body)
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append(f"{method} {path}")
        if self.delay_s:
            time.sleep(self.delay_s)
        if (answer := self.fault(method, path)) is not None:
            status, body = answer
            start_response(status, [("Content-Length", str(len(body)))])
            return [body] if method != "HEAD" else []
        return self._app(environ, start_response)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self) -> pafs.S3FileSystem:
        """Return a file system that writes to it, past its faults."""
        return pafs.S3FileSystem(
            access_key="key", secret_key="secret", region="us-east-1", scheme="http",
            endpoint_override=self.url.removeprefix("http://"), allow_bucket_creation=True,
            allow_bucket_deletion=True,
        )  # fmt: skip

    def put(self, key: str, data: bytes) -> None:
        """Write an object, `bucket/key`; by plain HTTP, which a fault may do, too."""
        self._ask("PUT", key, data)

    def delete(self, key: str) -> None:
        """Delete an object, `bucket/key`."""
        self._ask("DELETE", key)

    def _ask(self, method: str, key: str, data: bytes | None = None) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port)
        with contextlib.closing(connection):
            connection.request(method, f"/{quote(key)}", data, {"Authorization": _SIGNED})
            assert connection.getresponse().status < 300

    def put_folder(self, folder: Path, prefix: str) -> None:
        """Write the files of a folder below `bucket/prefix`."""
        files = self.files()
        files.create_dir(prefix.split("/")[0])
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                with files.open_output_stream(f"{prefix}/{path.relative_to(folder)}") as stream:
                    stream.write(path.read_bytes())


@contextmanager
def s3_server(patch: Any) -> Iterator[S3Server]:
    """Run a server that the environment's requests go to."""
    server = S3Server()
    for name, value in ENVIRONMENT.items():
        patch.setenv(name, value)
    patch.setenv("AWS_ENDPOINT_URL", server.url)
    try:
        yield server
    finally:
        server.stop()
