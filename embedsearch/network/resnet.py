"""Residual networks (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016).

In: float (N, 3, H, W), normalised; out: feature maps, pooled features or class scores.
Parameter names are torchvision's, whose published weights load strictly. As there, the stride
of a bottleneck sits on its 3×3 convolution ("ResNet v1.5").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

STAGE_WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True)
class Architecture:
    """Blocks a stage, and whether a block is a bottleneck (1×1, 3×3, 1×1) or basic (3×3, 3×3)."""

    depths: tuple[int, int, int, int]
    bottleneck: bool

    @property
    def dim(self) -> int:
        """Return the number of channels of the last feature map."""
        return STAGE_WIDTHS[-1] * (Bottleneck if self.bottleneck else BasicBlock).expansion


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around an identity or projection shortcut: (N, C, H, W) → (N, W', …)."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(F(x) + shortcut(x))."""
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu_(add_residual(residual, shortcut))


class Bottleneck(nn.Module):
    """1×1 down to `width`, 3×3 there, 1×1 up to 4 × width, around the shortcut."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(F(x) + shortcut(x))."""
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu_(add_residual(residual, shortcut))


class ResNet(nn.Module):
    """A stem, four stages of blocks, and a classifier if `classes` is not 0."""

    def __init__(self, architecture: Architecture, classes: int = 0) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        channels = 64
        for number, (depth, width) in enumerate(
            zip(architecture.depths, STAGE_WIDTHS, strict=True), start=1
        ):
            stage, channels = _stage(
                architecture, channels, width, depth, stride=1 if number == 1 else 2
            )
            self.add_module(f"layer{number}", stage)
        self.fc: nn.Module = nn.Linear(channels, classes) if classes else nn.Identity()
        self.dim = channels
        self._initialise()

    def extract_features(self, x: Tensor) -> Tensor:
        """Return the last feature map: (N, 3, H, W) → (N, dim, H/32, W/32).

        Raises RuntimeError in training mode: BatchNorm would normalise by the batch, and each
        image's features would depend on its neighbours in it.
        """
        if self.training:
            raise RuntimeError("features need eval mode: call .eval() on the network first")
        return self._stages(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores (N, classes), or features averaged over the map without `fc`."""
        pooled = self._stages(x).mean(dim=(2, 3))
        scores: Tensor = self.fc(pooled)
        return scores

    def _stages(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(1, len(STAGE_WIDTHS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return x

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def add_residual(residual: Tensor, shortcut: Tensor) -> Tensor:
    """Return their sum. Raises ValueError where shapes differ: `+` would broadcast silently."""
    if residual.shape != shortcut.shape:
        raise ValueError(
            f"residual {tuple(residual.shape)} and shortcut {tuple(shortcut.shape)} differ in shape"
        )
    return residual + shortcut


def _stage(
    architecture: Architecture, channels: int, width: int, depth: int, stride: int
) -> tuple[nn.Sequential, int]:
    """Return one stage and its output channels; only its first block strides or projects."""
    block = Bottleneck if architecture.bottleneck else BasicBlock
    blocks = []
    for number in range(depth):
        blocks.append(block(channels, width, stride if number == 0 else 1))
        channels = width * block.expansion
    return nn.Sequential(*blocks), channels


def _shortcut(channels: int, out: int, stride: int) -> nn.Sequential | None:
    """Return the projection for a block that changes shape, None where identity will do."""
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(_conv(channels, out, 1, stride), nn.BatchNorm2d(out))


def _conv(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)


ARCHITECTURES = {
    "resnet18": Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet34": Architecture((3, 4, 6, 3), bottleneck=False),
    "resnet50": Architecture((3, 4, 6, 3), bottleneck=True),
    "resnet101": Architecture((3, 4, 23, 3), bottleneck=True),
    "resnet152": Architecture((3, 8, 36, 3), bottleneck=True),
}


def build(name: str, classes: int = 0) -> ResNet:
    """Return the network called `name`, in eval mode, with random weights. Raises KeyError."""
    network = ResNet(ARCHITECTURES[name], classes)
    return network.eval()


def load(name: str, weights: dict[str, Tensor]) -> ResNet:
    """Return the network called `name` with these weights, strictly; a classifier is left out.

    Raises ValueError that names the missing and unexpected parameters.
    """
    network = build(name)
    body = {key: value for key, value in weights.items() if not key.startswith("fc.")}
    wanted = network.state_dict()
    # Weights saved before PyTorch 0.4.1 lack this counter, which inference does not read.
    optional = {key for key in wanted if key.endswith("num_batches_tracked")}
    missing = sorted(wanted.keys() - body.keys() - optional)
    unexpected = sorted(body.keys() - wanted.keys())
    wrong = sorted(k for k in wanted.keys() & body.keys() if wanted[k].shape != body[k].shape)
    if missing or unexpected or wrong:
        raise ValueError(
            f"no weights of {name}: missing {missing[:5]}, unexpected {unexpected[:5]}, "
            f"of another shape {wrong[:5]}"
        )
    network.load_state_dict({key: body.get(key, wanted[key]).float() for key in wanted})
    return network


def float_pixels(pixels: Tensor) -> Tensor:
    """Return uint8 (B, S, S, 3) as float32 (B, 3, S, S) in 0 to 255."""
    if pixels.dtype is not torch.uint8 or pixels.shape[-1] != 3:
        raise ValueError(f"pixels are uint8 (B, S, S, 3), got {pixels.dtype} {pixels.shape}")
    return pixels.permute(0, 3, 1, 2).float()
