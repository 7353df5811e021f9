"""Weights and networks of torch, in a child process; in: files, out: files in the cache.

Weights of a file become safetensors; a model becomes one of OpenVINO's form. This loads torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from embedsearch.core.atomic import write_atomically
from embedsearch.core.config import MAX_SIDE, MIN_SIDE
from embedsearch.core.model_spec import ModelSpec
from embedsearch.network.catalog import file_spec
from embedsearch.network.checkpoint import read_weights
from embedsearch.network.clip_names import MARK as CLIP_MARK
from embedsearch.network.converted import (
    Known,
    import_openvino,
    known_pictures,
    place_converted,
)
from embedsearch.network.extractor import Extractor, build_extractor, check_framing, pooling_of
from embedsearch.network.resnet import ARCHITECTURES, STAGES, TEXT_PREFIX, Architecture, load
from embedsearch.network.text.clip_tokenizer import LENGTH, PAD_ID
from embedsearch.network.text.clip_tower import TextTower, load_text_tower
from embedsearch.network.text.converted import TextNote, place_text

MODEL_RECORD = "embedsearch_model"  # the metadata that holds a ModelSpec's fields, as JSON
_HEAD_WIDTH = 64  # of CLIP's attention, which its weights do not say
_SAME_COSINE = 0.99999
_PROBE_SIDE = 128  # for weights whose record has none


def import_weights(file: Path, folder: Path) -> None:
    """Write the residual network's weights in `file` as `<sha256>.safetensors` and a note.

    The note holds the file's model record, if it has one, else the architecture. Raises
    ValueError for weights of another kind of network.
    """
    weights, metadata, sha256 = read_weights(file)
    record = _own_record(metadata)
    name = record.get("architecture") or recognize(weights)
    network = load(name, weights)  # strict: names what is missing or unexpected
    texts = any(key.startswith(TEXT_PREFIX) for key in weights)
    if texts:
        load_text_tower(weights, network.kind.dim)
    spec = file_spec("", name, network.kind.dim, sha256, "")
    side = record.get("input_side", _PROBE_SIDE if spec.is_of_pooled_maps else spec.input_side)
    known_vectors(build_extractor(ModelSpec.from_dict({**spec.to_dict(), **record}), weights), side)
    # Copies: the library refuses tensors that share memory, as those of some checkpoints do.
    plain = torch.contiguous_format
    body = {key: value.clone(memory_format=plain) for key, value in weights.items()}
    data = safetensors.torch.save(body)
    note = {
        "architecture": name,
        "dim": network.kind.dim,
        "record": record,
        "texts": texts,
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
        if spec.is_of_pooled_maps:
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
    attention, map_side = None, Architecture.map_side
    if (places := weights.get(CLIP_MARK)) is not None:
        attention = (places.shape[1] // _HEAD_WIDTH, len(weights["attnpool.c_proj.weight"]))
        map_side = math.isqrt(len(places) - 1)
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
        pooled_strides=attention is not None,
        attention=attention,
        map_side=map_side,
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
    tensors = safetensors.torch.load_file(weights)
    extractor = build_extractor(spec, tensors)
    side = spec.input_side
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    with torch.no_grad():
        model = import_openvino().convert_model(
            extractor, example_input=example, input=[-1, side, side, 3]
        )
    if spec.takes_texts:
        _convert_texts(load_text_tower(tensors, spec.dim), folder)
    known = known_vectors(extractor, side)
    place_converted(model, known, folder)  # last: its note says that all is there


def _convert_texts(tower: TextTower, folder: Path) -> None:
    """Convert CLIP's network for texts into `folder`."""
    example = torch.zeros(1, LENGTH, dtype=torch.int64)
    with torch.no_grad():
        model = import_openvino().convert_model(tower, example_input=example, input=[1, LENGTH])
    note = TextNote(
        ids=model.input(0).get_any_name(),
        mask=None,
        length=LENGTH,
        pad_id=PAD_ID,
        lower_case=False,  # its tokenizer does that
        without_punctuation=False,
        template="{}",
    )
    place_text(model, note, None, folder)


def known_vectors(extractor: Extractor, side: int) -> Known:
    """Return the vectors of the known pictures. Raises ValueError if they tell nothing apart."""
    with torch.no_grad():
        known: Known = extractor(torch.from_numpy(known_pictures(side))).float().numpy()
    if not np.isfinite(known).all():
        raise ValueError("this network gives no numbers for a picture: its weights are damaged")
    if float(known[0] @ known[1]) > _SAME_COSINE:
        raise ValueError("this network gives one vector for different pictures")
    return known
