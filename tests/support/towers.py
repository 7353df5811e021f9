"""ONNX networks made for tests: small ones of known arithmetic, with a record beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, DIM, CHANNELS, LENGTH = 64, 16, 12, 8
WORDS = ["[pad]", "[unk]", "red", "blue", "green", "clock", "boat", "shoes", "café"]
_IR, _OPSET = 10, [helper.make_opsetid("", 17)]
Values = dict[str, Any]


def weights(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    """Return normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def image_tower(
    path: Path,
    *,
    layout: str = "NCHW",
    takes_bytes: bool = False,
    batch: int | str = "batch",
    output: str = "vector",
    more_inputs: Sequence[str] = (),
    operator: str | None = None,
    external: str | None = None,
    dim: int = DIM,
) -> Path:
    """Write a network: patches of 16 × 16 through a convolution, their maxima, a product.

    Its inner outputs are `map` (N, C, 4, 4) and `rows` (N, 16, C).
    """
    shape = [batch, 3, SIDE, SIDE] if layout == "NCHW" else [batch, SIDE, SIDE, 3]
    kind = TensorProto.UINT8 if takes_bytes else TensorProto.FLOAT
    tensors = {
        "kernel": weights(1, CHANNELS, 3, 16, 16) / 16,
        "matrix": weights(2, CHANNELS, dim),
        "shape": np.array([0, CHANNELS, -1], np.int64),
    }
    nodes, name = [], "picture"
    if takes_bytes:
        nodes.append(helper.make_node("Cast", [name], ["floats"], to=TensorProto.FLOAT))
        name = "floats"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [name], ["turned"], perm=[0, 3, 1, 2]))
        name = "turned"
    if operator is not None:
        nodes.append(helper.make_node(operator, [name], ["odd"], domain="com.example"))
        name = "odd"
    nodes += [
        helper.make_node("Conv", [name, "kernel"], ["sums"], strides=[16, 16]),
        helper.make_node("Tanh", ["sums"], ["map"]),
        helper.make_node("Reshape", ["map", "shape"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("ReduceMax", ["rows"], ["most"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["most", "matrix"], ["vector"]),
    ]
    inputs = [helper.make_tensor_value_info("picture", kind, shape)]
    for other in more_inputs:
        inputs.append(helper.make_tensor_value_info(other, TensorProto.FLOAT, ["batch", 1]))
        nodes[-1] = helper.make_node("MatMul", ["most", "matrix"], ["product"])
        nodes.append(helper.make_node("Add", ["product", other], ["vector"]))
    opsets = [*_OPSET, *([helper.make_opsetid("com.example", 1)] if operator else [])]
    _save(path, nodes, inputs, [output], tensors, external, opsets)
    return path


def text_tower(
    path: Path, *, dim: int = DIM, with_mask: bool = True, constant: bool = False
) -> Path:
    """Write a network: the mean of the tokens' vectors, without padding, times a matrix."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", LENGTH])
    tensors = {"table": weights(3, len(WORDS), CHANNELS), "matrix": weights(4, CHANNELS, dim)}
    if constant:
        tensors["table"][:] = tensors["table"][:1]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["vectors"])]
    inputs, name = [ids], "vectors"
    if with_mask:
        mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", LENGTH])
        inputs.append(mask)
        tensors["last"] = np.array([2], np.int64)
        nodes += [
            helper.make_node("Cast", ["attention_mask"], ["ones"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["ones", "last"], ["column"]),
            helper.make_node("Mul", ["vectors", "column"], ["kept"]),
        ]
        name = "kept"
    nodes += [
        helper.make_node("ReduceMean", [name], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "matrix"], ["vector"]),
    ]
    _save(path, nodes, inputs, ["vector"], tensors, None, _OPSET)
    return path


def tokenizer(path: Path) -> Path:
    """Write a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = {word: number for number, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(words, unk_token="[unk]"))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(str(path))
    return path


def record(**image: Any) -> Values:
    """Return the record of the networks above, with other values of the one for pictures."""
    return {
        **{"embedsearch_model": 1, "name": "made", "licence": "none", "source": "a test"},
        "image": {
            **{"file": "image.onnx", "side": SIDE, "resize": "squash", "interpolation": "bilinear"},
            **{"scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]},
            **image,
        },
    }


def with_text(values: Values, **text: Any) -> Values:
    """Return a record with the network for texts, with other values of it."""
    own = {"file": "text.onnx", "tokenizer": "tokenizer.json", "length": LENGTH, "pad_id": 0}
    return {**values, "text": {**own, **text}}


def write_record(folder: Path, values: Values) -> Path:
    """Put a record into a folder, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "embedsearch_model.json").write_text(json.dumps(values))
    return folder


def towers(folder: Path, **image: Any) -> Path:
    """Return a folder with both networks, a tokenizer and their record."""
    folder.mkdir(parents=True, exist_ok=True)
    image_tower(folder / "image.onnx")
    text_tower(folder / "text.onnx")
    tokenizer(folder / "tokenizer.json")
    return write_record(folder, with_text(record(**image), lower_case=True))


def _save(
    path: Path,
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[str],
    tensors: dict[str, Any],
    external: str | None,
    opsets: list[Any],
) -> None:
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    constants = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "made", inputs, results, constants)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR)
    path.parent.mkdir(parents=True, exist_ok=True)
    if external is None:
        onnx.save(model, str(path))
    else:
        onnx.save(
            model,
            str(path),
            save_as_external_data=True,
            location=external,
            size_threshold=64,
        )
