"""CLIP's two networks: equal to open_clip's on the same random weights, and searched by words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import embedsearch
from embedsearch import Text
from embedsearch.core.config import DecodeLimits
from embedsearch.core.errors import UsageError, WeightsUnavailable
from embedsearch.core.model_spec import CROP
from embedsearch.core.session import Session
from embedsearch.images.decode.image import decode
from embedsearch.network.catalog import CATALOG, CLIP
from embedsearch.network.clip_names import clip_weights
from embedsearch.network.from_torch import recognize
from embedsearch.network.resnet import AttentionPool, load
from embedsearch.network.text.clip_tower import load_text_tower
from embedsearch.network.weights import resolve
from tests.support.library import CLOCK, SAMPLES

open_clip = pytest.importorskip("open_clip", reason="needs the test extra")

CLOSE = 1e-4
TEXTS = ["red shoes", "a photo of a Clock, isn't it?", "日本語 😀", "crème  brûlée 123", ""]


def untrained(name: str) -> Any:
    """Return open_clip's networks with random weights, normalized so that pictures differ."""
    torch.manual_seed(4)
    network = open_clip.create_model(name, pretrained=None).eval()
    with torch.no_grad():
        for module in network.visual.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
        network.visual.train()(torch.stack([*map(_picture, sorted(CLOCK.parent.iterdir()))]))
        network.visual.attnpool.positional_embedding.mul_(0.1)
    return network.eval()


def _picture(path: Path) -> torch.Tensor:
    """Return the normalized pixels of a picture, float32 (3, 224, 224)."""
    spec = CATALOG["clip-resnet50"].spec
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (spec.mean, spec.std))
    with path.open("rb") as file:
        pixels = decode(file, spec.input_side, DecodeLimits(), spec.framing).pixels.copy()
    return (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std


@pytest.fixture(scope="module")
def theirs() -> Any:
    return untrained("RN50-quickgelu")


def assert_same(theirs: Any, name: str) -> None:
    weights = clip_weights(theirs.state_dict())
    assert recognize(weights) == name
    network = load(name, weights)
    pictures = torch.randn(2, 3, 224, 224)
    tokens = open_clip.tokenize(TEXTS)
    assert isinstance(network.attnpool, AttentionPool)
    with torch.inference_mode():
        found = network.attnpool(network.extract_stages(pictures)["layer4"])
        wanted = theirs.encode_image(pictures)
        assert (found - wanted).abs().max() < CLOSE * wanted.abs().max()
        texts = load_text_tower(weights, network.kind.dim)(tokens)
        assert (texts - theirs.encode_text(tokens, normalize=True)).abs().max() < CLOSE


def test_equals_open_clip(theirs: Any) -> None:
    assert_same(theirs, "clip_resnet50")


def test_equals_open_clip_of_101_layers() -> None:
    assert_same(untrained("RN101-quickgelu"), "clip_resnet101")


def test_the_tokens_are_those_of_open_clip() -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="needs the test extra")
    from embedsearch.network.text.clip_tokenizer import clip_tokenizer

    ours = clip_tokenizer()
    assert isinstance(ours, tokenizers.Tokenizer)
    texts = [*TEXTS, "It's 12345 o'clock!!", "İstanbul", "e\u0301", "a\tb\nc", "x" * 60]
    wanted = open_clip.tokenize(texts)
    for text, row in zip(texts, wanted.tolist(), strict=True):
        numbers = ours.encode(text).ids
        assert numbers + [0] * (77 - len(numbers)) == row


@pytest.fixture(scope="module")
def file(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The networks in a file of the published form; they tell the samples' clocks apart."""
    with torch.no_grad():
        pictures = torch.stack([*map(_picture, sorted(CLOCK.parent.iterdir()))])
        theirs.visual.attnpool.c_proj.bias -= theirs.encode_image(pictures).mean(dim=0)
    path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    state = {key: value.contiguous() for key, value in theirs.state_dict().items()}
    safetensors.torch.save_file(state, path)
    return path


@pytest.fixture(scope="module")
def photos(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedsearch.Searcher]:
    store = tmp_path_factory.mktemp("store") / "s.es"
    embedsearch.index(CLOCK.parent, store=store, model=str(file), precision="fp32", tune=False)
    with embedsearch.open_store(store, precision="fp32") as searcher:
        yield searcher


def test_a_file_tells_what_it_is(photos: embedsearch.Searcher) -> None:
    spec, entry = photos.manifest.model, CATALOG["clip-resnet50"].spec
    assert (spec.architecture, spec.dim, spec.takes_texts) == ("clip_resnet50", 1024, True)
    assert (spec.resize, spec.pooling, spec.input_side) == (CROP, "", 224)
    assert (spec.mean, spec.std, spec.framing) == (entry.mean, entry.std, entry.framing)
    assert photos.manifest.center is None or photos.manifest.center.kind == "none"


def test_pictures_and_texts_have_the_vectors_of_open_clip(
    theirs: Any, photos: embedsearch.Searcher
) -> None:
    pytest.importorskip("tokenizers", reason="needs the test extra")
    texts = ["red shoes", "a clock on a wall"]
    with torch.inference_mode():
        picture = theirs.encode_image(_picture(CLOCK)[None], normalize=True)[0].numpy()
        read = theirs.encode_text(open_clip.tokenize(texts), normalize=True).numpy()
    found = photos.embed([CLOCK, *map(Text, texts)])
    assert float(found[0] @ picture) > 0.99  # weights of 16 bits
    assert np.abs(found[1:] - read).max() < 1e-3
    hits = photos.query(text=texts[1], by="picture", k=6)
    vectors = photos.embed([embedsearch.Key(hit.full_path) for hit in hits])
    assert [hit.score for hit in hits] == pytest.approx(vectors @ found[2], abs=2e-3)
    assert len(hits) == 6


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.98), ("bf16", 0.7), ("fp16", 0.98)])
def test_torch_gives_the_same_vectors(
    precision: str, least: float, photos: embedsearch.Searcher
) -> None:
    """Of random weights, whose vectors differ by little of what they have in common."""
    from embedsearch.network.torch_runtime import TorchExtractor

    spec, pixels = photos.manifest.model, []
    for path in sorted(CLOCK.parent.iterdir())[:3]:
        with path.open("rb") as file:
            pixels.append(decode(file, spec.input_side, DecodeLimits(), spec.framing).pixels)
    found = TorchExtractor(spec, "cpu", precision)(np.stack(pixels))
    wanted = photos.embed(sorted(CLOCK.parent.iterdir())[:3])
    assert found.dtype == np.float32
    assert np.einsum("nd,nd->n", found, wanted).min() > least


def test_it_takes_one_side(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes pictures of 224 px only"):
        embedsearch.index(CLOCK.parent, store=tmp_path / "s", model=str(file), input_side=160)


@pytest.mark.parametrize("options", [{}, {"from_scratch": True}])
def test_it_is_not_trained_with_labels(options: dict[str, Any], file: Path, tmp_path: Path) -> None:
    model = "clip_resnet50" if options else str(file)
    with pytest.raises(UsageError, match=r"trained with captions|vectors of its own"):
        embedsearch.train(SAMPLES, out=tmp_path / "x.safetensors", model=model, **options)


def test_a_text_network_that_lacks_a_part_is_refused(file: Path, tmp_path: Path) -> None:
    state = safetensors.torch.load_file(file)
    del state["transformer.resblocks.3.ln_1.bias"]
    safetensors.torch.save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(WeightsUnavailable, match=r"no weights of CLIP's network for texts"):
        resolve(str(tmp_path / "less.safetensors"), Session())


def test_the_catalogue_has_what_is_published() -> None:
    entry = CATALOG["clip-resnet50"]
    assert entry.spec.architecture == f"{CLIP}resnet50"
    assert len(entry.sha256_prefix) == 64 and entry.file_name == "open_clip_model.safetensors"
    settings = open_clip.get_pretrained_cfg("RN50", "openai")
    assert tuple(settings["mean"]) == entry.spec.mean and tuple(settings["std"]) == entry.spec.std
    assert "resnet50_clip.openai" in settings["hf_hub"] and settings["hf_hub"][:4] in entry.url  # type: ignore[operator]
