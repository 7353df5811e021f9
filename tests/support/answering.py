"""A web server on loopback that answers by a function, whatever that says."""

from __future__ import annotations

import http.server
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from PIL import Image


class Web(http.server.BaseHTTPRequestHandler):
    """A server that answers by a function."""

    protocol_version = "HTTP/1.1"
    answer: Callable[[Web], None]

    def do_GET(self) -> None:
        type(self).answer(self)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def say(self, body: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"content_length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def list(self, *names: str) -> None:
        links = "".join(f'<a href="{name}">{name}</a>' for name in names)
        self.say(links.encode(), content_type="text/html")


class _Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass


@contextmanager
def served(answer: Callable[[Web], None]) -> Iterator[str]:
    handler = type("Handler", (Web,), {"answer": staticmethod(answer)})
    with _Quiet(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def picture(side: int = 200) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((side, side), 60).convert("RGB").save(out, "PNG")
    return out.getvalue()
