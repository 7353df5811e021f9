"""`embedsearch serve` from start to end, whatever becomes of its store."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import embedsearch
from tests.support.answers import CLOCK, failed
from tests.support.library import REPOSITORY, paint, run_cli, wait_for
from tests.support.serving import Served, served

pytest.importorskip("fastapi", reason="needs the extra `serve`")


def test_a_store_that_changes_is_damaged_and_goes(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for seed in range(6):
        paint(photos / f"{seed}.png", seed)
    store = tmp_path / "s.es"
    embedsearch.index(photos, store=store, model="packaged")
    with served(store) as server:
        paint(photos / "6.png", 6)
        embedsearch.index(photos, store=store)
        wait_for(lambda: server.get("/info").json["images"] == 7)
        paint(photos / "7.png", 7)
        embedsearch.index(photos, store=store)
        for path in (store / "manifests").iterdir():
            path.write_bytes(b"{}")
        wait_for(lambda: server.get("/health").json["status"] == "degraded")
        known = server.get("/info").json["images"]
        assert len(server.ask(row=0, k=10).json["hits"]) == known >= 7
        shutil.rmtree(store)
        wait_for(lambda: server.get("/health").json["status"] == "degraded")
        assert len(server.ask(row=0, k=10).json["hits"]) == known
        assert server.get("/images/0/thumbnail").status == 200
        embedsearch.index(photos, store=store, model="packaged")
        wait_for(lambda: server.get("/health").json["status"] == "ok")
        assert server.get("/info").json["images"] == 8
    server._reader.join(10)
    assert sum("still answering" in line for line in server.log) >= 1


def test_vectors_made_elsewhere(tmp_path: Path) -> None:
    rows = np.eye(4, dtype=np.float32)
    np.save(tmp_path / "v.npy", rows)
    (tmp_path / "paths.txt").write_text("a.jpg\nb.jpg\nc.jpg\nd.jpg\n")
    done = run_cli(
        *("import", tmp_path / "v.npy", "--paths", tmp_path / "paths.txt", "--model", "other"),
        *("--root", tmp_path, "--store", tmp_path / "s.es"),
    )
    assert done.returncode == 0, done.stderr
    with served(tmp_path / "s.es") as server:
        assert server.ask(vector=[0, 1, 0, 0], k=1).json["hits"][0]["key"] == "b.jpg"
        failed(server.upload(CLOCK), 400, "made elsewhere")
        assert server.get("/info").json["takes_images"] is False


def test_a_store_whose_weights_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "mine.safetensors"
    packaged = load_file(
        next((REPOSITORY / "embedsearch" / "network" / "packaged").glob("*.safetensors"))
    )
    save_file({name: 0.99 * tensor for name, tensor in packaged.items()}, weights)
    paint(tmp_path / "photos" / "a.png", 1)
    embedsearch.index(tmp_path / "photos", store=tmp_path / "s.es", model=str(weights))
    weights.unlink()
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path / "empty"))
    with served(tmp_path / "s.es") as server:
        assert [hit["key"] for hit in server.ask(row=0).json["hits"]] == ["a.png"]
        failed(server.upload(CLOCK), 503, "log")
        assert server.get("/health").status == 200
        assert server.get("/info").json["takes_images"] is False  # and the page says so
    assert any("keys and vectors still work" in line for line in server.first_lines)


def test_an_empty_store(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"no picture")
    run_cli("index", photos, "--store", tmp_path / "s.es", "--model", "packaged")
    with served(tmp_path / "s.es") as server:
        assert server.upload(CLOCK).json["hits"] == []
        assert server.get("/info").json["images"] == 0


def test_a_port_in_use(server: Served, store: Path) -> None:
    done = run_cli("serve", "--store", store, "--port", str(server.port))
    assert done.returncode == 2
    assert f"port {server.port}: Address already in use" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_told(
    store: Path, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it has converted the network itself, after which OpenVINO's stack is gone."""
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path))
    with served(store) as server:
        assert server.upload(CLOCK).status == 200
        server.process.send_signal(number)
        assert server.process.wait(5) == 128 + number


def test_it_ends_when_told_before_it_serves(store: Path) -> None:
    """As the first process of a container, which no signal ends that it does not handle."""
    program = (
        "import os, signal, sys\n"
        "from embedsearch.searching.searcher import Searcher\n"
        "Searcher.warm_up = lambda self: os.kill(os.getpid(), signal.SIGTERM)\n"
        "from embedsearch.cli.entry import run\n"
        f"sys.exit(run(['serve', '--store', {str(store)!r}, '--port', '0']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY, timeout=60
    )
    assert (done.returncode, done.stderr) == (143, "")


def test_without_its_libraries_it_says_so(store: Path) -> None:
    program = (
        "import sys; sys.modules['fastapi'] = None\n"
        "from embedsearch.cli.entry import run\n"
        f"sys.exit(run(['serve', '--store', {str(store)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 4
    assert "pip install 'fastapi>=0.130,<1'" in done.stderr
