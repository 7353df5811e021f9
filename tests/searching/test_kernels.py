"""FAISS's products: told the kind of processor, checked, and nobody else is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from embedsearch.searching.ann.kernels import (
    core_type,
    faiss,
    processor_flags,
    products_are_right,
)
from tests.support.library import REPOSITORY

AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
SHOWN = """
import os
from embedsearch.searching.ann.kernels import core_type, faiss, kernels, processor_flags
print(core_type(processor_flags()), kernels() or None, os.environ.get("OPENBLAS_CORETYPE"),
      faiss.cvar.distance_compute_blas_threshold)
"""


def shown(**changes: str) -> list[str]:
    """What a process says of its processor, FAISS's kernels and the variable afterwards."""
    environment = {name: v for name, v in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    done = subprocess.run([sys.executable, "-c", SHOWN], env=environment | changes, text=True,
                          capture_output=True, check=True, cwd=REPOSITORY)  # fmt: skip
    return done.stdout.split()


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (AVX512 | {"avx2", "fma", "amx_tile"}, "SKYLAKEX"),
        ({"avx512f", "avx2", "fma"}, "HASWELL"),  # a first AVX-512, whose kernels need more
        ({"avx2", "fma"}, "HASWELL"),
        ({"avx2"}, None),
        (set(), None),
    ],
)
def test_the_kind_of_core_by_its_flags(flags: set[str], wanted: str | None) -> None:
    assert core_type(flags) == wanted


def test_flags_of_systems_that_have_none(tmp_path: Path) -> None:
    assert processor_flags(str(tmp_path / "none")) == frozenset()
    (tmp_path / "arm").write_text("processor : 0\nFeatures : fp asimd\n")
    assert processor_flags(str(tmp_path / "arm")) == frozenset()
    (tmp_path / "x86").write_text("model : 1\nflags\t\t: fpu avx2 fma\nflags : other\n")
    assert processor_flags(str(tmp_path / "x86")) >= {"fpu", "avx2", "fma"}


@pytest.mark.skipif(sys.platform != "linux", reason="the flags are read from Linux")
def test_faiss_uses_the_kernels_and_nobody_is_told() -> None:
    core, used, variable, threshold = shown()
    assert used == "None" or core == "None" or used.upper() == core
    assert variable == "None" and int(threshold) < 2**31 - 1, "products are OpenBLAS's"


def test_a_users_own_choice_is_kept() -> None:
    _, used, variable, _ = shown(OPENBLAS_CORETYPE="Nehalem")
    assert variable == "Nehalem" and used in {"Nehalem", "None"}


def test_wrong_products_are_noticed() -> None:
    def library(error: float) -> Any:
        def made(dim: int) -> Any:
            index = faiss.IndexFlatIP(dim)

            def search(queries: Any, k: int) -> Any:
                scores, ids = index.search(queries, k)
                scores[-1, -1] += error
                return scores, ids

            return SimpleNamespace(add=index.add, search=search)

        return SimpleNamespace(
            IndexFlatIP=made,
            cvar=faiss.cvar,
            omp_get_max_threads=faiss.omp_get_max_threads,
            omp_set_num_threads=faiss.omp_set_num_threads,
        )

    assert products_are_right(library(0.0))
    assert not products_are_right(library(0.001)) and not products_are_right(library(np.nan))


@pytest.mark.skipif(sys.platform != "linux", reason="fork")
def test_a_forked_process_multiplies_too() -> None:
    """The check starts no threads: those of OpenMP are gone after a fork, and waited for."""
    program = """
import os, signal
import numpy as np
from embedsearch.searching.ann.kernels import faiss
if os.fork() == 0:
    signal.alarm(20)
    faiss.pairwise_distances(np.ones((5000, 64), np.float32), np.ones((5000, 64), np.float32))
    index = faiss.IndexFlatIP(64)
    index.add(np.ones((5000, 64), np.float32))
    index.search(np.ones((3000, 64), np.float32), 3)
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    environment = {name: v for name, v in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, env=environment,
                   cwd=REPOSITORY)  # fmt: skip
