"""A model made ready before it is needed; in: its name, out: files in the cache and a report.

Afterwards neither `index` nor `query` downloads, converts or measures anything, so that images of
containers and machines with a read-only cache can run them.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec

from embedsearch.core.arguments import checked
from embedsearch.core.config import IndexConfig
from embedsearch.core.errors import MissingLibrary, StorageError
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.records import JsonRecord
from embedsearch.core.session import Session
from embedsearch.core.system import cache_folder, writable_cache_folder
from embedsearch.network.catalog import AUTO, AUTO_MODEL
from embedsearch.network.runtime import load_extractor, load_stream_extractor, stream_feed
from embedsearch.network.weights import resolve, weights_path


@dataclass(frozen=True)
class PrepareReport(JsonRecord):
    """A model that is ready, and where it lies."""

    model: str
    weights_sha256: str
    dim: int
    device: str  # that `index` uses
    precision: str
    network: str  # how it runs fastest on many images
    cache: str  # the folder; EMBEDSEARCH_CACHE sets it
    weights: str
    converted: str | None  # the folder for this kind of processor; None where torch runs it
    done: tuple[str, ...]  # what was missing; empty where all was ready
    seconds: float


@checked
def prepare(
    model: str = AUTO,
    *,
    input_side: int | None = None,
    flip: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tune: bool = True,
    session: Session | None = None,
) -> PrepareReport:
    """Download a model, convert it for this processor and measure how it runs fastest.

    The options are those of `index`. Converted networks are for one kind of processor and one
    release of OpenVINO; on another kind, what is here is converted from without torch.
    Raises UsageError, WeightsUnavailable, MissingLibrary, and StorageError where the cache cannot
    be written.
    """
    config = IndexConfig(
        input_side=input_side, flip=flip, device=device, precision=precision, tune=tune
    )
    session, done = session or Session(), list[str]()

    def note(message: str) -> None:
        done.append(message)
        session.notice(message)

    noted = replace(session, notice=note)
    started = time.monotonic()
    # Of `auto` the packaged network is no part here: it would be used without anybody's knowledge.
    spec = resolve(AUTO_MODEL if model == AUTO else model, noted)
    spec = spec.asked(config.input_side, config.flip)
    load_extractor(spec, "cpu", precision, noted)  # which queries use, whatever `index` runs on
    feed = stream_feed(spec, device, precision, noted, sys.maxsize if tune else 0)
    extractor = load_stream_extractor(spec, device, precision, noted)
    _prepare_text(spec, noted)
    if done and (kept := writable_cache_folder()) != (wanted := cache_folder()):
        raise StorageError(
            f"{wanted} cannot be written, so {spec.name} is ready in {kept} alone, where it may "
            "not stay: set EMBEDSEARCH_CACHE to a folder that this user can write to"
        )
    return PrepareReport(
        model=spec.name,
        weights_sha256=spec.weights_sha256,
        dim=spec.dim,
        device=extractor.device,
        precision=extractor.precision,
        network=str(feed.settings) if extractor.device == "cpu" else "",
        cache=str(cache_folder()),
        weights=str(weights_path(spec)),
        converted=_converted(spec, precision, noted),
        done=tuple(done),
        seconds=round(time.monotonic() - started, 1),
    )


def _prepare_text(spec: ModelSpec, session: Session) -> None:
    """Make the network for texts ready, where the model has one and its library is here."""
    if not spec.takes_texts:
        return
    from embedsearch.network.text.encoder import TextEncoder

    try:
        TextEncoder(spec, session)
    except MissingLibrary as error:
        session.notice(f"the network for texts is not prepared: {error}")


def _converted(spec: ModelSpec, precision: str, session: Session) -> str | None:
    if precision == "fp16" or find_spec("openvino") is None:
        return None
    from embedsearch.network.openvino_runtime import converted_folder

    return str(converted_folder(spec, session, needs_int8=precision == "int8"))
