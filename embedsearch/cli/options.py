"""Config fields as options of commands: the help is written here, the default in the config."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from embedsearch.cli.app import DEVICE, PRECISION, WHERE, seconds, size
from embedsearch.cli.completion import (
    centers,
    losses,
    models,
    precisions,
    rankings,
    stages,
    weights,
)
from embedsearch.cli.help import (
    FILTERS,
    LEARNING,
    NETWORK as NETWORK_GROUP,
    OUTPUT,
    RUN,
    SEARCH_INDEX,
    SOURCES,
    WHAT,
)
from embedsearch.core.config import FREEZABLE, LOSSES
from embedsearch.core.options import configured

R = TypeVar("R")
Option = typer.Option


def _in(group: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return options that stand under `group` in the help."""
    for option in options.values():
        option.rich_help_panel = group
    return options


NETWORK = _in(
    NETWORK_GROUP,
    {
        "input_side": Option(
            metavar="PIXELS", help="Side of the network's input.  [default: the model's]"
        ),
        "flip": Option("--flip", help="Average with the mirror image: better, half as fast."),
        "device": DEVICE,
        "precision": PRECISION,
    },
)
MODEL = _in(
    NETWORK_GROUP,
    {
        "model": Option(
            metavar="MODEL",
            autocompletion=models,
            help="A name from `embedsearch models`, a file of weights or a folder of ONNX files.",
        )
    },
)
TUNE = _in(
    NETWORK_GROUP,
    {"tune": Option("--tune/--no-tune", help="Measure once how the network runs fastest here.")},
)
WORKERS = _in(
    NETWORK_GROUP,
    {"workers": Option(help="Decoding processes.  [default: what keeps the network busy]")},
)
CENTER = _in(
    SEARCH_INDEX,
    {
        "center": Option(
            metavar="NAME",
            autocompletion=centers,
            help="Subtract this from all vectors before they are compared: store (the mean of its "
            "images), model (an estimate from the weights) or none.  "
            "[default: store, but none for CLIP and ONNX models; kept by the store]",
        )
    },
)
INDEX = {
    **_in(
        SOURCES,
        {
            "files": Option(
                metavar="FILE", help="Index only the files listed in it, one per line; - is stdin."
            ),
            "metadata": Option(
                metavar="FILE", help="Add columns from CSV, JSON or Parquet, by path or name."
            ),
            "sidecars": Option(
                "--sidecars", help="Add columns from files as photo.jpg.json and photo.txt."
            ),
            "exclude": Option(
                metavar="PATTERN",
                help="Skip what matches, as in .gitignore: 'Trash/', '!keep/'. Repeatable; '' "
                "clears the list.  [kept by the store]",
            ),
            "default_excludes": Option(
                "--default-excludes/--no-default-excludes",
                help="Skip @eaDir, #recycle, __MACOSX and the like.  "
                "[default: skip; kept by the store]",
            ),
            "follow_links": Option(
                "--follow-links/--no-follow-links",
                help="Follow links to files and folders.  [default: follow; kept by the store]",
            ),
            "max_pixels": Option(metavar="N", help="Refuse pictures of more pixels."),
            "max_bytes": Option(metavar="N", help="Refuse files of more bytes."),
            "allow_truncated": Option("--allow-truncated", help="Accept truncated pictures."),
            "allow_empty": Option(
                "--allow-empty", help="Accept that a folder vanished or is empty: its images go."
            ),
        },
    ),
    **MODEL,
    **NETWORK,
    **TUNE,
    **WORKERS,
    **_in(
        NETWORK_GROUP,
        {
            "rebuild": Option(
                "--rebuild", help="Embed everything again; needed to change the model."
            )
        },
    ),
    **CENTER,
    **_in(
        SEARCH_INDEX,
        {
            "recall": Option(
                metavar="NUMBER",
                help="Share of the true 10 nearest that queries must find.  [default: 0.98]",
            ),
            "latency_s": Option(
                "--latency",
                parser=seconds,
                metavar="TIME",
                help="Maximum time of a query.  [default: 10ms]",
            ),
            "memory_bytes": Option(
                "--memory",
                parser=size,
                metavar="SIZE",
                help="Maximum memory for search, mapped.  [default: 4G]",
            ),
            "ann": Option(
                metavar="NAME",
                help="auto, exact, or a FAISS factory string as IVF1024,SQ8.  [default: auto]",
            ),
        },
    ),
    **_in(
        RUN,
        {
            "dry_run": Option("--dry-run", help="Only say what would be done."),
            "poll_s": Option(
                "--poll",
                parser=seconds,
                metavar="TIME",
                help="With --watch: also look this often.  [default: by file system]",
            ),
            "wait_s": Option(
                "--wait", metavar="SECONDS", help="Wait this long for another writer."
            ),
        },
    ),
}
SEARCH = _in(
    FILTERS,
    {
        "k": Option("-k", "--k", min=1, metavar="N", help="Number of hits per query."),
        "where": WHERE,
        "offset": Option(min=0, metavar="N", help="Skip this many of the nearest hits."),
        "min_score": Option(
            min=-1.0,
            max=1.0,
            metavar="COSINE",
            help="Leave out pictures with a lower score (not hits by words).",
        ),
        "collapse": Option(
            metavar="COSINE", help="Leave out hits that are this similar to a better hit."
        ),
        "diverse": Option(
            metavar="NUMBER", help="How much hits should differ, from 0 to 1 (the most)."
        ),
        "expand": Option(
            metavar="N", help="Query again with the mean of the query and its N nearest."
        ),
        "rerank": Option(
            "--rerank", help="Re-rank the 100 nearest: hits that resemble other near hits move up."
        ),
        "by": Option(
            metavar="NAME",
            autocompletion=rankings,
            help="With an image and words: rank by picture, words or both.",
        ),
        "weight": Option(
            metavar="NAME=N",
            autocompletion=weights,
            help="How much picture, words, or the words of a column count: caption=2.  "
            "[default: 1; path and camera 0.5]",
        ),
    },
)
DUPLICATES = _in(
    FILTERS,
    {
        "threshold": Option(metavar="NUMBER", help="Minimum correlation of two copies."),
        "flips": Option("--flips", help="Also find mirrored copies."),
        "rotations": Option(
            "--rotations", help="Also find copies turned by 90, 180 or 270 degrees."
        ),
        "crops": Option("--crops", help="Also find crops of at least four fifths of each side."),
        "similar": Option(
            metavar="COSINE",
            help="Find look-alikes instead: all pairs of a group are at least this similar.",
        ),
        "where": WHERE,
        "keep": Option(
            metavar="RULE",
            help="Which to keep: largest, oldest, newest, format=PNG,JPEG or folder=PATH. "
            "Repeatable, the first counts most.  [default: largest, then oldest]",
        ),
    },
)
TRAIN = {
    **_in(
        LEARNING,
        {
            "epochs": Option(metavar="N", help="Passes over the pictures."),
            "batch": Option(metavar="N", help="Pictures per step."),
            "lr": Option(
                metavar="NUMBER",
                help="Learning rate of the heads; with few pictures, stages use less.",
            ),
            "loss": Option(
                metavar="NAME", autocompletion=losses, help=f"For classes: {' or '.join(LOSSES)}."
            ),
            "margin": Option(
                metavar="COSINE", help="For proxies: how much nearer the own proxy must be."
            ),
            "label_smoothing": Option(metavar="NUMBER", help="Label smoothing for classes."),
            "frozen": Option(
                metavar="STAGE",
                autocompletion=stages,
                help=f"Freeze this stage and all before it: {', '.join(FREEZABLE)}.",
            ),
            "holdout": Option(
                metavar="NUMBER", help="Fraction of each class to measure on, not to learn from."
            ),
            "seed": Option(metavar="N", help="Random seed."),
        },
    ),
    **_in(
        NETWORK_GROUP,
        {
            "model": Option(
                metavar="MODEL",
                autocompletion=models,
                help="Start from this model: a name from `embedsearch models`, or a file.",
            )
        },
    ),
    "input_side": NETWORK["input_side"],
    "device": NETWORK["device"],
    "precision": Option(
        metavar="NAME",
        autocompletion=precisions,
        help="auto, fp32, bf16 or fp16.",
        rich_help_panel=NETWORK_GROUP,
    ),
}
ASKED: dict[str, Any] = {
    "images": typer.Argument(metavar="IMAGE", help="Images to look for; - reads one from stdin."),
    **_in(
        WHAT,
        {
            "key": Option(
                metavar="PATH", help="Look for an image of the store, by its path. Repeatable."
            ),
            "like": Option(metavar="IMAGE", help="Hits should also be like this. Repeatable."),
            "unlike": Option(metavar="IMAGE", help="Hits should not be like this. Repeatable."),
            "text": Option(
                metavar="WORDS",
                help='Words in captions, paths, camera names: "red shoes", -blue, caption:red, '
                "sho*.",
            ),
            "source": Option(
                "--from",
                metavar="FILE",
                help="Look for each item of a file: an image per line (- is stdin), or vectors "
                "as .npy.",
            ),
            "crop": Option(
                metavar="X,Y,W,H", help="Look for this part of the images only, in pixels."
            ),
        },
    ),
}
HITS_OUTPUT = _in(
    OUTPUT,
    {
        "json": Option("--json", help="Print one JSON object per hit."),
        "paths": Option("--paths", help="Print only the paths of the hits."),
        "null": Option("--null", "-0", help="With --paths: end each with NUL, not a newline."),
        "csv": Option("--csv", help="Print CSV with a header."),
        "out": Option(help="Write the hits to this .jsonl, .csv or .parquet file."),
        "sheet": Option(help="Also write a contact sheet, as PNG."),
        "html": Option(help="Also write a page with the pictures, as one HTML file."),
        "thumbnails": Option("--thumbnails", help="Also show the pictures in the terminal."),
    },
)


def with_config(
    config: Callable[..., Any], options: Mapping[str, Any], name: str = "config"
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Replace a command's parameter `name`, a record of class `config`, by options for its fields.

    Types and defaults come from the fields, and from those of its limits. A tuple field becomes a
    repeatable option.
    """
    hints, defaults = get_type_hints(config), _defaults(config)
    if "limits" in hints:
        defaults |= _defaults(hints["limits"])
        hints |= get_type_hints(hints["limits"])
    hints |= dict.fromkeys({"metadata"} & hints.keys(), str | None)  # a shell has no tables
    repeatable = {option for option in options if hints[option] == tuple[str, ...]}
    added = [
        inspect.Parameter(
            option,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if option in repeatable else defaults[option],
            annotation=Annotated[list[str] | None if option in repeatable else hints[option], info],
        )
        for option, info in options.items()
    ]

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        @wraps(command)
        def run(**values: Any) -> R:
            chosen = {option: values.pop(option) for option in options}
            chosen |= {option: tuple(chosen[option] or ()) for option in repeatable}
            record = configured(config(), chosen) if "limits" in hints else config(**chosen)
            return command(**values, **{name: record})

        parameters = inspect.signature(command, eval_str=True).parameters.values()
        others = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters if p.name != name]
        ordered = sorted([*added, *others], key=lambda p: not _is_argument(p))
        run.__dict__["__signature__"] = inspect.Signature(ordered)
        run.__annotations__ = {p.name: p.annotation for p in ordered}
        return run

    return decorate


def _defaults(config: Any) -> dict[str, Any]:
    return {field.name: field.default for field in fields(config)}


def _is_argument(parameter: inspect.Parameter) -> bool:
    metadata = getattr(parameter.annotation, "__metadata__", ())
    return any(isinstance(item, typer.models.ArgumentInfo) for item in metadata)
