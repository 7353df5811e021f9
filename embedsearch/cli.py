"""The command line: parse, call, present. Results on stdout, progress and notices on stderr."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import embedsearch
from embedsearch.config import (
    DEFAULT_K,
    FREEZABLE,
    LOSSES,
    DecodeLimits,
    IndexConfig,
    TrainConfig,
)
from embedsearch.errors import (
    EmbedSearchError,
    MissingLibrary,
    NothingIndexed,
    UnreadableImage,
    UsageError,
)
from embedsearch.session import Session

if TYPE_CHECKING:
    from embedsearch.records import Hit
    from embedsearch.searching import Answer

MAX_STDIN_BYTES = 512 << 20
SHEET_HITS = 6  # beside each of the worst queries: one line

app = typer.Typer(
    name="embedsearch",
    help="Find images by image: folders of photos in, nearest neighbours out.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_show_traceback = False
_stop_signal = 0


def main() -> NoReturn:
    """Run the command line and exit with the code that `errors.py` gives the outcome."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # started with it closed, as by `>&-`
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  lives as long as we do
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack a file name's letters
            stream.reconfigure(errors="backslashreplace")
    _allow_many_files()
    # typer's pydantic would search every installed package for plugins of its own.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    code = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # what an error's code says already
            stream.flush()
    # Everything is closed and flushed by now; taking OpenVINO's runtime apart piece by piece
    # would be a seventh of a cold query.
    os._exit(code)


def _allow_many_files() -> None:
    """Raise the soft limit of open files: a reader of millions of rows holds hundreds open."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16384 if hard == resource.RLIM_INFINITY else min(hard, 16384)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS has a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; an error is one line on stderr."""
    try:
        code = app(arguments, standalone_mode=False, prog_name="embedsearch")
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        words = error.format_message().rstrip(".")
        shown = words if "\n" in words else f"embedsearch: {words}; see --help"
        print(shown, file=sys.stderr)
        return error.exit_code
    except EmbedSearchError as error:
        _explain(error)
        return error.exit_code
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise  # the end of a shell's request for completions
        # The reader of our output has gone, as `| head` does; typer makes SystemExit of that.
        # Keep Python from saying so when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return 128 + signal.SIGINT
    except OSError as error:
        _explain(error)
        return 4


def _explain(error: Exception) -> None:
    if _show_traceback:
        traceback.print_exception(error)
    print(f"embedsearch: {error}", file=sys.stderr)


def _verbose(value: bool) -> None:
    global _show_traceback
    _show_traceback = _show_traceback or value


def _version(value: bool) -> None:
    if value:
        print(f"embedsearch {embedsearch.__version__}")
        raise typer.Exit


StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        help="The store's folder.  [default: EMBEDSEARCH_STORE, else the nearest .embedsearch]",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
PrecisionOption = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]
InputSideOption = Annotated[
    int | None, typer.Option(help="Pixels the network sees, a side.  [default: the model's]")
]
FlipOption = Annotated[
    bool, typer.Option("--flip", help="Average with the mirror image: better, half as fast.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for programs.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", callback=_verbose, help="Show tracebacks of errors.")
]
WaitOption = Annotated[
    float, typer.Option("--wait", help="Seconds to wait for another writer of the store.")
]


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def index(
    folders: Annotated[
        list[str] | None, typer.Argument(help="Folders of images; without, all known ones.")
    ] = None,
    store: StoreOption = None,
    model: Annotated[
        str, typer.Option(help="A name from `embedsearch models`, or a file of weights.")
    ] = IndexConfig.model,
    input_side: InputSideOption = IndexConfig.input_side,
    flip: FlipOption = IndexConfig.flip,
    device: DeviceOption = IndexConfig.device,
    precision: PrecisionOption = IndexConfig.precision,
    workers: Annotated[
        int | None, typer.Option(help="Decoding processes.  [default: one a processor]")
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(help="Refuse pictures of more pixels.")
    ] = DecodeLimits.max_pixels,
    max_bytes: Annotated[
        int, typer.Option(help="Refuse files of more bytes.")
    ] = DecodeLimits.max_bytes,
    allow_truncated: Annotated[
        bool, typer.Option("--allow-truncated", help="Accept pictures whose end is missing.")
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Embed everything anew, the one way to another model."),
    ] = False,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Accept that a folder has vanished or is empty.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if any file or folder failed.")
    ] = False,
    wait: WaitOption = IndexConfig.wait_s,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Bring the store into step with folders: embed new and changed images, drop deleted ones."""
    from embedsearch import indexing
    from embedsearch.present.progress import ProgressDisplay
    from embedsearch.present.text import json_line, report_lines

    config = IndexConfig(
        model=model,
        input_side=input_side,
        flip=flip,
        device=device,
        precision=precision,
        workers=workers,
        limits=DecodeLimits(
            max_pixels=max_pixels, max_bytes=max_bytes, allow_truncated=allow_truncated
        ),
        wait_s=wait,
        rebuild=rebuild,
        allow_empty=allow_empty,
        dry_run=dry_run,
    )
    session = _session_with_signals()
    if workers is not None and config.worker_count() < workers:
        session.notice(f"--workers {workers} is more than pays here: {config.worker_count()} used")
    with ProgressDisplay(_notice) as on_progress:
        report = indexing.index(
            folders or [], store=store, config=config, session=session, on_progress=on_progress
        )
    sys.stdout.write(json_line(report.to_dict()) + "\n" if json else report_lines(report))
    return 1 if strict and (report.failed or report.unreadable_folders) else 0


@app.command()
def query(
    images: Annotated[list[str], typer.Argument(help="Images to look for; - reads stdin.")],
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Neighbours a query.")] = DEFAULT_K,
    store: StoreOption = None,
    min_score: Annotated[
        float | None, typer.Option(min=-1.0, max=1.0, help="Leave out lower cosines.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a hit.")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Only the paths of the hits.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
    sheet: Annotated[
        Path | None, typer.Option(help="Also write a contact sheet, a PNG, to this file.")
    ] = None,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = IndexConfig.precision,
    verbose: VerboseOption = False,
) -> int:
    """Show the nearest images of the store, best first."""
    from embedsearch.searching import open_store

    if json + paths + csv > 1:
        raise UsageError("--json, --paths and --csv exclude each other")
    form = "json" if json else "paths" if paths else "csv" if csv else "table"
    queries = [_stdin_image() if image == "-" else image for image in images]
    session = Session(notice=_notice)
    with open_store(store, device=device, precision=precision, session=session) as searcher:
        if not len(searcher):
            raise NothingIndexed("the store holds no image; embedsearch failures may say why")
        answers = searcher.answers(queries, k, min_score=min_score)
        return _show(answers, images, form, sheet)


@app.command()
def info(
    store: StoreOption = None, json: JsonOption = False, verbose: VerboseOption = False
) -> None:
    """Show what the store holds: images, model, sizes, generation."""
    from embedsearch import upkeep
    from embedsearch.present.text import info_lines, json_line
    from embedsearch.store.locate import locate_store

    facts = upkeep.info(locate_store(store)).to_dict()
    sys.stdout.write(json_line(facts) + "\n" if json else info_lines(facts))


@app.command()
def check(
    store: StoreOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Checksums of files only, not every row.")
    ] = False,
    verbose: VerboseOption = False,
) -> int:
    """Verify every checksum and every row of the store; exit with 5 if anything is wrong."""
    from embedsearch.store.check import check_store
    from embedsearch.store.locate import locate_store

    manifest, problems = check_store(locate_store(store), read_data=not quick)
    for problem in problems:
        print(problem.words, file=sys.stderr)
    if problems:
        return 5
    files = len(manifest.files())
    print(f"generation {manifest.generation} is whole: {manifest.live} images in {files} files")
    return 0


@app.command()
def repair(
    store: StoreOption = None, wait: WaitOption = 0.0, verbose: VerboseOption = False
) -> None:
    """Build the FAISS files again from the shards, and find the newest whole generation."""
    from embedsearch.store.locate import locate_store
    from embedsearch.upkeep import repair as repair_store

    done = repair_store(locate_store(store), wait)
    print("\n".join(done) or "nothing to repair")


@app.command()
def failures(
    store: StoreOption = None, json: JsonOption = False, verbose: VerboseOption = False
) -> None:
    """List the files that could not be indexed, with stage and reason."""
    from embedsearch import upkeep
    from embedsearch.present.text import failure_values, json_line, table
    from embedsearch.store.locate import locate_store

    rows = [failure_values(folder, item) for folder, item in upkeep.failures(locate_store(store))]
    if json:
        sys.stdout.writelines(json_line(row) + "\n" for row in rows)
    elif rows:
        names = ("stage", "reason", "path", "detail")
        sys.stdout.write(table(names, [[row[name] for name in names] for row in rows]))
    else:
        print("no failures")


@app.command()
def models(json: JsonOption = False, verbose: VerboseOption = False) -> None:
    """List the models that --model knows, with dims, size, licence, and which are here."""
    from embedsearch import upkeep
    from embedsearch.present.text import json_line, model_lines

    entries = upkeep.models()
    if json:
        sys.stdout.writelines(json_line(entry) + "\n" for entry in entries)
    else:
        sys.stdout.write(model_lines(entries))


@app.command()
def evaluate(
    folder: Annotated[
        str | None, typer.Argument(help="Pictures, one folder a class; without, a store's.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Several are compared.  [default: auto]")
    ] = None,
    store: StoreOption = None,
    relevant: Annotated[
        Path | None,
        typer.Option(help="CSV of two columns, query and relevant, in place of classes."),
    ] = None,
    input_side: InputSideOption = IndexConfig.input_side,
    flip: FlipOption = IndexConfig.flip,
    sheet: Annotated[
        Path | None, typer.Option(help="Write the worst queries of the last model to this PNG.")
    ] = None,
    device: DeviceOption = IndexConfig.device,
    precision: PrecisionOption = IndexConfig.precision,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Measure how well models find what belongs together, on labelled pictures."""
    from embedsearch.learning.evaluate import evaluate as measured
    from embedsearch.present.progress import ProgressDisplay
    from embedsearch.present.text import evaluation_lines, json_line

    config = IndexConfig(device=device, precision=precision, input_side=input_side, flip=flip)
    with ProgressDisplay(_notice) as on_progress:
        results = measured(
            folder,
            models=model,
            store=store,
            relevant=relevant,
            config=config,
            session=_session_with_signals(),
            on_progress=on_progress,
        )
    if json:
        sys.stdout.writelines(json_line(result.to_dict()) + "\n" for result in results)
    else:
        sys.stdout.write(evaluation_lines(results))
    if sheet is not None:
        worst = results[-1].worst
        _write_sheet(
            sheet,
            [(w.path, f"AP {w.average_precision:.3f}", w.path, w.hits[:SHEET_HITS]) for w in worst],
        )


@app.command()
def train(
    folder: Annotated[str, typer.Argument(help="Labelled pictures: one folder a class.")],
    out: Annotated[Path, typer.Option(help="Where to write the model, a .safetensors file.")],
    model: Annotated[
        str, typer.Option(help="Where to start: a name from `embedsearch models`, or a file.")
    ] = TrainConfig.model,
    weights: Annotated[
        str, typer.Option(help="model: its own; none: random, only its architecture is taken.")
    ] = "model",
    targets: Annotated[
        Path | None, typer.Option(help="CSV of path and targets, in place of class folders.")
    ] = None,
    classify: Annotated[
        list[str] | None, typer.Option(help="A column of classes; may be given again.")
    ] = None,
    regress: Annotated[
        list[str] | None, typer.Option(help="A column of numbers; may be given again.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the pictures.")] = TrainConfig.epochs,
    batch: Annotated[int, typer.Option(help="Pictures a step.")] = TrainConfig.batch,
    lr: Annotated[
        float, typer.Option(help="Learning rate of the heads; with few pictures, stages have less.")
    ] = TrainConfig.lr,
    loss: Annotated[
        str, typer.Option(help=f"Of classes: {' or '.join(LOSSES)}.")
    ] = TrainConfig.loss,
    margin: Annotated[
        float, typer.Option(help="Of proxies: how much nearer, as a cosine, its own has to be.")
    ] = TrainConfig.margin,
    label_smoothing: Annotated[
        float, typer.Option(help="Of classes.")
    ] = TrainConfig.label_smoothing,
    frozen: Annotated[
        str | None, typer.Option(help=f"Keep this stage and all before: {', '.join(FREEZABLE)}.")
    ] = TrainConfig.frozen,
    holdout: Annotated[
        float, typer.Option(help="Share of each class to measure on.")
    ] = TrainConfig.holdout,
    input_side: InputSideOption = TrainConfig.input_side,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = TrainConfig.seed,
    device: DeviceOption = TrainConfig.device,
    precision: PrecisionOption = TrainConfig.precision,
    json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Make a model better on labelled pictures: transfer learning. Runs go on after a break."""
    from embedsearch.present.progress import ProgressDisplay
    from embedsearch.present.text import epoch_line, json_line, plan_lines, train_lines

    if weights not in ("model", "none"):
        raise UsageError(f"--weights is model or none, not {weights!r}")
    config = TrainConfig(
        model=model,
        from_scratch=weights == "none",
        input_side=input_side,
        epochs=epochs,
        batch=batch,
        lr=lr,
        loss=loss,
        margin=margin,
        label_smoothing=label_smoothing,
        frozen=frozen,
        holdout=holdout,
        seed=seed,
        device=device,
        precision=precision,
    )
    session = _session_with_signals()
    try:
        from embedsearch.learning.train import train as run_training
    except (ImportError, OSError) as error:
        raise MissingLibrary(f"train needs torch, which does not load ({error})") from error
    with ProgressDisplay(_notice) as on_progress:
        report = run_training(
            folder,
            out,
            targets=targets,
            classify=classify or (),
            regress=regress or (),
            config=config,
            session=session,
            on_plan=lambda plan: print(plan_lines(plan), end="", file=sys.stderr),
            on_epoch=lambda epoch: print(epoch_line(epoch), file=sys.stderr, flush=True),
            on_progress=on_progress,
        )
    sys.stdout.write(json_line(report.to_dict()) + "\n" if json else train_lines(report))


def _show(answers: Iterator[Answer], images: list[str], form: str, sheet: Path | None) -> int:
    """Print the answers as they come; return 1 if an image could not be read."""
    from embedsearch.present.text import HIT_COLUMNS, hit_csv, hit_table, hit_values, json_line

    code = 0
    shown: list[tuple[str | bytes, str, str, list[Hit]]] = []
    if form == "csv":
        sys.stdout.write(",".join(HIT_COLUMNS) + "\n")
    for name, answer in zip(images, answers, strict=True):
        if answer.failure is not None:
            print(f"embedsearch: {answer.failure}", file=sys.stderr)
            code = UnreadableImage.exit_code
            continue
        assert isinstance(answer.query, str | bytes), "the command line asks by path or stdin"
        shown.append((answer.query, "query", name, answer.hits))
        rows = [hit_values(name, hit) for hit in answer.hits]
        if form == "json":
            sys.stdout.writelines(json_line(row) + "\n" for row in rows)
        elif form == "csv":
            sys.stdout.write(hit_csv(rows))
        elif form == "paths":
            sys.stdout.flush()
            for hit in answer.hits:
                sys.stdout.buffer.write(os.fsencode(hit.path) + b"\n")
        else:
            sys.stdout.write(hit_table(name, answer.hits))
    if sheet is not None and shown:
        _write_sheet(sheet, shown)
    return code


def _write_sheet(path: Path, rows: list[tuple[str | bytes, str, str, list[Hit]]]) -> None:
    """Write rows of a query (where to read it, its title and name) and its hits as one PNG."""
    from embedsearch.present.sheet import MAX_TILES, THUMBNAIL_SIDE, Tile, write_sheet
    from embedsearch.searching import thumbnails

    images: list[str | bytes] = []
    kept = []
    for image, title, name, hits in rows:
        if len(images) < MAX_TILES:
            shown = hits[: MAX_TILES - len(images) - 1]
            images += [image, *(hit.path for hit in shown)]
            kept.append((title, name, shown))
    if len(images) < sum(1 + len(hits) for *_, hits in rows):
        _notice(f"the contact sheet is cut after {len(images)} pictures")
    pixels = thumbnails(images, THUMBNAIL_SIDE)
    tiles = []
    for title, name, hits in kept:
        row = [Tile(next(pixels), title, os.path.basename(name), is_query=True)]
        row += [Tile(next(pixels), f"{h.rank}.  {h.score:.3f}", h.key) for h in hits]
        tiles.append(row)
    write_sheet(path, tiles)
    _notice(f"contact sheet written to {path}")


def _stdin_image() -> bytes:
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        raise UsageError(f"stdin holds more than {MAX_STDIN_BYTES >> 20} MB")
    return data


def _notice(words: str) -> None:
    print(f"embedsearch: {words}", file=sys.stderr, flush=True)


def _session_with_signals() -> Session:
    """Return a session that the first signal stops gently; the second ends at once."""

    def note(number: int, _: object) -> None:
        global _stop_signal
        if _stop_signal:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        _stop_signal = number

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup's wish
            signal.signal(number, note)
    return Session(notice=_notice, stop=lambda: _stop_signal)
