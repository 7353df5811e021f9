"""Records from what exporters leave beside ONNX files; what none of them says is not guessed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from embedsearch.core.errors import UsageError
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.session import Session
from embedsearch.network.onnx.folder import record_of_folder
from embedsearch.network.onnx.record import ImageTower, TextTower, towers_record
from embedsearch.network.weights import resolve
from tests.support.library import REPOSITORY

pytest.importorskip("onnx", reason="needs the test extra")
pytest.importorskip("tokenizers", reason="needs the test extra")
from tests.support import towers as made

Values = dict[str, Any]
MEAN, STD = [0.48, 0.45, 0.4], [0.26, 0.25, 0.27]
SEEN = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
SIZE = [made.SIDE, made.SIDE]


def put(path: Path, values: Values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def immich(folder: Path) -> Path:
    """As Immich keeps its models."""
    made.image_tower(folder / "visual" / "model.onnx")
    put(folder / "visual" / "preprocess_cfg.json", {"size": SIZE, "mode": "RGB", **SEEN})
    made.text_tower(folder / "textual" / "model.onnx", with_mask=False)
    made.tokenizer(folder / "textual" / "tokenizer.json")
    put(folder / "textual" / "tokenizer_config.json", {"pad_token": "[pad]"})
    put(
        folder / "config.json", {"embed_dim": made.DIM, "text_cfg": {"context_length": made.LENGTH}}
    )
    return folder


def open_clip(folder: Path) -> Path:
    """As open_clip describes a model on the hub."""
    made.image_tower(folder / "visual.onnx")
    made.text_tower(folder / "textual.onnx")
    made.tokenizer(folder / "tokenizer.json")
    put(folder / "tokenizer_config.json", {"pad_token": {"content": "[pad]"}})
    text = {"context_length": made.LENGTH, "tokenizer_kwargs": {"clean": "canonicalize"}}
    model = {"vision_cfg": {"image_size": made.SIDE}, "text_cfg": text}
    seen = {**SEEN, "resize_mode": "squash"}
    put(folder / "open_clip_config.json", {"model_cfg": model, "preprocess_cfg": seen})
    return folder


def hugging_face(folder: Path) -> Path:
    """As transformers' processors are saved beside ONNX files."""
    made.image_tower(folder / "onnx" / "vision_model.onnx")
    made.text_tower(folder / "onnx" / "text_model.onnx")
    made.tokenizer(folder / "tokenizer.json")
    put(folder / "tokenizer_config.json", {"pad_token": "[pad]"})
    put(folder / "config.json", {"text_config": {"max_position_embeddings": made.LENGTH}})
    processor = {
        **{"do_resize": True, "size": {"shortest_edge": 80}, "resample": 3},
        **{"do_center_crop": True, "crop_size": {"height": made.SIDE, "width": made.SIDE}},
        **{"do_rescale": True, "rescale_factor": 1 / 255},
        **{"do_normalize": True, "image_mean": MEAN, "image_std": STD},
    }
    put(folder / "preprocessor_config.json", processor)
    return folder


@pytest.mark.parametrize(
    ("layout", "seen"),
    [
        (immich, ("crop", "bicubic", 1.0)),
        (open_clip, ("squash", "bicubic", 1.0)),
        (hugging_face, ("crop", "bicubic", 0.8)),
    ],
)
def test_layouts(
    layout: Callable[[Path], Path], seen: tuple[str, str, float], tmp_path: Path
) -> None:
    folder = layout(tmp_path / "my model")
    spec = resolve(str(folder), Session())
    assert (spec.resize, spec.interpolation, spec.shown) == seen
    assert (spec.name, spec.architecture, spec.dim) == ("my model", ModelSpec.TOWERS, made.DIM)
    assert (spec.mean, spec.std, spec.input_side) == (tuple(MEAN), tuple(STD), made.SIDE)
    assert spec.takes_texts
    text = record_of_folder(folder).text
    assert text is not None and (text.length, text.pad_id) == (made.LENGTH, 0)
    assert text.without_punctuation is text.lower_case is (layout is open_clip)


def _without(path: str, *keys: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        values = json.loads((folder / path).read_text())
        for key in keys:
            del values[key]
        put(folder / path, values)

    return harm


def _with(path: str, **more: Any) -> Callable[[Path], None]:
    return lambda folder: put(folder / path, {**json.loads((folder / path).read_text()), **more})


def _gone(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


UNSAID: list[tuple[Callable[[Path], Path], Callable[[Path], None], str]] = [
    (immich, _without("visual/preprocess_cfg.json", "mean"), "preprocess_cfg.json has no mean"),
    (immich, _without("visual/preprocess_cfg.json", "interpolation"), "has no interpolation"),
    (immich, _with("visual/preprocess_cfg.json", resize_mode="warp"), "'warp' is not known"),
    (immich, _with("visual/preprocess_cfg.json", size=[64, 48]), "are no squares"),
    (immich, _gone("visual/preprocess_cfg.json"), "no file beside it says what its network sees"),
    (immich, _gone("textual/tokenizer.json"), "has no tokenizer.json beside it"),
    (immich, _gone("textual/tokenizer_config.json"), "do not say with what texts are padded"),
    (immich, _gone("config.json"), "how many tokens a text may have"),
    (hugging_face, _with("preprocessor_config.json", resample=1), "resample 1 is neither"),
    (hugging_face, _with("preprocessor_config.json", do_center_crop=False), "become squares"),
    (hugging_face, _without("preprocessor_config.json", "image_mean"), "has no image_mean"),
]


@pytest.mark.parametrize(("layout", "harm", "message"), UNSAID)
def test_what_is_not_said_is_asked_for(
    layout: Callable[[Path], Path], harm: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    folder = layout(tmp_path / "model")
    harm(folder)
    with pytest.raises(UsageError, match=message) as caught:
        resolve(str(folder), Session())
    first, _, record = str(caught.value).partition("\n")
    assert first.endswith("such as:")
    assert json.loads(record)["embedsearch_model"] == 1


def test_a_wrong_value_is_named(tmp_path: Path) -> None:
    folder = immich(tmp_path / "model")
    _with("visual/preprocess_cfg.json", interpolation="lanczos")(folder)
    with pytest.raises(UsageError, match=r'image.interpolation cannot be "lanczos"'):
        resolve(str(folder), Session())
    (folder / "visual" / "preprocess_cfg.json").write_text("not JSON")
    with pytest.raises(UsageError, match=r"preprocess_cfg.json is not JSON"):
        resolve(str(folder), Session())


def test_the_record_in_the_documentation_is_one() -> None:
    text = (REPOSITORY / "docs" / "guides" / "models.md").read_text()
    values = json.loads(text.partition("```json\n")[2].partition("```")[0])
    record = towers_record(values)
    assert record.text is not None and record.image.mean == (0.0, 0.0, 0.0)
    named = set(re.findall(r"`(\w+)`", text.partition("| in `image`")[2]))
    known = {field.name for part in (ImageTower, TextTower) for field in fields(part)}
    assert known <= named, "a value that the page does not name"
