"""The packaged network as it was converted beforehand: its first use needs no torch.

In: the model, its file of weights; out: OpenVINO's model, and the vectors of the known pictures.
A small archive beside the weights holds the graph, whose weights are places in that file.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from embedsearch.core.model_spec import ModelSpec
from embedsearch.network.converted import Known, import_openvino

GRAPH, CONSTANTS, KNOWN, MODEL = "graph.xml", "constants.bin", "known.npy", "model.json"
ALIGNED = 64  # where the graph's own constants begin, behind the weights


def archive_of(weights: Path) -> Path:
    """Return where the converted form of a file of weights would be."""
    return weights.with_suffix(".openvino.zip")


def shipped(spec: ModelSpec, weights: Path) -> tuple[Any, Known] | None:
    """Return the converted model and its known vectors; None where exactly this one has none."""
    try:
        with zipfile.ZipFile(archive_of(weights)) as archive:
            if json.loads(archive.read(MODEL)) != {"fingerprint": spec.fingerprint}:
                return None
            graph, constants = archive.read(GRAPH), archive.read(CONSTANTS)
            known: Known = np.load(io.BytesIO(archive.read(KNOWN)))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError):  # missing, or damaged
        return None
    openvino = import_openvino()
    content = np.frombuffer(aligned(weights.read_bytes()) + constants, np.uint8)
    try:
        return openvino.Core().read_model(graph, openvino.Tensor(content)), known
    except RuntimeError:  # a later release may not read this one's graph
        return None


def aligned(content: bytes) -> bytes:
    """Return bytes with zeros behind them."""
    return content + bytes(-len(content) % ALIGNED)
