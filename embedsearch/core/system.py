"""The machine: processors, the cache folder, and child processes of embedsearch."""

from __future__ import annotations

import functools
import math
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from embedsearch.core.errors import MissingLibrary, StorageError, UsageError
from embedsearch.core.paths import local_path
from embedsearch.core.quantity import size_of

DEFAULT_STORE_CACHE_BYTES = 20 << 30  # of all stores at URLs together
MAX_WORKERS = 64
STORES_NAME = "stores"  # in the cache folder: copies of stores that are at URLs
PYTHON = "EMBEDSEARCH_PYTHON"  # the interpreter of child processes


def python_command(module: str) -> list[str]:
    """Return the command that runs a module of embedsearch in a child.

    -P keeps the current folder off the import path: it may be a stranger's folder of photos
    with a numpy.py in it. Raises MissingLibrary where there is no Python to start.
    """
    program = os.environ.get(PYTHON) or next(_interpreters(), None)
    if program is None:
        raise MissingLibrary(
            f"this process runs in {sys.executable or 'a program without a name'}, which is no "
            "Python, and pictures and filters are worked on in processes of their own: set "
            f"{PYTHON} to the python that embedsearch is installed in"
        )
    return [program, "-P", "-W", "ignore", "-m", module]


def _interpreters() -> Iterator[str]:
    """Yield programs that are the Python of this process, the surest first.

    In uWSGI and in embedded interpreters `sys.executable` is the host, which must not be started;
    a frozen program holds no Python at all.
    """
    if getattr(sys, "frozen", False):
        return
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if "py" in os.path.basename(sys.executable or "").lower():
        yield sys.executable
    candidates = [
        *(os.path.join(home, "bin", each) for home in (sys.prefix,) for each in (name, "python3")),
        getattr(sys, "_base_executable", None),
        os.path.join(sys.base_prefix, "bin", name),
    ]
    yield from (path for path in candidates if path and os.path.isfile(path))


def child_environment(**changes: str) -> dict[str, str]:
    """Return this process's environment, changed so that this embedsearch can be imported."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
    if not os.environ.get(PYTHON) and sys.executable not in _interpreters():
        paths += [path for path in sys.path if path.startswith("/")]  # the other looks elsewhere
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **changes}


def available_processors() -> int:
    """Return how many processors this process may use: a part of one counts as one."""
    return max(1, math.ceil(processor_share()))


def processor_share() -> float:
    """Return how many processors' time this process may use, perhaps less than one's."""
    return min(allowed_processors(), processor_quota())


def allowed_processors() -> int:
    """Return on how many processors this process may run, whatever its share of their time."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except (AttributeError, OSError):  # another system, or a sandbox that forbids to ask
        return os.cpu_count() or 1


@functools.cache  # a query asks several times, and reading takes 0.2 ms
def processor_quota(root: str = "/") -> float:
    """Return how many processors the control groups of this process leave it, inf without a limit.

    Containers are limited so: the system still shows them all processors. Both versions of control
    groups are read, of the process's group and all above it.
    """
    try:
        lines = Path(root, "proc/self/cgroup").read_text().splitlines()
    except OSError:  # another system
        return math.inf
    quota = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = Path(root, "sys/fs/cgroup", *(["cpu"] if controllers else []))
        group = mount / path.strip("/")
        for folder in (group, *group.parents):
            quota = min(quota, _quota_of(folder))
            if folder == mount:
                break
    return quota


def _quota_of(group: Path) -> float:
    """Return the processors that one control group has, inf without a limit or a readable file."""
    try:
        if (group / "cpu.max").exists():
            limit, period = (group / "cpu.max").read_text().split()
        else:
            limit = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        return float(limit) / float(period) if float(limit) > 0 else math.inf  # -1: no limit
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number
        return math.inf


def max_workers() -> int:
    """Return the useful number of decoding processes: one per processor, at most MAX_WORKERS."""
    return min(available_processors(), MAX_WORKERS)


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for weights and converted networks; EMBEDSEARCH_CACHE overrides it."""
    if environ.get("EMBEDSEARCH_CACHE"):
        return Path(local_path(environ["EMBEDSEARCH_CACHE"]))
    try:
        home = Path.home()
    except RuntimeError:  # no HOME and no passwd entry: a container's arbitrary user
        return spare_cache_folder()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "embedsearch"
    return Path(environ.get("XDG_CACHE_HOME") or home / ".cache") / "embedsearch"


def cache_folders() -> list[Path]:
    """Return the folders in which something may be cached: the spare one where it is needed.

    Anyone can make a folder of the spare one's name, and put a network into it: then it does not
    count.
    """
    usual, spare = cache_folder(), spare_cache_folder()
    others = [] if usual == spare else [usual]
    there = next((each for each in (usual, *usual.parents) if os.path.lexists(each)), usual)
    if others and os.access(there, os.W_OK | os.X_OK):
        return others
    try:
        facts = spare.lstat()
    except OSError:  # not made yet
        return [*others, spare]
    is_ours = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid()
    return [*others, spare] if is_ours and not facts.st_mode & 0o022 else others


def writable_cache_folder() -> Path:
    """Return the cache folder, or the spare one where that cannot be written.

    A cache is a help and no condition: a read-only home must not end a command. Raises
    StorageError where neither can be written.
    """
    for folder in cache_folders():
        if _is_writable(folder):
            return folder
    raise StorageError(
        f"neither {cache_folder()} nor {spare_cache_folder()} can be written by this user alone: "
        "set EMBEDSEARCH_CACHE to a folder for converted networks"
    )


def spare_cache_folder() -> Path:
    """Return a folder of this user in the temporary folder."""
    return Path(temporary_folder()) / f"embedsearch-{os.getuid()}"


def temporary_folder() -> str:
    """Return the folder for temporary files; /tmp where none can be written."""
    try:
        return tempfile.gettempdir()
    except OSError:  # whoever writes there says so
        return "/tmp"


def _is_writable(folder: Path) -> bool:
    """Return whether files can be made in a folder, which is made if it is missing."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def anonymous_file(size: int = 0) -> int:
    """Return a descriptor of `size` zero bytes that child processes can use. Raises OSError.

    In memory where the system does that; /dev/shm, which is small in containers, is not used.
    """
    try:
        descriptor = os.memfd_create("embedsearch")
    except (AttributeError, OSError):  # another system, or a sandbox that forbids it
        descriptor, path = tempfile.mkstemp()
        os.unlink(path)
    try:
        os.ftruncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def is_cached_store(store: Path) -> bool:
    """Return whether a folder is the copy of a store at a URL."""
    return any(store.parent == folder / STORES_NAME for folder in cache_folders())


def store_cache_bytes(environ: Mapping[str, str] = os.environ) -> int:
    """Return the maximum size of those copies; EMBEDSEARCH_STORE_CACHE_BYTES, e.g. 50G, sets it."""
    text = environ.get("EMBEDSEARCH_STORE_CACHE_BYTES")
    try:
        return DEFAULT_STORE_CACHE_BYTES if not text else size_of(text)
    except ValueError as error:
        raise UsageError(f"EMBEDSEARCH_STORE_CACHE_BYTES: {error}") from error
