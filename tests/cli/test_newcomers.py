"""What people type in their first hour: each mistake is answered by what to do."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image

import embedsearch
from embedsearch.core.errors import (
    IncompatibleStore,
    Interrupted,
    MissingLibrary,
    UnitsMissing,
    UsageError,
)
from embedsearch.core.records import Progress
from embedsearch.core.session import Session
from embedsearch.indexing.distributed.commit import commit, discard_plan
from embedsearch.indexing.distributed.plan import plan
from embedsearch.indexing.distributed.run import index_share, run_units
from embedsearch.network.resnet import build
from tests.cli.test_cli import one_line
from tests.support.library import CLOCK, SAMPLES, Library, paint, run_cli

OFFLINE = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos`, and the store that `index photos` makes in it."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("clocks", "boats"):
        shutil.copytree(SAMPLES / name, folder / "photos" / name)
    done = run_cli("index", "photos", "--model", "packaged", cwd=folder)
    assert done.returncode == 0, done.stderr
    # Where the store lies is said once it is there.
    assert done.stdout.splitlines()[-1].endswith(f" 12 images in {folder}/.embedsearch")
    return folder


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["red shoes"], "to search by words: embedsearch query --text 'red shoes'"),
        (["nope.jpg"], "nope.jpg: there is no such file"),
        (
            ["photos"],
            "photos is a folder, not an image. To search with each of its images: embedsearch "
            "query photos/*; to add them to the store: embedsearch index photos",
        ),
        (["--key", "nope.jpg"], "has the key or path 'nope.jpg'; give it as the results show it"),
        (["--key", "clocks_1.jpg"], "did you mean clocks/clocks_1.jpg?"),
        (["photos/*.jpg"], "without quotes, the shell puts the files in place of the *"),
        ([], "name an image to look for, or --text, --key, --like or --from"),
    ],
)
def test_what_is_no_image_is_answered_by_what_to_do(
    home: Path, words: list[str], answer: str
) -> None:
    done = run_cli("query", *words, cwd=home)
    assert done.returncode in {1, 2}
    assert answer in one_line(done.stderr)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["search", "x"], "No such command 'search'. Here it is called query"),
        (["photos"], "No such command 'photos'. Did you mean embedsearch index photos?"),
        (["--store", "x", "info"], "No such option: --store. Options come after the command"),
        (["index", "photos", "--output", "x"], "No such option: --output; see --help"),
        (
            ["query", "x", "-k", "three"],
            "'-k' / '--k': it must be a whole number",
        ),
        (["index", "photos", "--poll", "5s"], "--quiet and --poll need --watch"),
        (["mcp", "--port", "9000"], "--port needs --http: without it, nothing listens"),
        (["index", "photos", "--model", "resnet-50"], "is not known: did you mean resnet50?"),
        (["index", "photos", "--model", "no.pth", "--dry-run", "--store", "n.es"], "no such file"),
        (["index", "photos", "--metadata", "photos"], "it is a folder; name a table"),
        (["forget", "photos/clocks"], "embedsearch index --exclude /clocks/"),
    ],
)
def test_a_mistyped_command_leads_to_what_was_meant(
    home: Path, words: list[str], answer: str
) -> None:
    done = run_cli(*words, cwd=home)
    assert done.returncode in {2, 4}, done.stderr
    assert answer in one_line(done.stderr)


def test_an_output_that_cannot_be_written_is_named_as_it_was_given(home: Path) -> None:
    done = run_cli("map", "/proc/map.html", cwd=home)
    assert done.returncode == 4
    assert "/proc/map.html: " in one_line(done.stderr) and ".tmp-" not in done.stderr


def test_a_url_that_cannot_be_fetched_is_named(home: Path) -> None:
    pytest.importorskip("fsspec", reason="needs the extra `web`")
    done = run_cli("query", "http://127.0.0.1:9/a.jpg", cwd=home)
    assert done.returncode == 1
    assert one_line(done.stderr).startswith("embedsearch: http://127.0.0.1:9/a.jpg cannot be read")
    assert "--text" not in done.stderr


def test_a_folder_of_links(home: Path, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    for photo in (home / "photos" / "clocks").iterdir():
        (links / photo.name).symlink_to(photo)
    refused = run_cli("index", links, "--no-follow-links", "--store", tmp_path / "s.es")
    assert "passed over: 6 links (--follow-links takes them)" in refused.stderr
    done = run_cli("index", links, "--model", "packaged", "--store", tmp_path / "s.es")
    assert done.stdout.startswith("6 images found: 6 added")
    asked = run_cli("query", links, "--store", tmp_path / "s.es")
    assert f"{links} is a folder, not an image" in asked.stderr


def test_a_path_as_it_was_printed_is_a_key(home: Path) -> None:
    """From whatever folder below the one with the store; a key is what is inside the root."""
    for folder in (home, home / "photos", home / "photos" / "clocks"):
        table = run_cli("query", CLOCK, "-k", "2", cwd=folder).stdout
        printed = table.splitlines()[-1].split("  ")[-1]
        for name in (printed, f"./{printed}", str(folder / printed)):
            done = run_cli("query", "--key", name, "-k", "1", cwd=folder)
            assert done.returncode == 0, done.stderr
            assert done.stdout.splitlines()[-1].endswith(printed)
    assert run_cli("query", "--key", "clocks/clocks_1.jpg", cwd=home / "photos").returncode == 0


def test_a_condition_on_a_format_that_is_not_there_lists_the_formats(home: Path) -> None:
    done = run_cli("query", CLOCK, "--where", "format = 'jpg'", cwd=home)
    assert done.returncode == 0 and "no image matches" in done.stdout
    assert "the formats in this store are JPEG (" in done.stderr


def test_heic_is_found_by_the_name_of_its_files(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif")
    pillow_heif.register_heif_opener()
    (tmp_path / "photos").mkdir()
    Image.open(CLOCK).convert("RGB").save(tmp_path / "photos" / "phone.heic")
    run_cli("index", "photos", "--model", "packaged", cwd=tmp_path)
    done = run_cli("query", CLOCK, "--where", "format = 'HEIC'", "--paths", cwd=tmp_path)
    assert done.stdout == f"{tmp_path}/photos/phone.heic\n", done.stderr


def test_evaluate_refuses_a_flat_folder_before_it_embeds(tmp_path: Path) -> None:
    """A model that is not there would be missed as soon as embedding began."""
    for number in range(3):
        paint(tmp_path / f"{number}.png", number)
    done = run_cli("evaluate", tmp_path, "--model", tmp_path / "none.safetensors")
    assert done.returncode == 2
    assert "evaluate needs one folder per class, each with at least two images" in done.stderr


def test_watch_says_what_is_missing_before_it_indexes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    paint(tmp_path / "photos" / "a.png", 1)
    monkeypatch.setitem(__import__("sys").modules, "watchfiles", None)
    with pytest.raises(MissingLibrary, match="watchfiles"):
        embedsearch.watch([tmp_path / "photos"], store=tmp_path / "s.es")
    assert not (tmp_path / "s.es").exists()


def test_what_an_interrupted_run_left_is_told(library: Library, tmp_path: Path) -> None:
    photos, total = tmp_path / "photos", 300
    for number in range(total):
        paint(photos / f"{number:03}.png", number)
    is_due = False

    def see(progress: Progress) -> None:
        nonlocal is_due
        is_due = True

    session = Session(stop=lambda: signal.SIGINT if is_due else 0)
    with pytest.raises(Interrupted):
        library.index(photos, session=session, on_progress=see)
    held = embedsearch.info(library.store).to_dict()
    assert 0 < held["pending"] == total - held["images"] < total
    shown = run_cli("info", "--store", library.store).stdout
    assert f"{held['pending']} are not in yet: embedsearch index" in shown
    done = run_cli("query", "--key", "000.png", "--store", library.store)
    assert f"{held['pending']} images are not in the store yet: embedsearch index" in done.stderr
    library.index()
    assert embedsearch.info(library.store).to_dict()["pending"] == 0


def test_units_are_named_as_they_were_counted(
    tmp_path: Path, photos: Path, extractor: Callable[..., Any]
) -> None:
    store = tmp_path / "s.es"
    plan(photos, store=store, shares=4, model="packaged")
    run_units(store, [1, 3], extractor_factory=extractor)
    with pytest.raises(UnitsMissing) as caught:
        commit(store)
    message = str(caught.value)
    again = "run again embedsearch index --unit 2/4, embedsearch index --unit 4/4"
    assert message.endswith(again)
    with pytest.raises(UsageError, match="the open plan was made for 4 shares: run 1/4 to 4/4"):
        index_share(photos, (1, 3), store=store)
    discard_plan(store)
    with pytest.raises(UsageError, match="has no open plan"):
        discard_plan(store)


def test_a_stand_in_is_remembered_and_undone_by_a_command(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "clocks", tmp_path / "clocks")
    elsewhere = {"EMBEDSEARCH_CACHE": str(tmp_path / "c"), "TORCH_HOME": str(tmp_path / "t")}
    alone = {**os.environ, **OFFLINE, **elsewhere}
    done = run_cli("index", "clocks", cwd=tmp_path, env=alone)
    assert "using the small packaged network" in done.stderr
    undo = "embedsearch index --rebuild --model resnet50"
    assert undo in run_cli("info", cwd=tmp_path).stdout
    asked = run_cli("query", CLOCK, cwd=tmp_path, env=alone)
    assert asked.returncode == 0 and undo in asked.stderr
    # Another run keeps it; and whoever wants the small network says so once.
    run_cli("index", cwd=tmp_path, env=alone)
    assert undo in run_cli("info", cwd=tmp_path).stdout
    run_cli("index", "--model", "packaged", cwd=tmp_path, env=alone)
    assert undo not in run_cli("info", cwd=tmp_path).stdout
    assert run_cli("query", CLOCK, cwd=tmp_path, env=alone).stderr == ""


def test_units_do_not_start_on_a_stand_in_unless_told(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "clocks", tmp_path / "clocks")
    elsewhere = {"EMBEDSEARCH_CACHE": str(tmp_path / "c"), "TORCH_HOME": str(tmp_path / "t")}
    alone = {**os.environ, **OFFLINE, **elsewhere}
    share = ["index", "clocks", "--unit", "1/2", "--store", "s.es"]
    refused = run_cli(*share, cwd=tmp_path, env=alone)
    assert refused.returncode == 4 and "or choose --model packaged" in refused.stderr
    assert not (tmp_path / "s.es").exists()
    told = run_cli(*share, "--model", "packaged", cwd=tmp_path, env=alone)
    assert told.returncode == 0, told.stderr


def test_a_store_answers_on_another_machine_with_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cache and the file that it was made with are elsewhere."""
    torch.manual_seed(3)
    weights = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(build("resnet18").state_dict(), weights)
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file(build("resnet18").state_dict(), other)
    store = tmp_path / "s.es"
    embedsearch.index(SAMPLES / "clocks", store=store, model=str(weights))
    brought = weights.rename(tmp_path / "brought.safetensors")
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path / "of another machine"))
    done = run_cli("query", CLOCK, "--store", store)
    assert done.returncode == 4 and "give their file with --model FILE" in done.stderr
    with pytest.raises(IncompatibleStore, match="these are not the weights of mine"):
        embedsearch.open_store(store, model=other)
    first = run_cli("query", CLOCK, "--store", store, "--model", brought, "-k", "1")
    assert first.returncode == 0, first.stderr
    again = run_cli("query", CLOCK, "--store", store, "-k", "1")  # it is in the cache now
    assert (again.returncode, again.stdout) == (0, first.stdout)


def test_mcp_on_a_terminal_says_what_it_waits_for_and_ends_at_once(home: Path) -> None:
    pytest.importorskip("mcp", reason="needs the extra `mcp`")
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "embedsearch", "mcp", "--store", str(home / ".embedsearch")]
    with subprocess.Popen(command, stdin=slave, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "waiting for an agent on the standard input" in line and "--http" in line
        time.sleep(0.5)  # until it reads
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
        assert process.stderr.read() == ""
    os.close(slave)
    os.close(master)


@pytest.mark.parametrize("command", ["serve", "mcp"])
def test_servers_refuse_other_weights(home: Path, command: str, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="needs the extra `serve`")
    (tmp_path / "notes.txt").write_text("no weights")
    done = run_cli(command, "--model", tmp_path / "notes.txt", cwd=home)
    assert done.returncode in {2, 4} and len(done.stderr.splitlines()) <= 2
    assert "notes.txt" in done.stderr
