"""Convolution, bias, shortcut and ReLU in one kernel of cuDNN: for folded networks on CUDA.

Unfused, the bias alone takes two fifths of a ResNet-50's time on an H200: it reads and writes every
map once more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedsearch.network.resnet import STAGES, Bottleneck, ResidualBlock, ResNet, add_residual


def fuse_kernels(network: ResNet) -> None:
    """Put fused kernels, in place, where a network without BatchNorm has a ReLU."""
    _fuse_stem(network)
    for stage in STAGES:
        blocks = network.get_submodule(stage)
        assert isinstance(blocks, nn.Sequential)
        for index, block in enumerate(blocks):
            if isinstance(block, ResidualBlock) and isinstance(block.act, nn.ReLU):
                blocks[index] = FusedBlock(block)


class FusedConvolution(nn.Module):
    """relu(convolution + bias), and with a second argument relu(convolution + bias + it)."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv  # with a bias

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """Return (N, C', H', W'), the shape that the shortcut has."""
        c = self.conv
        assert not isinstance(c.padding, str)
        shape = (c.stride, c.padding, c.dilation, c.groups)
        if shortcut is None:
            return torch.cudnn_convolution_relu(x, c.weight, c.bias, *shape)
        return torch.cudnn_convolution_add_relu(x, c.weight, shortcut, 1.0, c.bias, *shape)


class FusedBlock(nn.Module):
    """A residual block with one kernel a convolution, if nothing scales its F."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        convs = [block.get_submodule("conv1"), block.get_submodule("conv2")]
        if isinstance(block, Bottleneck):
            convs.append(block.conv3)
        *inner, last = [FusedConvolution(conv) for conv in convs if isinstance(conv, nn.Conv2d)]
        pool = block.pool if isinstance(block, Bottleneck) else nn.Identity()  # CLIP's stride
        self.inner = nn.Sequential(*inner, pool)
        self.last = last
        self.se = block.se
        self.downsample = block.downsample

    def forward(self, x: Tensor) -> Tensor:
        """Return what the block returns."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.inner(x)
        if self.se is None:
            out: Tensor = self.last(y, shortcut)
            return out
        return torch.relu_(add_residual(self.se(self.last.conv(y)), shortcut))


def _fuse_stem(network: ResNet) -> None:
    if not isinstance(network.act, nn.ReLU):
        return
    stem = network.conv1
    if isinstance(stem, nn.Conv2d):
        network.conv1 = FusedConvolution(stem)
    else:
        convs = [module for module in stem.modules() if isinstance(module, nn.Conv2d)]
        network.conv1 = nn.Sequential(*(FusedConvolution(conv) for conv in convs))
    network.act = nn.Identity()
