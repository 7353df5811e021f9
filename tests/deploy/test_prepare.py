"""Models made ready ahead: afterwards a read-only cache is enough, without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import embedsearch
from embedsearch.network import openvino_runtime
from tests.support.library import CLOCK, SAMPLES, run_cli

pytest.importorskip("openvino", reason="needs OpenVINO")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the packaged network is ready."""
    folder = tmp_path_factory.mktemp("prepared") / "cache"
    done = run_cli("prepare", "packaged", "--json", env=environment(folder))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["cache"] == str(folder) and report["model"] == "packaged"
    assert Path(report["converted"]).is_relative_to(folder) and Path(report["weights"]).is_file()
    assert [words.split()[0] for words in report["done"]] == ["converting", "measuring"]
    assert report["network"] and report["device"] == "cpu"
    return folder


def environment(cache: Path, **changes: str) -> dict[str, str]:
    return {**os.environ, "EMBEDSEARCH_CACHE": str(cache), **changes}


@pytest.fixture
def sealed(ready: Path) -> Iterator[list[str]]:
    """The words before a command that has the cache read-only, and no network."""
    if os.getuid() != 0:
        folders = [ready, *(path for path in ready.rglob("*") if path.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        yield []
        for folder in folders:
            folder.chmod(0o755)
        return
    mount = f"mount --bind {ready} {ready} && mount -o remount,ro,bind {ready} && "
    words = ["unshare", "--mount", "--net", "sh", "-c", mount + 'exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], check=False).returncode:
        pytest.skip("root can write everywhere, and mounts are not allowed here")
    yield words


def sealed_run(words: list[str], cache: Path, *arguments: object) -> str:
    """Run a command; return what it printed, once nothing was made ready again."""
    before = listing(cache)
    command = [*words, sys.executable, "-m", "embedsearch", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(cache), check=False
    )
    assert done.returncode == 0, done.stderr
    for word in ("convert", "measuring", "download", "cannot be written", "compiled again"):
        assert word not in done.stderr.replace("one-time conversion for this CPU", "")
    assert listing(cache) == before
    return done.stdout


def listing(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_nothing_is_made_ready_again(ready: Path, sealed: list[str], tmp_path: Path) -> None:
    store = tmp_path / "s.es"
    sealed_run(sealed, ready, "index", SAMPLES, "--store", store, "--model", "packaged")
    found = sealed_run(sealed, ready, "query", CLOCK, "--store", store, "-k", "1", "--json")
    assert json.loads(found)["key"] == "clocks/clocks_1.jpg"
    report = json.loads(sealed_run(sealed, ready, "prepare", "packaged", "--json"))
    assert report["done"] == []
    text = sealed_run(sealed, ready, "prepare", "packaged")
    assert text.startswith("packaged is ready as it was before: on cpu (")
    assert f"  converted  {ready}" in text


def test_a_cache_that_cannot_be_written_is_an_error(
    ready: Path, sealed: list[str], tmp_path: Path
) -> None:
    """It would be ready in a temporary folder, of which an image keeps nothing."""
    command = [*sealed, sys.executable, "-m", "embedsearch", "prepare", "packaged", "--no-tune"]
    done = subprocess.run(
        [*command, "--flip"],
        capture_output=True,
        text=True,
        env=environment(ready, TMPDIR=str(tmp_path)),
        check=False,
    )
    assert done.returncode == 4
    assert f"{ready} cannot be written, so packaged is ready in {tmp_path}" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("that this user can write to")


def test_an_image_made_on_another_processor(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its networks are converted from, without torch, and give the same vectors."""
    cache = tmp_path / "cache"
    shutil.copytree(ready, cache)
    (made,) = (cache / "openvino").iterdir()
    other = made.rename(made.with_name(made.name[:-8] + "0123abcd"))
    expected = vector()
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(cache))

    def child(*_: object) -> None:
        raise AssertionError("torch is not needed")

    monkeypatch.setattr(openvino_runtime, "run_prepare", child)
    monkeypatch.setattr(openvino_runtime, "shipped", lambda *_: None)
    assert float(expected @ vector()) > 0.999
    assert {path.name for path in (cache / "openvino").iterdir()} == {made.name, other.name}
    shutil.rmtree(made)
    (other / "model.bin").write_bytes(b"damaged")
    with pytest.raises(AssertionError, match="torch is not needed"):
        vector()


def vector() -> npt.NDArray[np.float32]:
    with embedsearch.ImageEmbedder("packaged", precision="fp32") as embedder:
        found: npt.NDArray[np.float32] = embedder.embed([str(CLOCK)])[0]
        return found


def test_from_python(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(ready))
    report = embedsearch.prepare("packaged", tune=False)
    assert report.done == () and report.cache == str(ready)
    with pytest.raises(embedsearch.UsageError, match="did you mean"):
        embedsearch.prepare("resnet5")
    with pytest.raises(embedsearch.UsageError, match="input_side"):
        embedsearch.prepare("packaged", input_side=1)


def test_auto_is_the_published_network_or_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`index` falls back to the packaged one, and says so; an image would have it unnoticed."""
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path))

    def unreachable(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("embedsearch.network.download._connect", unreachable)
    with pytest.raises(embedsearch.WeightsUnavailable, match="resnet50"):
        embedsearch.prepare()
