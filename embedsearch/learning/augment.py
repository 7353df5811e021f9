"""Random views of pictures, a whole batch at once; in: uint8 pixels, out: float pixels.

One affine map a picture cuts, scales, stretches and mirrors it; brightness, contrast and
saturation change by one draw a picture. The chances are drawn on the CPU from a seeded generator:
a resumed run sees the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

LEAST_AREA = 0.25  # of the picture that a view shows (Szegedy et al., CVPR 2015, from 0.08)
ASPECT = 4 / 3  # a view is stretched by at most this
JITTER = 0.4  # brightness, contrast and saturation are changed by at most this share
GRAY = 0.1  # of all views are without colour
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def random_views(pixels: Tensor, side: int, chance: torch.Generator) -> Tensor:
    """Return float32 (B, 3, S, S) in 0 to 255 of uint8 (B, T, T, 3)."""
    count = len(pixels)
    views = pixels.permute(0, 3, 1, 2).float()
    maps = _crops(count, chance).to(pixels.device)
    grid = affine_grid(maps, [count, 3, side, side], align_corners=False)
    views = grid_sample(views, grid, padding_mode="reflection", align_corners=False)
    return _recoloured(views, chance)


def _crops(count: int, chance: torch.Generator) -> Tensor:
    """Return float32 (B, 2, 3): where in a picture, from -1 to 1, a view's corners lie."""
    area = _uniform(count, LEAST_AREA, 1.0, chance)
    stretch = _uniform(count, -math.log(ASPECT), math.log(ASPECT), chance).div(2).exp()
    width = (area.sqrt() * stretch).clamp(max=1.0)
    height = (area.sqrt() / stretch).clamp(max=1.0)
    mirrored = torch.where(torch.rand(count, generator=chance) < 0.5, -1.0, 1.0)
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0] = width * mirrored
    maps[:, 1, 1] = height
    maps[:, 0, 2] = _uniform(count, -1.0, 1.0, chance) * (1 - width)
    maps[:, 1, 2] = _uniform(count, -1.0, 1.0, chance) * (1 - height)
    return maps


def _recoloured(views: Tensor, chance: torch.Generator) -> Tensor:
    count = len(views)
    draws = [_uniform(count, 1 - JITTER, 1 + JITTER, chance) for _ in range(3)]
    colourless = torch.rand(count, generator=chance) < GRAY
    draws[2] = draws[2].masked_fill(colourless, 0.0)
    bright, contrast, saturation = (d.to(views.device).view(-1, 1, 1, 1) for d in draws)
    views = views * bright
    luma = torch.tensor(_LUMA, device=views.device).view(1, 3, 1, 1)
    gray = (views * luma).sum(dim=1, keepdim=True)
    views = gray + (views - gray) * saturation
    middle = gray.mean(dim=(2, 3), keepdim=True)
    return (middle + (views - middle) * contrast).clamp(0.0, 255.0)


def _uniform(count: int, low: float, high: float, chance: torch.Generator) -> Tensor:
    return torch.rand(count, generator=chance) * (high - low) + low
