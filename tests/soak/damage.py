"""Bits flipped, files cut, lengthened, zeroed and swapped: noticed, and never a wrong answer.

In: a store; out: how many damages were noticed, and by whom. `run_behind` does the same to files
whose checksums are made to fit, as someone would who wants to break the reader.
"""

from __future__ import annotations

import hashlib
import json
import random
import resource
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import embedsearch
from embedsearch.core.errors import EmbedSearchError
from embedsearch.store.check import check_store
from tests.soak import mutants, witness
from tests.soak.finding import Finding, Trial
from tests.soak.forge import Report, forked
from tests.soak.guard import Guard
from tests.soak.scenes import all_scenes

_FULL = 12_000  # damages of shards and FAISS files
_FULL_BEHIND = 5_000
_BATCH = 100  # a child does
_MEMORY_BYTES = 2 << 30  # beyond what the libraries reserve
_BLOCK = 4096
_K = 20
Answer = list[list[tuple[str, float]]]


@dataclass(frozen=True)
class Damage:
    """A file and what becomes of its bytes."""

    file: str
    kind: str
    data: bytes


def run(trial: Trial, finding: Finding, folder: Path) -> None:
    """Damage the files of a store one by one; CURRENT and manifest at every bit, by `share`."""
    rng = trial.random()
    (scene,) = all_scenes(folder, ("sync",))
    store = folder / "sync.es"
    damages = [*_of_pointer(store, trial), *_of_files(store, rng, trial.count(_FULL))]
    good: Answer = forked(lambda report: _ask(store)).result()
    for start in range(0, len(damages), _BATCH):
        some = damages[start : start + _BATCH]

        def tried(_: Report, some: list[Damage] = some) -> object:
            return _try_all(store, some, good, trial.mutant)

        ended = forked(tried)
        if ended.has_failed:
            finding.accuse(f"{some[0].file} and after: {ended.words} {ended.trace}")
            shutil.rmtree(store)
            forked(lambda report: scene.work(scene.copy(store)))
            continue
        for damage, outcome in zip(some, ended.value, strict=True):
            finding.count("damages")
            finding.count(outcome.partition(":")[0])
            if outcome.startswith(("unseen", "wrong", "strange")):
                finding.accuse(f"{damage.file}, {damage.kind}: {outcome}")


def _of_pointer(store: Path, trial: Trial) -> Iterator[Damage]:
    """Flip every bit of CURRENT and of the manifest, cut them everywhere."""
    for name in ("CURRENT", witness.current(store)[0]):
        data = (store / name).read_bytes()
        for place in range(trial.seed % trial.every(), len(data), trial.every()):
            for bit in range(8):
                flipped = bytearray(data)
                flipped[place] ^= 1 << bit
                yield Damage(name, f"bit {bit} of byte {place}", bytes(flipped))
            yield Damage(name, f"cut at {place}", data[:place])


def _of_files(store: Path, rng: random.Random, count: int) -> Iterator[Damage]:
    """Yield damages of the other files by chance, and the cut at every block."""
    _, manifest = witness.current(store)
    files = [witness.relative(record["name"]) for record in witness.records(manifest)]
    data = {name: (store / name).read_bytes() for name in files}
    names = sorted(data)
    for _ in range(count):
        name = rng.choice(names)
        changed = bytearray(data[name])
        place = rng.randrange(len(changed))
        kind = rng.choice(("flip", "flip", "flip", "flip", "cut", "longer", "zero", "swap"))
        if kind == "flip":
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            at = rng.choice((place, place // _BLOCK * _BLOCK))
            del changed[at:]
        elif kind == "longer":
            changed += rng.choice((b"\0", bytes(changed[-8:]), bytes(_BLOCK)))
        elif kind == "zero":
            start = place // _BLOCK * _BLOCK
            changed[start : start + _BLOCK] = bytes(len(changed[start : start + _BLOCK]))
        else:
            changed[:] = data[rng.choice(names)]
        if bytes(changed) != data[name]:
            yield Damage(name, f"{kind} at {place}", bytes(changed))


def _ask(store: Path) -> Answer:
    """Return the hits of three vectors, one of them with a condition."""
    queries = np.random.default_rng(5).standard_normal((3, 512)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    with embedsearch.open_store(store) as searcher:
        found = [searcher.query(query, k=_K) for query in queries[:2]]
        found.append(searcher.query(queries[2], k=_K, where="width > 1"))
    return [[(hit.key, round(hit.ranked_by, 4)) for hit in hits] for hits in found]


def _try_all(store: Path, damages: list[Damage], good: Answer, mutant: str | None) -> list[str]:
    mutants.apply(mutant)
    seen: list[str] = []
    guard = Guard(seen.append, str(store))
    guard.is_on = True
    outcomes = [_while_damaged(store, damage, good) for damage in damages]
    guard.is_on = False
    return outcomes if not seen else [f"strange: {seen[0]}" for _ in damages]


def _while_damaged(store: Path, damage: Damage, good: Answer) -> str:
    path = store / damage.file
    original = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(damage.data)
    try:
        return _outcome(store, damage, good)
    finally:
        path.write_bytes(original)


def _outcome(store: Path, damage: Damage, good: Answer) -> str:
    """Return who noticed: the query, or check alone, where the query did not need the bytes."""
    try:
        answer = _ask(store)
    except EmbedSearchError as error:
        if error.exit_code in {5, 6} or (damage.file == "CURRENT" and error.exit_code == 7):
            return "noticed by the query"
        return f"strange: exit code {error.exit_code}: {error}"
    if answer != good:
        return f"wrong answer: {answer[0][:2]}, not {good[0][:2]}"
    if damage.file == "CURRENT":  # white space, or a name for the same number
        return "harmless"
    try:
        problems = check_store(store, read_data=False)[1]
    except EmbedSearchError:
        return "noticed by check alone"
    return "noticed by check alone" if problems else "unseen: neither by the query nor by check"


def run_behind(trial: Trial, finding: Finding, folder: Path) -> None:
    """Damage files and make all checksums fit: an error of ours or an answer.

    FAISS's own reader can crash over a forged ANN index: such ends are counted, not accused.
    """
    rng = trial.random()
    store = folder / "sync.es"
    all_scenes(folder, ("sync",))
    count = trial.count(_FULL_BEHIND)
    damages = [d for d in _of_files(store, rng, 2 * count) if "swap" not in d.kind][:count]
    for number, damage in enumerate(damages):
        forged = folder / "forged.es"
        shutil.copytree(store, forged, dirs_exist_ok=True)
        forge(forged, damage)

        def opened(_: Report, forged: Path = forged) -> object:
            return _open_forged(forged, trial.mutant)

        ended = forked(opened, limit_s=20)
        kind = damage.file.split("/")[1][0]
        finding.count("forged files")
        finding.count(f"{kind}: {ended.value}" if ended.value else f"{kind}: {ended.words}")
        if ended.value is None and not (ended.signal == signal.SIGSEGV and kind == "a"):
            finding.accuse(f"{number} {damage.file}, {damage.kind}: {ended.words} {ended.trace}")
        shutil.rmtree(forged)


def forge(store: Path, damage: Damage) -> None:
    """Put a damaged file in place, with every checksum above it."""
    path = store / damage.file
    path.chmod(0o600)
    path.write_bytes(damage.data)
    sha256 = hashlib.sha256(damage.data).hexdigest()
    _, manifest = witness.current(store)
    for record in witness.records(manifest):
        if record["name"] == path.name:
            record |= {"bytes": len(damage.data), "sha256": sha256}
            if "footer_bytes" in record:
                footer = damage.data[-record["footer_bytes"] :]
                record["footer_sha256"] = hashlib.sha256(footer).hexdigest()
    replace_manifest(store, json.dumps(manifest).encode())


def replace_manifest(store: Path, data: bytes) -> None:
    """Put other bytes in the place of the current manifest, and their checksum into CURRENT."""
    pointer = json.loads((store / "CURRENT").read_bytes())
    path = store / "manifests" / pointer["manifest"]
    path.chmod(0o600)
    path.write_bytes(data)
    pointer |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (store / "CURRENT").write_text(json.dumps(pointer))


def _open_forged(store: Path, mutant: str | None) -> str:
    mutants.apply(mutant)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        _ask(store)
        return "answered"
    except EmbedSearchError as error:
        return type(error).__name__
