"""As in a container: a read-only root, a user id without a name or a home, the first process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.library import CLOCK, REPOSITORY, SAMPLES

# Everything that can be written becomes read-only, but what a test names.
_SEALED = r"""
mount --make-rprivate / &&
for writable in "$WRITABLE"; do
    [ -z "$writable" ] || mount -t tmpfs -o size=200m,mode=1777 tmpfs "$writable" || exit 77
done &&
while read -r _ place _ options _; do
    case $place in "$WRITABLE" | /proc* | /sys* | /dev | /dev/pts | /dev/mqueue) continue ;; esac
    case $options in rw*) mount -o remount,bind,ro "$place" 2>/dev/null ;; esac
done </proc/self/mounts
! touch "$SEALED/x" 2>/dev/null || exit 77
exec unshare --user --map-user=54321 --map-group=0 --pid --fork -- "$@"
"""


class Container:
    """Runs commands as user 54321, whom the system does not know, with one folder to write to."""

    def __init__(self, sealed: Path, writable: Path | None) -> None:
        self._words = ["unshare", "--mount", "sh", "-c", _SEALED, "sh"]
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "WRITABLE": "" if writable is None else str(writable),
            "SEALED": str(sealed),
            **({} if writable is None else {"TMPDIR": str(writable)}),
        }

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        command = [*self._words, sys.executable, "-m", "embedsearch", *map(str, arguments)]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment | environment,
            cwd="/",
        )

    def run(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        stdout, stderr = process.communicate(timeout=120)
        return subprocess.CompletedProcess([], process.returncode, stdout, stderr)


@pytest.fixture
def container(tmp_path: Path) -> Container:
    (tmp_path / "tmp").mkdir()
    return usable(Container(tmp_path, tmp_path / "tmp"))


@pytest.fixture
def bare(tmp_path: Path) -> Container:
    """A container without a folder that can be written."""
    return usable(Container(tmp_path, None))


def usable(container: Container) -> Container:
    if sys.platform != "linux" or os.getuid() != 0:
        pytest.skip("needs root on Linux, to make a root read-only")
    tried = container.run("--version")
    if tried.returncode != 0:
        pytest.skip(f"namespaces cannot be made here: {tried.stderr[:200]}")
    return container


def test_a_cache_is_made_where_there_is_room(store: Path, container: Container) -> None:
    done = container.run("query", CLOCK, "--store", store, "-k", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["key"] == "clocks/clocks_1.jpg"
    assert "converting packaged" in done.stderr


def test_a_store_that_cannot_be_written(store: Path, container: Container, tmp_path: Path) -> None:
    assert container.run("info", "--store", store).returncode == 0
    for arguments in (
        ("index", SAMPLES, "--store", store),
        ("index", SAMPLES, "--store", tmp_path / "new.es", "--model", "packaged"),
    ):
        done = container.run(*arguments)
        assert done.returncode == 4
        assert "Read-only file system; the store cannot be written" in done.stderr
        assert done.stderr.count("\n") == 1


def test_no_folder_for_temporary_files(store: Path, bare: Container, cache: Path) -> None:
    """What needs none works; what needs one says which variable names it."""
    prepared = str(cache / "embedsearch")  # which the fixture of the store filled
    done = bare.run("query", CLOCK, "--store", store, "-k", "1", EMBEDSEARCH_CACHE=prepared)
    assert done.returncode == 0, done.stderr
    done = bare.run("serve", "--store", store, "--port", "0", EMBEDSEARCH_CACHE=prepared)
    assert done.returncode == 4
    assert "No usable temporary directory" in done.stderr and "TMPDIR" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_server_is_the_first_process(store: Path, container: Container) -> None:
    pytest.importorskip("fastapi", reason="needs the extra `serve`")
    token = {"EMBEDSEARCH_TOKEN": "long enough"}
    arguments = ("--host", "0.0.0.0", "--allow-host", "*", "--port", "0", "--log", "json")
    process = container.start("serve", "--store", store, *arguments, **token)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"http://[^:]+:(\d+)/", json.loads(line)["message"]):
                break
        else:
            raise AssertionError("it ended")
        base = f"http://127.0.0.1:{found[1]}"
        headers = {"Authorization": "Bearer long enough", "Content-Type": "image/jpeg"}
        with urllib.request.urlopen(f"{base}/readyz", timeout=30) as answer:
            assert answer.status == 200
        asked = urllib.request.Request(f"{base}/search?k=1", CLOCK.read_bytes(), headers)
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert json.load(answer)["hits"][0]["key"] == "clocks/clocks_1.jpg"
        inner = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
        assert Path(f"/proc/{inner}/status").read_text().find("NSpid:\t" + inner + "\t1\n") > 0
        began = time.monotonic()
        os.kill(int(inner), signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
        assert time.monotonic() - began < 5
    finally:
        process.kill()
        process.communicate()
