"""Config fields as options of commands: the help is written here, the default in the config."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from embedsearch.cli.app import seconds, size
from embedsearch.core.config import FREEZABLE, LOSSES
from embedsearch.core.options import configured

R = TypeVar("R")
Option = typer.Option

NETWORK = {
    "input_side": Option(help="Side of the network's input in pixels.  [default: the model's]"),
    "flip": Option("--flip", help="Average with the mirror image: better, half as fast."),
    "device": Option(help="auto, cpu, cuda, cuda:N or mps."),
    "precision": Option(help="auto, fp32, bf16, fp16, or int8: faster, on a CPU."),
}
MODEL = {"model": Option(help="A name from `embedsearch models`, a file of weights or ONNX files.")}
TUNE = {"tune": Option("--tune/--no-tune", help="Measure once how the network runs fastest here.")}
WORKERS = {"workers": Option(help="Decoding processes.  [default: what keeps the network busy]")}
CENTER = {
    "center": Option(
        help="What vectors are measured from: store (the mean of its images), model or none.  "
        "[store; kept by the store]"
    )
}
INDEX = {
    "files": Option(metavar="FILE", help="Only the files listed in it, one per line; - is stdin."),
    **MODEL,
    **NETWORK,
    **TUNE,
    **WORKERS,
    "max_pixels": Option(help="Refuse pictures of more pixels."),
    "max_bytes": Option(help="Refuse files of more bytes."),
    "allow_truncated": Option("--allow-truncated", help="Accept truncated pictures."),
    "metadata": Option(metavar="FILE", help="CSV, JSONL or Parquet: add columns, by path or name."),
    "sidecars": Option("--sidecars", help="Add columns from photo.jpg.json and photo.txt."),
    "follow_links": Option(
        "--follow-links/--no-follow-links",
        help="Follow links to files and folders.  [on; kept by the store]",
    ),
    "exclude": Option(
        metavar="PATTERN",
        help="Leave out what matches, as in .gitignore: 'Trash/', '!keep/'. Repeatable, kept by "
        "the store; '' is none.",
    ),
    "default_excludes": Option(
        "--default-excludes/--no-default-excludes",
        help="Leave out @eaDir, #recycle, __MACOSX and the like.  [on; kept by the store]",
    ),
    "poll_s": Option(
        "--poll", parser=seconds, metavar="TIME", help="With --watch: look every so often, too."
    ),
    **CENTER,
    "recall": Option(help="Share of the true 10 nearest that queries must find.  [0.98]"),
    "latency_s": Option(
        "--latency", parser=seconds, metavar="TIME", help="Maximum time of a query.  [10ms]"
    ),
    "memory_bytes": Option(
        "--memory", parser=size, metavar="SIZE", help="Maximum memory for search, mapped.  [4G]"
    ),
    "ann": Option(help="auto, exact, or a FAISS factory string such as IVF1024,SQ8.  [auto]"),
    "rebuild": Option("--rebuild", help="Re-embed everything; required to change the model."),
    "allow_empty": Option("--allow-empty", help="Accept that a folder vanished or is empty."),
    "dry_run": Option("--dry-run", help="Only report what would be done."),
    "wait_s": Option("--wait", help="Seconds to wait for another writer."),
}
SEARCH = {
    "k": Option("-k", "--k", min=1, help="Neighbors per query."),
    "where": Option(help='Only rows that meet a SQL condition: "width > 1000".'),
    "offset": Option(min=0, help="Skip this many of the nearest hits."),
    "min_score": Option(
        min=-1.0, max=1.0, help="Leave out pictures with a lower cosine (not hits by words)."
    ),
    "collapse": Option(help="Leave out hits whose cosine with a better hit reaches this."),
    "diverse": Option(help="How much hits should differ: 0 not at all, 1 as much as possible."),
    "expand": Option(help="Query again with the mean of the query and this many neighbors."),
    "rerank": Option(
        "--rerank", help="Re-rank the 100 nearest: hits that resemble other near hits move up."
    ),
    "by": Option(help="With an image and words: rank by picture, words or both."),
    "weight": Option(
        metavar="NAME=NUMBER",
        help="What picture, words or the words of a column count, as caption=2.  [1; path and "
        "camera 0.5]",
    ),
}
DUPLICATES = {
    "threshold": Option(help="Minimum correlation of two copies."),
    "flips": Option("--flips", help="Also mirrored copies."),
    "rotations": Option("--rotations", help="Also copies turned by 90, 180, 270 degrees."),
    "crops": Option("--crops", help="Also crops of at least four fifths of each side."),
    "similar": Option(help="Look-alikes instead: minimum cosine of any two of a group."),
    "where": SEARCH["where"],
    "keep": Option(
        help="Which to keep: largest, oldest, newest, format=PNG,JPEG or folder=PATH. "
        "Repeatable, the first has priority.  [default: largest, then oldest]"
    ),
}
TRAIN = {
    "model": Option(help="Model to start from: a name from `embedsearch models`, or a file."),
    "epochs": Option(help="Passes over the pictures."),
    "batch": Option(help="Pictures per step."),
    "lr": Option(help="Learning rate of the heads; with few pictures, stages use less."),
    "loss": Option(help=f"Loss for classes: {' or '.join(LOSSES)}."),
    "margin": Option(help="For proxies: by how much the own proxy must be nearer, as a cosine."),
    "label_smoothing": Option(help="Label smoothing for classes."),
    "frozen": Option(help=f"Freeze this stage and all before it: {', '.join(FREEZABLE)}."),
    "holdout": Option(help="Fraction of each class to measure on."),
    "input_side": NETWORK["input_side"],
    "seed": Option(help="Random seed."),
    "device": NETWORK["device"],
    "precision": NETWORK["precision"],
}
ASKED: dict[str, Any] = {
    "images": typer.Argument(help="Images to look for; - reads stdin."),
    "key": Option(help="Look for an image of the store, by its key or path."),
    "like": Option(help="Hits should also be like this image."),
    "unlike": Option(help="Hits should not be like this image."),
    "text": Option(
        help='Words in captions, paths, camera names: "red shoes", -blue, caption:red, sho*.'
    ),
    "source": Option(
        "--from",
        metavar="FILE",
        help="Look for all items of a file: one image per line, or vectors as .npy.",
    ),
    "crop": Option(metavar="X,Y,W,H", help="Look for this part of the images, in pixels."),
}
HITS_OUTPUT = {
    "json": Option("--json", help="One JSON object per hit."),
    "paths": Option("--paths", help="Only the paths of the hits."),
    "null": Option("--null", "-0", help="With --paths: NUL after each path, no newline."),
    "csv": Option("--csv", help="CSV with a header."),
    "out": Option(help="Write the hits to this .jsonl, .csv or .parquet file."),
    "sheet": Option(help="Also write a contact sheet, a PNG, to this file."),
    "html": Option(help="Also write a page of pictures, one HTML file, to this path."),
    "thumbnails": Option("--thumbnails", help="Also show the pictures on a terminal."),
}


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
