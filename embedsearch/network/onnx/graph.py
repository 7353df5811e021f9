"""ONNX networks as OpenVINO's models of one form; in: files and their record, out: models.

A model for pictures takes uint8 (B, S, S, 3), RGB, and gives float32 (B, D), unit rows, as ours
do: what the record says of samples, layout, output and pooling becomes a part of the graph. One for
texts takes the numbers of tokens, (1, length).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from embedsearch.network.converted import (
    KNOWN_PICTURES,
    Known,
    answers,
    fixed_batch,
    import_openvino,
    known_pictures,
    place_converted,
)
from embedsearch.network.onnx.configs import largest_token
from embedsearch.network.onnx.folder import cached_record
from embedsearch.network.onnx.record import ImageTower, TextTower, TowersRecord
from embedsearch.network.text.converted import TextNote, answer, place_text

_GEM, _LEAST = 3.0, 1e-6
_SAME_COSINE = 0.99999
_SAME_TEXT = 0.999999  # two short texts among many fillers differ by little
_TEXTS = ("a red clock", "two boats at sea, 1930")
_CLOSE = 1e-3  # of components, of one picture alone and among others
# What OpenVINO says of its own source.
_NOISE = re.compile(
    r"Exception from \S+: |Check '.*?' failed at \S+: |FrontEnd API failed with \w+: "
)
_LACKING = re.compile(r"No conversion rule found for operations: (.{1,200})")


def check_towers(folder: Path, record: TowersRecord) -> int:
    """Return the components of the vectors of a folder's networks. Raises ValueError."""
    model = image_model(folder / record.image.file, record.image)
    known = known_of(model, record.image.side)
    dim = int(known.shape[1])
    if record.image.dim not in {None, dim}:
        raise ValueError(f"{record.image.file} gives {dim} components, not {record.image.dim}")
    if record.text is not None:
        _check_text(folder, record.text, dim)
    return dim


def _check_text(folder: Path, tower: TextTower, dim: int) -> None:
    """Raise ValueError unless a network for texts fits its tokenizer and the other network."""
    model, ids, mask = text_model(folder / tower.file, tower)
    if (given := model.output(0).partial_shape) != [1, dim]:
        raise ValueError(
            f"{tower.file} gives {_shape(given)} for a text, but the other network {dim} "
            "components for a picture"
        )
    known, used = _vocabulary(model, ids), largest_token(folder / tower.tokenizer) + 1
    if known is not None and used > known:
        raise ValueError(
            f"{tower.tokenizer} has {used} tokens, but {tower.file} knows {known}: it is of "
            "another model"
        )
    if known is not None and tower.pad_id >= known:
        raise ValueError(f"text.pad_id is {tower.pad_id}, but {tower.file} knows {known} tokens")
    note = _note(tower, ids, mask)
    compiled = _compiled(model)
    probes = _probes(folder / tower.tokenizer, note, known or used)
    vectors = [answer(compiled, note.feed(tokens)) for tokens in probes]
    if not np.isfinite(vectors).all() or not np.linalg.norm(vectors, axis=1).all():
        raise ValueError(f"{tower.file} gives no numbers for a text")
    if float(vectors[0] @ vectors[1]) > _SAME_TEXT:
        raise ValueError(f"{tower.file} gives one vector for different texts")


def _probes(path: Path, note: TextNote, known: int) -> list[list[int]]:
    """Return the tokens of two texts; without the library, any. Raises ValueError."""
    if find_spec("tokenizers") is None:
        return [[1 % known], [2 % known]]
    from embedsearch.network.text.tokens import Tokenizer

    try:
        data = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} cannot be read") from error
    tokenizer = Tokenizer(data, note)
    probes = [tokenizer.numbers(text, note.length) for text in _TEXTS]
    largest = max((number for probe in probes for number in probe), default=0)
    if largest >= known:
        raise ValueError(f"{path.name} gives token {largest}, but there are {known}")
    if probes[0] == probes[1]:  # a vocabulary of other words: any two tokens
        return [[1 % known], [2 % known]]
    return probes


def _note(text: TextTower, ids: str, mask: str | None) -> TextNote:
    return TextNote(
        ids=ids,
        mask=mask,
        length=text.length,
        pad_id=text.pad_id,
        lower_case=text.lower_case,
        without_punctuation=text.without_punctuation,
        template=text.template,
    )


def _vocabulary(model: Any, ids: str) -> int | None:
    """Return how many tokens a network for texts has vectors of, None if that is not seen."""
    to_see = [each for each in model.inputs if ids in each.get_names()]
    sizes = []
    while to_see:
        for taker in to_see.pop().get_target_inputs():
            node = taker.get_node()
            if node.get_type_name() == "Convert":
                to_see += node.outputs()
            elif node.get_type_name() == "Gather" and taker.get_index() == 1:
                shape = node.input(0).get_partial_shape()
                sizes += [shape[0].get_length()] if shape[0].is_static else []
    return min(sizes, default=None)


def convert_towers(folder: Path, into: Path) -> None:
    """Convert the networks of a folder of the cache. Raises ValueError and OSError."""
    record = cached_record(folder, folder.name)
    if record is None:
        raise ValueError(f"{folder} changed while it was read")
    model = image_model(folder / record.image.file, record.image)
    known = known_of(model, record.image.side)
    if (text := record.text) is not None:
        network, ids, mask = text_model(folder / text.file, text)
        note = _note(text, ids, mask)
        place_text(network, note, (folder / text.tokenizer).read_bytes(), into)
    place_converted(model, known, into)  # last: its note says that all is there


def image_model(path: Path, tower: ImageTower) -> Any:
    """Return the model of a network for pictures. Raises ValueError."""
    openvino = import_openvino()
    model = _read(path)
    taken = _input(model, tower.input, path)
    if len(model.inputs) > 1:
        raise ValueError(f"{path.name} takes {_names(model.inputs)}: a picture is all there is")
    shape = taken.get_partial_shape()
    channels = 1 if tower.layout == "NCHW" else 3
    if (
        shape.rank.is_dynamic
        or len(shape) != 4
        or not shape[channels].compatible(openvino.Dimension(3))
    ):
        raise ValueError(f"{path.name} takes {_shape(shape)}: no picture in {tower.layout}")
    side = tower.side
    heights = [shape[2], shape[3]] if tower.layout == "NCHW" else [shape[1], shape[2]]
    if not all(each.compatible(openvino.Dimension(side)) for each in heights):
        raise ValueError(f"{path.name} takes {_shape(shape)}: no picture of {side} × {side}")
    if tower.scale is not None and not taken.get_element_type().is_real():
        raise ValueError(f"{path.name} takes whole numbers: image.scale is null for it")
    sides = [-1, 3, side, side] if tower.layout == "NCHW" else [-1, side, side, 3]
    model = openvino.Model([_pooled(_output(model, tower.output, path), tower, path)], [taken])
    try:
        model.reshape({taken.output(0): openvino.PartialShape(sides)})
    except RuntimeError:
        sides[0] = 1
        _reshaped(model, {taken.output(0): openvino.PartialShape(sides)}, path)
    model = _with_samples(model, tower)
    if sides[0] == -1 and not _takes_any_batch(model, side):
        fixed = openvino.PartialShape([1, side, side, 3])
        _reshaped(model, {model.input(0): fixed}, path)
    return model


def text_model(path: Path, tower: TextTower) -> tuple[Any, str, str | None]:
    """Return the model of a network for texts, and the names of its inputs: tokens and mask."""
    openvino = import_openvino()
    model = _read(path)
    ids, mask = tower.input, tower.mask
    names = [each.get_any_name() for each in model.inputs]
    if ids is None:
        others = [name for name in names if name != mask and "mask" not in name]
        ids = others[0] if len(others) == 1 else None
    if mask is None:
        masks = [name for name in names if name != ids]
        mask = masks[0] if len(masks) == 1 and masks[0] == "attention_mask" else None
    if ids is None or {ids, *([mask] if mask else [])} != set(names):
        raise ValueError(
            f"{path.name} takes {', '.join(names)}: it may take tokens, text.input, and which of "
            "them are not padding, text.mask"
        )
    for each in model.inputs:
        declared = each.get_partial_shape()
        if len(declared) != 2 or not declared[1].compatible(openvino.Dimension(tower.length)):
            raise ValueError(f"{path.name} takes {_names([each])}, not {tower.length} tokens")
    output = _output(model, tower.output, path)
    shape = output.get_partial_shape()
    if shape.rank.is_dynamic or len(shape) != 2:
        raise ValueError(f"{path.name} gives {_shape(shape)}, not one vector a text")
    model = openvino.Model([_unit(output)], [each.node for each in model.inputs])
    length = openvino.PartialShape([1, tower.length])
    _reshaped(model, dict.fromkeys(model.inputs, length), path)
    return model, ids, mask


def known_of(model: Any, side: int) -> Known:
    """Return the vectors of the known pictures. Raises ValueError if they tell nothing apart."""
    compiled = _compiled(model)
    batch = fixed_batch(compiled)
    pictures = known_pictures(side)
    some = pictures[: batch or KNOWN_PICTURES]
    if (given := np.array(compiled(some)[0]).shape)[:-1] != (len(some),):
        raise ValueError(f"the network gives {given} for {len(some)} pictures")
    known = answers(compiled, pictures, batch)
    if not np.isfinite(known).all():
        raise ValueError("the network gives no numbers for a picture")
    if float(known[0] @ known[1]) > _SAME_COSINE:
        raise ValueError("the network gives one vector for different pictures")
    return known


def _read(path: Path) -> Any:
    """Return the model in an ONNX file. Raises ValueError, which names an operator that lacks."""
    try:
        return import_openvino().Core().read_model(str(path))
    except RuntimeError as error:
        words = _NOISE.sub("", " ".join(str(error).split()))
        if (lacking := _LACKING.search(str(error))) is not None:
            words = f"OpenVINO lacks its operator {' '.join(lacking[1].split())}"
        elif (place := words.find("While validating")) >= 0:
            words = words[place:]
        raise ValueError(f"{path.name} cannot be read: {words[:300]}") from error


def _input(model: Any, name: str | None, path: Path) -> Any:
    """Return the parameter of that name, or the only one."""
    found = [each for each in model.inputs if name is None or name in each.get_names()]
    if len(found) != 1:
        words = f"takes {_names(model.inputs)}"
        raise ValueError(f"{path.name} {words}: say in image.input which is the picture")
    return found[0].node


def _output(model: Any, name: str | None, path: Path) -> Any:
    """Return what a node gives, of that name, also an inner one; or the only result."""
    if name is None:
        if len(model.outputs) != 1:
            raise ValueError(f"{path.name} gives {_names(model.outputs)}: say in output which")
        return model.output(0).node.input_value(0)
    for node in model.get_ordered_ops():
        for output in node.outputs():
            if name in output.get_names() and node.get_type_name() != "Result":
                return output
    raise ValueError(f"{path.name} has nothing called {name}; it gives {_names(model.outputs)}")


def _pooled(output: Any, tower: ImageTower, path: Path) -> Any:
    """Return one unit vector a picture, of what a network gives."""
    from openvino import opset13 as ops

    shape = output.get_partial_shape()
    rank = -1 if shape.rank.is_dynamic else len(shape)
    spatial = [2, 3] if tower.layout == "NCHW" else [1, 2]
    if tower.pooling == "first" and rank == 3:
        output = ops.gather(output, np.int64(0), np.int64(1)).output(0)
    elif tower.pooling == "mean" and rank in {3, 4}:
        output = ops.reduce_mean(output, np.array([1] if rank == 3 else spatial)).output(0)
    elif tower.pooling == "gem" and rank == 4:
        powers = ops.power(ops.maximum(output, np.float32(_LEAST)), np.float32(_GEM))
        mean = ops.reduce_mean(powers, np.array(spatial))
        output = ops.power(mean, np.float32(1 / _GEM)).output(0)
    elif tower.pooling is not None or rank not in {2, 4}:
        hint = "" if tower.pooling else ": say in image.pooling what becomes of it"
        raise ValueError(f"{path.name} gives {_shape(shape)}, pooling {tower.pooling}{hint}")
    elif rank == 4:
        if [shape[axis] for axis in spatial] != [1, 1]:
            raise ValueError(
                f"{path.name} gives {_shape(shape)}: say in image.pooling what becomes of it"
            )
        output = ops.squeeze(output, np.array(spatial)).output(0)
    return _unit(output)


def _unit(output: Any) -> Any:
    from openvino import Type, opset13 as ops

    numbers = ops.convert(output, Type.f32) if output.get_element_type() != Type.f32 else output
    return ops.normalize_l2(numbers, np.array([1]), 1e-12, "max").output(0)


def _with_samples(model: Any, tower: ImageTower) -> Any:
    """Return the model, taking samples as they are decoded: uint8, NHWC, RGB."""
    from openvino import Layout, Type
    from openvino.preprocess import ColorFormat, PrePostProcessor

    steps = PrePostProcessor(model)
    given = steps.input().tensor()
    given.set_element_type(Type.u8).set_layout(Layout("NHWC"))
    given.set_color_format(ColorFormat.RGB)
    steps.input().model().set_layout(Layout(tower.layout))
    if tower.colors == "BGR":
        steps.input().preprocess().convert_color(ColorFormat.BGR)
    if tower.scale is not None:
        assert tower.mean is not None and tower.std is not None, "the record has both"
        steps.input().preprocess().convert_element_type(Type.f32)
        steps.input().preprocess().mean([value / tower.scale for value in tower.mean])
        steps.input().preprocess().scale([value / tower.scale for value in tower.std])
    return steps.build()


def _takes_any_batch(model: Any, side: int) -> bool:
    """Return whether two pictures together give what each gives alone."""
    pictures = known_pictures(side)
    try:
        compiled = _compiled(model)
        together = np.array(compiled(pictures)[0])
        alone = np.concatenate([np.array(compiled(pictures[i : i + 1])[0]) for i in range(2)])
    except RuntimeError:
        return False
    rows = len(together) == len(alone) == KNOWN_PICTURES
    return rows and bool(np.abs(together - alone).max() < _CLOSE)


def _compiled(model: Any) -> Any:
    try:
        options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        return import_openvino().Core().compile_model(model, "CPU", options)
    except RuntimeError as error:
        words = " ".join(str(error).split())
        raise ValueError(f"OpenVINO cannot compile the network: {words[:300]}") from error


def _reshaped(model: Any, shapes: dict[Any, Any], path: Path) -> None:
    try:
        model.reshape(shapes)
    except RuntimeError as error:
        wanted = ", ".join(str(shape) for shape in shapes.values())
        raise ValueError(f"{path.name} does not take {wanted}") from error


def _names(ports: Sequence[Any]) -> str:
    return ", ".join(
        f"{next(iter(sorted(port.get_names())), '?')} {_shape(port.get_partial_shape())}"
        for port in ports
    )


def _shape(shape: Any) -> str:
    return str(shape).replace("[", "(").replace("]", ")").replace(",", ", ")
