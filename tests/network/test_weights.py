"""Where weights come from: packaged, cached, a user's file; what is refused and how."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import shutil
import socket
import threading
import time
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from embedsearch.core.errors import UsageError, WeightsUnavailable
from embedsearch.core.session import Session
from embedsearch.network import child, download, weights
from embedsearch.network.catalog import CATALOG
from embedsearch.network.openvino_runtime import OpenVinoExtractor
from embedsearch.network.resnet import build
from embedsearch.network.weights import resolve, weights_path
from tests.support.library import REPOSITORY, SAMPLES, run_cli


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections fail at once, as they do without a network."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def test_packaged_is_always_here() -> None:
    spec = resolve("packaged", Session())
    assert (spec.architecture, spec.dim, spec.input_side) == ("resnet18", 512, 144)
    assert "ImageNet" in spec.licence
    assert weights_path(spec).name == weights.PACKAGED_FILE


def test_auto_falls_back_with_one_line(offline: None) -> None:
    said: list[str] = []
    assert resolve("auto", Session(notice=said.append)).name == "packaged"
    assert len(said) == 1 and "packaged" in said[0]


@pytest.mark.parametrize("how", ["silence", "garbage", "deaf resolver"])
def test_a_network_that_only_seems_to_be_there(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing or no HTTP, and a look-up that hangs: `auto` goes on soon."""
    monkeypatch.setattr(download, "CONNECT_TIMEOUT_S", 0.3)
    asleep = threading.Event()
    if how == "deaf resolver":
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: asleep.wait(60))
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("https_proxy", proxy)
        answer = threading.Thread(target=_answer_garbage, args=(server,), daemon=True)
        if how == "garbage":
            answer.start()
        started = time.monotonic()
        assert resolve("auto", Session()).name == "packaged"
        assert time.monotonic() - started < 10
        if how == "garbage":
            answer.join(10)
    asleep.set()


def _answer_garbage(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(b"no HTTP at all\r\n\r\n")


def test_an_explicit_model_says_what_to_put_where(offline: None) -> None:
    wanted = r"download \S*resnet50-0676ba61\.pth into .*checkpoints"
    with pytest.raises(WeightsUnavailable, match=wanted):
        resolve("resnet50", Session())


def test_a_misspelt_model_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean resnet50"):
        resolve("resnet5o", Session())


def test_a_checkpoint_is_imported_once_and_outlives_its_file(tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = build("resnet34", classes=10).state_dict()
    file = tmp_path / "mine.pth"
    torch.save(state, file)
    said: list[str] = []
    spec = resolve(str(file), Session(notice=said.append))
    assert (spec.architecture, spec.dim, spec.name) == ("resnet34", 512, "mine")
    assert len(said) == 1
    assert resolve(str(file), Session(notice=said.append)) == spec
    assert len(said) == 1, "imported a second time"
    file.unlink()
    loaded = safetensors.torch.load_file(weights_path(spec))
    assert not any(key.startswith("fc.") for key in loaded)
    assert torch.equal(loaded["conv1.weight"], state["conv1.weight"])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.module.", ""])
@pytest.mark.parametrize("outer", ["state_dict", "model_state_dict", None])
def test_wrapped_checkpoints_are_recognised(tmp_path: Path, prefix: str, outer: str | None) -> None:
    """As DataParallel, torch.compile and training scripts save them, with their classifiers."""
    torch.manual_seed(5)
    state = build("seresnet18", classes=7).state_dict()
    named = {f"{prefix}{key}": value for key, value in state.items()}
    file = tmp_path / "wrapped.pth"
    torch.save({outer: named, "epoch": 3} if outer else named, file)
    spec = resolve(str(file), Session())
    assert spec.architecture == "seresnet18"
    loaded = safetensors.torch.load_file(weights_path(spec))
    assert torch.equal(loaded["layer4.1.se.fc1.bias"], state["layer4.1.se.fc1.bias"])
    assert not any(key.startswith("fc.") for key in loaded)


def test_a_wrong_checkpoint_is_refused_with_names(tmp_path: Path) -> None:
    state = build("resnet50d").state_dict()
    del state["layer2.1.conv2.weight"]
    state["extra.bias"] = torch.zeros(1)
    file = tmp_path / "wrong.pth"
    torch.save(state, file)
    with pytest.raises(
        WeightsUnavailable, match=r"resnet50d: missing \['layer2\.1\.conv2.*extra\.b"
    ):
        resolve(str(file), Session())


def test_torch_alone_is_enough(tmp_path: Path) -> None:
    """As on a GPU machine: no openvino, pillow-heif and torchvision."""
    missing = ["openvino", "pillow_heif", "torchvision"]
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nfor name in {missing}: sys.modules[name] = None\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{REPOSITORY}",
        "EMBEDSEARCH_CACHE": str(tmp_path / "cache"),
    }
    shutil.copytree(SAMPLES / "clocks", tmp_path / "clocks")
    checkpoint = tmp_path / "user.pth"
    torch.save(build("resnet18").state_dict(), checkpoint)
    for model in ("packaged", checkpoint):
        store = tmp_path / f"{Path(model).stem}.es"
        index = ["index", tmp_path / "clocks", "--store", store, "--model", model]
        done = run_cli(*index, env=environment)
        assert done.returncode == 0, done.stderr
        assert "openvino is not installed" in done.stderr
        image = tmp_path / "clocks" / "clocks_1.jpg"
        done = run_cli("query", image, "--store", store, "-k", "1", "--paths", env=environment)
        assert done.stdout == f"{image}\n", done.stderr


def test_a_changed_cache_file_is_not_used(tmp_path: Path) -> None:
    torch.manual_seed(4)
    file = tmp_path / "cached.safetensors"
    safetensors.torch.save_file(build("resnet18").state_dict(), file)
    spec = resolve(str(file), Session())
    cached = weights_path(spec)
    data = bytearray(cached.read_bytes())
    data[len(data) // 2] ^= 1
    cached.write_bytes(data)
    aside = file.rename(tmp_path / "aside")
    with pytest.raises(WeightsUnavailable, match="give their file with model=FILE"):
        weights_path(spec)
    aside.rename(file)
    assert weights_path(spec) == cached  # imported again from where it was
    assert cached.read_bytes() != data


def test_a_foreign_checkpoint_is_named(tmp_path: Path) -> None:
    file = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"backbone.weight": torch.zeros(3)}, file)
    with pytest.raises(WeightsUnavailable, match=r"no residual network.*'backbone\.weight'"):
        resolve(str(file), Session())


class _Bomb:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.target, "w")


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    file = tmp_path / "evil.pth"
    file.write_bytes(pickle.dumps({"conv1.weight": _Bomb(str(touched))}))
    with pytest.raises(WeightsUnavailable):
        resolve(str(file), Session())
    torch.save({"conv1.weight": _Bomb(str(touched))}, file)
    with pytest.raises(WeightsUnavailable):
        resolve(str(file), Session())
    assert not touched.exists()


class _Program(torch.nn.Module):
    """Writes a file when it is loaded by torch.jit.load."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return (self.weight, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.weight = state[0]  # type: ignore[assignment]
        self.training = state[1]
        print(torch.from_file("touched", shared=True, size=4, dtype=torch.uint8).fill_(65))


def test_a_program_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.script(_Program()).save(str(tmp_path / "program.pt"))  # type: ignore[no-untyped-call]
    with pytest.raises(WeightsUnavailable, match="a program"):
        resolve(str(tmp_path / "program.pt"), Session())
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "more",
    [argparse.Namespace(lr=0.1), np.float64(1), datetime(2024, 1, 1), {1, 2}, Path("x"), print],
    ids=lambda value: type(value).__name__,
)
def test_what_stands_beside_the_tensors(tmp_path: Path, more: object) -> None:
    """Data is passed over; what could be called is refused, and how to go on is said."""
    torch.manual_seed(6)
    state = build("resnet18").state_dict()
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in state.items()}, "more": more},
        tmp_path / "a.pth.tar",
    )
    if more is print:
        with pytest.raises(WeightsUnavailable, match=r"holds code, .*print, .*save the"):
            resolve(str(tmp_path / "a.pth.tar"), Session())
    else:
        assert resolve(str(tmp_path / "a.pth.tar"), Session()).architecture == "resnet18"


def test_one_of_several_networks(tmp_path: Path) -> None:
    torch.manual_seed(7)
    one, other = build("resnet18").state_dict(), build("resnet18").state_dict()
    named = {f"module.encoder_q.{k}": v for k, v in one.items()}
    named |= {f"module.encoder_k.{k}": v for k, v in other.items()}
    torch.save({"state_dict": named}, tmp_path / "moco.ckpt")
    spec = resolve(str(tmp_path / "moco.ckpt"), Session())
    loaded = safetensors.torch.load_file(weights_path(spec))
    assert torch.equal(loaded["conv1.weight"], one["conv1.weight"])
    torch.save({"left": one, "right": other}, tmp_path / "two.bin")
    with pytest.raises(WeightsUnavailable, match=r"several networks \(left, right\)"):
        resolve(str(tmp_path / "two.bin"), Session())


def test_a_download_must_have_the_published_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision's own cache is taken over only if its sha256 begins as published."""
    entry = CATALOG["resnet34"]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    hub = tmp_path / "hub" / "checkpoints" / entry.file_name
    hub.parent.mkdir(parents=True)
    torch.save(build("resnet34").state_dict(), hub)
    with pytest.raises(WeightsUnavailable, match="not what is published"):
        resolve("resnet34", Session())


def test_a_damaged_conversion_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path))
    spec = resolve("packaged", Session())
    OpenVinoExtractor(spec, "auto", Session())
    (binary,) = tmp_path.glob("openvino/*/model.bin")
    data = bytearray(binary.read_bytes())
    data[1000] ^= 0x40
    binary.write_bytes(data)
    for kept in tmp_path.glob("openvino/*/compiled*"):  # which would do without it
        shutil.rmtree(kept)
    said: list[str] = []
    OpenVinoExtractor(spec, "auto", Session(notice=said.append))
    assert any("converting" in line for line in said)


def test_a_conversion_that_cannot_be_kept_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path))
    (tmp_path / "openvino").write_text("a file where a folder should be")
    with pytest.raises(
        WeightsUnavailable, match=r"converting .* EMBEDSEARCH_CACHE moves"
    ) as caught:
        OpenVinoExtractor(resolve("packaged", Session()), "auto", Session())
    assert str(tmp_path / "openvino") in str(caught.value)


def test_a_killed_child_is_called_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system does where memory is short."""
    monkeypatch.setattr(child, "python_command", lambda _: ["sh", "-c", "kill -9 $$"])
    with pytest.raises(WeightsUnavailable, match=r"quantizing .* killed .SIGKILL.; out of memory"):
        child.run_prepare("quantize", {}, Session())


def test_offline_index_works_and_explicit_model_is_exit_4(tmp_path: Path) -> None:
    """Real processes, with a proxy that refuses: no network, whatever this machine has."""

    environment = {
        **os.environ,
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    store = tmp_path / "s.es"
    shutil.copytree(SAMPLES / "clocks", tmp_path / "clocks")
    done = run_cli("index", tmp_path / "clocks", "--store", store, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("using the small packaged network") == 1
    other = tmp_path / "t.es"
    arguments = ["index", tmp_path / "clocks", "--store", other, "--model", "resnet50"]
    done = run_cli(*arguments, env=environment)
    assert done.returncode == 4
    assert len(done.stderr.strip().splitlines()) == 1
    assert "resnet50-0676ba61.pth" in done.stderr
    assert not other.exists()


def test_a_file_replaced_while_it_is_imported_stands_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that writes its next epoch between the hashing and the reading."""
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path / "cache"))
    contents = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        torch.save(build("resnet18").state_dict(), tmp_path / "epoch.pth")
        contents.append((tmp_path / "epoch.pth").read_bytes())
    (tmp_path / "epoch.pth").write_bytes(contents[0])
    honest = child.run_prepare

    def swapped(task: str, values: dict[str, Any], session: Session) -> None:
        (tmp_path / "epoch.pth").write_bytes(contents[1])
        honest(task, values, session)

    monkeypatch.setattr(weights, "run_prepare", swapped)
    spec = resolve(str(tmp_path / "epoch.pth"), Session())
    assert spec.weights_sha256 == hashlib.sha256(contents[1]).hexdigest()
    kept = {path.stem for path in (tmp_path / "cache").glob("*/*.safetensors")}
    assert kept == {spec.weights_sha256}, "nothing stands for what was not read"


def test_weights_that_tell_nothing_apart_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDSEARCH_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    tensors = build("resnet18").state_dict()
    broken = {
        "variance": {**tensors, "bn1.running_var": -tensors["bn1.running_var"]},
        "nan": {**tensors, "layer1.0.conv1.weight": tensors["layer1.0.conv1.weight"] * np.nan},
        "zero": {**tensors, "conv1.weight": tensors["conv1.weight"] * 0},
    }
    for name, values in broken.items():
        torch.save(values, tmp_path / f"{name}.pth")
        with pytest.raises(WeightsUnavailable, match="this network gives"):
            resolve(str(tmp_path / f"{name}.pth"), Session())
    record = {**resolve("packaged", Session()).to_dict(), "mean": [float("nan")] * 3}
    data = safetensors.torch.save(tensors, {"embedsearch_model": json.dumps(record)})
    (tmp_path / "mean.safetensors").write_bytes(data)
    with pytest.raises(WeightsUnavailable, match="model record cannot be used"):
        resolve(str(tmp_path / "mean.safetensors"), Session())
