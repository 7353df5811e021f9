"""The residual network: equal to torchvision's and timm's, and loud about mistakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from embedsearch.core.model_spec import (
    DECODING,
    DRAFTS,
    INTERPOLATIONS,
    MILD_CROP,
    RESIZES,
    Framing,
    ModelSpec,
)
from embedsearch.core.session import Session
from embedsearch.network.catalog import CATALOG, CLIP
from embedsearch.network.extractor import build_extractor
from embedsearch.network.from_torch import recognize
from embedsearch.network.pooling import GeM, expected_features
from embedsearch.network.resnet import (
    ACTIVATIONS,
    ARCHITECTURES,
    BasicBlock,
    Bottleneck,
    ResidualBlock,
    add_residual,
    architecture,
    build,
    float_pixels,
    initialize,
    load,
)
from embedsearch.network.weights import resolve
from tests.support.networks import blocks_of, untrained

OLDER_FINGERPRINT = "d7052a27e1171939f0676e842f125d138bed94669bc8d5c65bfbdefd93279cd6"

TORCHVISION = [n for n in ARCHITECTURES if not n.startswith(("se", CLIP)) and n[-1] != "d"]


TIMM = ["seresnet50", "resnet50d", "resnet18d", "resnext50_32x4d", "seresnet18", "seresnet152d"]


def assert_same_outputs(
    name: str, theirs: torch.nn.Module, pooled: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    x = torch.randn(2, 3, 96, 80, generator=torch.Generator().manual_seed(5))
    ours = build(name, classes=1000)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    body = load(name, theirs.state_dict())
    with torch.inference_mode():
        wanted = theirs(x)
        assert (ours(x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
        features = body.extract_features(x)
        assert features.shape == (2, ARCHITECTURES[name].dim)
        assert (features - pooled(x)).abs().max() <= 1e-5 * features.abs().max()


@pytest.mark.parametrize("name", TORCHVISION)
def test_equals_torchvision(name: str) -> None:
    import torchvision

    torch.manual_seed(0)
    theirs = untrained(torchvision.models.get_model(name, weights=None))
    headless = torch.nn.Sequential(*list(theirs.children())[:-1], torch.nn.Flatten())
    assert_same_outputs(name, theirs, headless)


@pytest.mark.parametrize("name", TIMM)
def test_equals_timm(name: str) -> None:
    timm = pytest.importorskip("timm", reason="needs the timm extra")
    torch.manual_seed(0)
    theirs: Any = untrained(timm.create_model(name, pretrained=False))
    assert_same_outputs(name, theirs, lambda x: theirs.forward_features(x).mean(dim=(2, 3)))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_tell_their_architecture(name: str) -> None:
    with torch.device("meta"):
        weights = build(name, classes=10).state_dict()
    assert recognize(weights) == name


def test_stages_by_name() -> None:
    network = build("resnet50d")
    x = torch.randn(2, 3, 64, 96)
    maps = network.extract_stages(x, ["layer4", "layer2"])
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        "layer2": (2, 512, 8, 12),
        "layer4": (2, 2048, 2, 3),
    }
    assert torch.equal(network.extract_features(x), maps["layer4"].mean(dim=(2, 3)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_block_begins_as_the_identity(block: type[ResidualBlock], activation: str) -> None:
    """F ends in a BatchNorm of weight 0: the block is its activation, in both modes."""
    kind = replace(ARCHITECTURES["seresnet50"], activation=activation)
    made = block(64 * block.expansion, 64, 1, kind)
    initialize(made)
    x = torch.randn(4, 64 * block.expansion, 6, 6)
    wanted = getattr(torch.nn.functional, activation)(x)
    for mode in (True, False):
        assert torch.allclose(made.train(mode)(x.clone()), wanted, atol=1e-6)
    torch.nn.init.ones_(made.last_norm.weight)  # the mutant: an ordinary BatchNorm
    assert not torch.allclose(made(x.clone()), wanted, atol=1e-2)


def test_an_activation_is_part_of_the_name() -> None:
    assert architecture("resnet18d-gelu") == replace(ARCHITECTURES["resnet18d"], activation="gelu")
    for wrong in ("resnet19", "resnet18-swish"):
        with pytest.raises(ValueError, match="no architecture"):
            architecture(wrong)


def test_the_catalogue_is_what_is_published() -> None:
    import torchvision

    timm = pytest.importorskip("timm", reason="needs the test extra")
    seen = 0
    for entry in CATALOG.values():
        if entry.url is None or entry.spec.architecture.startswith(CLIP):
            continue
        base, _, tag = entry.name.partition(".")
        if tag in ("", "v2"):
            members = torchvision.models.get_model_weights(base)
            weights = next(w for w in members if w.url == entry.url)
            assert weights.name == f"IMAGENET1K_{tag.upper() or 'V1'}"
            assert entry.megabytes == pytest.approx(weights.meta["_file_size"] * 1.048576, abs=0.2)
            assert f"{weights.meta['_metrics']['ImageNet-1K']['acc@1']:.1f}" in entry.quality
            mean, std = weights.transforms().mean, weights.transforms().std
        else:
            config = timm.get_pretrained_cfg(entry.name)
            assert entry.url == config.url
            mean, std = config.mean, config.std
        assert tuple(mean) == entry.spec.mean and tuple(std) == entry.spec.std
        assert entry.file_name.endswith(f"{entry.sha256_prefix}.pth")
        assert len(entry.sha256_prefix) == 8
        assert entry.spec.dim == architecture(entry.spec.architecture).dim
        seen += 1
    assert seen == len(CATALOG) - 2 >= 26


def test_residual_sum_names_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(2, 8, 4, 4\).*\(2, 1, 4, 4\)"):
        add_residual(torch.zeros(2, 8, 4, 4), torch.zeros(2, 1, 4, 4))  # `+` would broadcast


def test_features_refuse_training_mode() -> None:
    network = build("resnet18").train()
    with pytest.raises(RuntimeError, match="eval mode"):
        network.extract_features(torch.zeros(1, 3, 32, 32))


def test_loading_names_what_differs() -> None:
    weights = build("resnet18").state_dict()
    del weights["layer1.0.conv1.weight"]
    weights["extra.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"missing \['layer1\.0\.conv1\.weight'\].*extra\.weight"):
        load("resnet18", weights)


def test_gem_against_its_formula() -> None:
    x = torch.rand(3, 5, 4, 6, dtype=torch.float64)
    wanted = np.cbrt((x.numpy() ** 3).mean(axis=(2, 3)))
    assert np.allclose(GeM(3.0)(x).numpy(), wanted, atol=1e-12)
    assert np.allclose(GeM(1.0)(x).numpy(), x.numpy().mean(axis=(2, 3)))


def test_the_extractor_normalises_inside() -> None:
    spec = ModelSpec("t", "resnet18", "0" * 64, 512, 64)
    torch.manual_seed(1)
    extractor = build_extractor(spec, build("resnet18").state_dict())
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    scaled = pixels.permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
    with torch.inference_mode():
        maps = extractor.network.extract_stages((scaled - mean) / std)["layer4"]
        wanted = torch.nn.functional.normalize(maps.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3))
        assert torch.allclose(extractor(pixels), wanted, atol=1e-5)
        centred = build_extractor(replace(spec, center=0.6), extractor.network.state_dict())
        center = 0.6 * expected_features(extractor.network, "resnet18", GeM(3.0))
        measured = torch.nn.functional.normalize(wanted - center)
        assert torch.allclose(centred(pixels), measured, atol=1e-5)
        both = build_extractor(replace(spec, flip=True), extractor.network.state_dict())
        mirrored = extractor(pixels.flip(2))
        assert torch.allclose(
            both(pixels), torch.nn.functional.normalize(wanted + mirrored), atol=1e-5
        )
        assert torch.allclose(both(pixels), both(pixels.flip(2)), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "seresnet18", "resnet18-gelu"])
def test_expected_features_against_samples(name: str) -> None:
    """The quadrature against drawing each BatchNorm's output from its Gaussian."""
    network = build(name)
    rng = torch.Generator().manual_seed(2)
    for module in network.get_submodule("layer4").modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.2, 1.0, generator=rng)
            module.bias.data.uniform_(-0.5, 0.5, generator=rng)
    draws = 20_000
    with torch.inference_mode():
        x = torch.zeros(draws, network.kind.dim)
        for block in blocks_of(network, "layer4"):
            norms = [block.last_norm]
            if block.downsample:
                of_shortcut = block.downsample[-1]
                assert isinstance(of_shortcut, torch.nn.BatchNorm2d)
                norms.append(of_shortcut)
            drawn = [n.bias + n.weight * torch.randn(x.shape, generator=rng) for n in norms]
            if block.se is not None:
                drawn[0] *= block.se.scale(block.last_norm.bias.view(1, -1, 1, 1)).flatten()
            x = block.act(sum(drawn) if block.downsample else drawn[0] + x)
        wanted = x.clamp(min=1e-6).pow(3).mean(dim=0).pow(1 / 3)
    found = expected_features(network, name, GeM(3.0))
    # Not 1: between blocks the samples are rectified Gaussians, the expectation's plain ones.
    assert torch.cosine_similarity(found, wanted, dim=0) > 0.997
    averages = expected_features(network, name, GeM(1.0))  # the mutant: of another pooling
    assert torch.cosine_similarity(averages, wanted, dim=0) < 0.997
    assert torch.isclose(found.norm(), torch.tensor(1.0), atol=1e-6)


@pytest.mark.parametrize(
    "bad", [torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 8, 8, 3)]
)
def test_pixels_of_another_layout_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        float_pixels(bad)


def test_spec_and_decoder_agree() -> None:
    """What the fingerprint says about decoding is what the decoder does."""
    spec = resolve("packaged", Session())
    assert spec.framing == Framing("mild-crop", "bilinear", 1)
    assert spec.resize in RESIZES and spec.interpolation in INTERPOLATIONS and spec.draft in DRAFTS
    assert (spec.resize, spec.pooling, spec.gaussian) == ("mild-crop", "gem3", 0.4)
    changed = ModelSpec(**{**spec.to_dict(), "pooling": "gem1", "mean": spec.mean, "std": spec.std})
    assert changed.fingerprint != spec.fingerprint
    assert changed.differences(spec) == ["pooling: gem1 != gem3"]
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    # A record without the field is of the first decoding, and keeps its fingerprint.
    record = {name: value for name, value in spec.to_dict().items() if name != "decoding"}
    older = ModelSpec.from_dict(record)
    assert older.differences(spec) == [f"decoding: 1 != {DECODING}"]
    assert "decoding" not in older.identity()
    assert older.fingerprint != spec.fingerprint


def test_a_record_from_before_a_field_keeps_its_fingerprint() -> None:
    """The digits are those of a store of the version before: rows of it and of now fit together."""
    record = {
        "name": "packaged", "architecture": "resnet18", "weights_sha256": "ab" * 32, "dim": 512,
        "input_side": 128, "resize": "squash", "interpolation": "bicubic", "draft": 2,
        "pooling": "gem3", "center": 0.6, "flip": False, "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225], "licence": "", "source": "", "decoding": 2,
    }  # fmt: skip
    spec = ModelSpec.from_dict(record)
    assert spec.gaussian == 0.0 and "gaussian" not in spec.identity()
    assert spec.fingerprint == OLDER_FINGERPRINT
    weighted = replace(spec, gaussian=0.4)
    assert weighted.fingerprint != spec.fingerprint != replace(spec, resize=MILD_CROP).fingerprint
    assert weighted.differences(spec) == ["gaussian: 0.4 != 0.0"]
    assert ModelSpec.from_dict(weighted.to_dict()) == weighted
