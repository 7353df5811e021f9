"""Convert the packaged network beforehand: `python -m benchmarks.packaged_weights.convert`

Writes the archive that `embedsearch/network/shipped.py` reads. To be run again when the weights or
the input of the packaged network have changed, which a test tells.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import safetensors.torch
import torch

from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.network.catalog import PACKAGED
from embedsearch.network.converted import import_openvino
from embedsearch.network.extractor import Extractor, build_extractor
from embedsearch.network.from_torch import known_vectors
from embedsearch.network.shipped import (
    ALIGNED,
    CONSTANTS,
    GRAPH,
    KNOWN,
    MODEL,
    aligned,
    archive_of,
)
from embedsearch.network.weights import resolve, weights_path

_A_WEIGHT = 64  # bytes, from which a constant is looked for among the weights


def main() -> None:
    """Write the archive beside the packaged weights."""
    spec = resolve(PACKAGED, Session())
    weights = weights_path(spec)
    archive = archive_of(weights)
    write_archive(spec, weights, archive)
    print(f"{archive}: {archive.stat().st_size:,} bytes")


def write_archive(spec: ModelSpec, weights: Path, archive: Path) -> None:
    """Write the graph of a model, its constants that are no weights, and its known vectors."""
    extractor = build_extractor(spec, safetensors.torch.load_file(weights))
    side = spec.input_side
    known = io.BytesIO()
    np.save(known, known_vectors(extractor, side))
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "model.xml")
        import_openvino().save_model(traced(extractor, side), written, compress_to_fp16=True)
        graph, constants = moved(written, aligned(weights.read_bytes()))
    parts = {
        GRAPH: graph,
        CONSTANTS: constants,
        KNOWN: known.getvalue(),
        MODEL: json.dumps({"fingerprint": spec.fingerprint}).encode(),
    }
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, part in parts.items():
            file.writestr(zipfile.ZipInfo(name), part, zipfile.ZIP_DEFLATED)  # without a time


def traced(extractor: Extractor, side: int) -> Any:
    """Return OpenVINO's model with the weights as they are.

    `convert_model` would fold BatchNorm into them, which compiling does as well.
    """
    openvino = import_openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    decoder = TorchScriptPythonDecoder(extractor, example_input=example)
    with torch.no_grad():
        model = frontend.convert(frontend.load(decoder))
    pixels = model.inputs[0].get_node()
    pixels.set_partial_shape(openvino.PartialShape([-1, side, side, 3]))
    pixels.set_element_type(openvino.Type.u8)
    model.validate_nodes_and_infer_types()
    return model


def moved(written: Path, weights: bytes) -> tuple[bytes, bytes]:
    """Return a saved graph with its constants at their places in the weights, and the rest."""
    graph = ElementTree.parse(written)
    saved = written.with_suffix(".bin").read_bytes()
    rest = b""
    for constant in graph.iter("data"):
        if (offset := constant.get("offset")) is None:
            continue
        size = int(constant.attrib["size"])
        part = saved[int(offset) : int(offset) + size]
        place = weights.find(part) if size >= _A_WEIGHT else -1
        if place < 0:
            place = len(weights) + len(rest)
            rest += part + bytes(-size % ALIGNED)
        constant.set("offset", str(place))
    return ElementTree.tostring(graph.getroot()), rest


if __name__ == "__main__":
    main()
