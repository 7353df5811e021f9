"""The short-lived child that may load torch: `python -m embedsearch.network.prepare TASK`.

Task `import` turns a file of weights into safetensors in the cache; task `convert` turns a
model into OpenVINO's form, measures which precision is faster here, and compiles it once; task
`quantize` makes an int8 form of that. As this process loads torch, the indexing process needs less
than half the memory. Arguments come as JSON on stdin.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from embedsearch.core.atomic import write_atomically
from embedsearch.core.config import MAX_SIDE, MIN_SIDE
from embedsearch.core.model_spec import ModelSpec
from embedsearch.network.checkpoint import read_weights
from embedsearch.network.converted import (
    Known,
    import_openvino,
    known_pictures,
    place_converted,
)
from embedsearch.network.extractor import Extractor, build_extractor, check_framing, pooling_of
from embedsearch.network.quantize import quantize
from embedsearch.network.resnet import ARCHITECTURES, STAGES, Architecture, load

MODEL_RECORD = "embedsearch_model"  # the metadata that holds a ModelSpec's fields, as JSON
_SAME_COSINE = 0.99999
_PROBE_SIDE = 128  # for weights whose record has none


def main() -> None:
    """Run one task; on failure print one line on stderr and exit with 1."""
    task, values = sys.argv[1], json.load(sys.stdin)
    try:
        if task == "import":
            import_weights(Path(values["file"]), Path(values["folder"]))
        elif task == "convert":
            spec = ModelSpec.from_dict(values["spec"])
            convert(spec, Path(values["weights"]), Path(values["folder"]))
        elif task == "quantize":
            quantize(Path(values["folder"]), values["side"])
        else:
            raise ValueError(f"unknown task {task!r}")
    except OSError as error:
        where = error.filename or values["folder"]
        sys.exit(f"{where}: {error.strerror or error}; EMBEDSEARCH_CACHE moves the cache folder")
    except Exception as error:  # a hostile checkpoint can make torch raise anything
        sys.exit(" ".join(str(error).split())[:500] or type(error).__name__)


def import_weights(file: Path, folder: Path) -> None:
    """Write the residual network's weights in `file` as `<sha256>.safetensors` and a note.

    The note holds the file's model record, if it has one, else the architecture. Raises
    ValueError for weights of another kind of network.
    """
    weights, metadata, sha256 = read_weights(file)
    record = _own_record(metadata)
    name = record.get("architecture") or recognize(weights)
    network = load(name, weights)  # strict: names what is missing or unexpected
    side = record.get("input_side", _PROBE_SIDE)
    spec = ModelSpec("", name, sha256, network.kind.dim, side)
    known_vectors(build_extractor(ModelSpec.from_dict({**spec.to_dict(), **record}), weights), side)
    # Copies: the library refuses tensors that share memory, as those of some checkpoints do.
    plain = torch.contiguous_format
    body = {key: value.clone(memory_format=plain) for key, value in weights.items()}
    data = safetensors.torch.save(body)
    note = {
        "architecture": name,
        "dim": network.kind.dim,
        "record": record,
        "safetensors_sha256": hashlib.sha256(data).hexdigest(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{sha256}.safetensors", data)
    write_atomically(folder / f"{sha256}.json", json.dumps(note, sort_keys=True).encode())


def _own_record(metadata: dict[str, str]) -> dict[str, Any]:
    """Return the fields of the file's own ModelSpec, none if it has none. Raises ValueError."""
    if MODEL_RECORD not in metadata:
        return {}
    try:
        record: dict[str, Any] = json.loads(metadata[MODEL_RECORD])
        spec = ModelSpec.from_dict(record)
        pooling_of(spec)
        check_framing(spec)
        sound = (
            MIN_SIDE <= spec.input_side <= MAX_SIDE
            and isinstance(spec.input_side, int)
            and len(spec.mean) == len(spec.std) == 3
            and min(spec.std) > 0
            and all(map(math.isfinite, (*spec.mean, *spec.std)))
            and 0.0 <= spec.center <= 1.0
            and isinstance(spec.flip, bool)
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"the file's model record cannot be used: {error}") from error
    if not sound:
        raise ValueError(f"the file's model record cannot be used: {record}")
    return record


def recognize(weights: dict[str, torch.Tensor]) -> str:
    """Return the name of the architecture that these parameters belong to, by their shapes."""
    blocks = {tuple(key.split(".")[:2]) for key in weights if key.startswith("layer")}
    depths = tuple(sum(stage == wanted for stage, *_ in blocks) for wanted in STAGES)
    bottleneck = "layer1.0.conv3.weight" in weights
    groups, group_width = 1, 64
    if bottleneck and weights["layer1.0.conv2.weight"].ndim == 4:
        inner, group_width = weights["layer1.0.conv2.weight"].shape[:2]
        groups = inner // group_width
    found = Architecture(
        depths=(depths[0], depths[1], depths[2], depths[3]),
        bottleneck=bottleneck,
        groups=groups,
        group_width=group_width,
        squeeze="layer1.0.se.fc1.weight" in weights,
        deep_stem="conv1.0.weight" in weights,
    )
    for name, architecture in ARCHITECTURES.items():
        if architecture == found:
            return name
    raise ValueError(
        f"no residual network of the family has {depths} blocks with these shapes; parameters "
        f"begin with {sorted(weights)[:5]}"
    )


def convert(spec: ModelSpec, weights: Path, folder: Path) -> None:
    """Convert a model for OpenVINO into `folder`."""
    extractor = build_extractor(spec, safetensors.torch.load_file(weights))
    side = spec.input_side
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    with torch.no_grad():
        model = import_openvino().convert_model(
            extractor, example_input=example, input=[-1, side, side, 3]
        )
    place_converted(model, known_vectors(extractor, side), folder)


def known_vectors(extractor: Extractor, side: int) -> Known:
    """Return the vectors of the known pictures. Raises ValueError if they tell nothing apart."""
    with torch.no_grad():
        known: Known = extractor(torch.from_numpy(known_pictures(side))).float().numpy()
    if not np.isfinite(known).all():
        raise ValueError("this network gives no numbers for a picture: its weights are damaged")
    if float(known[0] @ known[1]) > _SAME_COSINE:
        raise ValueError("this network gives one vector for different pictures")
    return known


if __name__ == "__main__":
    main()
