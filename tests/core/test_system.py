"""What the machine lacks is gone without: an interpreter's name, caches, temporary folders."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from pathlib import Path

import pytest

import embedsearch
from embedsearch.core import system
from embedsearch.core.errors import EmbedSearchError, MissingLibrary, StorageError
from embedsearch.core.records import ImageRef
from embedsearch.indexing.ref_list import RefList
from tests.support.library import Library, counts


@pytest.mark.parametrize("name", ["/usr/bin/uwsgi", "/bin/false", "/bin/cat", "", None])
def test_a_host_that_is_no_python_is_not_started(
    name: str | None, library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", name)
    program = system.python_command("x")[0]
    assert program != name and os.path.basename(program).startswith("python")
    assert counts(library.index(photos))[:2] == (12, 12)


def test_the_interpreter_of_a_virtual_environment_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert system.python_command("x")[0] == sys.executable
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    own = tmp_path / "bin" / "python3"
    own.parent.mkdir()
    own.write_text("")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert system.python_command("x")[0] == str(own)
    assert set(filter(os.path.isabs, sys.path)) <= {
        *system.child_environment()["PYTHONPATH"].split(os.pathsep)
    }


def test_a_frozen_program_says_what_to_set(
    library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", "/opt/photos/app")
    with pytest.raises(MissingLibrary, match=r"/opt/photos/app, which is no Python.*EMBEDSEARCH_P"):
        library.index(photos)
    monkeypatch.setenv("EMBEDSEARCH_PYTHON", "/bin/false")
    with pytest.raises(EmbedSearchError, match=r"process, /bin/false, does not start: status 1"):
        library.index(photos)
    monkeypatch.setenv("EMBEDSEARCH_PYTHON", "/nowhere/python")
    with pytest.raises(StorageError, match="/nowhere/python"):
        library.index(photos)


def test_a_cache_folder_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    usual = tmp_path / "file" / "cache"
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(usual))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spare = tmp_path / f"embedsearch-{os.getuid()}"
    assert system.cache_folders() == [usual, spare]
    assert system.writable_cache_folder() == spare and spare.stat().st_mode & 0o077 == 0
    spare.chmod(0o777)  # anyone could put a network there
    assert system.cache_folders() == [usual]
    with pytest.raises(StorageError, match="EMBEDSEARCH_CACHE"):
        system.writable_cache_folder()
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path / "new"))
    assert system.cache_folders() == [tmp_path / "new"]
    assert system.writable_cache_folder() == tmp_path / "new"


def test_processors_where_nobody_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_getaffinity", refuse, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert system.available_processors() == 1


def test_without_any_temporary_folder(
    library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", nowhere)
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert counts(library.index(photos))[:2] == (12, 12)
    with (
        embedsearch.open_store(library.store) as searcher,
        pytest.raises(StorageError, match=r"no room .* set TMPDIR"),
    ):
        searcher.query(embedsearch.Text("a"))
    refs = RefList()
    with pytest.raises(StorageError, match="No usable temporary directory"):
        for number in range(30_000):
            refs.append(ImageRef(0, f"{number:040d}", 1, 1))


def test_without_memory_files(
    library: Library, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    assert counts(library.index(photos))[:2] == (12, 12)


def test_an_error_of_a_caller_is_not_one_of_temporary_images() -> None:
    from embedsearch.images.temporary import TemporaryImages

    temporary = TemporaryImages()
    with pytest.raises(ConnectionResetError), temporary.of([b"x"]):
        raise ConnectionResetError
    temporary.close()


@pytest.mark.parametrize(
    ("groups", "files", "wanted"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 0.5),
        ("0::/a\n", {"a/cpu.max": "max 100000", "cpu.max": "250000 100000"}, 2.5),
        ("0::/\n", {"cpu.max": "max 100000"}, math.inf),
        ("0::/gone/deeper\n", {"cpu.max": "300000 100000"}, 3.0),
        ("4:memory:/m\n3:cpu,cpuacct:/d\n0::/\n",
         {"cpu/d/cpu.cfs_quota_us": "150000\n", "cpu/d/cpu.cfs_period_us": "100000\n",
          "cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.5),
        ("1:cpu:/host/path\n", {"cpu/cpu.cfs_quota_us": "200000",
                                "cpu/cpu.cfs_period_us": "100000"}, 2.0),
        ("5:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "1"}, math.inf),
        ("0::/\n", {"cpu.max": "damaged"}, math.inf),
        ("0::/\n", {"cpu.max": "1000 0"}, math.inf),
        (None, {}, math.inf),
    ],
)  # fmt: skip
def test_the_quota_of_control_groups(
    groups: str | None, files: dict[str, str], wanted: float, tmp_path: Path
) -> None:
    if groups is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert system.processor_quota(str(tmp_path)) == wanted


def test_a_part_of_a_processor_counts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for quota, wanted in ((0.5, 1), (1.0, 1), (1.5, 2), (math.inf, 8)):
        monkeypatch.setattr(system, "processor_quota", lambda quota=quota: quota)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
        assert system.available_processors() == wanted
        assert system.processor_share() == min(quota, 8)
