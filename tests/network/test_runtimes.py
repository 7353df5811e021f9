"""Every runtime and precision gives the vectors of the reference, and the quality promised."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch

from embedsearch.core.config import DecodeLimits, TrainConfig
from embedsearch.core.errors import MissingLibrary, UsageError
from embedsearch.core.session import Session
from embedsearch.images.decode import image as decode_image
from embedsearch.images.sources.folder import FolderScan
from embedsearch.network.folding import fold_batchnorm
from embedsearch.network.fusing import fuse_kernels
from embedsearch.network.openvino_runtime import OpenVinoExtractor
from embedsearch.network.quantize import CALIBRATION, kept_as_floats, quantize
from embedsearch.network.resnet import (
    build,
)
from embedsearch.network.runtime import load_extractor
from embedsearch.network.torch_runtime import TorchExtractor, _Lane, training_precision
from embedsearch.network.weights import resolve
from embedsearch.store.center import STORE_SHARE
from tests.support.library import SAMPLES
from tests.support.networks import decoded, embed, untrained


def assert_parity(reference: np.ndarray, other: np.ndarray, least: float = 0.999) -> None:
    """The cosine of each picture, and the top ten overlap by 0.97 (RELIABILITY of a store)."""
    cosines = (reference * other).sum(axis=1)
    assert cosines.min() >= least, cosines.min()
    assert np.median(cosines) >= 0.9995, np.median(cosines)
    overlaps = []
    for mine, theirs in zip(reference @ reference.T, other @ other.T, strict=True):
        overlaps.append(len({*np.argsort(-mine)[:10]} & {*np.argsort(-theirs)[:10]}) / 10)
    assert np.mean(overlaps) >= 0.97, np.mean(overlaps)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"flip": True},
        {"gaussian": 0.0, "resize": "squash"},
        {"gaussian": 0.1},
        {"input_side": 97},
    ],
    ids=str,
)
def test_runtimes_agree_on_the_samples(fields: dict[str, Any]) -> None:
    spec = replace(resolve("packaged", Session()), **fields)
    assert spec.gaussian or "gaussian" in fields, "the default weighs the middle"
    pixels = decoded(SAMPLES, spec, 54)
    reference = embed(TorchExtractor(spec, "cpu", "fp32"), pixels)
    assert np.allclose(np.linalg.norm(reference, axis=1), 1.0, atol=1e-5)
    for precision in ("fp32", "bf16"):
        other = embed(OpenVinoExtractor(spec, precision, Session()), pixels)
        assert_parity(reference, other)
    # The mutant: BGR in place of RGB must not pass for parity.
    with pytest.raises(AssertionError):
        assert_parity(reference, embed(TorchExtractor(spec, "cpu", "fp32"), pixels[..., ::-1]))


FAMILY = ["resnet18", "resnet50", "resnet18d", "resnet50d", "seresnet50", "resnext50_32x4d"]
FAMILY += ["clip_resnet50"]


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


@pytest.mark.parametrize("name", ["resnet18", "seresnet18", "resnet18-gelu", "resnet50-leaky_relu"])
def test_the_head_stays_as_floats_in_int8(name: str) -> None:
    """From the last activation on, whatever it is, and none inside of a block counts."""
    model = openvino.convert_model(build(name).eval(), example_input=torch.rand(1, 3, 64, 64))
    kept = kept_as_floats(model.get_ordered_ops())
    assert ".layer4." in kept[-2] and ".act" in kept[-2] and "mean" in kept[-1], kept[-3:]


def test_a_device_short_of_memory_gets_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a GPU with room for three pictures, and then for none."""
    spec = resolve("packaged", Session())
    pixels = decoded(SAMPLES, spec, 10)
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
    pixels = decoded(shared_data / "caltech101_dev", spec, 200)
    assert len(pixels) == 200
    reference = embed(TorchExtractor(spec, "cpu", "fp32"), pixels)
    assert_parity(reference, embed(OpenVinoExtractor(spec, "fp32", Session()), pixels))
    # One of these pictures has 0.9988 where it is cropped mildly, and 0.9993 squashed.
    half = embed(OpenVinoExtractor(spec, "bf16", Session()), pixels)
    assert_parity(reference, half, least=0.998)


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
    pixels = decoded(shared_data / "caltech101_dev", spec, 2013)
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
    monkeypatch.setattr("embedsearch.network.openvino_runtime.is_whole", lambda *_: False)
    with pytest.raises(MissingLibrary, match="pip install 'nncf>="):
        OpenVinoExtractor(spec, "int8", Session())


def test_packaged_quality_is_what_the_card_says(shared_data: Path) -> None:
    """P@1 and mAP, leave one out, over 51 classes, as a store compares: the card's figures hold."""
    folder = shared_data / "caltech101_dev"
    spec = resolve("packaged", Session())
    vectors = embed(OpenVinoExtractor(spec, "auto", Session()), decoded(folder, spec, 2013))
    labels = np.array([ref.key.split("/")[0] for ref in FolderScan(0, str(folder))])
    vectors = vectors - STORE_SHARE * vectors.mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -2.0)
    order = np.argsort(-scores, axis=1)[:, :-1]
    relevant = labels[order] == labels[:, None]
    precision = relevant.cumsum(axis=1) / np.arange(1, len(labels))
    mean_ap = float(((precision * relevant).sum(axis=1) / relevant.sum(axis=1)).mean())
    assert relevant[:, 0].mean() == pytest.approx(0.729, abs=0.005)
    assert mean_ap == pytest.approx(0.448, abs=0.005)
