"""The token of a server: from an option, a file or the environment, and never shown again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from embedsearch.core.errors import UsageError
from embedsearch.web.access import Access
from embedsearch.web.tokens import VARIABLE, find_token
from tests.support.answers import failed
from tests.support.library import run_cli
from tests.support.serving import Served, served

pytest.importorskip("fastapi", reason="needs the extra `serve`")

SECRET = "a secret; of 100%"  # with what a cookie and a URL have to escape


def found(content: bytes, folder: Path) -> str:
    (folder / "token").write_bytes(content)
    token = find_token(None, folder / "token", {})
    assert token is not None and not token.is_made_here
    return token.value


def test_a_file_may_end_its_line(tmp_path: Path) -> None:
    for end in (b"", b"\n", b"\r\n", b"\n\n"):
        assert found(b"long enough" + end, tmp_path) == "long enough"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"short", "at least 8"),
        (b"two lines\nof text", "printable"),
        ("größer".encode() * 3, "ASCII"),
        (b"x" * 5000, "4096 bytes"),
        (b"\0" * 20, "printable"),
    ],
)
def test_files_that_hold_no_token(content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=reason) as error:
        found(content, tmp_path)
    assert "token_file" in str(error.value)
    text = content.decode().strip()
    assert not text or text not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError, match=f"{path} cannot be read .{reason}"):
            find_token(None, path, {})
    if os.getuid() == 0:
        pytest.skip("root reads every file")
    (tmp_path / "closed").write_text("long enough")
    (tmp_path / "closed").chmod(0)
    with pytest.raises(UsageError, match="Permission denied"):
        find_token(None, tmp_path / "closed", {})


def test_where_a_token_comes_from(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of the file\n")
    environ = {VARIABLE: "of the environment\n"}
    token = find_token(None, None, environ)
    assert token is not None and token.value == "of the environment"
    assert not environ, "child processes need none"
    assert find_token(None, None, {}) is None
    token = find_token(None, tmp_path / "token", {VARIABLE: "of the environment"})
    assert token is not None and token.value == "of the file"
    with pytest.raises(UsageError, match="give one"):
        find_token("long enough", tmp_path / "token", {})
    made = [find_token("auto", None, {}) for _ in range(2)]
    assert made[0] is not None and made[0].is_made_here and made[0] != made[1]


@pytest.mark.parametrize(
    "value", ["", " ", "short", "auto", "größer als nötig", "a\nb\nc\nd\ne\nf"]
)
def test_a_variable_that_is_no_token_opens_nothing(value: str) -> None:
    with pytest.raises(UsageError, match=VARIABLE) as error:
        find_token(None, None, {VARIABLE: value})
    assert not value.strip() or repr(value)[1:-1] not in str(error.value).replace(" auto", "")


def test_a_record_does_not_show_it() -> None:
    token = find_token("auto", None, {})
    assert token is not None
    assert token.value not in repr(token) + repr(Access(token=token.value))


def test_the_command_says_what_is_missing(store: Path, tmp_path: Path) -> None:
    done = run_cli("serve", "--store", store, "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "--host 0.0.0.0" in done.stderr and "--token-file FILE" in done.stderr
    assert "--token auto" in done.stderr and VARIABLE in done.stderr
    done = run_cli("serve", "--store", store, "--token", "sesame")
    assert (done.returncode, "sesame" in done.stderr) == (2, False)
    done = run_cli("serve", "--store", store, "--token-file", tmp_path / "none")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"--token-file {tmp_path / 'none'} cannot be read" in done.stderr
    done = run_cli("serve", "--store", store, env={**os.environ, VARIABLE: ""})
    assert done.returncode == 2 and f"{VARIABLE} is empty" in done.stderr


def try_all(server: Served, token: str) -> None:
    """Ask with and without the token, in every way."""
    bearer = {"authorization": f"Bearer {token}"}
    for headers in ({}, {"authorization": "Bearer wrong one"}, {"cookie": "embedsearch_token=x"}):
        for path in ("/info", "/health", "/metrics", "/openapi.json", "/images/0/original"):
            failed(server.get(path, **headers), 401, "token")
        failed(server.request("POST", "/search", b"{}", **headers), 401)
    failed(server.get("/info?token=wrong"), 401)
    failed(server.get("/info?token=%C3%A9"), 401)
    failed(server.get("/info?token=wrong&token=" + token.replace(" ", "+")), 401)
    for path in ("/metrics", "/openapi.json", "/info", "/"):
        answer = server.get(path, **bearer)
        assert answer.status == 200 and token.encode() not in answer.body
    quoted = token.replace("%", "%25").replace(";", "%3B").replace(" ", "+")
    moved = server.get(f"//info?token={quoted}&side=3")
    assert (moved.status, moved.headers["location"]) == (303, "./info?side=3")
    cookie = moved.headers["set-cookie"]
    assert "httponly" in cookie and "samesite=strict" in cookie
    value = re.match("embedsearch_token=([^;]+)", cookie)
    assert value is not None
    sent = value[0].upper().replace("EMBEDSEARCH_TOKEN", "embedsearch_token")
    sent = re.sub("=.*", lambda rest: rest[0].lower(), sent)
    sent = re.sub("%[0-9a-f]{2}", lambda code: code[0].upper(), sent)
    assert server.get("/info", cookie=sent).status == 200
    page = server.get("/", accept="text/html")
    assert page.status == 401 and b'name="token"' in page.body
    assert b"This server needs its token." in page.body
    page = server.get("/?token=wrong", accept="text/html")
    assert page.status == 401 and b"This is not the token." in page.body


@pytest.mark.parametrize("way", ["file", "environment", "option"])
def test_a_token_that_was_given_is_shown_nowhere(
    store: Path, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(SECRET + "\n")
    arguments = {"file": ["--token-file", str(tmp_path / "token")], "option": ["--token", SECRET]}
    if way == "environment":
        monkeypatch.setenv(VARIABLE, SECRET)
    with served(store, *arguments.get(way, []), "-v") as server:
        try_all(server, SECRET)
        if way == "file":
            children = subprocess.run(
                ["ps", "-eo", "args"], capture_output=True, text=True, check=False
            )
            assert SECRET not in children.stdout
    server._reader.join(10)
    lines = [*server.first_lines, *server.log]
    assert not any("secret" in line for line in lines if "keeps it secret" not in line)
    assert any("keeps it secret" in line for line in lines) == (way == "option")
    assert "with the token" in server.first_lines[-1] and "?token=" not in server.first_lines[-1]


def test_an_option_counts_more_than_the_environment(store: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of the file")
    program = "import sys; from embedsearch.cli.entry import run; sys.exit(run(sys.argv[1:]))"
    arguments = ["serve", "--store", str(store), "--token-file", str(tmp_path / "token")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments, "--port", "99999"],
        capture_output=True,
        text=True,
        env={**os.environ, VARIABLE: "of the environment"},
    )
    notice, error = done.stderr.splitlines()
    assert notice == f"embedsearch: {VARIABLE} is not used: --token-file is given"
    assert done.returncode == 2 and "port" in error
