"""The structure: what docs/architecture.md promises is what the code does; what importing loads."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.library import REPOSITORY, SAMPLES, run_cli

PACKAGE = REPOSITORY / "embedsearch"
ARCHITECTURE = (REPOSITORY / "docs" / "architecture.md").read_text()
LAYERS = {
    name: set(re.findall(r"\w+", allowed)) - {"nothing"}
    for name, allowed in re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", ARCHITECTURE, re.MULTILINE)
}
(TREE,) = re.findall(r"```text\n(.*?)```", ARCHITECTURE, re.DOTALL)
ENTRIES = (
    (REPOSITORY / "docs" / "public_entries.md").read_text().split("```text\n")[1].split("```")[0]
)
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_ENTRIES = 400, 60, 16

# Where a heavy library may be imported, as path prefixes.
HEAVY = {
    "PIL": {"images", "searching/queries", "searching/query_vectors", "cli/output"},
    "pillow_heif": {"images/decode"},
    "cv2": {"images/decode"},
    "simplejpeg": {"images/decode"},
    "tifffile": {"images/decode"},
    "rawpy": {"images/decode"},
    "pyarrow": {
        *(
            "core/remote",
            "store",
            "images/sources",
            "images/tables",
            "searching",
            "indexing",
            "exchange",
        ),
        *("curation", "cli/output/hits"),
    },
    "duckdb": {"searching/filters/engine"},
    "torch": {"network", "learning"},
    "torchvision": {"learning/augment"},
    "safetensors": {"network", "learning/train"},
    "openvino": {"network/converted", "network/onnx/graph"},
    "tokenizers": {"network/text"},
    "nncf": {"network/quantize"},
    "faiss": {"searching/ann"},
    "typer": {"cli"},
    "watchfiles": {"indexing/watch"},
    "umap": {"curation/picture_map"},
    "ray": {"indexing/distributed/ray_driver"},
    "rich": {"cli/output"},
    "textual_image": {"cli/output"},
    "pymilvus": {"searching/vectordb"},
    "psycopg": {"searching/vectordb"},
    "pgvector": {"searching/vectordb"},
}


@dataclass(frozen=True)
class Import:
    """One import, lazy and typing ones too: `name` of module `target`, or "*" for all of it."""

    home: str  # dotted, without `embedsearch.`
    target: str
    name: str

    @property
    def crosses(self) -> bool:
        """Return whether it leads from one package into another."""
        return package(self.home) != package(self.target)


def package(module: str) -> str:
    return module.partition(".")[0]


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name, without `embedsearch.`."""
    paths = PACKAGE.rglob("*.py")
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in sorted(paths)}


def imports() -> list[Import]:
    """Return every import from one module of ours to another."""
    known, found = modules(), []
    for home, path in known.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("embedsearch."):
                base = str(node.module).removeprefix("embedsearch.")
                for alias in node.names:
                    whole = f"{base}.{alias.name}"
                    target = (whole, "*") if whole in known else (base, alias.name)
                    found.append(Import(home, *target))
            elif isinstance(node, ast.Import):
                assert not any(a.name.startswith("embedsearch") for a in node.names), path
    return found


def upward(found: Iterable[Import], layers: Mapping[str, set[str]]) -> list[Import]:
    """Return the imports that the layers do not allow."""
    inside = (i for i in found if i.crosses and package(i.home) in layers)
    return [i for i in inside if package(i.target) not in layers[package(i.home)] | {"_version"}]


def circles(found: Iterable[Import]) -> list[list[str]]:
    """Return the modules that import each other, directly or by way of others."""
    arrows: defaultdict[str, set[str]] = defaultdict(set)
    for item in found:
        arrows[item.home].add(item.target)
    reach = {start: _reached(start, arrows) for start in list(arrows)}
    tied = {start: [m for m in reach if start in reach[m] and m in reach[start]] for start in reach}
    return [sorted(group) for group in tied.values() if group]


def _reached(start: str, arrows: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [*arrows.get(start, ())]
    while waiting:
        if (module := waiting.pop()) not in seen:
            seen.add(module)
            waiting += arrows.get(module, ())
    return seen


def entries(text: str) -> set[tuple[str, str]]:
    """Return (module, name) of each public entry in the block of the page."""
    found, home, module = set(), "", ""
    for line in text.splitlines():
        if not line.startswith(" "):
            home = line
            continue
        names = line.split()
        if names[0].endswith(":"):
            module = f"{home}.{names.pop(0)[:-1]}"
        found |= {(module, name) for name in names}
    return found


def test_imports_follow_the_layers_of_the_page() -> None:
    found = imports()
    assert len(found) > 500 and len(LAYERS) == 12
    assert upward(found, LAYERS) == []


def test_no_circle() -> None:
    assert circles(imports()) == []


def test_packages_import_only_public_entries() -> None:
    crossing = [i for i in imports() if i.crosses and package(i.target) not in {"core", "_version"}]
    used = {(i.target, i.name) for i in crossing if i.home != "__main__"}
    listed = entries(ENTRIES)
    past = {(module, name) for module, name in used - listed if (module, "*") not in listed}
    assert past == set(), "imported past the public entry of a package"
    assert listed - used == set(), "listed as an entry, and nobody needs it"


def test_the_checks_see_what_they_are_for() -> None:
    wrong = Import("store.files", "searching.searcher", "open_store")
    assert upward([*imports(), wrong], LAYERS) == [wrong]
    back = Import("core.errors", "core.records", "Hit")
    assert ["core.errors", "core.paths", "core.records"] in circles([*imports(), back])
    assert ("searching.ann.build", "flat_bytes") in entries(ENTRIES)


def test_the_tree_of_the_page_is_true() -> None:
    bodies: defaultdict[str, str] = defaultdict(str)
    home = ""
    for line in TREE.splitlines()[1:]:
        if line.startswith("      "):
            bodies[home] += f" {line.strip()}"
        else:
            home = line.split("/")[0].strip()
    told: set[str] = set()
    for home, body in bodies.items():
        for sub, names in re.findall(r"([\w/]+)/\{(.*?)\}", body):
            package = sub.replace("/", ".")
            told |= {f"{home}.{package}.{name}" for name in names.split()}
        plain = re.sub(r"[\w/]+/\{.*?\}", "", body).split()
        told |= {f"{home}.{name}" for name in plain if not re.search(r"[/.]", name)}
    there = {m for m in modules() if "." in m and not m.endswith("__init__")}
    assert told == there


def test_the_house_is_small_and_its_rooms_are_short() -> None:
    inside = [p for p in PACKAGE.iterdir() if p.name != "__pycache__"]
    assert len(inside) <= MAX_ENTRIES
    for path in [*modules().values(), *PACKAGE.rglob("*.js")]:
        lines = path.read_text().count("\n")
        assert lines <= MAX_FILE_LINES, f"{path} has {lines} lines"
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= MAX_FUNCTION_LINES, f"{path}: {node.name} has {lines} lines"


def test_packages_say_what_they_are_and_nothing_else() -> None:
    for path in PACKAGE.glob("*/**/__init__.py"):
        if path.parent.name != "cli":  # which the console script calls
            (docstring,) = ast.parse(path.read_text()).body
            assert isinstance(docstring, ast.Expr), path


def test_heavy_libraries_stay_in_their_rooms() -> None:
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for library in {name.partition(".")[0] for name in names} & HEAVY.keys():
                room = module.replace(".", "/")
                assert room.startswith(tuple(HEAVY[library])), f"{path} imports {library}"


def test_nothing_names_the_foreign_package() -> None:
    """The name on the public index is not ours: no text may tell anybody to install it."""
    listed = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, check=True, cwd=REPOSITORY
    ).stdout.splitlines()
    texts = [REPOSITORY / name for name in listed if not name.startswith(("tests/", "CHANGELOG"))]
    searched = 0
    for path in texts:
        if path.suffix in {".py", ".md", ".html", ".js", ".toml", ".sh", ".yaml"} and path.exists():
            searched += 1
            found = re.search(FOREIGN, path.read_text())
            assert found is None, f"{path}: {found and found[0]}"
    assert searched > 200
    assert re.search(FOREIGN, "pip install 'embedsearch[serve]'")
    assert re.search(FOREIGN, "pip install embedsearch\n")
    assert not re.search(FOREIGN, "pip install embedsearch-images")


FOREIGN = r"install[^\n]*[ '\"]embedsearch(\[|['\"]|\s|$)|['\" ]embedsearch\["


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


def test_the_decoding_worker_loads_what_decodes_only() -> None:
    names = loaded("import embedsearch.images.decode.worker")
    assert {"PIL", "numpy"} <= names
    assert not names & (set(HEAVY) - {"PIL", "pillow_heif", "cv2", "simplejpeg"})


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


def test_names_of_files_are_plain() -> None:
    """A test that leaves something where it was started is noticed, and any system can clone."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True)
    names = listed.stdout.split(b"\0")[:-1]
    assert len(names) > 100
    assert [name for name in names if not re.fullmatch(rb"[A-Za-z0-9._/-]+", name)] == []
    homes = {name.split(b"/")[0].decode() for name in names if b"/" in name}
    assert homes <= {
        "embedsearch",
        "tests",
        "benchmarks",
        "sample_images",
        "docs",
        "deploy",
        "examples",
        ".ci",
    }
