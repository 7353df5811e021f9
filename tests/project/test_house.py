"""The structure: arrows between modules, what importing loads, names that exist."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import embedsearch
from tests.support.library import REPOSITORY, SAMPLES, run_cli

PACKAGE = REPOSITORY / "embedsearch"

# The picture of the house, from the top down. A module may import what lies on a lower floor,
# and of its own floor only what stands in the same room or is named here.
FLOORS = [
    ["cli", "__main__"],
    ["integrations"],
    ["web", "scale"],
    ["__init__"],
    ["learning", "benching", "curation", "watching", "units"],
    [
        "indexing",
        "searching",
        "embedding",
        "references",
        "upkeep",
        "importing",
        "exporting",
        "pulling",
        "uploading",
        "texts",
    ],
    ["settling"],
    ["tuning", "generation", "thumbnails"],
    ["ledger", "planning", "cutting", "scope", "pipeline", "queries", "served"],
    ["columns", "originals", "neighbors", "staleness", "metadata"],
    ["sources", "decode", "network", "store", "ann", "filters", "present", "vectordb"],
    [
        "records",
        "config",
        "errors",
        "paths",
        "thumbnail_cache",
        "session",
        "children",
        "writing",
        "handover",
        "parts",
        "stages",
        "batching",
        "buckets",
    ],
]
SAME_FLOOR = {
    ("__main__", "cli"),
    ("buckets", "errors"),
    ("buckets", "records"),
    ("planning", "scope"),
    ("ledger", "planning"),
    ("config", "errors"),
    ("handover", "errors"),
    ("handover", "records"),
    ("parts", "records"),
    ("records", "paths"),
    ("thumbnail_cache", "paths"),
    ("session", "errors"),
    ("stages", "config"),
    ("writing", "errors"),
}
HEAVY = {
    "PIL": {"decode", "present", "queries"},
    "pillow_heif": {"decode"},
    "pyarrow": {
        *("store", "planning", "ledger", "columns", "filters", "sources", "metadata"),
        *("importing", "exporting", "uploading", "present", "texts", "curation", "vectordb"),
        *("units", "scale", "buckets"),
    },
    "duckdb": {"filters"},
    "torch": {"network", "learning"},
    "torchvision": set(),
    "safetensors": {"network"},
    "openvino": {"network"},
    "nncf": {"network"},
    "faiss": {"ann"},
    "typer": {"cli"},
    "watchfiles": {"watching"},
    "umap": {"curation"},
    "ray": {"scale"},
    "rich": {"present"},
    "textual_image": {"present"},
    "pymilvus": {"vectordb"},
    "psycopg": {"vectordb"},
    "pgvector": {"vectordb"},
}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports() -> list[tuple[str, str, Path]]:
    """Return (importing room, imported module, file) for every import, typing-only ones too."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        home = relative.parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
                if node.module == "embedsearch":
                    names = [f"embedsearch.{alias.name}" for alias in node.names]
                found += [(home, name, path) for name in names]
            elif isinstance(node, ast.Import):
                found += [(home, alias.name, path) for alias in node.names]
    return found


def test_arrows_run_downwards_only() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    seen = 0
    for home, module, path in imports():
        if not module.startswith("embedsearch"):
            continue
        target = room(module)
        if path == PACKAGE / "__init__.py" or (target == "__init__" and module == "embedsearch"):
            continue  # the lazy public names, and the version
        seen += 1
        allowed = floor[target] > floor[home] or target == home or (home, target) in SAME_FLOOR
        assert allowed, f"{path}: {home} must not import {module}"
    assert seen > 50


def test_every_module_has_a_floor() -> None:
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py"}
    rooms |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == {name for names in FLOORS for name in names}


def test_heavy_libraries_stay_in_their_rooms() -> None:
    for home, module, path in imports():
        library = module.split(".")[0]
        if library in HEAVY:
            assert home in HEAVY[library], f"{path} imports {library}"


def test_public_names_exist() -> None:
    for name in embedsearch.__all__:
        assert getattr(embedsearch, name) is not None
    assert set(embedsearch.__all__) == set(dir(embedsearch))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = embedsearch.no_such_name  # type: ignore[attr-defined]


def loaded(code: str) -> set[str]:
    """Return the top-level modules that a fresh process has loaded after running `code`."""
    tail = "print(json.dumps([name for name, module in sys.modules.items() if module]))"
    script = f"import sys\n{code}\nimport json\n{tail}"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_importing_loads_nothing_heavy() -> None:
    assert not loaded("import embedsearch") & {*HEAVY, "numpy"}


@pytest.mark.parametrize("arguments", [["--help"], ["index", "--help"], ["--version"]])
def test_help_loads_no_library_but_typer(arguments: list[str]) -> None:
    code = f"from embedsearch.cli.entry import run; run({arguments!r})"
    assert not loaded(code) & {*HEAVY, "numpy"} - {"typer"}


def test_the_decoding_worker_loads_pillow_and_numpy_only() -> None:
    names = loaded("import embedsearch.images.decode.worker")
    assert {"PIL", "numpy"} <= names
    assert not names & (set(HEAVY) - {"PIL", "pillow_heif"})


def test_index_and_query_on_a_cpu_load_no_torch(tmp_path: Path) -> None:
    store = str(tmp_path / "s.es")
    index = ["index", str(SAMPLES), "--store", store, "--model", "packaged", "--device", "cpu"]
    after_index = loaded(f"from embedsearch.cli.entry import run; assert run({index!r}) == 0")
    image = str(next(SAMPLES.glob("*/*.jpg")))
    query = ["query", image, "--store", store]
    after_query = loaded(f"from embedsearch.cli.entry import run; assert run({query!r}) == 0")
    for names in (after_index, after_query):
        assert "openvino" in names
        assert not names & {"torch", "torchvision", "safetensors", "PIL", "openvino_telemetry"}
    for command in ("info", "failures"):
        code = (
            "from embedsearch.cli.entry import run; "
            f"assert run([{command!r}, '--store', {store!r}]) == 0"
        )
        assert not loaded(code) & {"torch", "openvino", "PIL", "faiss"}


# What each command loads, beyond typer: a slow start is a module that nobody needed.
NO_NETWORK = {"numpy", "pyarrow"}
LOADS = {
    ("info",): NO_NETWORK,
    ("failures",): NO_NETWORK,
    ("check",): NO_NETWORK,
    ("models",): {"numpy"},
    ("index",): {"numpy", "pyarrow", "pandas"},  # nothing to do; pyarrow takes pandas where it is
    ("query", "IMAGE"): {"numpy", "pyarrow", "faiss", "openvino"},
    ("bench", "FOLDER", "--images", "4", "--model", "packaged"): {"numpy", "openvino"},
}


@pytest.mark.parametrize("command", LOADS, ids=lambda command: command[0])
def test_each_command_loads_what_it_needs_only(command: tuple[str, ...], tmp_path: Path) -> None:
    store = str(tmp_path / "s.es")
    photos = tmp_path / "photos"
    shutil.copytree(SAMPLES, photos)
    arguments = ["index", photos, "--store", store, "--model", "packaged", "--device", "cpu"]
    assert run_cli(*arguments).returncode == 0
    next(photos.glob("*/*.jpg")).unlink()  # a deleted row is one more thing to read
    assert run_cli(*arguments).returncode == 0
    places = {"IMAGE": str(next(photos.glob("*/*.jpg"))), "FOLDER": str(SAMPLES)}
    words = [places.get(word, word) for word in command]
    if command[0] not in {"models", "bench"}:
        words += ["--store", store]
    code = f"from embedsearch.cli.entry import run; assert run({words!r}) == 0"
    heavy = {*HEAVY, "numpy", "pandas", "scipy", "nncf"} - {"typer"}
    assert loaded(code) & heavy <= LOADS[command]


def test_nothing_connects_when_weights_are_here(tmp_path: Path) -> None:
    """Neither indexing nor a conversion child opens an internet socket."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import sys\n"
        "def watch(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.bind'):\n"
        f"        open({str(tmp_path / 'touched')!r}, 'a').write(event + repr(args[1:]) + '\\n')\n"
        "sys.addaudithook(watch)\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{hook}:{REPOSITORY}",
        "EMBEDSEARCH_CACHE": str(tmp_path / "cache"),  # empty: the conversion runs here, too
        "HOME": str(tmp_path / "home"),
    }
    store = tmp_path / "s.es"
    done = run_cli("index", SAMPLES, "--store", store, "--model", "packaged", env=environment)
    assert done.returncode == 0, done.stderr
    assert "converting" in done.stderr
    image = next(SAMPLES.glob("*/*.jpg"))
    assert run_cli("query", image, "--store", store, env=environment).returncode == 0
    assert not (tmp_path / "touched").exists(), (tmp_path / "touched").read_text()
    assert not (tmp_path / "home").exists(), "something wrote into the home folder"
    # The mutant: the same hook does see a connection.
    probe = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    subprocess.run([sys.executable, "-c", probe], env=environment, check=True)
    assert "socket.connect" in (tmp_path / "touched").read_text()
