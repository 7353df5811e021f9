"""Run the sessions and snippets of a page, one after another in one home folder.

`python -m docs.support.sessions PAGE...` writes what they print now into the pages, where they
show it. The tests run the same and compare.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from docs.support.pages import REPOSITORY, Block, blocks

HOME = "/home/ada"  # as pages call the folder in which they run
ADDRESS = "localhost:8000"  # as they call a server that they start
_WRAPPER = '#!/bin/sh\nexec "{python}" {options} "$@"\n'


@dataclass(frozen=True)
class Outcome:
    """What a command or a snippet printed; `shown` is what the page says."""

    block: Block
    command: str
    printed: str
    shown: str


@dataclass
class _Home:
    """A folder with the sample images, in which a page runs."""

    folder: Path
    environment: dict[str, str]
    servers: list[subprocess.Popen[str]] = field(default_factory=list)
    address: str = ADDRESS

    def command(self, line: str) -> str:
        """Run a command and return what it printed on its standard output."""
        if line.endswith("&"):
            self._serve(line.removesuffix("&"))
            return ""
        return self._run(["sh", "-c", line.replace(ADDRESS, self.address)])

    def python(self, code: str) -> str:
        """Run a snippet and return what it printed."""
        return self._run([sys.executable, "-P", "-W", "ignore", "-c", code])

    def _run(self, words: list[str]) -> str:
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise AssertionError(f"{words[-1]}\nexit {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout.replace(str(self.folder), HOME)

    def _serve(self, line: str) -> None:
        """Start a server on a free port; later commands reach it there."""
        server = subprocess.Popen(
            ["sh", "-c", f"exec {line} --port 0"],
            cwd=self.folder,
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.servers.append(server)
        assert server.stderr is not None
        said = []
        for text in server.stderr:
            said.append(text)
            if found := re.search(r"http://\S+?:(\d+)/", text):
                self.address = f"localhost:{found[1]}"
                return
        raise AssertionError("".join(said))


@contextmanager
def _home(*, is_new: bool) -> Iterator[_Home]:
    with tempfile.TemporaryDirectory(prefix="pages-") as folder:
        home, programs = Path(folder, "ada"), Path(folder, "bin")
        shutil.copytree(REPOSITORY / "sample_images", home / "sample_images")
        shutil.copytree(REPOSITORY / "examples", home / "examples")
        programs.mkdir()
        for name, options in (("embedsearch", "-P -m embedsearch"), ("python", "-P")):
            program = programs / name
            program.write_text(_WRAPPER.format(python=sys.executable, options=options))
            program.chmod(0o755)
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "COLUMNS": "100"}
        if is_new:
            environment["EMBEDSEARCH_CACHE"] = str(Path(folder, "cache"))
        running = _Home(home, environment)
        try:
            yield running
        finally:
            for server in running.servers:
                server.terminate()
                server.wait(20)


def run(page: str, *, is_new: bool = False) -> Iterator[Outcome]:
    """Yield what each command and snippet of a page prints, as a new user sees it if `is_new`."""
    with _home(is_new=is_new) as home:
        found = blocks(page)
        for block, after in zip(found, [*found[1:], None], strict=True):
            if not block.runs:
                continue
            if block.language == "console":
                for command, shown in block.steps():
                    yield Outcome(block, command, home.command(command), shown)
            elif block.language == "python":
                printed = home.python(block.text)
                if after is not None and after.language == "text" and follows(page, block, after):
                    yield Outcome(after, block.text, printed, after.text)
                else:
                    yield Outcome(block, block.text, printed, "")


def follows(page: str, block: Block, after: Block) -> bool:
    """Return whether nothing stands between two blocks: the second is what the first prints."""
    between = page[block.end : after.start]
    return re.fullmatch(r"```\n+```text[^\n]*\n", between) is not None


def refreshed(page: str) -> str:
    """Return the page with the present output of what shows some."""
    texts: dict[Block, str] = {}
    for outcome in run(page, is_new=True):
        block = outcome.block
        if block.language == "console":
            shown = outcome.printed if outcome.shown else ""
            texts[block] = texts.get(block, "") + f"$ {outcome.command}\n{shown}"
        elif outcome.shown:
            texts[block] = outcome.printed
    for block in sorted(texts, key=lambda b: -b.start):
        page = page[: block.start] + texts[block] + page[block.end :]
    return page


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(refreshed(path.read_text()))
