"""The command line: what it prints where, exit codes, and people's habits."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.library import REPOSITORY, SAMPLES, paint, run_cli

CLOCK = SAMPLES / "clocks" / "clocks_1.jpg"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "samples.es"
    done = run_cli("index", SAMPLES, "--store", path, "--model", "packaged")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("54 images found: 54 added")
    return path


def one_line(text: str) -> str:
    assert len(text.strip().splitlines()) == 1, text
    assert "Traceback" not in text
    return text


def test_table(store: Path) -> None:
    done = run_cli("query", CLOCK, "--store", store, "-k", "3", cwd=REPOSITORY)
    assert done.returncode == 0 and done.stderr == ""
    title, header, *rows = done.stdout.splitlines()
    assert title == str(CLOCK) and header == "  rank  score  nearer than       size  path"
    assert rows[0].split()[:7] == ["1", "1.000", "100.00", "%", "640", "x", "480"]
    assert rows[0].endswith("  sample_images/clocks/clocks_1.jpg")  # below the current folder
    assert len(rows) == 3 and all("/clocks/" in row for row in rows)
    away = run_cli("query", CLOCK, "--store", store, "-k", "1", cwd="/usr")
    assert away.stdout.splitlines()[-1].endswith(f"  {CLOCK}")


def test_json_csv_and_paths_tell_the_same(store: Path) -> None:
    arguments = ["query", CLOCK, SAMPLES / "boats" / "boats_1.jpg", "--store", store, "-k", "4"]
    lines = [json.loads(line) for line in run_cli(*arguments, "--json").stdout.splitlines()]
    assert len(lines) == 8
    names = ["query", "rank", "score", "percentile", "row"]
    names += ["path", "path_bytes", "full_path", "full_path_bytes", "key", "width", "height"]
    names += ["metadata", "rank_score", "words_score", "matched"]
    assert list(lines[0]) == names
    assert lines[0]["key"] == "clocks/clocks_1.jpg" and lines[0]["score"] > 0.9999
    assert [line["rank"] for line in lines] == [1, 2, 3, 4, 1, 2, 3, 4]
    table = list(csv.DictReader(io.StringIO(run_cli(*arguments, "--csv").stdout)))
    assert [row["path"] for row in table] == [line["path"] for line in lines]
    assert list(table[0]) == names and float(table[1]["score"]) == lines[1]["score"]
    assert all(line["rank_score"] is None for line in lines) and table[0]["rank_score"] == ""
    paths = run_cli(*arguments, "--paths").stdout.splitlines()
    assert paths == [line["full_path"] for line in lines]


def test_rank_scores_stand_beside_the_cosines(store: Path) -> None:
    arguments = ["query", CLOCK, "--store", store, "-k", "4", "--rerank"]
    lines = [json.loads(line) for line in run_cli(*arguments, "--json").stdout.splitlines()]
    header, *rows = run_cli(*arguments).stdout.splitlines()[1:]
    assert header.split()[:4] == ["rank", "score", "rank", "score"]
    wanted = [[f"{line['score']:.3f}", f"{line['rank_score']:.3f}"] for line in lines]
    assert [row.split()[1:3] for row in rows] == wanted
    both = run_cli(*arguments, "--diverse", "0.5")
    assert both.returncode == 2 and "--diverse and --rerank are two orders" in both.stderr


def test_min_score(store: Path) -> None:
    done = run_cli("query", CLOCK, "--store", store, "--min-score", "0.99", "--paths")
    assert done.stdout.splitlines() == [str(CLOCK)]
    other = run_cli("query", CLOCK, "--store", store, "--min-score", "0.7", "--json")
    scores = [json.loads(line)["score"] for line in other.stdout.splitlines()]
    assert min(scores) >= 0.7 and scores == sorted(scores, reverse=True)


def test_stdin(store: Path) -> None:
    with CLOCK.open("rb") as file:
        done = run_cli("query", "-", "--store", store, "-k", "1", "--json", stdin=file)
    answer = json.loads(done.stdout)
    assert (answer["query"], answer["full_path"]) == ("-", str(CLOCK))
    done = run_cli("query", "-", "--store", store, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and "empty" in one_line(done.stderr)


def test_a_list_of_queries_into_a_file(store: Path, tmp_path: Path) -> None:
    """Every form of the file holds what --json prints, of the queries that could be answered."""
    boat = SAMPLES / "boats" / "boats_1.jpg"
    names = tmp_path / "names.txt"
    names.write_text(f"{CLOCK}\n\n{tmp_path}/none.jpg\r\n{boat}")
    at = ["--store", store, "-k", "3"]
    wanted = run_cli("query", CLOCK, boat, *at, "--json").stdout
    for out in ("hits.jsonl", "hits.csv", "hits.parquet"):
        with names.open("rb") as file:
            done = run_cli("query", "--from", "-", *at, "--out", tmp_path / out, stdin=file)
        assert done.returncode == 1 and done.stdout == ""
        bad, told = done.stderr.splitlines()
        assert "none.jpg: there is no such file" in bad
        assert told == f"embedsearch: the hits of 2 queries, 1 failed, written to {tmp_path / out}"
    lines = (tmp_path / "hits.jsonl").read_text()
    assert lines == wanted
    rows = [json.loads(line) for line in lines.splitlines()]
    with (tmp_path / "hits.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert [(row["path"], float(row["score"])) for row in cells] == [
        (row["path"], row["score"]) for row in rows
    ]
    table = pq.read_table(tmp_path / "hits.parquet").to_pylist()
    assert [{**row, "metadata": json.loads(row["metadata"])} for row in table] == rows
    assert run_cli("query", "--from", names, *at, "--json").stdout == wanted
    with_nul = tmp_path / "names.nul"
    with_nul.write_bytes(names.read_bytes().replace(b"\r", b"").replace(b"\n", b"\0"))
    assert run_cli("query", "--from", with_nul, *at, "--json").stdout == wanted


def test_vectors_of_a_file_as_queries(store: Path, tmp_path: Path) -> None:
    out = run_cli("export", tmp_path / "v.npy", "--store", store)
    assert out.returncode == 0, out.stderr
    vectors = np.load(tmp_path / "v.npy")
    np.save(tmp_path / "long.npy", 3.0 * vectors[:2].astype(np.float64))
    at = ["--store", store, "-k", "1", "--json"]
    done = run_cli("query", "--from", tmp_path / "long.npy", *at)
    hits = [json.loads(line) for line in done.stdout.splitlines()]
    assert [hit["query"] for hit in hits] == [f"{tmp_path}/long.npy:{n}" for n in (0, 1)]
    with (tmp_path / "v.csv").open() as file:
        assert [hit["key"] for hit in hits] == [row["path"] for row in csv.DictReader(file)][:2]
    bad = vectors[:3].copy()
    bad[1] = 0.0
    np.save(tmp_path / "zero.npy", bad)
    bad[1] = np.nan
    np.save(tmp_path / "nan.npy", bad)
    np.save(tmp_path / "short.npy", vectors[:, :7])
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object))
    for name, words in {
        "zero": "row 1 of",
        "nan": "row 1 of",
        "short": "7 components per row, but the store has 512",
        "objects": "cannot be read",
        "absent": "cannot be read",
    }.items():
        done = run_cli("query", "--from", tmp_path / f"{name}.npy", *at)
        assert done.returncode == 2 and words in one_line(done.stderr), done.stderr
    target = tmp_path / "kept.csv"
    target.write_text("old")
    done = run_cli("query", "--from", tmp_path / "zero.npy", *at[:-1], "--out", target)
    assert done.returncode == 2 and target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.glob(".*")) == [], "nothing unfinished is left"


def test_an_interrupted_list_leaves_no_file(store: Path, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((400_000, 512)).astype(np.float16)
    np.save(tmp_path / "many.npy", vectors)
    options = ["--from", tmp_path / "many.npy", "--out", tmp_path / "hits.jsonl", "--store", store]
    command = [sys.executable, "-m", "embedsearch", "query", *map(str, options)]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in tmp_path.glob(".tmp-*")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and "interrupted" in one_line(said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.npy"]


def test_a_bad_query_among_good_ones(store: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("<html>")
    done = run_cli("query", tmp_path / "bad.jpg", CLOCK, "--store", store, "-k", "1", "--paths")
    assert done.returncode == 1
    assert "bad.jpg cannot be read: not_an_image" in one_line(done.stderr)
    assert done.stdout.splitlines() == [str(CLOCK)]


def test_contact_sheet(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "sheet.png"
    boat = SAMPLES / "boats" / "boats_1.jpg"
    done = run_cli("query", CLOCK, boat, "--store", store, "-k", "8", "--sheet", target)
    assert done.returncode == 0, done.stderr
    with Image.open(target) as sheet:
        sheet.load()
        # Two queries with eight hits are two lines each; seven columns of 180 px.
        assert sheet.size == (14 + 7 * 194, 14 + 4 * 234)
        query = sheet.crop((14, 14, 194, 194)).resize((8, 8))
        hit = sheet.crop((14 + 194, 14, 194 + 194, 194)).resize((8, 8))
    pair = [np.asarray(image, int)[1:7, 1:7] for image in (query, hit)]
    assert np.abs(pair[0] - pair[1]).max() < 3, "the first hit is the query itself"
    done = run_cli("query", CLOCK, "--store", store, "--sheet", tmp_path / "no" / "sheet.png")
    assert done.returncode == 4 and "sheet.png: No such file" in one_line(done.stderr)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nonsense"], 2, "No such command"),
        (["quer"], 2, "Did you mean 'query'"),
        (["query"], 2, "name an image"),
        (["query", "--frobnicate", "x"], 2, "No such option"),
        (["query", "x.jpg", "-k", "0"], 2, "-k"),
        (["query", "x.jpg", "-k", "-1"], 2, "-k"),
        (["query", "x.jpg", "-k", "many"], 2, "-k"),
        (["query", "x.jpg", "--min-score", "7"], 2, "--min-score"),
        (["query", "x.jpg", "--json", "--csv"], 2, "exclude"),
        (["query", "x.jpg", "--json", "--out", "h.csv"], 2, "exclude"),
        (["query", "--from", "/nowhere.txt"], 2, "No such file"),
        (["query", "--from", "x.npy", "--crop", "1,2,3,4"], 2, "cannot be cropped"),
        (["query", "-", "--from", "-"], 2, "once"),
        (["query", "x.jpg", "--device", "gpu"], 2, "--device"),
        (["query", "x.jpg", "--store", "/nowhere"], 7, "no store"),
        (["info"], 7, "embedsearch index FOLDER"),
        (["check", "--store", "/etc"], 7, "no store"),
        (["index"], 7, "no .embedsearch"),
        (["index", "/nowhere"], 2, "does not exist"),
        (["index", "/etc/passwd"], 2, "is a file"),
        (["index", ".", "--store", "/etc/passwd"], 2, "is a file"),
        (["index", ".", "--store", "/etc"], 2, "something else"),
        (["index", ".", "--workers", "0"], 2, "--workers"),
        (["index", ".", "--precision", "int3"], 2, "--precision"),
        (["index", ".", "--max-pixels", "0"], 2, "--max-pixels"),
        (["index", "."], 1, "no images found"),
    ],
)
def test_wrong_input_is_one_line_and_the_right_code(
    arguments: list[str], code: int, words: str, tmp_path: Path
) -> None:
    done = run_cli(*arguments, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == code, done.stderr
    assert words in one_line(done.stderr)
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_store_is_found_upwards(photos: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = run_cli("index", "photos", "--model", "packaged", cwd=tmp_path, env=environment)
    assert done.returncode == 0 and (tmp_path / ".embedsearch" / "CURRENT").is_file()
    done = run_cli("query", "01.png", "-k", "1", "--paths", cwd=photos / "a", env=environment)
    assert done.stdout.strip() == str(photos / "a" / "01.png")
    done = run_cli("index", cwd=photos / "b", env=environment)
    assert "12 unchanged" in done.stdout
    elsewhere = {**environment, "EMBEDSEARCH_STORE": str(tmp_path / ".embedsearch")}
    done = run_cli("info", "--json", cwd="/", env=elsewhere)
    facts = json.loads(done.stdout)
    assert facts["images"] == 12 and facts["roots"] == [str(photos)]
    assert facts["model"]["name"] == "packaged" and facts["dim"] == 512


def test_strict_and_failures(photos: Path, tmp_path: Path) -> None:
    (photos / "bad.jpg").write_text("{}")
    store = tmp_path / "f.es"
    done = run_cli("index", photos, "--store", store, "--model", "packaged", "--strict")
    assert done.returncode == 1 and "1 failed" in done.stdout
    assert run_cli("index", photos, "--store", store).returncode == 0
    table = run_cli("failures", "--store", store).stdout
    assert "not_an_image" in table and str(photos / "bad.jpg") in table
    (line,) = run_cli("failures", "--store", store, "--json").stdout.splitlines()
    assert json.loads(line) == {
        "path": "bad.jpg",
        "path_bytes": None,
        "full_path": str(photos / "bad.jpg"),
        "full_path_bytes": None,
        "key": "bad.jpg",
        "stage": "decode",
        "reason": "not_an_image",
        "detail": "looks like JSON",
    }


def test_a_closed_pipe_ends_quietly(store: Path) -> None:
    command = (
        f"{sys.executable} -m embedsearch query {CLOCK} --store {store} -k 54 --json"
        ' | (read -r line && echo "$line")'  # reads one line and goes
    )
    shell = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(shell, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout)["rank"] == 1


def test_full_stdout_is_an_error(store: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        done = run_cli("info", "--store", store, capture_output=False, stdout=full,
                       stderr=subprocess.PIPE)  # fmt: skip
    assert done.returncode == 4
    assert "No space left" in one_line(done.stderr)


def test_poor_surroundings(photos: Path, tmp_path: Path) -> None:
    """No HOME, locale C, optimised Python: the asserts are no checks."""
    environment = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C",
        "PYTHONOPTIMIZE": "2",
        "EMBEDSEARCH_CACHE": os.environ["EMBEDSEARCH_CACHE"],
    }
    paint(photos / "größe.png", 40)
    paint(Path(os.fsdecode(os.fsencode(photos) + b"/latin-\xe9.png")), 41)
    store = tmp_path / "p.es"
    done = run_cli("index", photos, "--store", store, "--model", "packaged", env=environment)
    assert done.returncode == 0, done.stderr
    done = run_cli("query", photos / "größe.png", "--store", store, "-k", "14", env=environment,
                   text=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = run_cli("query", photos / "größe.png", "--store", store, "-k", "14", "--paths",
                   env=environment, text=False)  # fmt: skip
    shown: Any = done.stdout  # bytes: nothing was decoded
    assert os.fsencode(photos) + b"/latin-\xe9.png" in shown.splitlines()
    assert "größe.png".encode() in shown


def test_models_lists_the_catalogue() -> None:
    entries = [json.loads(line) for line in run_cli("models", "--json").stdout.splitlines()]
    assert [entry["name"] for entry in entries if entry["auto"]] == ["resnet50"]
    assert next(e for e in entries if e["name"] == "packaged")["here"] is True
    text = run_cli("models").stdout
    assert "packaged" in text and "resnet152" in text and "non-commercial" in text
    assert "pictures: mildly cropped, gem2, middle weighted, sigma 0.4\n" in text
    assert "\npackaged: mildly cropped, gem3, middle weighted, sigma 0.4\n" in text
    assert {(e["resize"], e["pooling"], e["gaussian"]) for e in entries} == {
        ("mild-crop", "gem2", 0.4),
        ("mild-crop", "gem3", 0.4),
        ("crop", "", 0.0),
    }
    assert [entry["name"] for entry in entries if entry["takes_texts"]] == ["clip-resnet50"]
    assert "\nclip-resnet50: the middle, reads texts\n" in text


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_output_is_no_error(store: Path, redirection: str) -> None:
    command = f'"{sys.executable}" -m embedsearch info --store "{store}" {redirection}'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr


def test_an_error_at_the_end_keeps_the_results_and_verbose_the_code(
    store: Path, tmp_path: Path
) -> None:
    sheet = tmp_path / "no" / "such" / "sheet.png"
    done = run_cli("query", CLOCK, "--store", store, "-k", "2", "--json", "--sheet", sheet)
    assert done.returncode == 4 and len(done.stdout.splitlines()) == 2
    assert "sheet.png" in one_line(done.stderr)
    done = run_cli("query", CLOCK, "--store", tmp_path, "-v")
    assert done.returncode == 7 and "Traceback" in done.stderr
    assert run_cli("query", CLOCK, "--store", store, "--sheet", tmp_path).returncode == 4


@pytest.mark.parametrize("device", ["cuda:", "cpu:", "auto:1", "cuda:²"])
def test_devices_that_cannot_be(store: Path, device: str) -> None:
    assert run_cli("query", CLOCK, "--store", store, "--device", device).returncode == 2


def test_a_terminal_without_the_letters(tmp_path: Path) -> None:
    paint(tmp_path / "photos" / "日本.png", 1)
    index = ["index", tmp_path / "photos", "--store", tmp_path / "s.es", "--model", "packaged"]
    assert run_cli(*index).returncode == 0
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    query = ["query", tmp_path / "photos" / "日本.png", "--store", tmp_path / "s.es"]
    done = run_cli(*query, env=ascii_only)
    assert done.returncode == 0 and r"\u65e5\u672c.png" in done.stdout, done.stderr


def test_a_store_without_images_has_no_answer(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "empty.jpg").touch()
    at = ["--store", tmp_path / "s.es"]
    assert run_cli("index", tmp_path / "f", *at, "--model", "packaged").returncode == 1
    done = run_cli("query", CLOCK, *at)
    assert done.returncode == 1 and done.stdout == ""
    assert "holds no image" in one_line(done.stderr)


def test_what_came_in_under_wider_limits_can_be_asked_for(tmp_path: Path) -> None:
    picture = paint(tmp_path / "f" / "cut.jpg", 1, size=(300, 300))
    picture.write_bytes(picture.read_bytes()[:-200])
    paint(tmp_path / "f" / "whole.jpg", 2)
    at = ["--store", tmp_path / "s.es"]
    index = ["index", tmp_path / "f", *at, "--model", "packaged"]
    assert run_cli(*index, "--allow-truncated").returncode == 0
    paint(tmp_path / "f" / "later.jpg", 3)
    assert run_cli(*index).returncode == 0
    done = run_cli("query", picture, *at, "-k", "1", "--paths")
    assert done.stdout == f"{picture}\n", done.stderr
