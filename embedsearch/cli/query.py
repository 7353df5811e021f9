"""`embedsearch query`."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from embedsearch.cli.app import (
    DeviceOption,
    PrecisionOption,
    ServeFromOption,
    StoreOption,
    VerboseOption,
    WeightsOption,
    notice,
    plain_session,
    session_with_signals,
)
from embedsearch.cli.options import ASKED, HITS_OUTPUT, SEARCH, with_config
from embedsearch.cli.query_arguments import QueryArguments
from embedsearch.cli.sheet import SheetRow, write_html, write_rows
from embedsearch.cli.wording import remarks
from embedsearch.core.config import IndexConfig, SearchConfig
from embedsearch.core.errors import NothingIndexed, UnreadableImage, UsageError
from embedsearch.core.paths import is_url, printable
from embedsearch.core.session import Session

if TYPE_CHECKING:
    from embedsearch.searching.searcher import Answer

_ShowPictures: TypeAlias = "Callable[[SheetRow], None]"


@dataclass(frozen=True)
class HitsOutput:
    """Where the hits go."""

    json: bool = False
    paths: bool = False
    null: bool = False
    csv: bool = False
    out: Path | None = None
    sheet: Path | None = None
    html: Path | None = None
    thumbnails: bool = False

    def __post_init__(self) -> None:
        if (chosen := self.json + self.paths + self.csv + (self.out is not None)) > 1:
            raise UsageError("--json, --paths, --csv and --out exclude each other")
        if self.null and not self.paths:
            raise UsageError("--null needs --paths")
        if self.thumbnails and chosen:
            raise UsageError("--thumbnails needs the table: no --json, --paths, --csv or --out")

    @property
    def keeps(self) -> bool:
        """Return whether the answers are kept for a file of pictures."""
        return self.sheet is not None or self.html is not None


@with_config(SearchConfig, SEARCH)
@with_config(HitsOutput, HITS_OUTPUT, "output")
@with_config(QueryArguments, ASKED, "asked")
def query(
    config: SearchConfig,
    asked: QueryArguments,
    output: HitsOutput,
    store: StoreOption = None,
    model: WeightsOption = None,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = IndexConfig.precision,
    serve_from: ServeFromOption = None,
    verbose: VerboseOption = False,
) -> int:
    """Find the images most like an image, or that match words.

    Score is the cosine between two images: 1 for the same picture, about 0 for unrelated ones.
    """
    # A single answer is too small to split: starting threads would cost more.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from embedsearch.images.decode.child import started_ahead as decoder_ahead
    from embedsearch.searching.filters.process import started_ahead as filter_ahead

    session = plain_session() if output.out is None else session_with_signals()
    with ExitStack() as opened:
        opened.enter_context(filter_ahead(config.where))
        opened.enter_context(decoder_ahead(asked.has_images))
        # Its libraries take a while to load: the other processes start meanwhile.
        from embedsearch.searching.following import Settings
        from embedsearch.searching.searcher import open_searcher

        settings = Settings(store, device, precision, False, serve_from, asked.has_images, model)
        searcher = opened.enter_context(open_searcher(settings, session))
        for remark in remarks(searcher.manifest, store):
            notice(remark)
        if not len(searcher):
            raise NothingIndexed("the store holds no image; embedsearch failures may say why")
        named, queries = tee(asked.queries(searcher.manifest.model.dim))
        found = searcher.answers((query for _, query in queries), config=config)
        pairs = zip((name for name, _ in named), found, strict=True)
        answers = _Answers(pairs, output.keeps, asked.text)
        if output.out is not None:
            _write(answers, output.out, len(asked), session)
        elif output.json or output.csv or output.paths:
            form = "json" if output.json else "csv" if output.csv else "paths"
            _print(answers, form, b"\0" if output.null else b"\n")
        else:
            _show_tables(answers, output.thumbnails)
        if answers.empty and config.where is not None and re.search(r"\bformat\b", config.where):
            values = searcher.values("format").values
            names = ", ".join(f"{value.value} ({value.images:,})" for value in values)
            notice(f"the formats in this store are {names}")
        location = str(searcher.store)
    if output.sheet is not None and answers.pictured:
        write_rows(output.sheet, answers.pictured)
    if output.html is not None and answers.pictured:
        write_html(output.html, answers.pictured, f"from {location}")
    return UnreadableImage.exit_code if answers.failed else 0


class _Answers:
    """The answers as rows of pictures; failures are printed on stderr and left out."""

    def __init__(
        self, pairs: Iterator[tuple[str, Answer]], is_kept: bool, text: tuple[str, ...]
    ) -> None:
        self._pairs = pairs
        self._text = text
        self._is_kept = is_kept
        self.failed = self.empty = 0
        self.pictured: list[SheetRow] = []  # all of them, if they are kept

    def __iter__(self) -> Iterator[SheetRow]:
        for name, answer in self._pairs:
            if answer.failure is not None:
                print(f"embedsearch: {_advised(name, answer, self._text)}", file=sys.stderr)
                self.failed += 1
                continue
            self.empty += not answer.hits
            row = SheetRow(_picture(answer), "query", name, answer.hits)
            if self._is_kept:
                self.pictured.append(row)
            yield row


def _advised(name: str, answer: Answer, text: tuple[str, ...]) -> str:
    """Return why an image cannot be searched with, and what may have been meant."""
    # With NumPy, which the help does without.
    from embedsearch.core.records import Reason
    from embedsearch.images.sources.kinds import has_image_name

    assert answer.failure is not None, "only failures are advised on"
    shown = shlex.quote(name)
    if os.path.isdir(name):
        return (
            f"{printable(name)} is a folder, not an image. To search with each of its images: "
            f"embedsearch query {shown.rstrip('/')}/*; to add them to the store: "
            f"embedsearch index {shown}"
        )
    if answer.failure.reason is not Reason.VANISHED or is_url(name):
        return str(answer.failure)
    if "*" in name:
        return f"{answer.failure}; without quotes, the shell puts the files in place of the *"
    if "/" in name or has_image_name(os.fsencode(name)):
        return str(answer.failure)
    if text:
        words = " ".join((*text, name))
        return f'{answer.failure}; several words are one text in quotes: --text "{words}"'
    return f"{answer.failure}; to search by words: embedsearch query --text {shown}"


def _print(answers: _Answers, form: str, end: bytes) -> None:
    """Print the hits for programs; `end` comes after each path."""
    from embedsearch.cli.output.text import (
        HIT_COLUMNS,
        csv_lines,
        exact_unless_shown,
        hit_values,
        json_lines,
    )

    if form == "csv":
        sys.stdout.write(",".join(HIT_COLUMNS) + "\n")
    for answer in answers:
        rows = [hit_values(answer.name, hit) for hit in answer.hits]
        if form == "json":
            sys.stdout.write(json_lines(rows))
        elif form == "csv":
            sys.stdout.write(exact_unless_shown(csv_lines(rows)))
        else:
            sys.stdout.flush()
            for hit in answer.hits:
                sys.stdout.buffer.write(os.fsencode(hit.full_path) + end)


def _show_tables(answers: _Answers, thumbnails: bool) -> None:
    """Print the hits for a person, as they come."""
    from embedsearch.cli.output.text import hit_table

    host = None
    if _is_smart_terminal():
        from socket import gethostname  # as `ls --hyperlink`: over ssh, the path is elsewhere

        host = gethostname()
    with ExitStack() as opened:
        show = _pictures(opened) if thumbnails else None
        for row in answers:
            sys.stdout.write(hit_table(row.name, row.hits, link_host=host))
            if show is not None:
                show(row)


def _is_smart_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _pictures(opened: ExitStack) -> _ShowPictures | None:
    """Return a function that shows the pictures of a query, or notice why they cannot be shown."""
    why = ""
    if not _is_smart_terminal():
        why = "stdout is not a terminal that can show them"
    elif os.environ.get("NO_COLOR"):
        why = "NO_COLOR is set"
    elif sys.stdout.encoding.lower() != "utf-8":
        why = f"the terminal uses {sys.stdout.encoding}, not UTF-8"
    if why:
        notice(f"without thumbnails: {why}")
        return None
    from embedsearch.cli.output.terminal import SIDE, Thumbnail, ThumbnailRows
    from embedsearch.images.thumbnails import ThumbnailReader

    rows = ThumbnailRows(sys.stdout, shutil.get_terminal_size().columns)
    pictures = opened.enter_context(ThumbnailReader(SIDE))

    def show(row: SheetRow) -> None:
        captions = [row.title, *(f"{hit.rank}  {hit.ranked_by:.3f}" for hit in row.hits)]
        pixels = pictures.pixels([row.picture, *(hit.full_path for hit in row.hits)])
        shown = zip(pixels, captions, strict=True)
        rows.show([Thumbnail(p, text if p is not None else f"{text}  lost") for p, text in shown])

    return show


def _write(answers: _Answers, out: Path, total: int, session: Session) -> None:
    """Write the hits to a file as they come, and show the progress."""
    from embedsearch.cli.output.hits import hits_file
    from embedsearch.cli.output.progress import ProgressDisplay
    from embedsearch.cli.output.text import hit_values
    from embedsearch.core.records import Progress

    done, started = 0, time.monotonic()
    with hits_file(out) as write, ProgressDisplay(notice) as show:
        for done, row in enumerate(answers, start=1):
            session.check()
            write([hit_values(row.name, hit) for hit in row.hits])
            show(Progress(done + answers.failed, total, answers.failed, time.monotonic() - started))
    notice(f"the hits of {done:,} queries, {answers.failed:,} failed, written to {out}")


def _picture(answer: Answer) -> str | bytes:
    """Return the picture of a query: its first image, or the first hit of a key or vector."""
    from embedsearch.searching.queries import Crop, Mix, Text

    query: object = answer.query
    if isinstance(query, Mix):
        query = query.like[0] if query.like else query.text
    if isinstance(query, Text):
        return ""
    if isinstance(query, Crop):
        query = query.image
    if not isinstance(query, str | bytes):  # a key or a vector
        return answer.hits[0].full_path if answer.hits else ""
    return query
