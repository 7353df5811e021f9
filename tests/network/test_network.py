"""The residual network: equal to torchvision's, loud about mistakes, same in every runtime."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedsearch.core.config import DecodeLimits, TrainConfig
from embedsearch.core.errors import MissingLibrary, UsageError
from embedsearch.core.records import ModelSpec
from embedsearch.core.session import Session
from embedsearch.images.decode import image as decode_image
from embedsearch.images.decode.pool import DecodePool
from embedsearch.images.decode.process import DecodeJob
from embedsearch.images.sources.folder import FolderScan
from embedsearch.network.catalog import CATALOG
from embedsearch.network.extractor import build_extractor
from embedsearch.network.folding import fold_batchnorm
from embedsearch.network.fusing import fuse_kernels
from embedsearch.network.openvino_runtime import OpenVinoExtractor
from embedsearch.network.pooling import GeM, expected_features
from embedsearch.network.prepare import recognise
from embedsearch.network.quantize import CALIBRATION, quantize
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
    initialise,
    load,
)
from embedsearch.network.runtime import load_extractor
from embedsearch.network.torch_runtime import TorchExtractor, _Lane, training_precision
from embedsearch.network.weights import resolve
from tests.support.library import SAMPLES

TORCHVISION = [name for name in ARCHITECTURES if not name.startswith("se") and name[-1] != "d"]
TIMM = ["seresnet50", "resnet50d", "resnet18d", "resnext50_32x4d", "seresnet18", "seresnet152d"]


def untrained(network: torch.nn.Module) -> torch.nn.Module:
    """Return it in eval mode, with statistics that are not the identity."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)  # timm begins some at 0
    return network.eval()


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
    theirs = untrained(timm.create_model(name, pretrained=False))
    assert_same_outputs(name, theirs, lambda x: theirs.forward_features(x).mean(dim=(2, 3)))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_tell_their_architecture(name: str) -> None:
    with torch.device("meta"):
        weights = build(name, classes=10).state_dict()
    assert recognise(weights) == name


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
    initialise(made)
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
        if entry.url is None:
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
    assert seen == len(CATALOG) - 1 >= 26


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
        center = 0.6 * expected_features(extractor.network, GeM(3.0))
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
    for module in network.layer4.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.2, 1.0, generator=rng)
            module.bias.data.uniform_(-0.5, 0.5, generator=rng)
    draws = 20_000
    with torch.inference_mode():
        x = torch.zeros(draws, network.kind.dim)
        for block in network.layer4:
            norms = (
                [block.last_norm, block.downsample[-1]] if block.downsample else [block.last_norm]
            )
            drawn = [n.bias + n.weight * torch.randn(x.shape, generator=rng) for n in norms]
            if block.se is not None:
                drawn[0] *= block.se.scale(block.last_norm.bias.view(1, -1, 1, 1)).flatten()
            x = block.act(sum(drawn) if block.downsample else drawn[0] + x)
        wanted = x.clamp(min=1e-6).pow(3).mean(dim=0).pow(1 / 3)
    found = expected_features(network, GeM(3.0))
    # Not 1: between blocks the samples are rectified Gaussians, the expectation's plain ones.
    assert torch.cosine_similarity(found, wanted, dim=0) > 0.997
    averages = expected_features(network, GeM(1.0))  # the mutant: of another pooling
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
    assert spec.draft == decode_image.DRAFT_SCALE
    assert (spec.resize, spec.interpolation) == ("squash", "bicubic")
    changed = ModelSpec(**{**spec.to_dict(), "pooling": "gem1", "mean": spec.mean, "std": spec.std})
    assert changed.fingerprint != spec.fingerprint
    assert changed.differences(spec) == ["pooling: gem1 != gem3"]
    assert ModelSpec.from_dict(spec.to_dict()) == spec


def decoded(folder: Path, side: int, count: int) -> np.ndarray:
    refs = list(FolderScan(0, str(folder)))
    refs = refs[:: max(1, len(refs) // count)][:count]
    jobs = (DecodeJob.of_file(ref, str(folder)) for ref in refs)
    with DecodePool(side, DecodeLimits(), workers=2) as pool:
        return np.concatenate([batch.images.pixels.copy() for batch in pool.run(jobs)])


def assert_parity(reference: np.ndarray, other: np.ndarray) -> None:
    """Cosine >= 0.999 a picture, and the top ten overlap by 0.97 (RELIABILITY of a store)."""
    cosines = (reference * other).sum(axis=1)
    assert cosines.min() >= 0.999, cosines.min()
    overlaps = []
    for mine, theirs in zip(reference @ reference.T, other @ other.T, strict=True):
        overlaps.append(len({*np.argsort(-mine)[:10]} & {*np.argsort(-theirs)[:10]}) / 10)
    assert np.mean(overlaps) >= 0.97, np.mean(overlaps)


def embed(extractor: TorchExtractor | OpenVinoExtractor, pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([extractor(pixels[i : i + 32]) for i in range(0, len(pixels), 32)])


@pytest.mark.parametrize("flip", [False, True])
def test_runtimes_agree_on_the_samples(flip: bool) -> None:
    spec = replace(resolve("packaged", Session()), flip=flip)
    pixels = decoded(SAMPLES, spec.input_side, 54)
    reference = embed(TorchExtractor(spec, "cpu", "fp32"), pixels)
    assert np.allclose(np.linalg.norm(reference, axis=1), 1.0, atol=1e-5)
    for precision in ("fp32", "bf16"):
        other = embed(OpenVinoExtractor(spec, precision, Session()), pixels)
        assert_parity(reference, other)
    # The mutant: BGR in place of RGB must not pass for parity.
    with pytest.raises(AssertionError):
        assert_parity(reference, embed(TorchExtractor(spec, "cpu", "fp32"), pixels[..., ::-1]))


FAMILY = ["resnet18", "resnet50", "resnet18d", "resnet50d", "seresnet50", "resnext50_32x4d"]


@pytest.mark.parametrize("name", FAMILY)
def test_folding_batchnorm_changes_nothing(name: str) -> None:
    network = untrained(build(name))
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = network.extract_features(x)  # type: ignore[operator]
        fold_batchnorm(network)
        got = network.extract_features(x)  # type: ignore[operator]
    assert not [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert torch.allclose(got, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", [*FAMILY, "resnet18d-gelu", "resnet50-leaky_relu"])
def test_fused_kernels_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU with stand-ins for cuDNN's two operators; on CUDA with the real ones."""
    calls: list[str] = []
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        convolution = torch.nn.functional.conv2d

        def relu(x: Any, weight: Any, bias: Any, *shape: Any) -> Any:
            calls.append("relu")
            return torch.relu(convolution(x, weight, bias, *shape))

        def add_relu(x: Any, weight: Any, z: Any, alpha: float, bias: Any, *shape: Any) -> Any:
            calls.append("add_relu")
            return torch.relu(convolution(x, weight, bias, *shape) + alpha * z)

        monkeypatch.setattr(torch, "cudnn_convolution_relu", relu)
        monkeypatch.setattr(torch, "cudnn_convolution_add_relu", add_relu)
    network = untrained(build(name)).to(device)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        wanted = network.extract_features(x)  # type: ignore[operator]
        fold_batchnorm(network)
        fuse_kernels(network)  # type: ignore[arg-type]
        got = network.extract_features(x)  # type: ignore[operator]
    cosines = torch.nn.functional.cosine_similarity(got, wanted)
    assert cosines.min() > 0.9999, cosines
    if device == "cpu":
        assert bool(calls) is ("-" not in name), "an activation that is no ReLU is not to be fused"


def test_a_device_short_of_memory_gets_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a GPU with room for three pictures, and then for none."""
    spec = resolve("packaged", Session())
    pixels = decoded(SAMPLES, spec.input_side, 10)
    extractor = TorchExtractor(spec, "cpu", "fp32")
    wanted = extractor(pixels)
    room, tried = 3, []
    real = _Lane.embed

    def embed_within(lane: _Lane, some: np.ndarray) -> np.ndarray:
        tried.append(len(some))
        if len(some) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(lane, some)

    monkeypatch.setattr(_Lane, "embed", embed_within)
    assert np.allclose(extractor(pixels), wanted, atol=1e-6)
    assert tried == [10, 5, 2, 2, 2, 2, 2]
    tried.clear()
    extractor(pixels)
    assert tried == [2] * 5, "what did not fit once was tried again"
    room = 0
    with pytest.raises(MissingLibrary, match="no memory for a single image"):
        extractor(pixels)
    room = 10
    assert np.allclose(extractor(pixels), wanted, atol=1e-6), "its lane was lost with the error"


@pytest.fixture(scope="session")
def real_resnet50(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    tool = shared_data.parent / "tools" / "decode_weights.py"
    subprocess.run([sys.executable, str(tool), "resnet50", str(target)], check=True)
    return target


@pytest.mark.parametrize(
    ("capability", "hip", "wanted"),
    [((9, 0), None, "bf16"), ((8, 0), None, "bf16"), ((7, 5), None, "fp16"), ((7, 5), "6", "bf16")],
)
def test_bf16_is_taken_only_where_it_is_native(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], hip: str | None, wanted: str
) -> None:
    """A stand-in for GPUs of several ages."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert training_precision("auto", torch.device("cuda", 1)) == wanted


def test_runtimes_agree_with_real_weights(real_resnet50: Path, shared_data: Path) -> None:
    spec = resolve(str(real_resnet50), Session())
    assert (spec.architecture, spec.dim, spec.input_side) == ("resnet50", 2048, 224)
    pixels = decoded(shared_data / "caltech101_dev", 224, 200)
    assert len(pixels) == 200
    reference = embed(TorchExtractor(spec, "cpu", "fp32"), pixels)
    for precision in ("fp32", "bf16"):
        assert_parity(reference, embed(OpenVinoExtractor(spec, precision, Session()), pixels))


def test_the_calibration_pictures_are_of_the_samples() -> None:
    """Every third sample, whole at 128 px: nothing that a stranger cannot make again."""
    paths = sorted(path for path in SAMPLES.glob("*/*") if path.suffix in {".jpg", ".png", ".webp"})
    with np.load(CALIBRATION) as file:
        pictures = file["pixels"]
    assert len(paths[::3]) == len(pictures) == 18
    for path, picture in zip(paths[::3], pictures, strict=True):
        with path.open("rb") as opened:
            decoded_now = decode_image.decode(opened, 128, DecodeLimits()).pixels
        assert np.abs(decoded_now.astype(int) - picture).mean() < 1.0, path


def top_ten_overlap(reference: np.ndarray, other: np.ndarray) -> float:
    """Return which share of each picture's ten nearest others stays the same."""
    places = []
    for vectors in (reference, other):
        scores = vectors @ vectors.T
        np.fill_diagonal(scores, -2.0)
        places.append(np.argsort(-scores, axis=1)[:, :10])
    return float(np.mean([len({*a} & {*b}) / 10 for a, b in zip(*places, strict=True)]))


@pytest.mark.scale
def test_int8_finds_what_fp32_finds(shared_data: Path) -> None:
    """Of the ten nearest 0.95 stay; benchmarks/precision.py has the same for larger networks."""
    pytest.importorskip("nncf")
    spec = resolve("packaged", Session())
    pixels = decoded(shared_data / "caltech101_dev", spec.input_side, 2013)
    exact = embed(OpenVinoExtractor(spec, "fp32", Session()), pixels)
    small = embed(OpenVinoExtractor(spec, "int8", Session()), pixels)
    assert (exact * small).sum(axis=1).min() > 0.99
    assert top_ten_overlap(exact, small) >= 0.95
    # The mutant: vectors that are off by as little as seven degrees do not pass.
    noise = np.random.default_rng(0).standard_normal(exact.shape).astype(np.float32)
    off = exact + 0.12 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    assert top_ten_overlap(exact, off / np.linalg.norm(off, axis=1, keepdims=True)) < 0.95


def test_int8_is_refused_where_it_would_spoil_the_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate itself: with a limit that no 8 bits can keep, nothing is made."""
    pytest.importorskip("nncf")
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path))
    spec = resolve("packaged", Session())
    monkeypatch.setattr("embedsearch.network.quantize.MIN_COSINE", 0.99999)
    OpenVinoExtractor(spec, "fp32", Session())
    (model,) = tmp_path.glob("openvino/*/model.xml")
    with pytest.raises(ValueError, match="changes this network's vectors too much"):
        quantize(model.parent, spec.input_side)
    assert not list(model.parent.glob("*int8*")), "a refused network was left behind"


def test_int8_is_for_processors_and_for_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = resolve("packaged", Session())
    with pytest.raises(MissingLibrary, match="for CPUs"):
        load_extractor(spec, "cuda", "int8", Session())
    with pytest.raises(UsageError, match="for embedding"):
        TrainConfig(precision="int8")
    monkeypatch.setattr("embedsearch.network.openvino_runtime.find_spec", lambda name: None)
    monkeypatch.setattr(
        "embedsearch.network.openvino_runtime._is_whole", lambda *_: "int8" not in _
    )
    with pytest.raises(MissingLibrary, match=r"embedsearch\[int8\]"):
        OpenVinoExtractor(spec, "int8", Session())


def test_packaged_quality_is_what_the_card_says(shared_data: Path) -> None:
    """P@1 and mAP, leave one out, over 51 classes: the model card's figures hold."""
    folder = shared_data / "caltech101_dev"
    spec = resolve("packaged", Session())
    vectors = embed(OpenVinoExtractor(spec, "auto", Session()), decoded(folder, 128, 2013))
    labels = np.array([ref.key.split("/")[0] for ref in FolderScan(0, str(folder))])
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -2.0)
    order = np.argsort(-scores, axis=1)[:, :-1]
    relevant = labels[order] == labels[:, None]
    precision = relevant.cumsum(axis=1) / np.arange(1, len(labels))
    mean_ap = float(((precision * relevant).sum(axis=1) / relevant.sum(axis=1)).mean())
    assert relevant[:, 0].mean() == pytest.approx(0.703, abs=0.01)
    assert mean_ap == pytest.approx(0.391, abs=0.01)
