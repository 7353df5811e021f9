"""The same photos through the tools people use today, side by side: `python -m benchmarks.peers`

Each tool embeds the same photos with ResNet-50, as its own README says to, in a process of its own;
weights come from a file, so that nothing is downloaded. The tools are installed into a virtual
environment of their own, which sees the libraries of this one. Needs `../shared`. Prints Markdown.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.measure import Run, machine, run, spread
from benchmarks.run import CLI, reached, real_weights, some_photos

PHOTOS = 320
ROUNDS = 3
PACKAGES = ("DeepImageSearch==3.0.3", "imagededup", "img2vec_pytorch")

DEEP_IMAGE_SEARCH = """
import sys
import timm, torch
photos, weights, out = sys.argv[1:4]
create = timm.create_model
def from_file(name, pretrained=True, **options):
    network = create(name, pretrained=False, **options)
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network
timm.create_model = from_file
from DeepImageSearch import SearchEngine
engine = SearchEngine("resnet50", index_dir=out)
print(engine.index(photos))
"""
IMAGEDEDUP = """
import sys
import torch, torchvision
from imagededup.methods import CNN
from imagededup.utils import CustomModel
photos, weights, out = sys.argv[1:4]
network = torchvision.models.resnet50(weights=None)
network.load_state_dict(torch.load(weights, weights_only=True))
network.fc = torch.nn.Identity()
transform = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms()
model = CustomModel(name="resnet50", model=network.eval(), transform=transform)
print(len(CNN(model_config=model).encode_images(image_dir=photos)))
"""
# It takes its weights from torch's cache, where they are put before.
IMG2VEC = """
import sys
from pathlib import Path
from PIL import Image
from img2vec_pytorch import Img2Vec
import torch
photos, weights, out = sys.argv[1:4]
paths = sorted(Path(photos).glob("*.jpg"))
tool = Img2Vec(cuda=False, model="resnet50")
count = 0
with torch.no_grad():
    for start in range(0, len(paths), 32):
        images = [Image.open(path).convert("RGB") for path in paths[start : start + 32]]
        count += len(tool.get_vec(images))
print(count)
"""
PEERS = {"DeepImageSearch": DEEP_IMAGE_SEARCH, "imagededup": IMAGEDEDUP, "img2vec": IMG2VEC}


def main() -> None:
    """Install the tools, run them and ours in turn, print the table."""
    with tempfile.TemporaryDirectory(prefix="embedsearch-peers-") as folder:
        base = Path(folder)
        weights = real_weights(base)
        python = install(base / "venv", *PACKAGES)
        environment = {
            **os.environ,
            "TORCH_HOME": str(base / "torch"),
            "EMBEDSEARCH_CACHE": str(base / "cache"),
        }
        checkpoints = base / "torch" / "hub" / "checkpoints"
        checkpoints.mkdir(parents=True)
        for name in ("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth"):
            shutil.copy(weights, checkpoints / name)
        measure(base, python, weights, environment)


def install(folder: Path, *packages: str) -> Path:
    """Return the Python of a virtual environment with tools in it, beside our libraries."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    place = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    ours = Path(place.stdout.strip()) / "ours.pth"
    ours.write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def measure(base: Path, python: Path, weights: Path, environment: dict[str, str]) -> None:
    """Run every tool in turn, and print a line for each."""
    photos = some_photos(base / "photos", PHOTOS)
    out = base / "out"

    def peer(name: str, *, memory: bool = False) -> Run:
        shutil.rmtree(out, ignore_errors=True)
        command: list[str | Path] = [python, "-c", PEERS[name], photos, weights, out]
        done = run(command, environment, memory=memory)
        assert done.last_line == str(PHOTOS), f"{name} embedded {done.last_line}"
        return done

    def ours(precision: str, *, memory: bool = False) -> Run:
        shutil.rmtree(out, ignore_errors=True)
        options = ["--store", out, "--model", weights, "--precision", precision]
        return run([*CLI, "index", photos, *options], environment, memory=memory)

    tools: dict[str, Callable[..., Run]] = {name: partial(peer, name) for name in PEERS}
    tools |= {f"embedsearch, {p}": partial(ours, p) for p in ("auto", "int8")}
    times: dict[str, list[float]] = {name: [] for name in tools}
    for go in tools.values():
        go()  # converts, compiles, fills the page cache
    for _ in range(ROUNDS):
        for name, go in tools.items():
            times[name].append(go().seconds)
    peaks = {name: go(memory=True).peak_mib for name, go in tools.items()}
    print(f"{machine()}; {PHOTOS} photos, {ROUNDS} rounds in turn after a warm-up of each\n")
    print("| tool | images/s | peak memory, MiB | ours, times as fast | in int8 |")
    print("|---|---|---|---|---|")
    for name in tools:
        rates = spread([PHOTOS / seconds for seconds in times[name]], 1)
        ratios = [
            [a / b for a, b in zip(times[name], times[f"embedsearch, {p}"], strict=True)]
            for p in ("auto", "int8")
        ]
        verdicts = [
            spread(values, 1) + ("" if name not in PEERS or reached(values, 5) else " (wanted 5)")
            for values in ratios
        ]
        print(f"| {name} | {rates} | {peaks[name]:.0f} | {verdicts[0]} | {verdicts[1]} |")


if __name__ == "__main__":
    main()
