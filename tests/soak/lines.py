"""Lines that are almost right, to `embedsearch mcp`: each is answered or passed over, all stay.

In: a seed; out: a server of tools over stdin that still answers after thousands of them.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from tests.soak.finding import Finding, Trial
from tests.soak.scenes import indexing
from tests.support.library import REPOSITORY, paint

_LINES = 10_000
_AT_ONCE = 50
_ANSWER_S = 10.0
_BETRAYS = ("Traceback", "site-packages", '.py", line')
_PROGRAM = """
import sys
from tests.soak import mutants
mutants.apply(sys.argv[1] or None)
from embedsearch.cli.entry import run
sys.exit(run(sys.argv[2:]))
"""


def run(trial: Trial, finding: Finding, folder: Path) -> None:
    """Send mutated lines; ask something sensible in between."""
    for seed in range(6):
        paint(folder / "photos" / f"{seed}.png", seed)
    indexing(folder / "photos")(folder / "s.es")
    rng = trial.random()
    command = [sys.executable, "-c", _PROGRAM, trial.mutant or "", "mcp"]
    with subprocess.Popen(
        [*command, "--store", str(folder / "s.es")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
    ) as process:
        answers: Queue[bytes] = Queue()
        reader = threading.Thread(target=_read, args=(process, answers), daemon=True)
        reader.start()
        try:
            _begin(process, answers)
            for start in range(0, trial.count(_LINES), _AT_ONCE):
                _send(process, *(_mutated(rng, _line(rng)) for _ in range(_AT_ONCE)))
                finding.count("lines", _AT_ONCE)
                _judge(finding, process, answers, 10**6 + start)
        except (BrokenPipeError, EOFError, Empty) as error:
            finding.accuse(f"it ended, or answers no more: {type(error).__name__}")
        finally:
            process.kill()


def _read(process: subprocess.Popen[bytes], answers: Queue[bytes]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        answers.put(line)
    answers.put(b"")


def _send(process: subprocess.Popen[bytes], *lines: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(b"".join(line + b"\n" for line in lines))
    process.stdin.flush()


def _begin(process: subprocess.Popen[bytes], answers: Queue[bytes]) -> None:
    info = {"name": "soak", "version": "1"}
    first = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info}
    _send(process, _message(1, "initialize", first))
    while b'"id":1' not in (line := answers.get(timeout=60)).replace(b" ", b""):
        if not line:
            raise EOFError
    _send(process, b'{"jsonrpc": "2.0", "method": "notifications/initialized"}')


def _judge(
    finding: Finding, process: subprocess.Popen[bytes], answers: Queue[bytes], number: int
) -> None:
    """Ask for a search by row, and read what came before its answer."""
    call = {"name": "search_similar_images", "arguments": {"row": 0, "k": 2}}
    _send(process, _message(number, "tools/call", call))
    while True:
        line = answers.get(timeout=_ANSWER_S)
        if not line:
            raise EOFError
        for words in _BETRAYS:
            if words.encode() in line:
                finding.accuse(f"an answer betrays {words}: {line[:300]!r}")
        answer = json.loads(line)
        if answer.get("id") == number:
            if len(answer["result"]["structuredContent"]["hits"]) != 2:
                finding.accuse(f"it answers {line[:300]!r}")
            finding.count("sensible answers")
            return
        finding.count("errors told" if "error" in answer else "answers")


def _message(number: int, method: str, params: dict[str, Any]) -> bytes:
    values = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps(values).encode()


def _line(rng: random.Random) -> bytes:
    odd: list[Any] = [0, -1, 10**30, "x", "../a", None, [], {}, [[1]], 1.5, True, "\udc00", "a\0b"]
    names = ["image", "row", "key", "store", "k", "offset", "where", "min_score", "side", "zzz"]
    tools = ["search_similar_images", "get_image", "find_duplicates", "list_stores", "none"]
    arguments = {rng.choice(names): rng.choice(odd) for _ in range(rng.randrange(4))}
    call = {"name": rng.choice(tools), "arguments": rng.choice([arguments, arguments, *odd])}
    methods = ["tools/call", "tools/call", "tools/list", "ping", "resources/list", "none"]
    return _message(rng.randrange(1000), rng.choice(methods), call)


def _mutated(rng: random.Random, line: bytes) -> bytes:
    changed = bytearray(line)
    for _ in range(rng.choice((0, 0, 1, 1, 3, 20))):
        at = rng.randrange(len(changed) or 1)
        match rng.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del changed[at : at + rng.randrange(20)]
            case 2:
                changed[at:at] = changed[at : at + 10] * rng.choice((1, 5, 500))
            case 3:
                changed[at:at] = rng.choice((b"[", b"{", b'"', b"\\u0000", b"\xff")) * rng.choice(
                    (1, 2000)
                )
            case 4:
                del changed[rng.randrange(len(changed) or 1) :]
    return bytes(changed).replace(b"\n", b" ").replace(b"\r", b" ")
