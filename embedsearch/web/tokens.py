"""The token that clients must send; in: options and the environment, out: it, once.

A token that was given is never shown again, in no line, error or answer.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

from embedsearch.core.errors import UsageError
from embedsearch.core.paths import local_path

VARIABLE = "EMBEDSEARCH_TOKEN"
AUTO = "auto"
_SHORTEST = 8
_MOST_BYTES = 4096  # of a file: what is longer was not meant
_WANTED = f"at least {_SHORTEST} printable ASCII characters"


@dataclass(frozen=True)
class Token:
    """A token; one that was made here has to be shown, or nobody could send it."""

    value: str = field(repr=False)
    is_made_here: bool


def find_token(
    token: str | None, token_file: Path | None, environ: MutableMapping[str, str] = os.environ
) -> Token | None:
    """Return the token of an option, a file or the environment, None if there is none.

    Options count more than the environment, from which the variable is removed: no child process
    needs it. Raises UsageError.
    """
    of_environment = environ.pop(VARIABLE, None)
    if token is not None and token_file is not None:
        raise UsageError("token and token_file were both given: give one", "token", "token_file")
    if token == AUTO:
        return Token(secrets.token_urlsafe(24), is_made_here=True)
    if token is not None:
        return Token(check_token(token, "token", "token"), is_made_here=False)
    if token_file is not None:
        return Token(_read(token_file), is_made_here=False)
    if of_environment is not None:
        # Set to nothing is a mistake, and must not open the server to everybody.
        return Token(check_token(of_environment.strip(), VARIABLE), is_made_here=False)
    return None


def check_token(token: str, name: str, *fields: str) -> str:
    """Return a token that can be sent in a header. Raises UsageError, which does not show it."""
    if not token:
        raise UsageError(f"{name} is empty: {_WANTED} are needed", *fields)
    is_plain = token.isascii() and token.isprintable() and token == token.strip()
    if len(token) < _SHORTEST or not is_plain:
        raise UsageError(f"{name} cannot be used: {_WANTED} are needed", *fields)
    return token


def _read(file: Path) -> str:
    """Return the token in a file, without the end of its line. Raises UsageError."""
    name = f"token_file {file}"
    try:
        with Path(local_path(file)).open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(
            f"{name} cannot be read ({reason}): name a file with {_WANTED}", "token_file"
        ) from error
    if len(content) > _MOST_BYTES:
        raise UsageError(f"{name} is larger than {_MOST_BYTES} bytes: {_WANTED} are needed")
    return check_token(content.decode("latin-1").strip(), name, "token_file")
