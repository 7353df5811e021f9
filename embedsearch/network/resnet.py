"""The family of residual networks (He et al., "Deep Residual Learning for Image Recognition",
CVPR 2016), by configuration.

In: float (N, 3, H, W), normalized; out: maps of the stages, pooled features or class scores.

    stem      H/4 × W/4      64 channels     7×7 convolution, or three 3×3 (ResNet-D); pool
    layer1    H/4 × W/4      64 × expansion  blocks: y = act(F(x) + shortcut(x))
    layer2    H/8 × W/8     128 × expansion
    layer3    H/16 × W/16   256 × expansion
    layer4    H/32 × W/32   512 × expansion
    fc        mean over the map, then a linear classifier where there is one

Parameters bear torchvision's names; those of the SE and D variants, which torchvision lacks,
timm's. Published weights of both load strictly. As there, the stride of a bottleneck sits on
its 3×3 convolution ("ResNet v1.5"). CLIP's network for pictures is one of the family, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from embedsearch.network.catalog import CLIP

STAGES = ("layer1", "layer2", "layer3", "layer4")
STAGE_WIDTHS = (64, 128, 256, 512)
SLOPE = 0.01  # of LeakyReLU below zero, torch's default
ACTIVATIONS = ("relu", "leaky_relu", "gelu")
TEXT_PREFIX = "text."  # of the parameters of a network for texts beside one of the family


@dataclass(frozen=True)
class Architecture:
    """The parameters of a network of the family."""

    depths: tuple[int, int, int, int]  # blocks a stage
    bottleneck: bool  # 1×1, 3×3, 1×1 convolutions in a block; else 3×3, 3×3
    groups: int = 1  # of the 3×3 (ResNeXt: Xie et al., CVPR 2017)
    group_width: int = 64  # channels a group at the first stage; wide networks have 128
    squeeze: bool = False  # channel attention (SE: Hu et al., CVPR 2018)
    deep_stem: bool = False  # ResNet-D (He et al., "Bag of Tricks", CVPR 2019), shortcut included
    activation: str = "relu"
    pooled_strides: bool = False  # strides by average pooling, and the stem's pool (CLIP)
    attention: tuple[int, int] | None = None  # of `attnpool` over the last map: heads, outputs
    map_side: int = 7  # of the last map, where there is attention

    @property
    def expansion(self) -> int:
        """Return channels of a stage's map over the stage's width."""
        return Bottleneck.expansion if self.bottleneck else BasicBlock.expansion

    @property
    def dim(self) -> int:
        """Return the length of a vector: the channels of the last map, or attention's outputs."""
        return self.attention[1] if self.attention else self.channels

    @property
    def channels(self) -> int:
        """Return the number of channels of the last map."""
        return STAGE_WIDTHS[-1] * self.expansion

    def inner_width(self, width: int) -> int:
        """Return the channels of a bottleneck's 3×3 convolution in a stage of `width`."""
        return width * self.group_width // 64 * self.groups


class ResidualBlock(nn.Module):
    """y = act(F(x) + shortcut(x)): (N, C, H, W) → (N, width × expansion, H/stride, W/stride).

    The shortcut is the identity, or a projection where the block changes the shape. A
    subclass gives F.
    """

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, kind: Architecture) -> None:
        super().__init__()
        out = width * self.expansion
        self.downsample = _shortcut(channels, out, stride, averaged=kind.deep_stem)
        self.se = SqueezeExcitation(out) if kind.squeeze else None
        self.act = _activation(kind.activation)

    def residual(self, x: Tensor) -> Tensor:
        """Return F(x)."""
        raise NotImplementedError

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """Return the BatchNorm that ends F; with weight and bias 0 the block is act(shortcut)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        residual = self.residual(x)
        if self.se is not None:
            residual = self.se(residual)
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.act(add_residual(residual, shortcut))
        return y


class BasicBlock(ResidualBlock):
    """F is two 3×3 convolutions."""

    def __init__(self, channels: int, width: int, stride: int, kind: Architecture) -> None:
        super().__init__(channels, width, stride, kind)
        self.conv1 = _conv(channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)

    def residual(self, x: Tensor) -> Tensor:
        """Return F(x)."""
        x = self.act(self.bn1(self.conv1(x)))
        y: Tensor = self.bn2(self.conv2(x))
        return y

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """Return the BatchNorm that ends F."""
        return self.bn2


class Bottleneck(ResidualBlock):
    """F is a 1×1 convolution down, a 3×3 in few channels or groups, and a 1×1 up again."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, kind: Architecture) -> None:
        super().__init__(channels, width, stride, kind)
        inner = kind.inner_width(width)
        self.conv1 = _conv(channels, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        pooled = kind.pooled_strides and stride > 1
        self.conv2 = _conv(inner, inner, 3, 1 if pooled else stride, kind.groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.pool = nn.AvgPool2d(stride) if pooled else nn.Identity()
        self.conv3 = _conv(inner, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)

    def residual(self, x: Tensor) -> Tensor:
        """Return F(x)."""
        x = self.act(self.bn1(self.conv1(x)))
        x = self.pool(self.act(self.bn2(self.conv2(x))))
        y: Tensor = self.bn3(self.conv3(x))
        return y

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """Return the BatchNorm that ends F."""
        return self.bn3


class SqueezeExcitation(nn.Module):
    """Scale each channel by a function of the means of all channels: (N, C, H, W) → the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = max(8, int(channels / 16 + 4) // 8 * 8)  # a 16th, as a multiple of 8
        self.fc1 = nn.Conv2d(channels, reduced, 1)
        self.fc2 = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x × scale(x)."""
        return x * self.scale(x)

    def scale(self, x: Tensor) -> Tensor:
        """Return sigmoid(fc2(relu(fc1(mean of x)))): (N, C, 1, 1)."""
        squeezed = torch.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))
        return torch.sigmoid(self.fc2(squeezed))


class AttentionPool(nn.Module):
    """One vector of a map by attention: (N, C, H, W) → (N, outputs).

    The mean of the cells asks, it and the cells answer (Radford et al., "Learning Transferable
    Visual Models From Natural Language Supervision", ICML 2021).
    """

    def __init__(self, side: int, channels: int, heads: int, outputs: int) -> None:
        super().__init__()
        self.heads = heads
        places = torch.randn(side * side + 1, channels) / channels**0.5
        self.positional_embedding = nn.Parameter(places)
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.c_proj = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the vectors, float32, of maps of the side that the positions are of."""
        places = self.positional_embedding
        cells = x.to(places.dtype).flatten(2).transpose(1, 2)  # (N, H × W, C)
        cells = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)
        cells = cells + places

        def split(y: Tensor) -> Tensor:
            return y.reshape(*y.shape[:2], self.heads, -1).transpose(1, 2)

        answer = nn.functional.scaled_dot_product_attention(
            split(self.q_proj(cells[:, :1])), split(self.k_proj(cells)), split(self.v_proj(cells))
        )
        y: Tensor = self.c_proj(answer.transpose(1, 2).flatten(2)[:, 0])
        return y.float()


class ResNet(nn.Module):
    """A stem, four stages of residual blocks, and a classifier if `classes` is not 0."""

    def __init__(self, kind: Architecture, classes: int = 0) -> None:
        super().__init__()
        self.kind = kind
        narrow = 32  # channels inside a deep stem
        self.conv1: nn.Module = _conv(3, 64, 7, 2)
        if kind.deep_stem:
            self.conv1 = nn.Sequential(
                _conv(3, narrow, 3, 2),
                nn.BatchNorm2d(narrow),
                _activation(kind.activation),
                _conv(narrow, narrow, 3),
                nn.BatchNorm2d(narrow),
                _activation(kind.activation),
                _conv(narrow, 64, 3),
            )
        self.bn1 = nn.BatchNorm2d(64)
        self.act = _activation(kind.activation)
        self.maxpool: nn.Module = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        if kind.pooled_strides:
            self.maxpool = nn.AvgPool2d(2)
        channels = 64
        block = Bottleneck if kind.bottleneck else BasicBlock
        for stage, depth, width in zip(STAGES, kind.depths, STAGE_WIDTHS, strict=True):
            blocks = []
            for index in range(depth):  # only the first block of a stage strides or projects
                stride = 2 if index == 0 and stage != STAGES[0] else 1
                blocks.append(block(channels, width, stride, kind))
                channels = width * block.expansion
            self.add_module(stage, nn.Sequential(*blocks))
        self.fc: nn.Module = nn.Linear(channels, classes) if classes else nn.Identity()
        self.attnpool = None
        if kind.attention:
            self.attnpool = AttentionPool(kind.map_side, channels, *kind.attention)
        initialize(self)

    def stages(self, x: Tensor) -> dict[str, Tensor]:
        """Return the maps by name, `layer1` to `layer4`, of float (N, 3, H, W)."""
        x = self.maxpool(self.act(self.bn1(self.conv1(x))))
        maps = {}
        for stage in STAGES:
            x = maps[stage] = self.get_submodule(stage)(x)
        return maps

    def extract_features(self, x: Tensor) -> Tensor:
        """Return the last map's means: (N, 3, H, W) → (N, dim).

        Raises RuntimeError in training mode, as `extract_stages`.
        """
        return self.extract_stages(x, STAGES[-1:])[STAGES[-1]].mean(dim=(2, 3))

    def extract_stages(self, x: Tensor, names: Iterable[str] = STAGES) -> dict[str, Tensor]:
        """Return the maps of the named stages.

        Raises RuntimeError in training mode: BatchNorm would normalize by the batch, and each
        image's features would depend on its neighbors in it.
        """
        if self.training:
            raise RuntimeError("features need eval mode: call .eval() on the network first")
        maps = self.stages(x)
        return {name: maps[name] for name in names}

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores (N, classes), or the last map's means where there is no `fc`."""
        scores: Tensor = self.fc(self.stages(x)[STAGES[-1]].mean(dim=(2, 3)))
        return scores


def add_residual(residual: Tensor, shortcut: Tensor) -> Tensor:
    """Return their sum. Raises ValueError where shapes differ: `+` would broadcast silently."""
    if residual.shape != shortcut.shape:
        raise ValueError(
            f"residual {tuple(residual.shape)} and shortcut {tuple(shortcut.shape)} differ in shape"
        )
    return residual + shortcut


def initialize(network: nn.Module) -> None:
    """Draw convolutions as He et al. do (ICCV 2015); begin every block as act(shortcut).

    The BatchNorm that ends F starts at 0 (Goyal et al., "Accurate, Large Minibatch SGD", 2017).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.last_norm.weight)


def _shortcut(channels: int, out: int, stride: int, *, averaged: bool) -> nn.Sequential | None:
    """Return the projection for a block that changes shape, None where identity will do.

    Average pooling, as in ResNet-D, drops no pixel: a strided 1×1 convolution skips 3 of 4.
    """
    if stride == 1 and channels == out:
        return None
    if not averaged:
        return nn.Sequential(_conv(channels, out, 1, stride), nn.BatchNorm2d(out))
    pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
    first = pool if stride > 1 else nn.Identity()
    return nn.Sequential(first, _conv(channels, out, 1), nn.BatchNorm2d(out))


def _conv(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


def _activation(name: str) -> nn.Module:
    if name == "leaky_relu":
        return nn.LeakyReLU(SLOPE, inplace=True)
    return nn.GELU() if name == "gelu" else nn.ReLU(inplace=True)


_18, _34 = Architecture((2, 2, 2, 2), False), Architecture((3, 4, 6, 3), False)
_50, _101 = Architecture((3, 4, 6, 3), True), Architecture((3, 4, 23, 3), True)
_152 = Architecture((3, 8, 36, 3), True)
_PLAIN = {"resnet18": _18, "resnet34": _34, "resnet50": _50, "resnet101": _101, "resnet152": _152}
_RESNEXT = {
    "resnext50_32x4d": replace(_50, groups=32, group_width=4),
    "resnext101_32x8d": replace(_101, groups=32, group_width=8),
    "resnext101_64x4d": replace(_101, groups=64, group_width=4),
}
ARCHITECTURES = {
    **_PLAIN,
    "wide_resnet50_2": replace(_50, group_width=128),
    "wide_resnet101_2": replace(_101, group_width=128),
    **_RESNEXT,
    **{f"se{name}": replace(kind, squeeze=True) for name, kind in (_PLAIN | _RESNEXT).items()},
    **{f"{name}d": replace(kind, deep_stem=True) for name, kind in _PLAIN.items()},
    **{f"se{name}d": replace(kind, squeeze=True, deep_stem=True) for name, kind in _PLAIN.items()},
    f"{CLIP}resnet50": replace(_50, deep_stem=True, pooled_strides=True, attention=(32, 1024)),
    f"{CLIP}resnet101": replace(_101, deep_stem=True, pooled_strides=True, attention=(32, 512)),
}


def architecture(name: str) -> Architecture:
    """Return the architecture `name`, `resnet50d` or `resnet50d-gelu`. Raises ValueError."""
    base, _, activation = name.partition("-")
    if base not in ARCHITECTURES or (activation or "relu") not in ACTIVATIONS:
        raise ValueError(
            f"no architecture {name!r}: one of {', '.join(ARCHITECTURES)}, and perhaps "
            f"-{' or -'.join(ACTIVATIONS[1:])} behind it"
        )
    return replace(ARCHITECTURES[base], activation=activation or "relu")


def build(name: str, classes: int = 0) -> ResNet:
    """Return the network called `name`, in eval mode, with random weights. Raises ValueError."""
    return ResNet(architecture(name), classes).eval()


def load(name: str, weights: Mapping[str, Tensor]) -> ResNet:
    """Return the network called `name` with these weights, strictly; a classifier is left out.

    Raises ValueError that names the missing and unexpected parameters.
    """
    network = build(name)
    others = ("fc.", TEXT_PREFIX)
    body = {key: value for key, value in weights.items() if not key.startswith(others)}
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
