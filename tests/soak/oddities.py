"""Folders of files with odd names, times and facts, through every command and function.

In: nothing; out: what each command said of them. None ends in a traceback or with a code that is
not documented, and `index` accounts for every file.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.soak.finding import Finding, Trial
from tests.support.library import REPOSITORY
from tests.support.serving import served

_FILES = 2_000
_CLASSES = (b"plain", "ünï".encode(), b"not utf-8 \xff\xfe", b"new\nline")
_CODES = {0, 1, 2, 3, 4, 5, 6, 7}
_TRAINING = 0.5  # from this share on
_TIME_S = 600
_WATCH_S = 60.0

# Seconds since 1970: 1901, 1677, 1969, 2262, 2400, and what only some file systems hold.
_TIMES = (-(1 << 31), -9_223_372_037, -1, 0, 9_223_372_037, 13_569_465_600, 1 << 40, 1 << 55)
_DATES = (
    b"0001:01:01 00:00:00",
    b"9999:12:31 23:59:59",
    b"0000:00:00 00:00:00",
    b"    :  :     :  :  ",
    b"2021:13:45 99:99:99",
    b"2021:06:01 12:00:00",
)

# A command in a process of its own, with a defect where one is to be caught.
PROGRAM = """
import sys
from embedsearch.cli.entry import run
if sys.argv[1]:
    from tests.soak import mutants
    mutants.apply(sys.argv[1])
sys.exit(run(sys.argv[2:]))
"""

# Every public function that reads a store; what it returns is turned into JSON, as servers do.
FUNCTIONS = """
import json, sys
import embedsearch
from embedsearch import EmbedSearchError
if sys.argv[1]:
    from tests.soak import mutants
    mutants.apply(sys.argv[1])
store = sys.argv[2]

def tried(name, work):
    try:
        found = work()
    except EmbedSearchError as error:
        print(name, type(error).__name__, error)
        return
    several = found if isinstance(found, list) else [found]
    for one in several:
        json.dumps(one.to_dict() if hasattr(one, "to_dict") else str(one))
    print(name, len(several))

for keep in (["oldest"], ["newest"], ["largest"], ["format=PNG"]):
    tried("duplicates", lambda: embedsearch.duplicates(store, keep=keep))
tried("similar", lambda: embedsearch.duplicates(store, similar=0.9))
tried("clusters", lambda: embedsearch.clusters(store))
tried("outliers", lambda: embedsearch.outliers(store))
tried("info", lambda: embedsearch.info(store))
tried("check", lambda: embedsearch.check(store, read_data=True))
tried("failures", lambda: [failure for _, failure in embedsearch.failures(store)])
with embedsearch.open_store(store) as photos:
    listed = photos.images(20)
    for record in listed.images:
        json.dumps(record.to_dict())
        tried("query", lambda: photos.query(record.full_path, k=3))
        tried("row", lambda: photos.query(photos.get(record.row).full_path, k=3))
"""


def run(trial: Trial, finding: Finding, folder: Path) -> None:
    """Make a folder of odd files and run every command on it."""
    rng = trial.random()
    photos = folder / "photos"
    made = _write(photos, rng, max(24, trial.count(_FILES)))
    finding.count("files", len(made))
    for name, arguments, expected in _steps(folder, photos, made, trial):
        finding.count("commands")
        done = _run([PROGRAM, *arguments], trial.mutant)
        _judge(
            finding, name, done, expected, is_exact={"--csv", "--paths"} & set(arguments) != set()
        )
    _account(finding, folder, len(made))
    _judge(finding, "functions", _run([FUNCTIONS, str(folder / "s.es")], trial.mutant), {0})
    _watch(finding, folder / "s.es", photos, trial)
    _serve(finding, folder / "s.es", trial)
    _mcp(finding, folder / "s.es", photos, trial)


def _write(photos: Path, rng: random.Random, count: int) -> list[bytes]:
    """Write files of odd names, facts and times; return their paths."""
    made = []
    for number in range(count):
        parent = os.path.join(os.fsencode(photos), _CLASSES[number % len(_CLASSES)])
        os.makedirs(parent, exist_ok=True)
        path = os.path.join(parent, _name(rng, number))
        with open(path, "wb") as file:
            file.write(_picture(rng, number))
        seconds = rng.choice([*_TIMES, rng.randrange(-(1 << 33), 1 << 35)])
        try:
            os.utime(path, ns=(0, seconds * 10**9 + rng.randrange(10**9)))
        except (OSError, OverflowError):  # this file system has no such time
            os.utime(path, (0, 0))
        made.append(path)
    return made


def _name(rng: random.Random, number: int) -> bytes:
    """Return a name of random bytes, or one that hurts; no other file has it."""
    mark = b"%d.jpg" % number
    kind = rng.randrange(6)
    if kind == 0:
        some = bytes(rng.randrange(1, 256) for _ in range(rng.randrange(1, 40)))
    elif kind == 1:
        some = "\u202egnp.\u2066\u200f\u0007\x1b[31m".encode()
    elif kind == 2:
        some = b"line\nfeed\r\ttab'\"$(touch x)`;&|*?[]{}<>\\"
    elif kind == 3:
        some = b"\xed\xa0\x80\xff\x80" + b"x" * 250
    elif kind == 4:
        some = b"-rf --store= %s %n"
    else:
        some = "e\u0301\u00e9 \U0001f431".encode()
    some = some.replace(b"/", b"_").lstrip(b".") or b"_"
    return some[: 255 - len(mark)] + mark


def _picture(rng: random.Random, number: int) -> bytes:
    """Return a small JPEG; some have EXIF of random bytes, some are copies, some no pictures."""
    kind = rng.randrange(12)
    if kind == 0:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(400)))
    seed = number // 2 if kind < 4 else number
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC)
    data = io.BytesIO()
    image.save(data, "JPEG", exif=_exif(rng), quality=rng.choice([70, 90]))
    return data.getvalue()


def _exif(rng: random.Random) -> bytes:
    """Return an EXIF block: with an odd date, with fields of random bytes, or none at all."""
    if rng.randrange(3) == 0:
        return b"Exif\0\0" + bytes(rng.randrange(256) for _ in range(rng.randrange(300)))
    date = rng.choice(_DATES) if rng.randrange(4) else bytes(rng.randrange(256) for _ in range(19))
    fields = [(0x0132, 2, date + b"\0"), (0x0110, 2, b"cam\0\xffera\0"), (0x0112, 3, b"\x09\0")]
    entries, values = b"", b""
    start = 8 + 2 + 12 * len(fields) + 4
    for tag, kind, value in sorted(fields):
        at = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", start + len(values))
        entries += struct.pack("<HHI", tag, kind, len(value) if kind == 2 else 1) + at
        values += value if len(value) > 4 else b""
    return (
        b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(fields)) + entries + b"\0" * 4 + values
    )


def _steps(
    folder: Path, photos: Path, made: list[bytes], trial: Trial
) -> Iterator[tuple[str, list[str], set[int]]]:
    """Yield the name, the arguments and the allowed exit codes of each command."""
    store, listed = ["--store", str(folder / "s.es")], folder / "list"
    model = ["--model", "packaged", "--device", "cpu"]
    listed.write_bytes(b"\0".join(made) + b"\0")
    yield "dry run", ["index", str(photos), *store, *model, "--dry-run"], {0}
    yield "index", ["index", str(photos), *store, *model, "--json"], {0}
    yield "again", ["index", *store], {0}
    yield "strict", ["index", *store, "--strict"], {0, 1}
    yield "files", ["index", "--files", str(listed), "--store", str(folder / "l.es"), *model], {0}
    units = ["--store", str(folder / "u.es")]
    for share in ("0/2", "1/2"):
        yield "unit", ["index", str(photos), *units, *model, "--unit", share], {0}
    yield "commit", ["commit", *units], {0}
    for form in ([], ["--json"]):
        for command in ("info", "failures", "duplicates", "clusters", "outliers"):
            yield command, [command, *store, *form], {0}
    yield "check", ["check", *store], {0}
    yield "repair", ["repair", *store], {0}
    for wish in ("oldest", "newest"):
        yield "keep", ["duplicates", *store, "--keep", wish, "--csv"], {0}
    outputs = ["--script", str(folder / "clean.sh"), "--html", str(folder / "copies.html")]
    yield "duplicates to files", ["duplicates", *store, *outputs], {0}
    yield "script", ["duplicates", *store, "--against", str(photos / "plain")], {0, 2}
    some = [os.fsdecode(path) for path in made[:: max(1, len(made) // 8)]]
    several = ["query", *store, "-k", "3"]
    for form in ([], ["--json"], ["--csv"]):
        yield "query", [*several, *form, "--", *some], {0, 1}
    yield "paths", [*several, "--paths", "--", *some], {0, 1}  # names as they are
    for out in ("hits.jsonl", "hits.csv", "hits.parquet"):
        yield "query to a file", [*several, "--out", str(folder / out), "--", *some], {0, 1}
    pages = ["--sheet", str(folder / "sheet.png"), "--html", str(folder / "page.html")]
    yield "query to pages", [*several, *pages, "--", *some], {0, 1}
    yield "query from", ["query", *store, "--from", str(listed), "-k", "1", "--json"], {0, 1}
    when = "modified > '2000-01-01' or taken_at < '1900-01-01'"
    yield "where", [*several, "--where", when, "--json", "--", *some], {0, 1}
    yield "map", ["map", str(folder / "map.html"), *store], {0}
    for out in ("all.parquet", "all.jsonl", "all.npy", "all.faiss"):
        yield "export", ["export", str(folder / out), *store], {0}
    again = ["--model", "other", "--root", "/"]
    back = ["--store", str(folder / "i.es"), *again]
    yield "import", ["import", str(folder / "all.parquet"), *back], {0}
    paths = ["--paths", str(folder / "all.csv"), "--store", str(folder / "n.es"), *again]
    yield "import vectors", ["import", str(folder / "all.npy"), *paths], {0}
    yield "evaluate", ["evaluate", str(photos), *model, "--json"], {0}
    yield "evaluate a store", ["evaluate", *store], {0}
    yield "bench", ["bench", str(photos), *model], {0}
    if trial.share >= _TRAINING:
        course = ["--epochs", "1", "--out", str(folder / "trained.safetensors")]
        yield "train", ["train", str(photos), *model, *course], {0, 1}


def _run(command: list[str], mutant: str | None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", command[0], mutant or "", *command[1:]],
        cwd=REPOSITORY,
        capture_output=True,
        timeout=_TIME_S,
        check=False,
    )


def _judge(
    finding: Finding,
    name: str,
    done: subprocess.CompletedProcess[bytes],
    expected: set[int],
    *,
    is_exact: bool = False,
) -> None:
    """Accuse a command of a traceback, or of a code that it should not end with.

    What programs read through a pipe `is_exact`; all else is safe to look at.
    """
    said = done.stderr + done.stdout
    if b"Traceback" in said or done.returncode not in _CODES:
        finding.accuse(
            f"{name} ended with {done.returncode}: {said[-800:].decode(errors='replace')}"
        )
    elif done.returncode not in expected:
        finding.accuse(f"{name}: code {done.returncode}: {said[-300:].decode(errors='replace')}")
    if (b"\x1b[31m" in done.stdout and not is_exact) or b"\x07" in done.stderr:
        finding.accuse(f"{name} sends the control characters of a name to the terminal")
    if name == "index" and done.returncode == 0:
        report = json.loads(done.stdout)
        finding.figures["indexed"] = report["added"]
        finding.figures["failed"] = report["failed"] + report["scan_failures"]


def _account(finding: Finding, folder: Path, files: int) -> None:
    counted = finding.figures["indexed"] + finding.figures["failed"]
    if counted != files:
        finding.accuse(f"{files} files, and {counted} were indexed or failed")
    for name in ("hits.jsonl", "page.html", "sheet.png", "map.html", "all.parquet", "clean.sh"):
        if not (folder / name).exists():
            finding.accuse(f"{name} was not written")


def _watch(finding: Finding, store: Path, photos: Path, trial: Trial) -> None:
    """Put odd files into a watched folder: the watch takes them in and lives."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, trial.mutant or "", "index"]
    watch = subprocess.Popen(
        [*command, "--store", str(store), "--watch", "--quiet", "0.3s"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert watch.stdout is not None
    too_late = threading.Timer(_WATCH_S, watch.kill)
    too_late.start()
    said: list[bytes] = []
    for line in watch.stdout:
        said.append(line)
        if b"watching" in line:
            _write(photos / "later", trial.random(), 8)
            break
    for line in watch.stdout:
        said.append(line)
        if b"added" in line or b"generation" in line:
            break
    watch.terminate()
    said.append(watch.stdout.read())
    too_late.cancel()
    finding.count("watches")
    if watch.wait(_TIME_S) != 128 + signal.SIGTERM or b"Traceback" in b"".join(said):
        finding.accuse(f"the watch ended with {watch.returncode}: {b''.join(said)[-800:]!r}")


def _serve(finding: Finding, store: Path, trial: Trial) -> None:
    """Ask a server for what the pages show."""
    with served(store, mutant=trial.mutant) as server:
        for path in ("/health", "/images?k=50", "/images?k=5&offset=3", "/info", "/metrics"):
            answer = server.get(path)
            finding.count("requests")
            if answer.status >= 500:
                finding.accuse(f"GET {path}: {answer.status} {answer.body[:200]!r}")
        for row in range(8):
            answer = server.ask(row=row, k=3)
            finding.count("requests")
            if answer.status >= 500:
                finding.accuse(f"search: {answer.status} {answer.body[:200]!r}")
    server._reader.join(10)
    for line in server.log:
        if "Traceback" in line:
            finding.accuse(f"in the log of the server: {line}")


def _mcp(finding: Finding, store: Path, photos: Path, trial: Trial) -> None:
    """Call every tool over stdin."""
    calls = [
        ("search_similar_images", {"row": 0}),
        ("get_image", {"row": 1}),
        ("find_duplicates", {}),
        ("list_stores", {}),
    ]
    first = {"protocolVersion": "2025-03-26", "capabilities": {}}
    first["clientInfo"] = {"name": "soak", "version": "1"}
    lines = [{"id": 0, "method": "initialize", "params": first}]
    lines.append({"method": "notifications/initialized"})
    for number, (name, values) in enumerate(calls, start=1):
        request = {"name": name, "arguments": values}
        lines.append({"id": number, "method": "tools/call", "params": request})
    sent = "".join(json.dumps({"jsonrpc": "2.0", **line}) + "\n" for line in lines)
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, trial.mutant or ""]
    done = subprocess.run(
        [*command, "mcp", "--store", str(store), "--allow", str(photos)],
        cwd=REPOSITORY,
        input=sent.encode(),
        capture_output=True,
        timeout=_TIME_S,
        check=False,
    )
    finding.count("tools called", len(calls))
    if done.returncode not in _CODES or b"Traceback" in done.stderr + done.stdout:
        finding.accuse(f"mcp ended with {done.returncode}: {done.stderr[-800:].decode()}")
